//! What goes wrong, and how often: each seed draws which kinds of faults it has, and when they strike.

use crate::network::Weather;
use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Weather,
    CutLink,
    IsolateNode,
    KillBroker,
    PowerLossOfBroker,
    ShutDownBroker,
    PauseBroker,
    KillCoordinator,
    PowerLossOfCoordinator,
    PauseCoordinator,
    /// A coordinator dies between two steps of carrying out what Raft wants.
    CrashCoordinatorMidway,
    DiskLossOfCoordinator,
    /// A coordinator is added to the quorum, or removed, or replaced because its disk is gone.
    GrowQuorum,
    ShrinkQuorum,
    ReplaceCoordinator,
    /// Another coordinator is asked to lead.
    TransferQuorum,
    /// A stranger sends Raft messages in a coordinator's name.
    ForgeStream,
    FreezeClock,
    SetWallClock,
    /// Some reads, writes and syncs of a broker's disk fail.
    DiskErrors,
    /// A log directory fails altogether; sometimes its broker starts without it.
    FailDirectory,
    FillDisk,
    /// A log directory's disk does not answer; longer than other faults last.
    StallDirectory,
    /// A replica moves from one log directory of its broker to another.
    MoveReplica,
    /// A broker comes back with two logs of one partition in two directories: somebody copied one.
    CopyLog,
    /// A broker comes back with an empty disk, or with one of several.
    ReplaceDisk,
    /// A broker comes back from a loss of power with a log in which a byte is another.
    FlipByte,
    /// The quorum loses sight of a broker, and it of the quorum, for longer than a session.
    FenceBroker,
    /// Brokers do not reach one coordinator, or it them, while its peers reach it and them; longer than other faults.
    CutCoordinator,
    DeleteRecords,
    /// Leaders answer late where their logs start and end: changes arrive between the question and its answer.
    LateBounds,
    RecreateTopic,
    /// A partition gets other replicas, more or fewer than before.
    Reassign,
    CancelReassignment,
    /// All partitions get other replicas, by one request.
    ReassignAll,
    /// Preferred replicas are to lead again.
    ElectPreferred,
    /// Partitions without a leader are to get one that may lack records.
    ElectUnclean,
    /// A broker is to hold no replica any more.
    DrainBroker,
    /// Every broker is to hold its share.
    Rebalance,
    /// Everything at once: `kill -9` of all.
    KillAll,
    /// A process is started again from the other of two releases.
    ChangeRelease,
    /// The level of `ottla.version` is to be another one.
    ChangeLevel,
    /// A delegation token is made, which processes of the older release do not know, or ended.
    ChangeToken,
}

impl Kind {
    pub const ALL: &'static [Self] = &[
        Self::Weather,
        Self::CutLink,
        Self::IsolateNode,
        Self::KillBroker,
        Self::PowerLossOfBroker,
        Self::ShutDownBroker,
        Self::PauseBroker,
        Self::KillCoordinator,
        Self::PowerLossOfCoordinator,
        Self::PauseCoordinator,
        Self::CrashCoordinatorMidway,
        Self::DiskLossOfCoordinator,
        Self::GrowQuorum,
        Self::ShrinkQuorum,
        Self::ReplaceCoordinator,
        Self::TransferQuorum,
        Self::ForgeStream,
        Self::FreezeClock,
        Self::SetWallClock,
        Self::DiskErrors,
        Self::FailDirectory,
        Self::FillDisk,
        Self::StallDirectory,
        Self::MoveReplica,
        Self::CopyLog,
        Self::ReplaceDisk,
        Self::FlipByte,
        Self::FenceBroker,
        Self::DeleteRecords,
        Self::LateBounds,
        Self::RecreateTopic,
        Self::Reassign,
        Self::CancelReassignment,
        Self::ReassignAll,
        Self::ElectPreferred,
        Self::ElectUnclean,
        Self::DrainBroker,
        Self::Rebalance,
        Self::KillAll,
        Self::CutCoordinator,
    ];

    /// What comes only where there are two releases.
    pub const OF_RELEASES: &'static [Self] = &[Self::ChangeRelease, Self::ChangeLevel, Self::ChangeToken];

    /// How often it comes beside the others.
    fn weight(self) -> u64 {
        match self {
            Self::ChangeRelease => 20,
            Self::KillBroker | Self::CutLink | Self::PowerLossOfBroker | Self::ChangeLevel => 10,
            Self::IsolateNode | Self::PauseBroker | Self::ShutDownBroker | Self::Weather => 6,
            Self::Reassign => 6,
            Self::KillCoordinator | Self::CrashCoordinatorMidway | Self::PauseCoordinator => 5,
            Self::PowerLossOfCoordinator | Self::FreezeClock => 4,
            Self::FenceBroker | Self::CancelReassignment => 4,
            Self::CutCoordinator => 3,
            Self::ReassignAll => 2,
            Self::SetWallClock | Self::DeleteRecords | Self::LateBounds => 3,
            Self::DiskErrors | Self::ElectPreferred => 3,
            Self::DrainBroker | Self::Rebalance | Self::MoveReplica => 3,
            Self::GrowQuorum | Self::ShrinkQuorum | Self::ReplaceCoordinator | Self::TransferQuorum => 3,
            Self::ChangeToken => 5,
            Self::ForgeStream => 2,
            Self::CopyLog => 2,
            Self::FailDirectory | Self::FillDisk | Self::StallDirectory | Self::ReplaceDisk | Self::FlipByte => 2,
            Self::DiskLossOfCoordinator | Self::RecreateTopic | Self::KillAll | Self::ElectUnclean => 1,
        }
    }
}

/// What a seed has in store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultPlan {
    kinds: Vec<Kind>,
    /// Between two faults.
    pub gap_ms: (u64, u64),
    /// How long things stay broken.
    pub outage_ms: (u64, u64),
    /// As many replicas may lose data at a time as the promise allows; otherwise more.
    pub keeps_promise: bool,
}

impl FaultPlan {
    /// None at all: for scripts.
    pub fn none() -> Self {
        Self { kinds: Vec::new(), gap_ms: (1_000, 1_000), outage_ms: (1_000, 1_000), keeps_promise: true }
    }

    /// Swarm testing: half of the kinds, so that rare combinations get room.
    pub fn draw(random: &mut Random) -> Self {
        let kinds = Kind::ALL.iter().copied().filter(|_| random.percent(55)).collect();
        let gap_low = random.between(50, 600);
        let outage_high = random.between(500, 6_000);
        Self {
            kinds,
            gap_ms: (gap_low, gap_low * random.between(2, 6)),
            outage_ms: (20, outage_high),
            keeps_promise: random.percent(85),
        }
    }

    /// These kinds too.
    pub fn with(mut self, kinds: &[Kind]) -> Self {
        self.kinds.extend_from_slice(kinds);
        self
    }

    /// Only these kinds, often.
    pub fn of(kinds: &[Kind], gap_ms: (u64, u64), outage_ms: (u64, u64)) -> Self {
        Self { kinds: kinds.to_vec(), gap_ms, outage_ms, keeps_promise: true }
    }

    pub fn next_kind(&self, random: &mut Random) -> Option<Kind> {
        let total: u64 = self.kinds.iter().map(|kind| kind.weight()).sum();
        let mut at = random.below(total);
        for kind in &self.kinds {
            if at < kind.weight() {
                return Some(*kind);
            }
            at -= kind.weight();
        }
        None
    }

    pub fn weather(random: &mut Random) -> Weather {
        if random.percent(40) {
            return Weather::CALM;
        }
        Weather {
            latency_us: (100, random.between(500, 20_000)),
            drop_ppm: u32::try_from(random.between(0, 60_000)).unwrap_or(0),
            duplicate_ppm: u32::try_from(random.between(0, 50_000)).unwrap_or(0),
            slow_ppm: u32::try_from(random.between(0, 50_000)).unwrap_or(0),
            slow_us: (20_000, random.between(50_000, 3_000_000)),
        }
    }
}
