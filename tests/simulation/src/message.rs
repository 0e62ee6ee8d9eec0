//! What processes say to each other. Structs instead of bytes: the wire forms have tests of their own.

use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::controller::{Beat, BeatAnswer};
use ottla_metadata::{Answer, Node, NodeChange, Path, Request};
use ottla_model::{
    BrokerEpoch, BrokerId, CoordinatorId, ErrorCode, IncarnationId, LeaderEpoch, Offset, ProducerId, Revision,
    TopicIdPartition,
};
use ottla_quorum_node::identity::Identified;
use ottla_replica_fetcher::BoundsQuestion;
use ottla_replication::{EndMarker, EpochEnd, FetchPosition};

use crate::network::{Delivery, NodeId};
use crate::security;

/// Numbers a request of one process, for its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

#[derive(Clone, Debug)]
pub enum Message {
    /// Between coordinators.
    Raft {
        /// The sender's name of the stream.
        stream: u64,
        disk: IncarnationId,
        bytes: Bytes,
    },
    /// These brokers have asked the sender for the leader, on the stream of its Raft messages.
    BrokersAsked {
        stream: u64,
        disk: IncarnationId,
        brokers: Vec<BrokerId>,
    },
    /// The receiver does not take, or has ended, this stream of the sender's messages.
    RaftRefused {
        stream: u64,
    },
    Identify {
        call: CallId,
        asker: CoordinatorId,
        disk: IncarnationId,
        /// The addresses that the asker knows.
        listed: Vec<String>,
        /// Whether the asked one has opened this stream to the asker.
        stream: Option<u64>,
    },
    IdentifyAnswer {
        call: CallId,
        identity: Box<Identified>,
        stream_confirmed: bool,
    },

    // To a coordinator.
    Cluster {
        call: CallId,
        request: Arc<Request>,
    },
    BeatOpen {
        connection: u64,
        beat: Beat,
    },
    Beat {
        connection: u64,
        beat: Beat,
    },
    Watch {
        stream: u64,
        from: Revision,
    },
    /// HTTP/2's, of the connection of a watch.
    WatchPing {
        stream: u64,
    },

    // From a coordinator.
    /// Without an answer: this coordinator does not decide.
    ClusterAnswer {
        call: CallId,
        answer: Option<Box<Answer>>,
        leader: Option<CoordinatorId>,
    },
    BeatAnswer {
        connection: u64,
        answer: Option<BeatAnswer>,
        leader: Option<CoordinatorId>,
    },
    WatchEvent {
        stream: u64,
        event: WatchEvent,
    },
    WatchPong {
        stream: u64,
    },

    // Between brokers, and from clients to brokers.
    Produce {
        call: CallId,
        produce: Produce,
    },
    EndTransaction {
        call: CallId,
        partition: TopicIdPartition,
        marker: EndMarker,
    },
    Fetch {
        call: CallId,
        fetch: Fetch,
    },
    Bounds {
        call: CallId,
        question: BoundsQuestion,
    },

    // From brokers.
    ProduceAnswer {
        call: CallId,
        answer: ProduceAnswer,
    },
    FetchAnswer {
        call: CallId,
        /// Of the fetch as a whole.
        error: ErrorCode,
        session_id: i32,
        partitions: Vec<(TopicIdPartition, FetchedPartition)>,
    },
    BoundsAnswer {
        call: CallId,
        /// None: the broker does not lead.
        offset: Option<Offset>,
    },

    /// The other end's process died, or does not listen.
    ConnectionLost,
}

#[derive(Clone, Debug)]
pub enum WatchEvent {
    Snapshot { revision: Revision, nodes: Arc<Vec<(Path, Node)>> },
    Changes { revision: Revision, changes: Arc<[NodeChange]> },
}

/// One batch for one partition.
#[derive(Clone, Debug)]
pub struct Produce {
    pub partition: TopicIdPartition,
    /// −1 (all), 1.
    pub acks: i16,
    pub batch: Bytes,
    pub timeout_ms: u64,
    /// What the transaction coordinator says when the batch arrives: its transaction is open (KIP-890).
    pub is_confirmed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProduceAnswer {
    pub error: ErrorCode,
    /// Of the batch's first record; −1 with an error.
    pub base_offset: Offset,
    /// Who leads, as the broker knows (KIP-951).
    pub leader: BrokerId,
}

/// A follower's fetch, or, without a replica, a consumer's.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub replica: Option<(BrokerId, BrokerEpoch)>,
    pub session: SessionRef,
    pub partitions: Vec<(TopicIdPartition, FetchPosition)>,
    /// What the session is to leave out from now on.
    pub forgotten: Vec<TopicIdPartition>,
    pub max_wait_ms: u64,
    pub bytes: FetchBytes,
    pub reads_committed: bool,
    /// Where the consumer stands: leaders send it to followers there.
    pub rack: Option<Rack>,
}

/// A rack, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rack(i32);

impl Rack {
    /// The brokers stand in as many.
    pub const COUNT: i32 = 3;

    pub fn of(broker: BrokerId) -> Self {
        Self(broker.0 % Self::COUNT)
    }
}

/// How much records an answer may hold, unless its first batch is larger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchBytes {
    pub answer_max: usize,
    pub partition_max: usize,
}

impl FetchBytes {
    /// More than a run writes in the meantime.
    pub const WIDE: Self = Self { answer_max: 64 * 1024, partition_max: 16 * 1024 };
}

/// The fetch session that a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRef {
    pub id: i32,
    pub epoch: i32,
}

impl SessionRef {
    pub const NONE: Self = Self { id: 0, epoch: -1 };
}

#[derive(Clone, Debug)]
pub struct FetchedPartition {
    pub error: ErrorCode,
    pub diverging: Option<EpochEnd>,
    pub preferred_read_replica: Option<BrokerId>,
    /// A follower has read it.
    pub is_followers: bool,
    /// That of the replica when it was read.
    pub leader_epoch: LeaderEpoch,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub records: Bytes,
    /// For a reader of committed records: producers and first offsets of aborted transactions.
    pub aborted: Vec<(ProducerId, Offset)>,
}

fn is_admin(node: NodeId) -> bool {
    matches!(node, NodeId::Client(id) if security::ADMINS.contains(&id))
}

impl FetchedPartition {
    pub fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            diverging: None,
            preferred_read_replica: None,
            is_followers: false,
            leader_epoch: LeaderEpoch::NONE,
            high_watermark: Offset::UNKNOWN,
            log_start: Offset::UNKNOWN,
            records: Bytes::new(),
            aborted: Vec::new(),
        }
    }
}

impl Message {
    pub fn delivery(&self, from: NodeId, to: NodeId) -> Delivery {
        match self {
            // On one connection for each follower and leader.
            _ if matches!((from, to), (NodeId::Broker(_), NodeId::Broker(_))) => Delivery::Ordered,
            // A request over TCP arrives once, if it does.
            _ if is_admin(from) || is_admin(to) => Delivery::Ordered,
            Self::Raft { .. }
            | Self::BrokersAsked { .. }
            | Self::Identify { .. }
            | Self::IdentifyAnswer { .. }
            | Self::Cluster { .. }
            | Self::ClusterAnswer { .. }
            | Self::Produce { .. }
            | Self::EndTransaction { .. }
            | Self::ProduceAnswer { .. }
            | Self::Fetch { .. }
            | Self::FetchAnswer { .. }
            | Self::Bounds { .. }
            | Self::BoundsAnswer { .. } => Delivery::Loose,
            Self::BeatOpen { .. }
            | Self::Beat { .. }
            | Self::BeatAnswer { .. }
            | Self::Watch { .. }
            | Self::WatchEvent { .. }
            | Self::WatchPing { .. }
            | Self::WatchPong { .. }
            | Self::RaftRefused { .. }
            | Self::ConnectionLost => Delivery::Ordered,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Raft { .. } => "raft",
            Self::BrokersAsked { .. } => "brokers-asked",
            Self::RaftRefused { .. } => "raft-refused",
            Self::Identify { .. } => "identify",
            Self::IdentifyAnswer { .. } => "identify-answer",
            Self::Cluster { request, .. } => match request.name() {
                "Register" => "register",
                "AlterPartitions" => "alter-partitions",
                "CreateTopics" => "create-topics",
                "DeleteTopics" => "delete-topics",
                "AlterReassignments" => "alter-reassignments",
                "ControlledShutdown" => "controlled-shutdown",
                _ => "cluster",
            },
            Self::BeatOpen { .. } => "beat-open",
            Self::Beat { .. } => "beat",
            Self::Watch { .. } => "watch",
            Self::WatchPing { .. } => "watch-ping",
            Self::ClusterAnswer { .. } => "cluster-answer",
            Self::BeatAnswer { .. } => "beat-answer",
            Self::WatchEvent { .. } => "watch-event",
            Self::WatchPong { .. } => "watch-pong",
            Self::Produce { .. } => "produce",
            Self::EndTransaction { .. } => "end-transaction",
            Self::Fetch { .. } => "fetch",
            Self::Bounds { .. } => "bounds",
            Self::ProduceAnswer { .. } => "produce-answer",
            Self::FetchAnswer { .. } => "fetch-answer",
            Self::BoundsAnswer { .. } => "bounds-answer",
            Self::ConnectionLost => "connection-lost",
        }
    }
}
