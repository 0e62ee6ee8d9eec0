//! How the last process of a broker left its log directories.

use ottla_model::BrokerEpoch;

use crate::directory::{DirectoryError, LogDirectory};
use crate::env::Env;

/// How the last process left a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftBy {
    /// Every log was closed: their files are complete.
    pub closed: bool,
    /// Nothing that was written up to this registration is lost: all logs were closed, or the machine has been running
    /// since.
    pub whole_since: Option<BrokerEpoch>,
    /// The last registration that it knows of, whatever was lost since.
    pub registered: Option<BrokerEpoch>,
}

impl LeftBy {
    /// Unknown.
    pub const UNKNOWN: Self = Self { closed: false, whole_since: None, registered: None };

    /// By the directory's clean-shutdown file, which is gone then, or by its last registration if that was in this
    /// boot.
    pub fn of(storage: &LogDirectory<impl Env>, boot_id: Option<&str>) -> Result<Self, DirectoryError> {
        if let Some(epoch) = storage.take_clean_shutdown(boot_id)? {
            return Ok(Self { closed: true, whole_since: Some(epoch), registered: Some(epoch) });
        }
        let last = storage.registration()?;
        let registered = last.as_ref().map(|last| last.broker_epoch);
        let is_of_this_boot = last.is_some_and(|last| Some(last.boot_id.as_str()) == boot_id);
        Ok(Self { closed: false, whole_since: registered.filter(|_| is_of_this_boot), registered })
    }
}

/// How the last process left the logs of all directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastRun {
    /// Everywhere.
    pub closed: bool,
    /// The epoch up to which no directory has lost anything; [`BrokerEpoch::NONE`] if that is unknown.
    pub whole_since: BrokerEpoch,
    /// The last registration of this broker that a directory knows of, also after a power loss;
    /// [`BrokerEpoch::NONE`] if none does.
    pub registered: BrokerEpoch,
}

impl Default for LastRun {
    fn default() -> Self {
        Self { closed: false, whole_since: BrokerEpoch::NONE, registered: BrokerEpoch::NONE }
    }
}

impl LastRun {
    /// One directory that is new, or was written by another run, makes all of them unclean.
    pub fn of(directories: &[LeftBy]) -> Self {
        let whole_since = match directories.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other.whole_since == first.whole_since) => first.whole_since,
            _ => None,
        };
        Self {
            closed: directories.iter().all(|directory| directory.closed),
            whole_since: whole_since.unwrap_or(BrokerEpoch::NONE),
            registered: directories.iter().filter_map(|left| left.registered).max().unwrap_or(BrokerEpoch::NONE),
        }
    }
}

/// Whether a directory is new while others are not: logs may have been lost with its predecessor. `claimed`: of each
/// directory that could be opened, whether it is a broker's already.
pub fn has_replaced(claimed: impl Iterator<Item = bool> + Clone) -> bool {
    claimed.clone().any(|is_claimed| is_claimed) && claimed.clone().any(|is_claimed| !is_claimed)
}
