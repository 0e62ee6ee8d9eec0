//! What a broker does about the disks of its log directories: one look at each of them, now and then and when a write
//! failed.
//!
//! A look follows this order, because the second step asks the quorum about replicas and the first one decides how they
//! answer meanwhile: a failed directory's replicas end ([`DirectoryLook::is_failed`]), then replicas give up their
//! places ([`DirectoryLook::impaired`]), then logs that found no room are opened again ([`DirectoryLook::may_reopen`]).

use std::time::Duration;

use ottla_model::TopicIdPartition;
use ottla_storage::{DirectoryHealth, StallWatch};

use crate::found::ReopeningPause;
use crate::resignation::{DirectoryState, Impairment};
use crate::rules::BrokenRules;

/// How often directories are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Looks in a row, a write under way and none finished, before a directory's leaderships are given up: a disk that is
/// only busy answers within seconds, and clients wait for each of them.
const STALLED_LOOKS: u32 = 4;

/// The history of one directory.
#[derive(Default, Debug)]
pub struct DirectoryWatch {
    stalls: StallWatch,
    /// Looks in a row without an answer.
    silent_looks: u32,
    reopening: ReopeningPause,
}

/// What follows from a look at a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryLook {
    /// Its replicas end ([`crate::Replica::directory_failed`]), and no registration of this process counts any more.
    pub is_failed: bool,
    /// Looks without an answer, whenever its leaderships are given up because of that.
    pub stalled_looks: Option<u32>,
    /// Logs that found no room may be opened again: see [`DirectoryWatch::reopens`].
    pub may_reopen: bool,
    state: DirectoryState,
}

impl DirectoryWatch {
    /// `is_due`: [`WATCH_INTERVAL`] has passed since the last such look. A look between, because a write failed, says
    /// nothing about a disk that does not answer, and tries nothing again: what fails again would ask for the next look
    /// at once.
    pub fn look(&mut self, health: &DirectoryHealth, is_due: bool, rules: BrokenRules) -> DirectoryLook {
        let is_failed = health.is_failed();
        if is_due {
            self.silent_looks = if is_failed { 0 } else { self.stalls.look(health) };
            // First: what the tree then says of its partitions must not wait for it.
            health.set_stalled(self.silent_looks >= STALLED_LOOKS);
        }
        let looks = self.silent_looks;
        // The quorum is asked again only as often as that.
        let gives_up = is_due && looks >= STALLED_LOOKS && looks.is_multiple_of(STALLED_LOOKS);
        let gives_up = gives_up && !rules.stalled_directory_leads;
        DirectoryLook {
            is_failed: is_failed && !rules.failed_directory_goes_on,
            stalled_looks: gives_up.then_some(looks),
            may_reopen: is_due && !is_failed && looks < STALLED_LOOKS,
            state: DirectoryState {
                is_failed: is_failed && !rules.failed_directory_goes_on,
                is_full: health.is_full(),
                is_stalled: gives_up,
            },
        }
    }

    /// Whether to open the logs again that await room, if there are so many. Only where [`DirectoryLook::may_reopen`].
    pub fn reopens(&mut self, awaiting: usize) -> bool {
        self.reopening.look(awaiting)
    }
}

impl DirectoryLook {
    /// Whether the places of some replicas may have to be given up.
    pub fn is_impaired(&self) -> bool {
        self.state != DirectoryState::default()
    }

    /// The replicas here whose places are to be given up, with the reason for [`crate::places_to_give_up`]. `replicas`:
    /// each with whether its last append found no room.
    pub fn impaired(
        &self,
        replicas: impl IntoIterator<Item = (TopicIdPartition, bool)>,
    ) -> Vec<(Impairment, Vec<TopicIdPartition>)> {
        let (mut unreadable, mut unwritable) = (Vec::new(), Vec::new());
        for (id, is_out_of_room) in replicas {
            match self.state.impairment(is_out_of_room) {
                Some(Impairment::Unreadable) => unreadable.push(id),
                Some(Impairment::Unwritable) => unwritable.push(id),
                Some(Impairment::Lost) | None => {}
            }
        }
        let all = [(Impairment::Unreadable, unreadable), (Impairment::Unwritable, unwritable)];
        all.into_iter().filter(|(_, replicas)| !replicas.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionId, TopicId};

    use super::*;

    fn id(partition: i32) -> TopicIdPartition {
        TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(partition) }
    }

    #[test]
    fn a_directory_whose_write_does_not_return_gives_up_its_leaderships_every_fourth_look() {
        let (health, mut watch) = (DirectoryHealth::new(true), DirectoryWatch::default());
        let write = health.begin_write();
        let looks: Vec<_> = (1..=9).map(|_| watch.look(&health, true, BrokenRules::default())).collect();
        let asked: Vec<_> = looks.iter().filter_map(|look| look.stalled_looks).collect();
        assert_eq!(asked, [4, 8]);
        assert_eq!(looks[3].impaired([(id(0), false)]), [(Impairment::Unwritable, vec![id(0)])]);
        assert_eq!(looks[4].impaired([(id(0), false)]), [], "the quorum was just asked");
        assert!(looks[2].may_reopen && !looks[3].may_reopen && !looks[4].may_reopen);
        assert!(health.is_stalled());
        health.end_write(write);
        assert!(watch.look(&health, true, BrokenRules::default()).may_reopen);
        assert!(!health.is_stalled());
    }

    /// Another directory's full disk asked for a look after every write that it refused: within milliseconds a disk
    /// that was only busy counted as one that does not answer.
    #[test]
    fn looks_between_the_times_make_no_stall_and_try_nothing_again() {
        let (health, mut watch) = (DirectoryHealth::new(true), DirectoryWatch::default());
        let _write = health.begin_write();
        for _ in 0..20 {
            let look = watch.look(&health, false, BrokenRules::default());
            assert!(look.stalled_looks.is_none() && !look.may_reopen && !look.is_impaired());
        }
        assert!(!health.is_stalled());
        assert!(watch.look(&health, true, BrokenRules::default()).may_reopen);
    }

    #[test]
    fn a_full_directory_gives_up_what_found_no_room_and_a_failed_one_everything() {
        let (health, mut watch) = (DirectoryHealth::new(true), DirectoryWatch::default());
        let replicas = [(id(0), true), (id(1), false)];
        assert!(!watch.look(&health, true, BrokenRules::default()).is_impaired());
        health.filled();
        let full = watch.look(&health, true, BrokenRules::default());
        assert_eq!(full.impaired(replicas), [(Impairment::Unwritable, vec![id(0)])]);
        assert!(full.is_impaired() && full.may_reopen && !full.is_failed);
        health.fail();
        let failed = watch.look(&health, true, BrokenRules::default());
        assert_eq!(failed.impaired(replicas), [(Impairment::Unreadable, vec![id(0), id(1)])]);
        assert!(failed.is_failed && !failed.may_reopen);
    }

    #[test]
    fn logs_that_await_room_are_opened_again_after_a_pause() {
        let mut watch = DirectoryWatch::default();
        assert!(!watch.reopens(0), "none waits");
        let looks = [(); 4].map(|()| watch.reopens(1));
        assert_eq!(looks, [true, true, false, true]);
    }
}
