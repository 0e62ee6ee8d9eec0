//! The bounded resources of a broker, and how they are divided: `docs/resources.md` is the description.

use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_group_coordinator::shard::BudgetLimits;
use ottla_model::ListenerName;
use ottla_network::FrameBudget;
use ottla_protocol::{bounds, record_batch};
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replication::producer_state::ProducerBudget;
use ottla_resources::unauthenticated::Unauthenticated;
use ottla_resources::{BrokerDescriptors, ConnectionLimits, Ledger, Limits, Usage, descriptors, memory};
use ottla_storage::RealEnv;
use ottla_transaction_coordinator::IdBudget;

use crate::quotas::ClientQuotas;
use crate::quotas::connections::ConnectionPace;
use crate::request::budget::RESPONSE_BYTES_MAX;
use crate::telemetry::Telemetry;

/// Bytes of large frames that are being read at a time, of all connections, where `queued.max.request.bytes` says
/// nothing and the memory is large: two frames of the greatest size that is accepted, or 256 of a megabyte.
const FRAME_BYTES_MAX: u64 = 256 << 20;
/// Bytes of frames of strangers that are being read at a time: 32 of the largest that clients may send before they have
/// logged in (`sasl.server.max.receive.size`), and 16,000 logins as they mostly are.
const STRANGER_BYTES_MAX: u64 = 16 << 20;
/// Where the memory is small: two of the largest.
const STRANGER_BYTES_MIN: u64 = 1 << 20;
/// Connections whose clients have not logged in. Idle ones take 3 KB each, with TLS some 8 KB; of two thousand clients
/// of one address that come back at once none is refused.
const UNAUTHENTICATED_MAX: usize = 4_096;
/// Memory for each of them where the memory is small: an eighth of it, if all are with TLS.
const BYTES_PER_UNAUTHENTICATED: u64 = 64 << 10;
/// What parked fetches without a session may hold where the memory is large: some 300,000 partitions.
const PARKED_BYTES_MAX: u64 = 128 << 20;
/// What requests may hold whose answers wait for a dead leader's successor, where the memory is large: 5,000 clients
/// that ask for one topic each. Each waits for a fraction of a second.
const HELD_BYTES_MAX: u64 = 16 << 20;

/// What consumers' fetch sessions may remember where the memory is large: some 200,000 partitions.
const SESSION_BYTES_MAX: u64 = 160 << 20;
/// An idempotent producer that a partition remembers, rounded up.
const PRODUCER_BYTES: usize = 320;

/// The ceilings of one broker.
pub struct Resources {
    /// `max.memory.bytes`, or half of what the machine or its cgroup has: the other half is for the page cache.
    pub memory_bytes: u64,
    pub descriptors: BrokerDescriptors,
    /// Bytes of large frames that are being read at a time.
    pub frame_budget_bytes: u64,
    /// Frames of clients that have not logged in, or have had no request handled yet.
    pub strangers: Arc<FrameBudget>,
    /// Bytes of responses that wait for their clients to read them.
    pub responses: Arc<Ledger>,
    /// What the fetch sessions of all consumers may remember.
    pub session_bytes: usize,
    /// Idempotent producers of all partitions.
    pub producers: Arc<ProducerBudget>,
    /// Bytes of the transactional ids that this broker coordinates.
    pub transactional_ids: Arc<IdBudget>,
    /// Bytes of fetches that wait for records, without a session.
    pub parked: Arc<Ledger>,
    /// Bytes of requests whose answers wait for a dead leader's successor.
    pub held: Arc<Ledger>,
}

impl Resources {
    /// For this process: raises the limit of open files, and bounds those of the logs.
    pub fn of_process(config: &BrokerConfig) -> Arc<Self> {
        let descriptors = BrokerDescriptors::of(descriptors::raise_limit());
        let files = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        RealEnv::set_open_files_max(files(descriptors.kept_files), files(descriptors.brief_files));
        let resources = Self::new(config, memory::available_bytes(), descriptors);
        RealEnv::set_producer_budget(Arc::clone(&resources.producers));
        bounds::set_elements_max(resources.elements_max());
        record_batch::set_unpacked_ceiling(resources.unpacked_bytes_max());
        tracing::info!(
            memory_bytes = resources.memory_bytes,
            connections = descriptors.connections,
            log_files = descriptors.kept_files,
            "ceilings of this broker"
        );
        resources
    }

    pub fn new(config: &BrokerConfig, available_bytes: u64, descriptors: BrokerDescriptors) -> Arc<Self> {
        let memory_bytes = config.max_memory_bytes.unwrap_or(available_bytes / 2);
        Arc::new(Self {
            memory_bytes,
            descriptors,
            frame_budget_bytes: config.queued_max_request_bytes.unwrap_or((memory_bytes / 4).min(FRAME_BYTES_MAX)),
            strangers: Arc::new(FrameBudget::of_strangers(
                usize::try_from((memory_bytes / 256).clamp(STRANGER_BYTES_MIN, STRANGER_BYTES_MAX))
                    .unwrap_or(usize::MAX),
            )),
            responses: Ledger::new(memory_bytes / 8),
            session_bytes: usize::try_from((memory_bytes / 16).min(SESSION_BYTES_MAX)).unwrap_or(usize::MAX),
            producers: ProducerBudget::new(usize::try_from(memory_bytes / 32).unwrap_or(usize::MAX) / PRODUCER_BYTES),
            transactional_ids: Arc::new(IdBudget::new(usize::try_from(memory_bytes / 24).unwrap_or(usize::MAX))),
            parked: Ledger::new((memory_bytes / 16).min(PARKED_BYTES_MAX)),
            held: Ledger::new((memory_bytes / 128).min(HELD_BYTES_MAX)),
        })
    }

    /// The most bytes of one response beside records. Building one takes up to five times as much, for a moment.
    pub fn response_bytes_max(&self) -> usize {
        usize::try_from(self.memory_bytes / 32).unwrap_or(usize::MAX).min(RESPONSE_BYTES_MAX)
    }

    /// The most array elements of one request. Decoded they take up to 200 bytes each: a twentieth of the memory.
    pub fn elements_max(&self) -> u32 {
        u32::try_from(self.memory_bytes / 4_096).unwrap_or(u32::MAX)
    }

    /// The most that the records of one batch may unpack to. A topic that keeps batches unpacked holds one on each
    /// worker for a moment, and the log cleaner one.
    pub fn unpacked_bytes_max(&self) -> u64 {
        self.memory_bytes / 16
    }

    /// What the groups of this broker may hold together.
    pub fn group_limits(&self) -> BudgetLimits {
        BudgetLimits::within(self.memory_bytes / 8)
    }

    /// The largest request: none may be larger than all that are read together.
    pub fn request_bytes_max(&self, configured: usize) -> usize {
        configured.min(usize::try_from(self.frame_budget_bytes).unwrap_or(usize::MAX))
    }

    /// The limits of connections: `max.connections`, and what the limit of open files allows.
    pub fn connection_limits(&self, live: &Arc<LiveConfig>, quotas: &Arc<ClientQuotas>) -> Arc<ConnectionLimits> {
        let (quotas, pace) = (Arc::clone(quotas), ConnectionPace::new(live));
        let (live, descriptors) = (Arc::clone(live), self.descriptors);
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let limits = ConnectionLimits::new(move |listener, ip| {
            let config = live.current();
            let of_listener = config.max_connections_of_listeners.get(&ListenerName::new(listener)).copied();
            let own = config.max_connections_per_ip_overrides.get(&ip).copied();
            Limits {
                total: config.max_connections.min(count(descriptors.connections)),
                kept_for_brokers: count(descriptors.kept_for_brokers),
                of_listener: of_listener.map_or(usize::MAX, |most| count(most.into())),
                per_ip: own.unwrap_or(config.max_connections_per_ip),
            }
        });
        Arc::new(
            limits
                .with_rate(move |ip| quotas.admits(ip))
                .with_pace(move |listener| pace.wait(&ListenerName::new(listener))),
        )
    }

    /// Connections before their login: half of all connections at most, so that those that have logged in keep the
    /// other half.
    pub fn unauthenticated(&self, live: &Arc<LiveConfig>) -> Arc<Unauthenticated> {
        let (live, descriptors) = (Arc::clone(live), self.descriptors);
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let most = UNAUTHENTICATED_MAX.min(count(self.memory_bytes / BYTES_PER_UNAUTHENTICATED));
        Unauthenticated::new(move || {
            let connections = live.current().max_connections.min(count(descriptors.connections));
            most.min((connections / 2).max(1))
        })
    }

    /// Shows the resources in the metrics.
    pub fn show(
        &self,
        telemetry: &Telemetry,
        connections: &Arc<ConnectionLimits>,
        unauthenticated: &Arc<Unauthenticated>,
    ) {
        let table = &telemetry.resources;
        table.add_ledger("response_bytes", &self.responses);
        table.add_ledger("parked_fetch_bytes", &self.parked);
        let strangers = Arc::clone(&self.strangers);
        table.add("stranger_frame_bytes", move || Usage {
            used: strangers.used_bytes() as u64,
            ceiling: strangers.capacity_bytes() as u64,
            refused: strangers.evicted(),
        });
        let unauthenticated = Arc::clone(unauthenticated);
        table.add("connections_before_login", move || Usage {
            used: unauthenticated.open() as u64,
            ceiling: unauthenticated.ceiling() as u64,
            refused: unauthenticated.refused(),
        });
        let producers = Arc::clone(&self.producers);
        table.add("producers", move || Usage {
            used: producers.used() as u64,
            ceiling: producers.ceiling() as u64,
            refused: producers.forgotten() as u64,
        });
        let ids = Arc::clone(&self.transactional_ids);
        table.add("transactional_id_bytes", move || Usage {
            used: ids.used() as u64,
            ceiling: ids.ceiling() as u64,
            refused: ids.refused() as u64,
        });
        table.add_ledger("held_answer_bytes", &self.held);
        let ceiling = self.memory_bytes;
        table.add("memory_bytes", move || Usage { used: memory::resident_bytes(), ceiling, refused: 0 });
        let ceiling = self.descriptors.kept_files + self.descriptors.brief_files;
        table.add("log_files", move || Usage { used: RealEnv::open_files() as u64, ceiling, refused: 0 });
        let ceiling = self.descriptors.connections;
        let (connections, network) = (Arc::clone(connections), Arc::clone(&telemetry.network));
        table.add("connections", move || Usage {
            used: connections.open() as u64,
            ceiling,
            refused: network.connections_refused.get(),
        });
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::HostPort;

    use super::*;

    fn resources(flag: Option<u64>, available_bytes: u64) -> Arc<Resources> {
        let mut config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        config.max_memory_bytes = flag;
        Resources::new(&config, available_bytes, BrokerDescriptors::of(1_024))
    }

    #[test]
    fn the_shares_of_the_memory_fit_into_it() {
        let small = resources(Some(256 << 20), 64 << 30);
        assert_eq!(small.memory_bytes, 256 << 20);
        let requests =
            small.frame_budget_bytes + small.responses.ceiling() + small.parked.ceiling() + small.held.ceiling();
        let kept =
            small.session_bytes + small.transactional_ids.ceiling() + 2 * small.producers.ceiling() * PRODUCER_BYTES;
        let groups = 3 * small.group_limits().bytes;
        let building = 5 * small.response_bytes_max();
        let purposes = requests + (kept + groups + building + small.strangers.capacity_bytes()) as u64;
        assert!(purposes <= small.memory_bytes * 9 / 10, "{purposes}: the rest is for the logs and the image");
        assert_eq!(small.group_limits().bytes, (256 << 20) / 8 / 3);
        assert_eq!(small.request_bytes_max(100 << 20), 64 << 20);

        let large = resources(None, 64 << 30);
        assert_eq!((large.memory_bytes, large.frame_budget_bytes), (32 << 30, FRAME_BYTES_MAX));
        assert_eq!((large.response_bytes_max(), large.parked.ceiling()), (RESPONSE_BYTES_MAX, PARKED_BYTES_MAX));
        assert_eq!(large.request_bytes_max(100 << 20), 100 << 20);
        assert_eq!(large.group_limits().bytes, BudgetLimits::default().bytes);
    }
}
