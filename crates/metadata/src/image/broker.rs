//! A broker's registration, and the record of it that outlives its session.

use ottla_model::{BrokerEpoch, BrokerId, FeatureLevels, IncarnationId, ListenerName, TimestampMs};

/// The address of a broker on one of its listeners.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    pub listener: ListenerName,
    pub host: String,
    pub port: u16,
    /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
    pub security_protocol: String,
}

/// How the partitions of a broker get their leaders, as its own properties have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaderSettings {
    /// `unclean.leader.election.enable`: this broker may lead although its log may lack committed records.
    pub unclean_election: bool,
    /// `leader.imbalance.check.interval.seconds`; 0 if `auto.leader.rebalance.enable` is false. Then leaderships that
    /// this broker is preferred for return to it only on demand.
    pub rebalance_interval_s: u32,
    /// `leader.imbalance.per.broker.percentage`: so many of the partitions that this broker is preferred for may be led
    /// by others before they return at the interval.
    pub imbalance_percent: u8,
}

/// A live broker: `/brokers/ids/N`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerRegistration {
    pub id: BrokerId,
    /// The revision at which it registered.
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    pub endpoints: Vec<Endpoint>,
    pub inter_broker_listener: ListenerName,
    pub rack: Option<String>,
    /// Its image has reached its registration: it may lead and join ISRs, and clients see it (Kafka's "unfenced").
    pub ready: bool,
    /// It has requested a controlled shutdown: it gets no leadership and joins no ISR any more.
    pub shutting_down: bool,
    /// Its last session ended without a controlled shutdown, and clients that found its address refused may still wait
    /// before they connect there again: leaderships that it is preferred for do not return to it by themselves.
    pub awaits_clients: bool,
    /// Its own `min.insync.replicas`, at least 1; bounds the ELR of the partitions that it leads.
    pub min_insync_replicas: i32,
    pub leaders: LeaderSettings,
    pub registered_at: TimestampMs,
    /// The levels of `ottla.version` that its release works at.
    pub levels: FeatureLevels,
}

impl BrokerRegistration {
    pub fn endpoint(&self, listener: &ListenerName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == *listener)
    }

    /// Where other brokers, and the coordinators' probes, dial it.
    pub fn inter_broker_endpoint(&self) -> Option<&Endpoint> {
        self.endpoint(&self.inter_broker_listener)
    }

    /// Whether it may get leaderships and ISR memberships.
    pub fn is_active(&self) -> bool {
        self.ready && !self.shutting_down
    }
}

/// A broker's last session that ended: `/ottla/brokers/N`. While the broker is down, this keeps it registered (Kafka
/// calls it fenced): replicas may be placed on it, outside the ISR, until it is unregistered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerMemory {
    pub id: BrokerId,
    /// Of the last session in which it was ready; of its first one before.
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    pub min_insync_replicas: i32,
    pub fenced_at: TimestampMs,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    /// Those of the release that ran last.
    pub levels: FeatureLevels,
    /// The broker was unregistered (UnregisterBroker). The record stays only because an ISR or ELR still refers to it:
    /// if the broker returns, its log is checked against this record.
    pub unregistered: bool,
    /// Its session ended without a controlled shutdown: clients may have found its address refused.
    pub ended_abruptly: bool,
}

impl BrokerMemory {
    pub fn endpoint(&self, listener: &ListenerName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == *listener)
    }
}
