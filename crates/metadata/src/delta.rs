//! The changes of one revision (or between two images): only the differences, with both sides.

use std::sync::Arc;

use ottla_model::{BrokerId, PartitionId, Revision, TopicId, TopicName};

use crate::image::{BrokerRegistration, ConfigEntity, Image, PartitionState, TopicImage};
use crate::tree::Path;

/// One partition that changed, appeared (no old state) or went (no new one).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionChange {
    pub topic: TopicName,
    pub topic_id: TopicId,
    pub partition: PartitionId,
    pub old: Option<Arc<PartitionState>>,
    pub new: Option<Arc<PartitionState>>,
}

/// One broker that registered (no old registration), changed, or was fenced (no new one). A new incarnation that
/// replaced an old one within the delta has both, with different epochs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerChange {
    pub id: BrokerId,
    pub old: Option<Arc<BrokerRegistration>>,
    pub new: Option<Arc<BrokerRegistration>>,
}

/// Everything that differs between two images.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// The revision of the newer image.
    pub revision: Revision,
    /// By topic id, then partition. The partitions of created and deleted topics are among them.
    pub partitions: Vec<PartitionChange>,
    pub brokers: Vec<BrokerChange>,
    pub topics_created: Vec<Arc<TopicImage>>,
    /// As they were.
    pub topics_deleted: Vec<Arc<TopicImage>>,
    /// Entities whose configuration was set or removed.
    pub configs: Vec<ConfigEntity>,
    /// Rules of the authorizer were set or removed.
    pub acls_changed: bool,
    /// A coordinator was recorded, or its part in the quorum changed.
    pub coordinators_changed: bool,
    /// Delegation tokens were set or removed.
    pub delegation_tokens_changed: bool,
    /// `/controller` names another broker, or none, or one for the first time.
    pub controller_changed: bool,
    /// Another level of `ottla.version` was finalized.
    pub finalized_changed: bool,
    /// Nodes whose payload this release cannot decode. They are missing in the image; the caller should log them.
    pub undecodable: Vec<Path>,
}

impl Delta {
    /// Whether nothing but the revision moved.
    pub fn is_empty(&self) -> bool {
        let Self {
            revision: _,
            partitions,
            brokers,
            topics_created,
            topics_deleted,
            configs,
            acls_changed,
            coordinators_changed,
            delegation_tokens_changed,
            controller_changed,
            finalized_changed,
            undecodable,
        } = self;
        partitions.is_empty()
            && brokers.is_empty()
            && topics_created.is_empty()
            && topics_deleted.is_empty()
            && configs.is_empty()
            && !acls_changed
            && !coordinators_changed
            && !delegation_tokens_changed
            && !controller_changed
            && !finalized_changed
            && undecodable.is_empty()
    }

    /// The way from `old` to `new`, for a watcher that starts over from a snapshot. Walks everything that the two do
    /// not share.
    pub fn between(old: &Image, new: &Image) -> Self {
        crate::image::diff(old, new)
    }
}
