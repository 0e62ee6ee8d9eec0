//! `replication-offset-checkpoint`, `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`: one offset for
//! each partition of a log directory.
//!
//! ```text
//! 0                 version
//! 2                 entries
//! topic-a 0 1500    topic, partition, offset
//! topic-a 1 0
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ottla_model::{Offset, PartitionId, TopicName, TopicPartition};

use super::{checkpoint_lines, utf8};
use crate::error::Malformed;

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, Offset>;

pub fn encode<'p>(offsets: impl ExactSizeIterator<Item = (&'p TopicPartition, Offset)>) -> Vec<u8> {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", partition.topic, partition.partition, offset);
    }
    text.into_bytes()
}

pub fn decode(what: &str, bytes: &[u8]) -> Result<Offsets, Malformed> {
    // The lines are in order nearly always: a map of all of them is made faster than one grows, and a topic's name is
    // shared by its partitions.
    let mut offsets: Vec<(TopicPartition, Offset)> = Vec::new();
    for line in checkpoint_lines(what, utf8(what, bytes)?)? {
        let topic = offsets.last().map(|(partition, _)| &partition.topic);
        let decoded = decode_line(line, topic).ok_or_else(|| Malformed::new(what, format!("line {line:?}")))?;
        offsets.push(decoded);
    }
    Ok(offsets.into_iter().collect())
}

/// `known`: the topic of the line before.
fn decode_line(line: &str, known: Option<&TopicName>) -> Option<(TopicPartition, Offset)> {
    let mut words = line.split_ascii_whitespace();
    let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let topic = TopicName::shared(topic, known).ok()?;
    let partition: i32 = partition.parse().ok().filter(|partition| *partition >= 0)?;
    let offset: i64 = offset.parse().ok().filter(|offset| *offset >= 0)?;
    Some((TopicPartition::new(topic, PartitionId(partition)), Offset(offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(TopicName::new(topic).expect("valid"), PartitionId(partition))
    }

    #[test]
    fn layout_is_kafkas() {
        let offsets = Offsets::from([(partition("a", 0), Offset(1500)), (partition("b-c", 11), Offset(0))]);
        let bytes = encode(offsets.iter().map(|(partition, offset)| (partition, *offset)));
        assert_eq!(bytes, b"0\n2\na 0 1500\nb-c 11 0\n");
        assert_eq!(decode("x", &bytes), Ok(offsets));
        let unordered = b"0\n4\nb-c 11 0\na 0 7\na 1 8\na 0 1500\n";
        let last_of_each = Offsets::from([
            (partition("a", 0), Offset(1500)),
            (partition("a", 1), Offset(8)),
            (partition("b-c", 11), Offset(0)),
        ]);
        assert_eq!(decode("x", unordered), Ok(last_of_each));
        assert_eq!(decode("x", b""), Ok(Offsets::new()));
        assert_eq!(decode("x", b"0\n0\n"), Ok(Offsets::new()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"1\n0\n"[..],
            b"0\n2\na 0 5\n",
            b"0\n1\na 0\n",
            b"0\n1\na 0 5 6\n",
            b"0\n1\na x 5\n",
            b"0\n1\na -1 5\n",
            b"0\n1\na 0 -5\n",
            b"0\n1\n../a 0 5\n",
            b"0\nx\n",
            b"\0\0\0\0",
            b"\xff",
        ] {
            assert!(decode("x", bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
