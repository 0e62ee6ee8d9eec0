//! What all connections of a broker share: the gate, the bounds, and what is counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ottla_metrics::Watchdog;
use ottla_resources::Ledger;
use ottla_resources::handshakes::Handshakes;
use ottla_resources::unauthenticated::Unauthenticated;
use tokio::sync::watch;

use crate::cold_reads::ColdReads;
use crate::frame_budget::FrameBudget;
use crate::handshake_turns::HandshakeTurns;
use crate::metrics::NetworkMetrics;
use crate::response_memory::ResponseMemory;
use crate::service::Service;

/// What strangers may hold together unless it is said otherwise: 32 frames of the largest size before a login.
const STRANGER_BYTES: usize = 16 << 20;

/// Connections before their login, unless it is said otherwise.
const UNAUTHENTICATED_MAX: usize = 4_096;

/// What all connections of a broker share.
pub struct ConnectionShared<S: Service> {
    pub gate: Gate<S>,
    pub metrics: Arc<NetworkMetrics>,
    pub frame_bytes_max: usize,
    /// `connections.max.idle.ms`; none: never.
    pub idle_timeout: Option<Duration>,
    /// TLS handshakes of all listeners.
    pub handshakes: Arc<Handshakes>,
    pub(crate) handshake_turns: HandshakeTurns,
    /// Connections, of all listeners, whose clients have to show who they are and have not yet.
    pub unauthenticated: Arc<Unauthenticated>,
    /// Large frames.
    pub(super) budget: Arc<FrameBudget>,
    /// Frames of clients that have not logged in, or that have had no request handled yet.
    pub(super) strangers: Arc<FrameBudget>,
    pub(super) slow_turns: Watchdog,
    /// Bytes of responses that wait for their clients to read them, of all connections.
    pub(super) responses: Arc<ResponseMemory>,
    /// Of records that are sent.
    pub(super) cold_reads: ColdReads,
    draining: AtomicBool,
    /// Requests whose answers have not left.
    pub(super) pending: AtomicI64,
}

impl<S: Service> ConnectionShared<S> {
    pub fn new(
        identity: Arc<S::Identity>,
        metrics: Arc<NetworkMetrics>,
        frame_bytes_max: usize,
        budget: FrameBudget,
        responses: Arc<Ledger>,
        idle_timeout: Option<Duration>,
    ) -> Self {
        Self {
            gate: Gate::new(identity),
            metrics,
            frame_bytes_max,
            idle_timeout,
            handshakes: Arc::default(),
            handshake_turns: HandshakeTurns::default(),
            unauthenticated: Unauthenticated::new(|| UNAUTHENTICATED_MAX),
            budget: Arc::new(budget),
            strangers: Arc::new(FrameBudget::of_strangers(STRANGER_BYTES)),
            slow_turns: Watchdog::default(),
            responses: ResponseMemory::new(responses),
            cold_reads: ColdReads::default(),
            draining: AtomicBool::new(false),
            pending: AtomicI64::new(0),
        }
    }

    /// Counts what strangers send in this budget.
    #[must_use]
    pub fn with_strangers(mut self, strangers: Arc<FrameBudget>) -> Self {
        self.strangers = strangers;
        self
    }

    /// Counts connections before their login in this.
    #[must_use]
    pub fn with_unauthenticated(mut self, unauthenticated: Arc<Unauthenticated>) -> Self {
        self.unauthenticated = unauthenticated;
        self
    }

    /// From now on connections answer what they have read, and read no more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Requests, of all connections, whose answers have not left.
    pub fn pending(&self) -> i64 {
        self.pending.load(Ordering::Acquire)
    }
}

/// Closed until the broker has registered and its image has reached the registration.
pub struct Gate<S: Service> {
    pub identity: Arc<S::Identity>,
    service: watch::Sender<Option<Arc<S>>>,
}

impl<S: Service> Gate<S> {
    fn new(identity: Arc<S::Identity>) -> Self {
        Self { identity, service: watch::channel(None).0 }
    }

    pub fn open(&self, service: Arc<S>) {
        self.service.send_replace(Some(service));
    }

    pub(super) fn service(&self) -> Option<Arc<S>> {
        self.service.borrow().clone()
    }

    pub(super) fn opened(&self) -> impl Future<Output = ()> + Send + use<S> {
        let mut service = self.service.subscribe();
        async move {
            let _ = service.wait_for(Option::is_some).await;
        }
    }
}
