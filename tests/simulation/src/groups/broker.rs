//! A broker as far as groups are concerned: it hosts the shards of the partitions that it believes to lead.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_group_coordinator::request::FetchOffsets;
use ottla_group_coordinator::{GroupConfig, RequestId, Shard};

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub client: u32,
    pub call: u64,
    /// What an answer is held against.
    pub fetch: Option<FetchOffsets>,
    pub commit: Option<u64>,
}

#[derive(Debug)]
pub struct Hosted {
    pub epoch: i32,
    pub shard: Shard,
    /// Requests are let in.
    pub is_loaded: bool,
    pub waiting: BTreeMap<RequestId, Waiter>,
}

impl Hosted {
    pub fn new(epoch: i32, config: Arc<GroupConfig>) -> Self {
        Self { epoch, shard: Shard::new(config), is_loaded: false, waiting: BTreeMap::new() }
    }
}

#[derive(Debug, Default)]
pub struct Broker {
    /// Grows with every start.
    pub life: u32,
    pub is_running: bool,
    /// By partition.
    pub shards: BTreeMap<i32, Hosted>,
    pub next_request: u64,
}
