//! Processes and hosts: how they start, end and suffer.

use ottla_storage::env::Faults;

use super::*;

/// When a process that stands still is asked again whether it hears its disk.
const ANSWERS_LATER_MS: u64 = 50;

impl World {
    pub(super) fn start(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.is_running(node) {
            return Ok(());
        }
        if self.is_retired(node) {
            return Ok(());
        }
        if self.lacks_level(node) {
            self.maybe_upgrade(node);
        }
        self.dark.remove(&node);
        let life = self.life(node) + 1;
        self.lives.insert(node, life);
        self.trace.line(self.now, format_args!("{node} starts, life {life}"));
        let (mut out, mut observed) = (Outbox::default(), Vec::new());
        match node {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    let started = coordinator.start(self.now, &mut out);
                    observed = started.map_err(|error| Violation(format!("c{id} cannot start: {error}")))?;
                }
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.start(self.now, &mut out);
                }
            }
            NodeId::Client(_) => {}
        }
        let phase = self.random.between(0, 20_000);
        self.schedule(self.now.plus_us(phase), Event::Tick { node, life });
        if let NodeId::Broker(id) = node
            && let Some(broker) = self.brokers.get(&id)
            && self.registrations.get(&id).is_some_and(|last| broker.whole_since() < *last)
        {
            // The process cannot tell that nothing was lost (its host lost its power, or a disk failed): to the quorum
            // it is so.
            self.note_power_loss(id);
        }
        self.finish_turn(node, out, observed)
    }

    /// `kill -9`. The other ends of its connections notice.
    pub fn kill(&mut self, node: NodeId) {
        if !self.is_running(node) {
            return;
        }
        self.trace.line(self.now, format_args!("{node} is killed"));
        self.end(node);
        let others: Vec<_> = self.all_servers().chain(self.clients()).filter(|other| *other != node).collect();
        for other in others {
            if self.network.is_connected(node, other) && self.is_running(other) {
                let at = self.now.plus_us(self.network.notice_delay_us());
                let to_life = self.life(other);
                self.schedule(at, Event::Deliver { from: node, to: other, to_life, message: Message::ConnectionLost });
            }
        }
    }

    pub(super) fn end(&mut self, node: NodeId) {
        self.paused.remove(&node);
        match node {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    coordinator.kill();
                }
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.kill();
                }
            }
            NodeId::Client(_) => {}
        }
        let life = self.life(node) + 1;
        self.lives.insert(node, life);
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = NodeId> + use<> {
        let ids: Vec<_> =
            self.producers.keys().chain(self.consumers.keys()).chain(self.transactors.keys()).copied().collect();
        ids.into_iter().map(NodeId::Client).chain(self.security_clients())
    }

    /// The host of a process loses its power, and with it what was not synced. Nobody is told.
    pub fn lose_power(&mut self, node: NodeId) {
        if !self.is_running(node) {
            return;
        }
        self.trace.line(self.now, format_args!("{node} loses its power"));
        match node {
            NodeId::Broker(id) => {
                self.note_power_loss(id);
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.lose_power();
                }
            }
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    coordinator.lose_power();
                }
            }
            NodeId::Client(_) => {}
        }
        self.dark.insert(node);
        self.end(node);
    }

    pub(super) fn note_power_loss(&mut self, id: i32) {
        let Some(broker) = self.brokers.get(&id) else { return };
        let epoch = broker
            .active_epoch()
            .or_else(|| self.newest_image().and_then(|image| image.broker_epoch(BrokerId(id))))
            .unwrap_or(BrokerEpoch(i64::try_from(self.newest_revision().0).unwrap_or(0)));
        let hosted: Vec<_> = self.hosted(id).map(|partition| (partition, self.effective_min_isr())).collect();
        self.invariants.lost_power(BrokerId(id), epoch, &hosted);
    }

    /// Whether the promise about acknowledged records would survive it.
    pub fn may_lose_power(&self, id: i32) -> bool {
        let min_isr = self.effective_min_isr();
        self.hosted(id).all(|partition| self.invariants.may_lose(BrokerId(id), partition, min_isr))
    }

    pub(super) fn hosted(&self, id: i32) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.newest_image().into_iter().flat_map(move |image| image.hosted_by(BrokerId(id)))
    }

    pub fn effective_min_isr(&self) -> usize {
        self.config.min_isr.min(usize::try_from(self.config.replication_factor).unwrap_or(1))
    }

    pub fn lose_disk(&mut self, id: u64) {
        let node = NodeId::Coordinator(id);
        self.kill(node);
        self.trace.line(self.now, format_args!("{node} loses its disk"));
        if let Some(coordinator) = self.coordinators.get_mut(&id) {
            coordinator.lose_disk();
        }
    }

    /// A broker's process ends, and the disk of a log directory, or of all, is replaced by an empty one.
    pub fn replace_disks(&mut self, id: i32, directory: Option<usize>) {
        let node = NodeId::Broker(id);
        self.note_power_loss(id);
        self.kill(node);
        self.trace.line(self.now, format_args!("{node} gets an empty disk: {directory:?}"));
        if let Some(broker) = self.brokers.get(&id) {
            let epoch = self.registrations.get(&id).copied().unwrap_or(BrokerEpoch::NONE);
            for partition in broker.held_in(directory) {
                self.invariants.wiped(BrokerId(id), epoch, partition);
            }
        }
        let disks = self.brokers.get(&id).map_or(0, BrokerNode::disks);
        for number in (0..disks).filter(|number| directory.is_none_or(|directory| directory == *number)) {
            let seed = self.random.next_u64();
            if let Some(broker) = self.brokers.get_mut(&id) {
                broker.replace_disk(number, seed);
            }
        }
    }

    /// A broker ends, by the loss of its power or of its process alone, and its disk holds another byte when it is
    /// back.
    pub fn flip_byte(&mut self, id: i32, loses_power: bool) {
        if loses_power {
            self.lose_power(NodeId::Broker(id));
        } else {
            self.note_power_loss(id);
            self.kill(NodeId::Broker(id));
        }
        let flipped = self.brokers.get_mut(&id).and_then(|broker| broker.flip_byte(loses_power));
        self.trace.line(self.now, format_args!("a byte of b{id} changes: {flipped:?}"));
    }

    /// A broker ends, and a log of it is copied into another of its directories before it is back.
    pub fn copy_log(&mut self, id: i32, is_old: bool) {
        self.kill(NodeId::Broker(id));
        let copied = self.brokers.get_mut(&id).and_then(|broker| broker.copy_log(is_old));
        self.trace.line(self.now, format_args!("b{id}: {copied:?}"));
    }

    pub fn start_after(&mut self, node: NodeId, ms: u64) {
        self.schedule(self.now.plus_ms(ms), Event::Start(node));
    }

    /// SIGSTOP, and SIGCONT after `ms`.
    pub fn pause(&mut self, node: NodeId, ms: u64) {
        if self.is_running(node) && !self.is_paused(node) {
            self.trace.line(self.now, format_args!("{node} is stopped for {ms} ms"));
            self.paused.insert(node, Vec::new());
            self.schedule(self.now.plus_ms(ms), Event::Resume(node));
        }
    }

    pub(super) fn resume(&mut self, node: NodeId) {
        if let Some(backlog) = self.paused.remove(&node) {
            self.trace.line(self.now, format_args!("{node} goes on"));
            // Ticks last: what has arrived is read before any time-out is judged.
            let (ticks, rest): (Vec<_>, Vec<_>) =
                backlog.into_iter().partition(|event| matches!(event, Event::Tick { .. }));
            for event in rest.into_iter().chain(ticks) {
                self.schedule(self.now, event);
            }
        }
    }

    /// The disk of a broker's log directory fails so often, for `ms`.
    pub fn break_disk(&mut self, id: i32, directory: usize, faults: Faults, ms: u64) {
        self.trace.line(self.now, format_args!("disk {directory} of b{id}: {faults:?} for {ms} ms"));
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.set_disk_faults(directory, faults);
        }
        self.schedule(self.now.plus_ms(ms), Event::RepairDisk(id, directory));
    }

    /// The disk of a broker's log directory does not answer for `ms`, or as long as the process runs.
    pub fn stall_disk(&mut self, id: i32, directory: usize, ms: u64) {
        self.trace.line(self.now, format_args!("disk {directory} of b{id} does not answer for {ms} ms"));
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.stall_disk(directory);
        }
        self.schedule(self.now.plus_ms(ms), Event::DiskAnswers(id, directory));
    }

    pub(super) fn disk_answers(&mut self, id: i32, directory: usize) -> Result<(), Violation> {
        if self.is_paused(NodeId::Broker(id)) {
            self.schedule(self.now.plus_ms(ANSWERS_LATER_MS), Event::DiskAnswers(id, directory));
            return Ok(());
        }
        self.trace.line(self.now, format_args!("disk {directory} of b{id} answers"));
        let (now, mut out) = (self.now, Outbox::default());
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.disk_answers(now, directory, &mut out);
        }
        self.finish_turn(NodeId::Broker(id), out, Vec::new())
    }

    pub(super) fn repair_disk(&mut self, id: i32, directory: usize) {
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.set_disk_faults(directory, Faults::NONE);
        }
    }

    /// A broker is asked to move a replica to one of its log directories.
    pub fn move_replica(&mut self, id: i32, partition: TopicIdPartition, directory: usize) -> Result<(), Violation> {
        let (now, mut out) = (self.now, Outbox::default());
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.move_replica(now, partition, directory, &mut out);
        }
        self.finish_turn(NodeId::Broker(id), out, Vec::new())
    }

    pub fn freeze_clock(&mut self, node: NodeId, ms: u64) {
        self.trace.line(self.now, format_args!("the clock of {node} stands still for {ms} ms"));
        let now = self.now;
        if let Some(clock) = self.clock_mut(node) {
            clock.freeze(now);
        }
        self.schedule(self.now.plus_ms(ms), Event::Thaw(node));
    }

    pub(super) fn thaw(&mut self, node: NodeId) {
        let now = self.now;
        if let Some(clock) = self.clock_mut(node) {
            clock.thaw(now);
        }
    }

    pub fn set_wall_clock(&mut self, node: NodeId, offset_ms: i64) {
        self.trace.line(self.now, format_args!("the wall clock of {node} is off by {offset_ms} ms"));
        if let Some(clock) = self.clock_mut(node) {
            clock.set_wall_offset_ms(offset_ms);
        }
    }

    pub(super) fn clock_mut(&mut self, node: NodeId) -> Option<&mut crate::clock::HostClock> {
        match node {
            NodeId::Coordinator(id) => self.coordinators.get_mut(&id).map(|node| &mut node.clock),
            NodeId::Broker(id) => self.brokers.get_mut(&id).map(|node| &mut node.clock),
            NodeId::Client(_) => None,
        }
    }

    /// Cuts `from` → `to`, and with `both` the way back, for `ms`.
    pub fn cut(&mut self, from: NodeId, to: NodeId, both: bool, ms: u64) {
        self.trace
            .line(self.now, format_args!("cut {from} -> {to}{} for {ms} ms", if both { " and back" } else { "" }));
        self.network.cut(from, to);
        if both {
            self.network.cut(to, from);
        }
        self.schedule(self.now.plus_ms(ms), Event::Mend(from, to));
    }

    pub fn shut_down(&mut self, id: i32) {
        self.trace.line(self.now, format_args!("b{id} is asked to shut down"));
        let now = self.now;
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.begin_shutdown(now);
        }
    }

    /// People read that a broker has several logs of a partition and could not open one, and start it again.
    pub fn restart_undecided(&mut self) {
        let undecided: Vec<_> =
            self.brokers.iter().filter(|(_, broker)| broker.is_undecided()).map(|(id, _)| *id).collect();
        for id in undecided {
            self.kill(NodeId::Broker(id));
            self.start_after(NodeId::Broker(id), 10);
        }
    }

    /// Every log of a broker reaches the disk.
    pub fn sync(&mut self, id: i32) -> Result<(), Violation> {
        let mut out = Outbox::default();
        let now = self.now;
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.sync(now, &mut out);
        }
        self.finish_turn(NodeId::Broker(id), out, Vec::new())
    }

    pub fn delete_records(&mut self, partition: TopicIdPartition, percent: u64) -> Result<(), Violation> {
        let Some(leader) = self.leader_of(partition) else { return Ok(()) };
        let (now, mut out) = (self.now, Outbox::default());
        let Some(broker) = self.brokers.get_mut(&leader) else { return Ok(()) };
        broker.delete_records(now, partition, percent, &mut out);
        if let Some(replica) = broker.replica(partition) {
            let start = replica.log_start();
            self.invariants.records_deleted(partition, start);
        }
        self.finish_turn(NodeId::Broker(leader), out, Vec::new())
    }

    /// Faults end: links, clocks and weather are good, what is down comes up, what stands still goes on. A disk that
    /// does not answer goes on so: [`World::check_stalled`].
    pub fn heal(&mut self) {
        self.trace.line(self.now, format_args!("everything is healed"));
        self.network.heal();
        self.late_bounds_until = SimTime(0);
        self.network.set_weather(crate::network::Weather::CALM);
        self.restore_security();
        self.turn_off_retired();
        self.renew_lists();
        let nodes: Vec<_> = self.all_servers().collect();
        for node in nodes {
            self.thaw(node);
            self.resume(node);
            if self.is_retired(node) {
                continue;
            }
            if self.config.releases && self.levels(node) != NEWER {
                self.kill(node);
                self.set_levels(node, NEWER);
            }
            if let NodeId::Broker(id) = node {
                let disks = self.brokers.get(&id).map_or(0, BrokerNode::disks);
                (0..disks).for_each(|directory| self.repair_disk(id, directory));
                if self.brokers.get(&id).is_some_and(BrokerNode::needs_restart) {
                    // People have repaired the disk, and start the broker again.
                    self.kill(node);
                }
            }
            if !self.is_running(node) {
                self.schedule(self.now.plus_ms(10), Event::Start(node));
            }
        }
    }
}
