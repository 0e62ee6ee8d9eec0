//! The target assignment: what each member shall own in the group's epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::TopicId;

use super::{ConsumerGroup, timestamp};
use crate::assignor::{Assignor, GroupSpec, MemberSpec, Partitions};
use crate::record::{Record, TargetAssignment, TopicPartitions};
use crate::shard::Context;

/// A set of names, by its place in memory, and an expression. Members that name the same topics share one set.
type Subscription<'a> = (*const BTreeSet<String>, Option<&'a str>);

impl ConsumerGroup {
    /// The assignor that most members ask for; the first configured one where nobody asks.
    pub(super) fn preferred_assignor(&self, default: &[String]) -> String {
        let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.assignor.as_deref()) {
            *asked.entry(name).or_default() += 1;
        }
        let most = asked.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned());
        most.or_else(|| default.first().cloned()).unwrap_or_else(|| Assignor::Uniform.name().to_owned())
    }

    /// Computes the target of the group's epoch, if that is not done yet.
    pub(super) fn assign(&mut self, cx: &Context<'_>, records: &mut Vec<Record>) {
        if self.assignment_epoch >= self.epoch || cx.now.monotonic < self.soft.put_off {
            return;
        }
        // A name that no release here knows can only come from a log; the default is as good.
        let assignor =
            Assignor::by_name(&self.preferred_assignor(&cx.config.consumer_assignors)).unwrap_or(Assignor::Uniform);
        let changed = self.changed_targets(cx, assignor);
        for (member, target) in changed {
            let value = target
                .into_iter()
                .map(|(topic, partitions)| TopicPartitions {
                    topic,
                    partitions: partitions.into_iter().collect(),
                    assignment_epochs: Vec::new(),
                })
                .collect();
            self.write(records, Record::TargetMember { group: cx.group.clone(), member, value: Some(value) });
        }
        let value = TargetAssignment { epoch: self.epoch, timestamp: timestamp(cx) };
        self.write(records, Record::TargetAssignment { group: cx.group.clone(), value: Some(value) });
    }

    fn changed_targets(&self, cx: &Context<'_>, assignor: Assignor) -> Vec<(ottla_model::MemberId, Partitions)> {
        let nothing = Partitions::new();
        let mut topics: BTreeMap<TopicId, i32> = BTreeMap::new();
        // Members that subscribe alike share one set. It is found by the place of their names: comparing the names for
        // each member would cost members times topics.
        let mut alike: BTreeMap<Subscription<'_>, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        let mut members = Vec::with_capacity(self.members.len());
        for (id, member) in &self.members {
            let subscribed = alike.entry((Arc::as_ptr(&member.topics), member.regex.as_deref())).or_insert_with(|| {
                let found = self.subscribed_by(member).filter_map(|name| cx.topics.by_name(name));
                Arc::new(
                    found
                        .map(|topic| {
                            topics.insert(topic.id, topic.partitions);
                            topic.id
                        })
                        .collect(),
                )
            });
            members.push(MemberSpec {
                member: id,
                instance: member.instance.as_ref(),
                subscribed: Arc::clone(subscribed),
                current: self.targets.get(id).unwrap_or(&nothing),
            });
        }
        let spec = GroupSpec { members, topics: &topics };
        let assigned = assignor.assign(&spec);
        let pairs = spec.members.iter().zip(assigned);
        pairs
            .filter(|(member, target)| self.targets.get(member.member) != Some(target))
            .map(|(member, target)| (member.member.clone(), target))
            .collect()
    }
}
