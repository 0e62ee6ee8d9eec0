//! `leader-epoch-checkpoint`: the leader epochs of one log and where each began.
//!
//! ```text
//! 0         version
//! 2         entries
//! 0 0       leader epoch, start offset
//! 3 1200
//! ```

use std::fmt::Write as _;

use ottla_model::{LeaderEpoch, Offset};
use ottla_replication::{EpochHistory, EpochStart};

use super::{checkpoint_lines, utf8};
use crate::error::Malformed;

const WHAT: &str = crate::file_name::LEADER_EPOCH_CHECKPOINT;

pub fn encode(entries: &[EpochStart]) -> Vec<u8> {
    let mut text = format!("0\n{}\n", entries.len());
    for entry in entries {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", entry.epoch, entry.start_offset);
    }
    text.into_bytes()
}

pub fn decode(bytes: &[u8]) -> Result<EpochHistory, Malformed> {
    let mut entries = Vec::new();
    for line in checkpoint_lines(WHAT, utf8(WHAT, bytes)?)? {
        entries.push(decode_line(line).ok_or_else(|| Malformed::new(WHAT, format!("line {line:?}")))?);
    }
    Ok(EpochHistory::from_entries(entries))
}

fn decode_line(line: &str) -> Option<EpochStart> {
    let mut words = line.split_ascii_whitespace();
    let epoch: i32 = words.next()?.parse().ok().filter(|epoch| *epoch >= 0)?;
    let start: i64 = words.next()?.parse().ok().filter(|start| *start >= 0)?;
    if words.next().is_some() {
        return None;
    }
    Some(EpochStart { epoch: LeaderEpoch(epoch), start_offset: Offset(start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_kafkas() {
        let history = decode(b"0\n2\n0 0\n3 1200\n").expect("valid");
        assert_eq!(history.entries().len(), 2);
        assert_eq!(history.latest_epoch(), LeaderEpoch(3));
        assert_eq!(encode(history.entries()), b"0\n2\n0 0\n3 1200\n");
        assert!(decode(b"").expect("an empty file has no entries").is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [&b"2\n0\n"[..], b"0\n1\n", b"0\n1\n0\n", b"0\n1\n0 0 0\n", b"0\n1\n-1 0\n", b"0\n1\n1 -2\n"] {
            assert!(decode(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
