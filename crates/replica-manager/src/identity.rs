//! Which broker this is, as far as it is known by now.

use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, IncarnationKey};

/// Who this broker is. The incarnation is known from the start; the id and the epoch come with the registration, and
/// the epoch changes when the broker was fenced and registers again.
#[derive(Debug)]
pub struct Identity {
    key: IncarnationKey,
    incarnation: IncarnationId,
    id: AtomicI32,
    epoch: AtomicI64,
}

impl Identity {
    pub fn new(key: IncarnationKey, id: BrokerId) -> Self {
        let incarnation = key.incarnation();
        Self { key, incarnation, id: AtomicI32::new(id.0), epoch: AtomicI64::new(BrokerEpoch::NONE.0) }
    }

    /// Shown to the leaders that this broker fetches from, and to the coordinators; to nobody else.
    pub fn key(&self) -> &IncarnationKey {
        &self.key
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
