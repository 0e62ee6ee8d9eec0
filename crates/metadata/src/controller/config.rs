//! The settings of a controller.

use std::time::Duration;

use ottla_model::{ClusterId, FeatureLevels};

use super::{AdmitCoordinator, BrokenRules};

/// The settings of a controller for its term.
#[derive(Clone, PartialEq, Debug)]
pub struct ControllerConfig {
    /// Written by the first leader's first transaction, if the tree has none yet.
    pub cluster_id: ClusterId,
    /// The members' disks, as this coordinator knows them: the first transaction records those that the tree does not
    /// have.
    pub coordinators: Vec<AdmitCoordinator>,
    /// Silence after which a broker is fenced.
    pub session_timeout: Duration,
    /// How long a stream may be away before its broker is fenced.
    pub reconnect_grace: Duration,
    /// How often [`tick`](super::Controller::tick) is called; a gap that is longer by L lengthens every session by L.
    pub tick_interval: Duration,
    /// The quorum gives ids above this one.
    pub reserved_broker_max_id: i32,
    /// The levels of `ottla.version` that this release works at. A new cluster begins at the highest.
    pub levels: FeatureLevels,
    /// How many partitions may be moved to a broker at once. Further reassignments wait for their turn.
    pub reassignments_per_broker_max: usize,
    pub rules: BrokenRules,
}

/// The default of [`ControllerConfig::reassignments_per_broker_max`]: enough to keep a broker's disk and network busy,
/// few enough that the leaders that change when replicas have moved change in small groups.
pub const REASSIGNMENTS_PER_BROKER_MAX: usize = 50;

impl ControllerConfig {
    pub fn new(cluster_id: ClusterId) -> Self {
        Self {
            cluster_id,
            coordinators: Vec::new(),
            session_timeout: Duration::from_secs(3),
            reconnect_grace: Duration::from_secs(1),
            tick_interval: Duration::from_millis(50),
            reserved_broker_max_id: 1000,
            levels: FeatureLevels::OF_THIS_RELEASE,
            reassignments_per_broker_max: REASSIGNMENTS_PER_BROKER_MAX,
            rules: BrokenRules::default(),
        }
    }
}
