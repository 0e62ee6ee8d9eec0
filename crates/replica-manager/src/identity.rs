//! Which broker this is, as far as it is known by now.

use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use ottla_model::{BrokerEpoch, BrokerId, IncarnationId};

/// Who this broker is. The incarnation is known from the start; the id and the epoch come with the registration, and
/// the epoch changes when the broker was fenced and registers again.
#[derive(Debug)]
pub struct Identity {
    incarnation: IncarnationId,
    id: AtomicI32,
    epoch: AtomicI64,
}

impl Identity {
    pub fn new(incarnation: IncarnationId, id: BrokerId) -> Self {
        Self { incarnation, id: AtomicI32::new(id.0), epoch: AtomicI64::new(BrokerEpoch::NONE.0) }
    }

    pub fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    /// `BrokerId::NONE` until the quorum has given one (only where none is configured or stored).
    pub fn id(&self) -> BrokerId {
        BrokerId(self.id.load(Ordering::Acquire))
    }

    /// `BrokerEpoch::NONE` until registered.
    pub fn epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn registered(&self, id: BrokerId, epoch: BrokerEpoch) {
        self.id.store(id.0, Ordering::Release);
        self.epoch.store(epoch.0, Ordering::Release);
    }
}
