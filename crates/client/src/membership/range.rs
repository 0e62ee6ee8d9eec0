//! Kafka's range assignor: of each topic, members in order get ranges of partitions in order, the first ones one more
//! where it does not divide.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{PartitionId, TopicName, TopicPartition};

/// A member as the assignor sees it. Static members come first, by their names; then the others by their ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub id: String,
    pub instance: Option<String>,
    pub topics: BTreeSet<String>,
}

impl Candidate {
    fn order(&self) -> (bool, &str) {
        match &self.instance {
            Some(instance) => (false, instance),
            None => (true, &self.id),
        }
    }
}

/// The share of each member; every member has an entry. `counts` has the number of partitions of each existing topic.
pub(super) fn assign(
    mut members: Vec<Candidate>,
    counts: &BTreeMap<TopicName, usize>,
) -> BTreeMap<String, Vec<TopicPartition>> {
    members.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut shares: BTreeMap<String, Vec<TopicPartition>> =
        members.iter().map(|member| (member.id.clone(), Vec::new())).collect();
    for (topic, &count) in counts {
        let takers: Vec<&Candidate> = members.iter().filter(|member| member.topics.contains(topic.as_str())).collect();
        if takers.is_empty() {
            continue;
        }
        let (each, extra) = (count / takers.len(), count % takers.len());
        let mut partitions = (0..).map(PartitionId);
        for (at, member) in takers.iter().enumerate() {
            let mine = partitions.by_ref().take(each + usize::from(at < extra));
            if let Some(share) = shares.get_mut(&member.id) {
                share.extend(mine.map(|partition| TopicPartition::new(topic.clone(), partition)));
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>, topics: &[&str]) -> Candidate {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Candidate { id: id.to_owned(), instance: instance.map(str::to_owned), topics }
    }

    fn shown(shares: &BTreeMap<String, Vec<TopicPartition>>, id: &str) -> String {
        shares[id].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ranges_are_kafkas() {
        let counts: BTreeMap<_, _> =
            [("t", 5), ("u", 1)].into_iter().map(|(name, count)| (TopicName::new(name).unwrap(), count)).collect();
        let members = vec![member("b", None, &["t", "u"]), member("a", None, &["t", "gone"])];
        let shares = assign(members, &counts);
        assert_eq!(shown(&shares, "a"), "t-0 t-1 t-2");
        assert_eq!(shown(&shares, "b"), "t-3 t-4 u-0");
        let members = vec![member("a", None, &["t"]), member("z", Some("i2"), &["t"]), member("y", Some("i1"), &["t"])];
        let shares = assign(members, &counts);
        assert_eq!([shown(&shares, "y"), shown(&shares, "z"), shown(&shares, "a")], ["t-0 t-1", "t-2 t-3", "t-4"]);
        let many = (0..7).map(|n| member(&n.to_string(), None, &["t"])).collect();
        let shares = assign(many, &counts);
        assert_eq!((shares["4"].len(), shares["5"].len(), shares["6"].len()), (1, 0, 0));
    }
}
