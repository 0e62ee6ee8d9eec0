use proptest::prelude::*;

use super::*;

fn topic(number: usize) -> TopicId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    TopicId(id)
}

/// A group to assign: what each member reads and had, and the topics.
#[derive(Clone, Debug, Default)]
struct Case {
    topics: BTreeMap<TopicId, i32>,
    members: BTreeMap<MemberId, Member>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    instance: Option<InstanceId>,
    reads: Arc<BTreeSet<TopicId>>,
    has: Partitions,
}

fn member_id(number: usize) -> MemberId {
    MemberId::new(format!("m{number:04}"))
}

impl Case {
    fn new(topics: &[i32], reads: &[&[usize]]) -> Self {
        let members = reads.iter().enumerate().map(|(number, reads)| {
            let reads = Arc::new(reads.iter().map(|number| topic(*number)).collect());
            (member_id(number), Member { reads, ..Member::default() })
        });
        Self {
            topics: topics.iter().enumerate().map(|(number, count)| (topic(number), *count)).collect(),
            members: members.collect(),
        }
    }

    fn assign(&self, assignor: Assignor) -> Vec<Partitions> {
        let members = self
            .members
            .iter()
            .map(|(id, member)| MemberSpec {
                member: id,
                instance: member.instance.as_ref(),
                subscribed: Arc::clone(&member.reads),
                current: &member.has,
            })
            .collect();
        assignor.assign(&GroupSpec { members, topics: &self.topics })
    }

    /// Assigns, and lets the members have it.
    fn settle(&mut self, assignor: Assignor) {
        let assigned = self.assign(assignor);
        for (member, has) in self.members.values_mut().zip(assigned) {
            member.has = has;
        }
    }

    fn loads(&self) -> Vec<usize> {
        self.members.values().map(|member| load(&member.has)).collect()
    }

    /// Every partition that somebody reads has one owner, who reads it.
    fn check(&self, assigned: &[Partitions]) {
        assert_eq!(assigned.len(), self.members.len());
        let mut owners: BTreeMap<(TopicId, PartitionId), usize> = BTreeMap::new();
        for (number, (member, partitions)) in self.members.values().zip(assigned).enumerate() {
            for (id, partitions) in partitions {
                assert!(!partitions.is_empty() && member.reads.contains(id));
                for partition in partitions {
                    assert!((0..self.topics[id]).contains(&partition.0));
                    assert_eq!(owners.insert((*id, *partition), number), None, "two owners");
                }
            }
        }
        let read: BTreeSet<TopicId> = self.members.values().flat_map(|member| member.reads.iter().copied()).collect();
        let expected: i32 = read.iter().map(|id| self.topics[id]).sum();
        assert_eq!(owners.len(), expected as usize, "partitions without an owner");
    }
}

fn load(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

fn kept(before: &Partitions, after: &Partitions) -> usize {
    before.iter().map(|(id, partitions)| after.get(id).map_or(0, |after| partitions.intersection(after).count())).sum()
}

/// Members come and go, topics grow and shrink (as if deleted and created again), subscriptions change.
#[derive(Clone, Debug)]
enum Change {
    Join(Vec<usize>),
    Leave(usize),
    Resize(usize, i32),
    Subscribe(usize, Vec<usize>),
}

const TOPICS: usize = 5;

fn reads() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..TOPICS, 0..4)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => reads().prop_map(Change::Join),
        2 => (0..50usize).prop_map(Change::Leave),
        1 => (0..TOPICS, 0..12i32).prop_map(|(number, count)| Change::Resize(number, count)),
        1 => (0..50usize, reads()).prop_map(|(member, reads)| Change::Subscribe(member, reads)),
    ]
}

fn apply(case: &mut Case, number: usize, change: Change, homogeneous: bool) {
    let set = |reads: Vec<usize>| -> Arc<BTreeSet<TopicId>> {
        let reads = if homogeneous { (0..TOPICS).collect() } else { reads };
        Arc::new(reads.into_iter().map(topic).collect())
    };
    let pick = |case: &Case, at: usize| case.members.keys().nth(at % case.members.len().max(1)).cloned();
    match change {
        Change::Join(reads) => {
            // Ids in no order of joining.
            let id = member_id((number * 7_919) % 10_000);
            case.members.insert(id, Member { reads: set(reads), ..Member::default() });
        }
        Change::Leave(at) => {
            if let Some(id) = pick(case, at) {
                case.members.remove(&id);
            }
        }
        Change::Resize(number, count) => {
            case.topics.insert(topic(number), count);
        }
        Change::Subscribe(at, reads) => {
            if let Some(id) = pick(case, at) {
                case.members.get_mut(&id).unwrap().reads = set(reads);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn uniform_over_one_subscription_is_balanced_and_moves_the_least(
        changes in proptest::collection::vec(change(), 1..40)
    ) {
        let mut case = Case::new(&[7; TOPICS], &[]);
        for (number, change) in changes.into_iter().enumerate() {
            apply(&mut case, number, change, true);
            let after = case.assign(Assignor::Uniform);
            case.check(&after);
            let loads: Vec<usize> = after.iter().map(load).collect();
            let (least, most) = (loads.iter().min().copied().unwrap_or(0), loads.iter().max().copied().unwrap_or(0));
            prop_assert!(most - least <= 1, "{loads:?}");
            // What balance alone forces out of members' hands, and no more.
            let total: i32 = case.topics.values().sum();
            let valid = |member: &Member| -> usize {
                member.has.iter().map(|(id, has)| has.iter().filter(|p| p.0 < case.topics[id]).count()).sum()
            };
            if let Some(share) = (total as usize).checked_div(case.members.len()) {
                let larger = total as usize % case.members.len();
                let above = case.members.values().filter(|member| valid(member) > share).count();
                let excess: usize = case.members.values().map(|member| valid(member).saturating_sub(share)).sum();
                let pairs = case.members.values().zip(&after);
                let lost: usize = pairs.map(|(member, after)| valid(member) - kept(&member.has, after)).sum();
                prop_assert_eq!(lost, excess - above.min(larger));
            }
            case.settle(Assignor::Uniform);
        }
    }

    #[test]
    fn uniform_over_many_subscriptions_leaves_no_topic_unbalanced(
        changes in proptest::collection::vec(change(), 1..40)
    ) {
        let mut case = Case::new(&[7; TOPICS], &[]);
        for (number, change) in changes.into_iter().enumerate() {
            apply(&mut case, number, change, false);
            let after = case.assign(Assignor::Uniform);
            case.check(&after);
            for id in case.topics.keys() {
                let readers: Vec<(usize, bool)> = case.members.values().zip(&after)
                    .filter(|(member, _)| member.reads.contains(id))
                    .map(|(_, has)| (load(has), has.contains_key(id)))
                    .collect();
                let least = readers.iter().map(|(load, _)| *load).min().unwrap_or(0);
                let most = readers.iter().filter(|(_, gives)| *gives).map(|(load, _)| *load).max().unwrap_or(0);
                prop_assert!(most <= least + 1, "a partition could move: {readers:?}");
            }
            case.settle(Assignor::Uniform);
            // Nothing changed: nothing moves.
            let has: Vec<_> = case.members.values().map(|member| member.has.clone()).collect();
            prop_assert_eq!(case.assign(Assignor::Uniform), has);
        }
    }

    #[test]
    fn ranges_are_contiguous_and_even(changes in proptest::collection::vec(change(), 1..40)) {
        let mut case = Case::new(&[7; TOPICS], &[]);
        for (number, change) in changes.into_iter().enumerate() {
            apply(&mut case, number, change, false);
            let after = case.assign(Assignor::Range);
            case.check(&after);
            for id in case.topics.keys() {
                let sizes: Vec<usize> = case.members.values().zip(&after)
                    .filter(|(member, _)| member.reads.contains(id))
                    .map(|(_, has)| has.get(id).map_or(0, BTreeSet::len))
                    .collect();
                prop_assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1);
                for partitions in after.iter().filter_map(|has| has.get(id)) {
                    let (first, last) = (partitions.first().unwrap().0, partitions.last().unwrap().0);
                    prop_assert_eq!((last - first + 1) as usize, partitions.len());
                }
            }
        }
    }
}

#[test]
fn a_member_that_joins_takes_only_its_share() {
    let mut case = Case::new(&[60], &[[0].as_slice(); 20]);
    case.settle(Assignor::Uniform);
    assert_eq!(case.loads(), vec![3; 20]);
    case.members
        .insert(MemberId::new("a-newcomer"), Member { reads: Arc::new([topic(0)].into()), ..Member::default() });
    let before: Vec<Partitions> = case.members.values().map(|member| member.has.clone()).collect();
    case.settle(Assignor::Uniform);
    let moved: usize =
        case.members.values().zip(&before).map(|(member, before)| load(before) - kept(before, &member.has)).sum();
    assert_eq!(moved, 2, "60 over 21: three members stay at three or the newcomer gets two");
}

#[test]
fn larger_shares_stay_where_they_are() {
    // Kafka's order would give the larger share to the first member, which holds the smaller one.
    let mut case = Case::new(&[3], &[&[0], &[0]]);
    let has = |partitions: &[i32]| Partitions::from([(topic(0), partitions.iter().map(|p| PartitionId(*p)).collect())]);
    case.members.get_mut(&member_id(0)).unwrap().has = has(&[2]);
    case.members.get_mut(&member_id(1)).unwrap().has = has(&[0, 1]);
    assert_eq!(case.assign(Assignor::Uniform), vec![has(&[2]), has(&[0, 1])]);
}

#[test]
fn readers_of_few_topics_get_those() {
    // One reads everything, one only topic 0: it gets all of topic 0 that keeps both even.
    let mut case = Case::new(&[4, 4], &[&[0, 1], &[0]]);
    case.settle(Assignor::Uniform);
    assert_eq!(case.loads(), vec![4, 4]);
}

#[test]
fn ranges_of_topics_alike_are_alike_and_static_members_come_first() {
    let mut case = Case::new(&[3, 3], &[&[0, 1], &[0, 1]]);
    case.members.get_mut(&member_id(1)).unwrap().instance = Some(InstanceId::new("z"));
    let ranges = |partitions: &[i32]| -> Partitions {
        let set: BTreeSet<PartitionId> = partitions.iter().map(|partition| PartitionId(*partition)).collect();
        [(topic(0), set.clone()), (topic(1), set)].into()
    };
    assert_eq!(case.assign(Assignor::Range), vec![ranges(&[2]), ranges(&[0, 1])]);
}

#[test]
fn nobody_and_nothing() {
    for assignor in [Assignor::Uniform, Assignor::Range] {
        assert!(Case::new(&[3], &[]).assign(assignor).is_empty());
        assert_eq!(Case::new(&[3], &[&[]]).assign(assignor), vec![Partitions::new()]);
        assert_eq!(Case::new(&[0], &[&[0], &[]]).assign(assignor), vec![Partitions::new(); 2]);
        assert_eq!(Assignor::by_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::by_name("sticky"), None);
}

/// 500 members over 5,000 partitions. No time is asserted: run it with `--nocapture` to see one.
#[test]
fn large_groups_settle() {
    let all: Vec<usize> = (0..50).collect();
    let mut case = Case::new(&[100; 50], &vec![all.as_slice(); 500]);
    case.settle(Assignor::Uniform);
    assert_eq!(case.loads(), vec![10; 500]);
    case.members.pop_first();
    let begun = std::time::Instant::now();
    let after = case.assign(Assignor::Uniform);
    println!("one member of 500 left: {:?}", begun.elapsed());
    case.check(&after);
    let begun = std::time::Instant::now();
    let after = case.assign(Assignor::Range);
    println!("ranges: {:?}", begun.elapsed());
    case.check(&after);
    Arc::make_mut(&mut case.members.first_entry().unwrap().into_mut().reads).pop_first();
    let begun = std::time::Instant::now();
    let after = case.assign(Assignor::Uniform);
    println!("unequal subscriptions: {:?}", begun.elapsed());
    case.check(&after);
}
