//! An operator who looks at a group and sometimes meddles: fetches its offsets, describes it, commits while nobody is
//! there, deletes.

use std::collections::BTreeSet;

use ottla_group_coordinator::Request;
use ottla_group_coordinator::request::{DeleteOffsets, FetchOffsets, GroupTopic, ListGroups};
use ottla_model::{GroupId, MemberId, PartitionId};

use super::client::Turn;
use crate::clock::SimTime;

#[derive(Debug)]
pub struct Admin {
    pub group: GroupId,
    pub meddles: bool,
    next: SimTime,
}

impl Admin {
    pub fn new(group: GroupId) -> Self {
        Self { group, meddles: true, next: SimTime(0) }
    }

    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        if turn.now < self.next {
            return;
        }
        self.next = turn.now.plus_ms(turn.random.between(100, 600));
        let names = turn.topics.all_names();
        let what = turn.random.below(100);
        let request = match what {
            0..30 => self.fetch(turn, false),
            30..60 => self.fetch(turn, true),
            60..70 => Request::DescribeGroup(self.group.clone()),
            70..80 => Request::ConsumerGroupDescribe(self.group.clone()),
            80..85 => Request::ListGroups(ListGroups::default()),
            85..90 if self.meddles => Request::DeleteGroup(self.group.clone()),
            90..95 if self.meddles => {
                let topic = turn.random.pick(&names).cloned().unwrap_or_default();
                Request::DeleteOffsets(DeleteOffsets {
                    group: self.group.clone(),
                    topics: vec![(topic, vec![PartitionId(0), PartitionId(1)])],
                })
            }
            95..100 if self.meddles => {
                let partitions: BTreeSet<_> = turn.topics.partitions_of(&names);
                let ids = turn.topics.ids();
                turn.commit(&self.group, &MemberId::new(""), None, -1, &partitions, &ids);
                return;
            }
            _ => return,
        };
        turn.send(request);
    }

    fn fetch(&self, turn: &mut Turn<'_>, everything: bool) -> Request {
        let require_stable = turn.random.percent(30);
        let names = turn.topics.all_names();
        let asked = names.into_iter().map(|name| {
            let partitions = turn.topics.partitions_of([&name]).into_iter().map(|(_, at)| PartitionId(at)).collect();
            (GroupTopic { id: turn.topics.id(&name), name }, partitions)
        });
        Request::FetchOffsets(FetchOffsets {
            group: self.group.clone(),
            member: None,
            member_epoch: -1,
            require_stable,
            topics: (!everything).then(|| asked.collect()),
        })
    }
}
