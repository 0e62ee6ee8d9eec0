//! The partitions of one internal topic that have a replica on this broker, whether this broker leads them or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ottla_coordinator_partition::{BrokenRules, CoordinatorShard, LOADS_PER_DIRECTORY, LoadQueue};
use ottla_model::PartitionId;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::Watcher;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use super::partition_handle::{PartitionHandle, Shared};
use super::pending_answer::PendingAnswer;
use super::timer::Timer;
use super::{Coordinator, States};

pub struct PartitionHandles<C: Coordinator> {
    shared: Arc<Shared<C>>,
    partitions: RwLock<BTreeMap<PartitionId, Arc<PartitionHandle<C>>>>,
}

impl<C: Coordinator> PartitionHandles<C> {
    /// None. The timer runs on `data`, where the partitions are. `load_buffer_bytes` of a log are read at a time while
    /// it is loaded.
    pub fn new(coordinator: C, load_buffer_bytes: usize, data: &Handle) -> Self {
        let timer = Timer::default();
        data.spawn(timer.clone().run());
        let loads = Mutex::new(LoadQueue::new(LOADS_PER_DIRECTORY, BrokenRules::default()));
        let shared = Arc::new(Shared { coordinator, load_buffer_bytes, loads, data: data.clone(), timer });
        Self { shared, partitions: RwLock::default() }
    }

    pub fn coordinator(&self) -> &C {
        &self.shared.coordinator
    }

    pub fn get(&self, partition: PartitionId) -> Option<Arc<PartitionHandle<C>>> {
        self.partitions.read().get(&partition).cloned()
    }

    pub fn all(&self) -> Vec<Arc<PartitionHandle<C>>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Submits a request to every partition that this broker leads, to each when its answer is asked for.
    pub fn submit_all(
        &self,
        request: &<C::Shard as CoordinatorShard>::Request,
    ) -> impl Iterator<Item = PendingAnswer<C::Shard>> {
        let led = self.all().into_iter().filter(|partition| partition.leads());
        led.map(move |partition| partition.submit(request.clone(), None))
    }

    /// How many groups or ids there are in each state. Goes through all of them.
    pub fn count_states(&self) -> States<C> {
        let mut states = States::<C>::new();
        self.all().iter().for_each(|partition| partition.count_states(&mut states));
        states
    }

    /// The coordinator has another configuration.
    pub fn config_changed(&self) {
        self.all().iter().for_each(PartitionHandle::config_changed);
    }

    /// A replica of a partition was placed here: its state is loaded when this broker leads it.
    pub fn placed(&self, partition: &Arc<Partition>) {
        if partition.topic.as_str() != C::TOPIC {
            return;
        }
        let handle = PartitionHandle::new(Arc::clone(&self.shared), Arc::clone(partition));
        let watcher: Weak<dyn Watcher> = Arc::downgrade(&(Arc::clone(&handle) as Arc<dyn Watcher>));
        partition.watch(watcher);
        // The partition of a deleted topic with the same number is closed by now, or will be.
        self.partitions.write().insert(partition.id().partition, handle);
    }

    pub fn removed(&self, partition: &Arc<Partition>) {
        if partition.topic.as_str() != C::TOPIC {
            return;
        }
        let mut partitions = self.partitions.write();
        let number = partition.id().partition;
        if partitions.get(&number).is_some_and(|found| found.is_of(partition)) {
            partitions.remove(&number);
        }
    }
}
