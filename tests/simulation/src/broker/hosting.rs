//! From the image to replicas and roles: [`ottla_partition`] decides what is placed here and which log it gets; here it
//! is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_metadata::Delta;
use ottla_metadata::image::MIN_INSYNC_REPLICAS;
use ottla_metadata::topic_config::TopicConfig;
use ottla_model::{ErrorCode, MonotonicMs, TimestampMs, TopicIdPartition, TopicName, TopicPartition};
use ottla_partition::{
    AbsentLog, BrokerNews, Errand, Local, LogLocation, Place, Placement, ReplicaConfig, eligible_epoch, open_in,
};

use super::disk::FoundLog;
use super::process::Process;
use super::replica::{Log, Replica};
use super::stall::Waiting;
use crate::facts::Fact;
use crate::outbox::Outbox;

impl Process {
    /// The image moved by `delta`.
    pub fn image_moved(&mut self, now: MonotonicMs, wall: TimestampMs, delta: &Delta, out: &mut Outbox) {
        let was_current = self.placement.is_current();
        let local = Local {
            id: self.id,
            epoch: self.identity,
            last_epoch: self.last_run.registered,
            absent: AbsentLog::of(&self.log_dirs),
            rules: self.settings.rules,
        };
        for placement in self.placement.image_moved(&local, &self.image, delta) {
            self.place(now, wall, placement, out);
        }
        for change in delta.brokers.iter().filter(|_| was_current) {
            let news = BrokerNews::of(self.id, change);
            if news.is_other {
                self.fetchers.reconnect(now, change.id);
            }
            if news.became_active || news.has_left {
                let hosted: Vec<_> = self.image.hosted_by(change.id).collect();
                hosted.into_iter().for_each(|id| self.tick_if_free(now, id, Errand::BrokerNews, out));
            }
        }
    }

    fn place(&mut self, now: MonotonicMs, wall: TimestampMs, placement: Placement<FoundLog>, out: &mut Outbox) {
        match placement {
            // No quorum of the simulation is restored from a snapshot: every log is deleted.
            Placement::Remove { id, fate: _ } => self.remove_replica(id, out),
            Placement::SetAside(found) => {
                let directory = found.directory;
                if let Err(Waiting::SetAside(found)) = self.wait_for_disk(directory, Waiting::SetAside(Box::new(found)))
                {
                    self.set_aside(*found, out);
                }
            }
            Placement::Discard(found) => {
                let directory = found.directory;
                // From now on, though its disk may not answer: the replica may come back, and begins a new log then.
                if let Some(topic_id) = found.topic_id {
                    self.forgotten.insert(TopicIdPartition { topic_id, partition: found.partition.partition });
                }
                if let Err(Waiting::Discard(found)) = self.wait_for_disk(directory, Waiting::Discard(Box::new(found))) {
                    self.discard(*found, out);
                }
            }
            Placement::Assume { id, state } => match self.when_held(id, Errand::Image) {
                Some(held) => self.wait_or_pass(id, held, |number| Waiting::Assume(id, number, state)),
                None => self.assume(now, wall, id, &state, out),
            },
            Placement::StartOver(id) => {
                let Some(replica) = self.replicas.get_mut(&id) else { return };
                out.note(format_args!("starts {} over", replica.name));
                replica.rot = None;
                replica.core.begin_opening();
                self.open_log(now, wall, id, None, out);
            }
            Placement::Place { id, topic, state, log } => {
                let missing = || self.log_dirs.missing().map(|directory| directory.number());
                let LogLocation { directory, high_watermark } =
                    self.placement.locate(&id, &log, missing, || self.directory_for_new_log());
                let Some(number) = directory else { return };
                let Some(directory) = self.log_dirs.get(number) else { return };
                directory.place();
                let (name, env) = (TopicPartition::new(topic, id.partition), directory.env().clone());
                self.placed += 1;
                self.replicas.insert(id, Replica::new(id, self.placed, name, number, env, high_watermark));
                self.assume(now, wall, id, &state, out);
                self.begin(now, wall, id, log, out);
            }
        }
    }

    /// A new replica has its log, or none.
    fn begin(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        log: Place<FoundLog>,
        out: &mut Outbox,
    ) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        match log {
            Place::Found(FoundLog { log: Some(log), .. }) => self.begin_with(now, wall, id, log, out),
            Place::New => self.open_log(now, wall, id, None, out),
            Place::Found(_) | Place::Offline(_) => {
                out.note(format_args!("has no log of {} that it can open", replica.name));
                let effects = replica.core.log_failed();
                self.execute(id, effects, out);
            }
        }
    }

    /// A replica takes the log that was found.
    pub(super) fn begin_with(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        log: Box<Log>,
        out: &mut Outbox,
    ) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        match replica.read_found(&log) {
            Ok(()) => out.facts.push(Fact::Opened { partition: id, content: replica.content.clone() }),
            Err(what) => out.facts.push(Fact::Broken { what: format!("{}: {what}", replica.name) }),
        }
        self.open_log(now, wall, id, Some(log), out);
    }

    /// Opens the log that was found, or the one that waits, or creates a new one.
    pub(super) fn open_log(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        found: Option<Box<Log>>,
        out: &mut Outbox,
    ) {
        let config = self.replica_config(id);
        let image = &self.image;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let number = replica.directory;
        if found.is_none() && self.stalls.contains_key(&number) {
            let waiting = Waiting::Create(id, replica.number);
            let _ = self.wait_for_disk(number, waiting);
            return;
        }
        let Some(directory) = self.log_dirs.get(number) else { return };
        let found = found.or_else(|| replica.core.take_waiting_log());
        let is_new = found.is_none();
        let (name, log_config) = (replica.name.clone(), self.settings.log_config.clone());
        let opened = open_in(directory, name, id.topic_id, log_config, found, wall);
        if let Ok(log) = &opened {
            replica.is_out_of_room = false;
            if is_new {
                replica.content.restart(log.log_start_offset());
                out.facts.push(Fact::Began { partition: id });
            }
        }
        let effects = replica.core.log_opened(opened, now, wall, &config, &|broker| eligible_epoch(image, broker));
        if replica.core.awaits_log() {
            out.note(format_args!("has no room for the log of {}", replica.name));
            self.waiting_logs.insert(id);
        }
        self.execute(id, effects, out);
        self.fetchers.changed.push(id);
    }

    /// Another topic of the same name must not be opened with what was known of this one.
    fn remove_replica(&mut self, id: TopicIdPartition, out: &mut Outbox) {
        self.forgotten.insert(id);
        self.waiting_logs.remove(&id);
        let Some(replica) = self.replicas.remove(&id) else { return };
        self.fetchers.changed.push(id);
        let directory = replica.directory;
        if let Err(Waiting::End(replica)) = self.wait_for_disk(directory, Waiting::End(Box::new(replica))) {
            self.end_replica(*replica, out);
        }
    }

    pub(super) fn end_replica(&mut self, mut replica: Replica, out: &mut Outbox) {
        let (id, number, name) = (replica.id, replica.directory, replica.name);
        out.note(format_args!("removes {name}"));
        let (log, effects) = replica.core.close(ErrorCode::NotLeaderOrFollower);
        if let Some(mut log) = log {
            log.abandon();
        }
        self.fetch_sessions.changed(id);
        self.fail_all(&effects.failed, self.leader_of(id), out);
        if let Some(directory) = self.log_dirs.get(number) {
            directory.unplace();
        }
        let unique = self.random.bytes_16();
        let renamed = self.in_directory(number, out, |directory| directory.mark_deleted(&[name], || unique));
        self.remove_paths(number, &renamed.unwrap_or_default(), out);
    }

    /// A log of a partition that was moved away while this broker was down.
    pub(super) fn discard(&mut self, mut found: FoundLog, out: &mut Outbox) {
        out.note(format_args!("discards {} in directory {}", found.partition, found.directory));
        if let Some(mut log) = found.log.take() {
            log.abandon();
        }
        let (number, unique) = (found.directory, self.random.bytes_16());
        let renamed = self.in_directory(number, out, |directory| directory.mark_deleted(&[found.partition], || unique));
        self.remove_paths(number, &renamed.unwrap_or_default(), out);
    }

    /// A log of a topic that the cluster does not have, a damaged one, or an older copy.
    pub(super) fn set_aside(&mut self, found: FoundLog, out: &mut Outbox) {
        out.note(format_args!("sets {} in directory {} aside", found.partition, found.directory));
        if let Some(mut log) = found.log {
            log.abandon();
        }
        let unique = self.random.bytes_16();
        self.in_directory(found.directory, out, |directory| directory.mark_stray(&found.partition, unique));
    }

    pub(super) fn assume(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        state: &Arc<ottla_metadata::PartitionState>,
        out: &mut Outbox,
    ) {
        let config = self.replica_config(id);
        let image = &self.image;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let effects = replica.core.assume(state, now, wall, &config, &|broker| eligible_epoch(image, broker));
        self.execute(id, effects, out);
        self.fetchers.changed.push(id);
    }

    fn replica_config(&self, id: TopicIdPartition) -> ReplicaConfig {
        let topic = self.image.topic_by_id(id.topic_id).map(|topic| topic.name.clone());
        ReplicaConfig {
            local: self.id,
            local_epoch: self.identity,
            replica_lag_time_max: self.settings.replica_lag_time_max,
            min_insync_replicas: topic.map_or(1, |topic| self.min_isr(&topic)),
            rules: self.settings.rules,
        }
    }

    fn min_isr(&self, topic: &TopicName) -> usize {
        let own = self.settings.min_insync_replicas.to_string();
        let defaults = BTreeMap::from([(MIN_INSYNC_REPLICAS.to_owned(), own)]);
        TopicConfig::resolve(&self.image.topic_overrides(topic.as_str()), &defaults).min_isr()
    }
}
