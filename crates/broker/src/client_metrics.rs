//! Metrics that clients push (KIP-714): the clients of this broker, the subscriptions of its image, and the page that
//! shows what came.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ottla_client_telemetry::{Clients, Held, Identity, Points, Push, Refused, Subscribed, Subscriptions};
use ottla_metadata::Image;
use ottla_metrics::{Counter, Registry};
use ottla_model::{ClientInstanceId, ErrorCode};
use ottla_network::RequestContext;
use ottla_protocol::record_batch::{Compression, decompress};
use ottla_replica_manager::clock;
use ottla_resources::{ResourceTable, Usage};
use parking_lot::Mutex;

/// The most that pushed metrics may unpack to. Names repeat in them: they shrink to a tenth or less.
const UNPACKED_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub struct ClientMetrics {
    clients: Arc<Mutex<Clients>>,
    /// The image that the subscriptions are from.
    known: ArcSwap<Image>,
    pushes: Vec<Counter>,
}

impl std::fmt::Debug for ClientMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientMetrics").field("held", &self.clients.lock().held()).finish_non_exhaustive()
    }
}

/// How pushes end, by the label `result`.
const RESULTS: [(&str, ErrorCode); 7] = [
    ("accepted", ErrorCode::None),
    ("throttled", ErrorCode::ThrottlingQuotaExceeded),
    ("invalid_request", ErrorCode::InvalidRequest),
    ("unknown_subscription", ErrorCode::UnknownSubscriptionId),
    ("unsupported_compression", ErrorCode::UnsupportedCompressionType),
    ("too_large", ErrorCode::TelemetryTooLarge),
    ("invalid_metrics", ErrorCode::InvalidRecord),
];

/// A push without compression up to here is read on the worker, in less than a millisecond. What a few KiB unpack to
/// nobody knows before.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// What is to be read of a push.
#[derive(Debug)]
pub struct Unpacking {
    instance_id: ClientInstanceId,
    asked: Arc<[String]>,
    compression: Compression,
    bytes: usize,
}

impl Unpacking {
    /// Whether a worker may do it.
    pub fn is_quick(&self) -> bool {
        self.compression == Compression::None && self.bytes <= INLINE_BYTES_MAX
    }
}

/// A push of a client.
pub struct Pushed<'a> {
    pub subscription_id: i32,
    pub is_terminating: bool,
    pub compression: i8,
    pub metrics: &'a [u8],
}

impl ClientMetrics {
    pub fn new(registry: &Registry, resources: &ResourceTable) -> Self {
        let clients: Arc<Mutex<Clients>> = Arc::default();
        let seen = Arc::clone(&clients);
        registry.computed("client_metrics_clients", "Clients that ask what to push, or push", &[], move || {
            vec![(Vec::new(), seen.lock().held().clients as f64)]
        });
        let pushes = registry.counters_by(
            "client_metrics_pushes_total",
            "Pushes of clients' metrics by what became of them",
            "result",
            &RESULTS.map(|(name, _)| name),
        );
        let seen = Arc::clone(&clients);
        resources.add("client_metrics_bytes", move || {
            let Held { bytes, bytes_max, left_out, .. } = seen.lock().held();
            Usage { used: bytes as u64, ceiling: bytes_max as u64, refused: left_out as u64 }
        });
        Self { clients, known: ArcSwap::from_pointee(Image::empty()), pushes }
    }

    /// What a client is asked to push.
    pub fn subscription(
        &self,
        image: &Arc<Image>,
        context: &RequestContext,
        client_id: Option<&str>,
        instance_id: ClientInstanceId,
    ) -> Result<Subscribed, Refused> {
        self.follow(image);
        let identity = identity(context, client_id, instance_id);
        self.clients.lock().get(clock::monotonic(), context.connection_id, identity)
    }

    /// Takes what a client pushes, and tells what is to be read of it ([`Self::unpack`]).
    pub fn push(
        &self,
        image: &Arc<Image>,
        context: &RequestContext,
        client_id: Option<&str>,
        instance_id: ClientInstanceId,
        pushed: &Pushed<'_>,
        bytes_max: usize,
    ) -> Result<Option<Unpacking>, Refused> {
        self.follow(image);
        let identity = identity(context, client_id, instance_id);
        let compression = Compression::from_id(pushed.compression.into()).ok();
        let push = Push {
            subscription_id: pushed.subscription_id,
            is_terminating: pushed.is_terminating,
            is_compression_known: compression.is_some(),
            bytes: pushed.metrics.len(),
            bytes_max,
        };
        let asked = self.clients.lock().check(clock::monotonic(), context.connection_id, identity, &push)?;
        let Some(compression) = compression.filter(|_| !pushed.metrics.is_empty()) else { return Ok(None) };
        if asked.is_empty() {
            // Nothing of it would be shown.
            self.clients.lock().record(instance_id, Points::default());
            return Ok(None);
        }
        Ok(Some(Unpacking { instance_id, asked, compression, bytes: pushed.metrics.len() }))
    }

    /// Reads what was pushed. Tens of milliseconds for a few KiB, unless it [is quick](Unpacking::is_quick).
    pub fn unpack(&self, unpacking: &Unpacking, metrics: &[u8]) -> Result<(), Refused> {
        let unpacked = decompress(unpacking.compression, metrics, UNPACKED_BYTES_MAX).map_err(|_| Refused::Packed)?;
        let points = Points::read(&unpacked, &unpacking.asked)?;
        self.clients.lock().record(unpacking.instance_id, points);
        Ok(())
    }

    /// Counts what became of a push.
    pub fn count(&self, taken: Result<(), Refused>) {
        let code = taken.map_or_else(Refused::code, |()| ErrorCode::None);
        let result = RESULTS.iter().position(|(_, of_result)| *of_result == code);
        if let Some(counter) = result.and_then(|at| self.pushes.get(at)) {
            counter.add(1);
        }
    }

    /// Takes over the subscriptions, if the image has other configurations than the last one.
    fn follow(&self, image: &Arc<Image>) {
        if self.known.load().shares_configs(image) {
            return;
        }
        let of = |image: &Image| -> Vec<_> {
            image.client_metrics().map(|(entity, config)| (entity.clone(), Arc::clone(config))).collect()
        };
        let mut clients = self.clients.lock();
        let known = self.known.load();
        // Another request may hold an older image.
        if known.revision() >= image.revision() {
            return;
        }
        let (before, after) = (of(&known), of(image));
        if before != after {
            clients.subscribe(Subscriptions::of(after.iter().map(|(_, config)| &config.entries)));
        }
        self.known.store(Arc::clone(image));
    }

    /// Prometheus' text form of what clients pushed.
    pub fn render(&self) -> String {
        let page = self.clients.lock().page(clock::monotonic());
        page.render()
    }
}

fn identity(context: &RequestContext, client_id: Option<&str>, instance_id: ClientInstanceId) -> Identity {
    let software = context.software.get().map(|software| (&*software.name, &*software.version));
    let address = context.peer.ip().to_canonical();
    Identity::new(instance_id, client_id.unwrap_or_default(), software, address, context.peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_context::context;

    /// A push of a few KiB unpacks to 16 MiB, and anybody may push. By default nobody is asked for anything.
    #[test]
    fn what_nobody_asked_for_is_not_unpacked() {
        let registry = Registry::new("test");
        let metrics = ClientMetrics::new(&registry, &ResourceTable::new(&registry));
        let context = context("CLIENT");
        let (image, id) = (Arc::new(Image::empty()), ClientInstanceId([7; 16]));
        let asked = metrics.subscription(&image, &context, None, id).expect("in time");
        let pushed = Pushed {
            subscription_id: asked.subscription_id,
            is_terminating: false,
            compression: 4,
            metrics: b"no frame of zstd",
        };
        assert!(matches!(metrics.push(&image, &context, None, id, &pushed, 1024), Ok(None)));
    }

    /// A worker unpacked 16 MiB of a few KiB, and its other connections waited.
    #[test]
    fn what_is_packed_or_large_is_not_for_a_worker() {
        let unpacking = |compression, bytes| Unpacking {
            instance_id: ClientInstanceId([7; 16]),
            asked: Arc::new([]),
            compression,
            bytes,
        };
        assert!(unpacking(Compression::None, INLINE_BYTES_MAX).is_quick());
        assert!(!unpacking(Compression::None, INLINE_BYTES_MAX + 1).is_quick());
        assert!(!unpacking(Compression::Zstd, 100).is_quick());
    }
}
