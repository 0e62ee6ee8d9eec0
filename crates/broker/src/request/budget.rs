//! How large one response may become. A handler charges each part before it keeps it, so that the response is never
//! built beyond the bound; keys that do not fit are answered with an error.

use ottla_group_coordinator::GroupAnswer;
use ottla_group_coordinator::answer::{ConsumerGroupDescribed, Described, FetchedOffsets};

/// The bytes of one response in memory, without records: what librdkafka accepts by default
/// (`receive.message.max.bytes`). A list of 100,000 partitions or of a million groups is smaller.
pub const RESPONSE_BYTES_MAX: usize = 100_000_000;

/// What a client is told about keys that did not fit, where its API has a text for that.
pub const TOO_LARGE: &str = "The response would become too large: ask for fewer resources at a time.";

/// The bytes that one response may still take.
#[derive(Debug)]
pub struct ResponseBudget {
    left: usize,
}

impl ResponseBudget {
    /// [`RESPONSE_BYTES_MAX`], or less where the broker's memory is small.
    pub fn new(max_bytes: usize) -> Self {
        Self { left: max_bytes.min(RESPONSE_BYTES_MAX) }
    }

    /// Takes `bytes` if they are left. After the first part that does not fit nothing fits: the response stays in the
    /// order of the request, and the rest of a hostile request costs nothing more.
    pub fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.left = 0;
                false
            }
        }
    }
}

/// The bytes of a part beside its texts and byte strings: numbers, lengths, tags.
const FIXED_BYTES: usize = 64;

/// About how many bytes a group's answer takes in a response.
pub fn group_answer_bytes(answer: &GroupAnswer) -> usize {
    FIXED_BYTES
        + match answer {
            GroupAnswer::DescribeGroup(described) => described_bytes(described),
            GroupAnswer::ConsumerGroupDescribe(described) => consumer_described_bytes(described),
            GroupAnswer::FetchOffsets(fetched) => fetched_bytes(fetched),
            GroupAnswer::ListGroups(groups) => {
                groups.iter().map(|group| FIXED_BYTES + group.group.as_str().len() + group.protocol_type.len()).sum()
            }
            _ => 0,
        }
}

fn described_bytes(described: &Described) -> usize {
    let members = described.members.iter().map(|member| {
        let texts = member.member.as_str().len() + member.client_id.len() + member.client_host.len();
        FIXED_BYTES + texts + member.metadata.len() + member.assignment.len()
    });
    members.sum()
}

fn consumer_described_bytes(described: &ConsumerGroupDescribed) -> usize {
    let members = described.members.iter().map(|member| {
        let texts = member.member.as_str().len() + member.client_id.len() + member.client_host.len();
        let topics: usize = member.subscribed_topics.iter().map(|topic| topic.len() + 2).sum();
        let assigned = member.assignment.iter().chain(&member.target_assignment);
        let assigned: usize = assigned.map(|(_, name, numbers)| 24 + name.len() + 4 * numbers.len()).sum();
        FIXED_BYTES + texts + member.subscribed_regex.as_ref().map_or(0, String::len) + topics + assigned
    });
    members.sum()
}

fn fetched_bytes(fetched: &FetchedOffsets) -> usize {
    let topics = fetched.topics.iter().map(|(topic, offsets)| {
        let offsets: usize = offsets.iter().map(|offset| 24 + offset.metadata.len()).sum();
        topic.name.len() + 24 + offsets
    });
    topics.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fits_behind_what_did_not_fit() {
        let mut budget = ResponseBudget::new(100);
        assert_eq!([60, 41, 1].map(|bytes| budget.take(bytes)), [true, false, false]);
        let mut whole = ResponseBudget::new(usize::MAX);
        assert!(whole.take(RESPONSE_BYTES_MAX) && !whole.take(1));
    }
}
