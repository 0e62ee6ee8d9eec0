//! The inputs and outputs of the controller: plain values, no wire types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_authorizer::{AclBinding, AclFilter};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, ErrorCode, FeatureLevels, IncarnationId, IncarnationKey,
    KafkaPrincipal, LeaderEpoch, ListenerName, MonotonicMs, PartitionEpoch, PartitionId, Revision, TimestampMs,
    TopicId, TopicIdPartition,
};

use super::proposal::{Proposal, ProposalError};
use crate::delta::Delta;
use crate::image::{CoordinatorNode, Endpoint, Image, IsrMember, LeaderSettings};
use crate::limits;
use crate::nodes::config::ConfigEntity;
use crate::nodes::delegation_token::DelegationToken;
use crate::transaction::TransactionError;
use crate::tree::{NodeChange, Tree};

/// Both clocks at the time of an input. Sessions use the monotonic clock, timestamps in nodes use the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    pub monotonic: MonotonicMs,
    pub wall: TimestampMs,
}

/// Names a request until it is answered; chosen by the driver, unique among the unanswered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Names a proposal; unique within one controller, in the order of proposing. Raft keeps that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(pub u64);

/// Names one heartbeat stream; chosen by the driver, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// An input of the controller.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// `entropy`: 16 random bytes, from which topic ids and the placement of replicas are made.
    Request {
        id: RequestId,
        request: Request,
        entropy: [u8; 16],
    },
    /// A broker's heartbeat stream with its first message.
    StreamOpened {
        stream: StreamId,
        beat: Beat,
    },
    /// Any further message of it. Brokers send one every 500 ms and right after their image has moved.
    StreamBeat {
        stream: StreamId,
        beat: Beat,
    },
    StreamClosed {
        stream: StreamId,
    },
    /// The levels of `ottla.version` that the members of the quorum work at: none of one that has not told them yet.
    /// Comes before a request that depends on it.
    QuorumLevels(BTreeMap<CoordinatorId, Option<FeatureLevels>>),
    /// These brokers have asked another voter for the leader of the quorum.
    BrokersAsked {
        coordinator: CoordinatorId,
        brokers: Vec<BrokerId>,
    },
    /// The end of a probe; must come within [`PROBE_TIMEOUT`] of its request.
    Probed {
        broker: BrokerId,
        /// As in the [`Probe`].
        incarnation: IncarnationId,
        result: ProbeResult,
    },
    /// Every entry that is applied while this controller exists, in order; `entry` is set for its own proposals.
    Applied {
        entry: Option<EntryId>,
        revision: Revision,
        result: Result<(), TransactionError>,
        /// The changes of the entry; empty if it was refused or changed nothing.
        changes: Arc<[NodeChange]>,
        /// The same for the image.
        delta: Arc<Delta>,
        /// What the entry left.
        state: Box<(Tree, Image)>,
    },
}

/// The content of a broker's heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    /// The revision of the broker's image.
    pub image_revision: Revision,
}

/// The result of a probe of a broker's inter-broker endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeResult {
    /// A broker answered with this incarnation.
    Answered(IncarnationId),
    /// Connection refused: no process listens there.
    Refused,
    /// No route, a time-out, a reset, an answer that names no incarnation: proves nothing.
    Unknown,
}

/// The actions to execute now, in this order: propose, answer, probe.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    /// To be proposed to Raft in this order.
    pub proposals: Vec<Proposal>,
    /// Why a decision on the request of this step is not proposed. The request has no other answer.
    pub refusal: Option<ProposalError>,
    pub answers: Vec<(RequestId, Answer)>,
    pub heartbeats: Vec<(StreamId, BeatAnswer)>,
    /// Endpoints to dial; each ends in an [`Input::Probed`].
    pub probes: Vec<Probe>,
    /// Leaders elected by entries that are committed now, although their logs may lack acknowledged records.
    pub unclean_elections: u64,
    /// Lines for the log: fencings, refusals, numbers of elections.
    pub notes: Vec<Note>,
}

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    pub is_warning: bool,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeatAnswer {
    pub committed_revision: Revision,
    /// This incarnation has no session any more: it must register again.
    pub fenced: bool,
    pub session_timeout: Duration,
}

/// Dial this endpoint and request its incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    pub broker: BrokerId,
    pub incarnation: IncarnationId,
    pub endpoint: Endpoint,
}

/// The longest that a probe may take, dialling and asking together: longer than a round trip across continents, shorter
/// than the grace after which the broker would be fenced anyway.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Identifies an admin request in all its attempts: 16 random bytes of the sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IdempotencyKey(pub [u8; 16]);

/// The requests that the controller decides: `Request::X(X)` is answered by `Answer::X` with the type behind the arrow.
macro_rules! decisions {
    ($($name:ident => $answer:ty,)+) => {
        /// A request to the controller.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Request {
            $($name($name),)+
            /// The request, decided at most once under its key: a retry is answered as the try that was decided.
            Once(IdempotencyKey, Box<Request>),
            /// The request, with the key of the incarnation in whose name it is.
            Proved(IncarnationKey, Box<Request>),
        }

        /// The answer to the request of the same name.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Answer {
            $($name($answer),)+
            /// The request could not be decided, or it is not certain that its decision was committed. The caller must
            /// retry.
            Unavailable,
        }

        impl Request {
            /// The names of all requests.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)+
                    Self::Once(_, request) | Self::Proved(_, request) => request.name(),
                }
            }
        }

        $(
            impl Decision for $name {
                type Answer = $answer;

                fn into_request(self) -> Request {
                    Request::$name(self)
                }

                fn take_answer(answer: Answer) -> Option<Self::Answer> {
                    match answer {
                        Answer::$name(answer) => Some(answer),
                        _ => None,
                    }
                }
            }
        )+
    };
}

decisions! {
    Register => Result<Registered, Refusal>,
    AlterPartitions => AlteredPartitions,
    ResignLeadership => Resigned,
    ControlledShutdown => ShutdownProgress,
    AllocateProducerIds => Result<AllocatedProducerIds, ErrorCode>,
    CreateTopics => TopicOutcomes,
    DeleteTopics => TopicOutcomes,
    CreatePartitions => TopicOutcomes,
    AlterConfigs => ConfigOutcomes,
    AdmitCoordinator => Result<(), AdmissionError>,
    SetMember => (),
    ChangeQuorum => Result<QuorumChanged, Refusal>,
    UnregisterBroker => Result<Unregistered, Refusal>,
    ElectLeaders => PartitionOutcomes,
    CreateAcls => CreatedAcls,
    DeleteAcls => DeletedAcls,
    AlterReassignments => PartitionOutcomes,
    AlterDelegationToken => Result<AlteredDelegationToken, Refusal>,
    UpdateFeatures => Result<UpdatedFeatures, Refusal>,
}

impl Request {
    /// Whether [`Input::QuorumLevels`] must come before it.
    pub fn asks_quorum_levels(&self) -> bool {
        match self {
            Self::UpdateFeatures(_) => true,
            Self::Once(_, request) | Self::Proved(_, request) => request.asks_quorum_levels(),
            _ => false,
        }
    }

    /// The broker that asks to be registered, by this request.
    pub fn registers(&self) -> Option<BrokerId> {
        match self {
            Self::Register(register) => Some(register.broker),
            Self::Once(_, request) | Self::Proved(_, request) => request.registers(),
            _ => None,
        }
    }
}

/// One kind of request with its kind of answer.
pub trait Decision: Sized + Send + 'static {
    type Answer: Send + 'static;

    fn into_request(self) -> Request;
    /// None if the answer is of another kind, or [`Answer::Unavailable`].
    fn take_answer(answer: Answer) -> Option<Self::Answer>;
}

/// A Kafka error with its text; an empty text means Kafka's default one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error:?}: {message}")]
pub struct Refusal {
    pub error: ErrorCode,
    pub message: String,
}

impl Refusal {
    /// The message may quote a client's input: it is cut at [`limits::MAX_ERROR_TEXT_BYTES`].
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: limits::cut(message.into(), limits::MAX_ERROR_TEXT_BYTES) }
    }
}

/// A broker's new incarnation registers and requests its broker epoch.
#[derive(Clone, PartialEq, Debug)]
pub struct Register {
    /// [`BrokerId::NONE`]: the quorum gives one.
    pub broker: BrokerId,
    pub incarnation: IncarnationId,
    /// From `meta.properties`; none if the disk has no cluster id yet.
    pub cluster_id: Option<ClusterId>,
    pub endpoints: Vec<Endpoint>,
    pub inter_broker_listener: ListenerName,
    pub rack: Option<String>,
    /// The broker epoch of the last clean shutdown; [`BrokerEpoch::NONE`] after any other end.
    pub clean_shutdown_epoch: BrokerEpoch,
    /// The broker's own `min.insync.replicas`. A value below 1 counts as 1, which keeps no ELR for the partitions that
    /// it leads.
    pub min_insync_replicas: i32,
    pub leaders: LeaderSettings,
    /// The levels of `ottla.version` that its release works at.
    pub levels: FeatureLevels,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub cluster_id: ClusterId,
    pub revision: Revision,
}

/// A broker leaves the cluster permanently: no new replicas are placed on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnregisterBroker {
    pub broker: BrokerId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unregistered {
    pub revision: Revision,
}

/// Which replica an election on demand may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    /// The preferred one, if it is in the ISR.
    Preferred,
    /// Where there is no leader: any live one, although records that were acknowledged may be lost.
    Unclean,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ElectLeaders {
    pub election: ElectionType,
    /// By topic; none: every partition that needs an election of this type.
    pub topics: Option<Vec<(String, Vec<PartitionId>)>>,
}

/// For each partition of a topic the replicas that it is to have; none: those that it had before.
pub type ReassignmentTargets = Vec<(PartitionId, Option<Vec<BrokerId>>)>;

/// The partitions get other replicas (KIP-455).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterReassignments {
    /// By topic: the replicas that each partition is to have, in order of preference; none cancels its reassignment.
    pub topics: Vec<(String, ReassignmentTargets)>,
    /// Whether the replicas may be more or fewer than before (KIP-860).
    pub allow_replication_factor_change: bool,
}

/// Of every partition that was named, in the order of the request; without names, of those that were tried.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PartitionOutcomes {
    pub topics: Vec<(String, Vec<PartitionOutcome>)>,
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionOutcome {
    pub partition: PartitionId,
    /// None: it was done.
    pub refusal: Option<Refusal>,
}

/// A leader's ISR changes.
#[derive(Clone, PartialEq, Debug)]
pub struct AlterPartitions {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub partitions: Vec<AlterPartition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterPartition {
    pub partition: TopicIdPartition,
    pub leader_epoch: LeaderEpoch,
    /// The one that the change was made from.
    pub partition_epoch: PartitionEpoch,
    /// The whole ISR that is wanted. An unknown epoch is accepted only of a member that is in the ISR already.
    pub isr: Vec<IsrMember>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct AlteredPartitions {
    /// Of the request as a whole: STALE_BROKER_EPOCH.
    pub error: ErrorCode,
    /// In the order of the request; empty if the whole request failed.
    pub partitions: Vec<AlteredPartition>,
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlteredPartition {
    pub partition: TopicIdPartition,
    pub error: ErrorCode,
    /// The current state; −1, 0 and empty if the partition is unknown.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
}

/// A broker resigns leaderships but stays registered: one of its directories stalls or failed. If the ISR has another
/// member, the broker leaves the ISR too, so that no acknowledgement waits for the stalled log.
#[derive(Clone, PartialEq, Debug)]
pub struct ResignLeadership {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub partitions: Vec<TopicIdPartition>,
    pub reason: ResignReason,
}

/// Why a broker leaves ISRs and ELRs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ResignReason {
    /// Its logs are intact, but cannot be written now. As a last member it stays the leader: the disk may recover.
    #[default]
    Stalled,
    /// Its logs cannot be read in this incarnation: their directory failed, or they are damaged. They do not count in
    /// an ISR or ELR; a last member stays in the ISR, without leading, until it registers again.
    Offline,
    /// Its logs are gone, and it will create new ones. The decision must be committed before it does.
    Lost,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resigned {
    pub error: ErrorCode,
    pub revision: Revision,
}

/// A broker shuts down. Its leaderships move, and it leaves every ISR that has another member.
#[derive(Clone, PartialEq, Debug)]
pub struct ControlledShutdown {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    /// An incarnation without a key (of a broker of version 0.1) proves by this that the broker itself sent the
    /// request: ids and epochs are public (fault G2).
    pub incarnation: IncarnationId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShutdownProgress {
    pub error: ErrorCode,
    /// Leaderships that no other in-sync replica could take.
    pub remaining_leaderships: u32,
    /// Of the last change made for this.
    pub revision: Revision,
    /// Nothing more will move, and the other brokers' images know all of it: the broker may go.
    pub done: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct AllocateProducerIds {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocatedProducerIds {
    pub first: i64,
    pub count: i32,
}

#[derive(Clone, PartialEq, Debug)]
pub struct CreateTopics {
    pub topics: Vec<NewTopic>,
    pub validate_only: bool,
    /// The value of −1 in a topic, from the configuration of the broker that sends the request.
    pub default_partitions: i32,
    pub default_replication_factor: i32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    pub name: String,
    /// −1: the default, or as many as there are assignments.
    pub partitions: i32,
    /// −1: the default, or as the assignments have it.
    pub replication_factor: i32,
    /// As many replicas as there are brokers, up to this, and more as they join: for the topics that a cluster keeps
    /// for itself and that have to be there from its first broker on. 0: `replication_factor` holds.
    pub grows_to: i32,
    /// Replicas in order of preference, by partition; empty: the controller places them.
    pub assignments: Vec<(PartitionId, Vec<BrokerId>)>,
    /// Overrides; a none value is refused as Kafka does.
    pub configs: Vec<(String, Option<String>)>,
}

/// How a request about topics went, in the order of the request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TopicOutcomes {
    pub topics: Vec<TopicOutcome>,
    /// At which everything that succeeded is in the tree.
    pub revision: Revision,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicOutcome {
    /// Empty if a topic was requested by an unknown id.
    pub name: String,
    /// Zero if there is none.
    pub id: TopicId,
    /// None: it succeeded.
    pub refusal: Option<Refusal>,
    pub partitions: i32,
    pub replication_factor: i32,
}

#[derive(Clone, PartialEq, Debug)]
pub struct DeleteTopics {
    pub topics: Vec<TopicRef>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

#[derive(Clone, PartialEq, Debug)]
pub struct CreatePartitions {
    pub topics: Vec<NewPartitions>,
    pub validate_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPartitions {
    pub topic: String,
    /// How many the topic shall have.
    pub total: i32,
    /// Of the added partitions, in order; none: the controller places them. A list without any is an error, as Kafka's.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct AlterConfigs {
    pub entities: Vec<AlterConfig>,
    pub validate_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterConfig {
    pub entity: ConfigEntity,
    /// In order; each name at most once.
    pub changes: Vec<(String, ConfigOp)>,
    /// Entries that are not among the changes are removed (AlterConfigs, not IncrementalAlterConfigs).
    pub replace_all: bool,
}

/// The operation on one entry. The quorum leader computes new list values, so that concurrent changes do not overwrite
/// each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigOp {
    Set(String),
    /// Back to the default.
    Delete,
    /// Adds these entries to a list, which starts from the default where nothing is set.
    Append(String),
    /// Takes these entries out of a list.
    Subtract(String),
}

impl From<Option<String>> for ConfigOp {
    fn from(value: Option<String>) -> Self {
        value.map_or(Self::Delete, Self::Set)
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConfigOutcomes {
    /// In the order of the request; none: it succeeded.
    pub entities: Vec<(ConfigEntity, Option<Refusal>)>,
    pub revision: Revision,
}

/// Adds rules to the authorizer's; a rule that is there already stays.
#[derive(Clone, PartialEq, Debug)]
pub struct CreateAcls {
    pub bindings: Vec<AclBinding>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct CreatedAcls {
    /// In the order of the request; none: the rule holds.
    pub refusals: Vec<Option<Refusal>>,
    pub revision: Revision,
}

/// Removes the rules that any of the filters matches.
#[derive(Clone, PartialEq, Debug)]
pub struct DeleteAcls {
    pub filters: Vec<AclFilter>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct DeletedAcls {
    /// In the order of the request: the rules that the filter matched. A rule that several filters match is in the
    /// result of each of them.
    pub filters: Vec<Result<Vec<AclBinding>, Refusal>>,
    pub revision: Revision,
}

/// One delegation token is made, renewed or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterDelegationToken {
    pub token_id: String,
    pub change: TokenChange,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenChange {
    /// A token of this id that is there stays as it is: the request came twice.
    Create {
        owner: KafkaPrincipal,
        requester: KafkaPrincipal,
        renewers: Vec<KafkaPrincipal>,
        lifetime_ms: i64,
        renewal_ms: i64,
    },
    Renew {
        by: KafkaPrincipal,
        period_ms: i64,
    },
    Expire {
        by: KafkaPrincipal,
        /// None: at once.
        period_ms: Option<i64>,
    },
    /// It goes if its time is over.
    RemoveExpired,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlteredDelegationToken {
    /// As it is after the change, or was before its end.
    pub token: DelegationToken,
    pub revision: Revision,
}

/// Features get other levels (KIP-584): all of them, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpdateFeatures {
    pub updates: Vec<FeatureUpdate>,
    pub validate_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureUpdate {
    pub name: String,
    /// 0 disables the feature.
    pub level: i16,
    pub change: FeatureChange,
}

/// In which direction a level may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureChange {
    Upgrade,
    /// Only if no process of the lower level misses what the tree has.
    SafeDowngrade,
    UnsafeDowngrade,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpdatedFeatures {
    pub revision: Revision,
}

/// A coordinator shows the disk that it votes with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdmitCoordinator {
    pub coordinator: CoordinatorId,
    pub disk: IncarnationId,
    /// Where its peers reach it.
    pub address: String,
}

/// The quorum leader's own request: the part of a coordinator in the running quorum changes. The entry that does it is
/// also Raft's change of the membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetMember {
    pub coordinator: CoordinatorId,
    pub node: CoordinatorNode,
}

/// An operator changes the members of the quorum, or the one that leads it. The node of the quorum leader answers: the
/// controller knows nothing of logs and majorities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeQuorum {
    /// The coordinator becomes a learner, and a voter when it has the log. Its disk has never voted.
    Add { coordinator: CoordinatorId, disk: IncarnationId, address: String },
    Remove {
        coordinator: CoordinatorId,
        /// Only if it votes with this disk.
        disk: Option<IncarnationId>,
        /// Also if a majority of the members that remain is not heard of.
        force: bool,
    },
    /// To this voter, or to the one with the most complete log.
    TransferLeadership { to: Option<CoordinatorId> },
}

/// The tree at this revision has the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuorumChanged {
    pub revision: Revision,
}

/// Scenario 20: an id that returns with another disk has lost its votes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "coordinator {coordinator} voted with disk {known} before and comes with disk {shown} now: a member that lost its disk must not vote"
)]
pub struct AdmissionError {
    pub coordinator: CoordinatorId,
    pub known: IncarnationId,
    pub shown: IncarnationId,
}
