//! `BASE.txnindex`: the aborted transactions whose markers are in the segment, in the order of the markers (Kafka's
//! `TransactionIndex`). There is no file where there are none.
//!
//! Entries of 34 bytes, big-endian: version i16, producer id i64, first offset i64, last offset i64 (the marker's),
//! last stable offset i64: the offset below which every transaction was decided when the marker was written.
//!
//! Unlike the other indexes it cannot be read past: without an entry a reader of committed records would get records
//! that were aborted. So a whole file is checked when its log is opened ([`AbortedIndex::load`]), and rebuilt from the
//! records if it is damaged.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut};
use ottla_model::{Offset, ProducerId};

use crate::env::Env;
use crate::index_file::{Entry, IndexFile};

const VERSION: i16 = 0;

/// One aborted transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// The marker's.
    pub last_offset: Offset,
    pub last_stable: Offset,
}

impl Entry for AbortedTransaction {
    const BYTES: usize = 34;

    fn encode(self, out: &mut Vec<u8>) {
        out.put_i16(VERSION);
        out.put_i64(self.producer_id.0);
        out.put_i64(self.first_offset.0);
        out.put_i64(self.last_offset.0);
        out.put_i64(self.last_stable.0);
    }

    fn decode(mut bytes: &[u8]) -> Self {
        bytes.advance(2.min(bytes.len()));
        let mut offset = || bytes.try_get_i64().unwrap_or(-1);
        Self {
            producer_id: ProducerId(offset()),
            first_offset: Offset(offset()),
            last_offset: Offset(offset()),
            last_stable: Offset(offset()),
        }
    }
}

pub(crate) type AbortedIndex = IndexFile<AbortedTransaction>;

impl AbortedIndex {
    /// The file of a segment that spans `base..end`. None if it is damaged.
    pub fn load(env: &impl Env, path: &Path, base: Offset, end: Offset) -> io::Result<Option<Self>> {
        let bytes = env.read_file(path)?;
        let mut after = base - 1;
        for mut entry in bytes.chunks_exact(AbortedTransaction::BYTES) {
            let decoded = AbortedTransaction::decode(entry);
            let is_sound = entry.get_i16() == VERSION
                && decoded.producer_id.0 >= 0
                && decoded.first_offset.0 >= 0
                && decoded.first_offset < decoded.last_offset
                && decoded.last_stable <= decoded.last_offset.next()
                && decoded.last_offset > after
                && decoded.last_offset < end;
            if !is_sound {
                return Ok(None);
            }
            after = decoded.last_offset;
        }
        let Some(mut index) = Self::of_size(bytes.len() as u64) else { return Ok(None) };
        index.load_last(env, path)?;
        Ok(Some(index))
    }

    /// Drops the transactions whose markers are at `end` or beyond.
    pub fn truncate_to(&mut self, env: &impl Env, path: &Path, end: Offset) -> io::Result<()> {
        if self.len() == 0 {
            return Ok(());
        }
        match self.last_where(env, path, |entry| entry.last_offset < end)? {
            Some((number, _)) => self.truncate(env, path, number + 1),
            // An empty file would not be synced with the others, and a loss of power could bring its entries back.
            None => {
                *self = Self::empty();
                env.remove_file_if_there(path)
            }
        }
    }

    /// Whether every transaction in it ended before `from`, as far as is known without the file.
    pub fn ends_before(&self, from: Offset) -> bool {
        self.len() == 0 || self.known_last().is_some_and(|last| last.last_offset < from)
    }

    /// Whether no entry in the file reaches `from`, as far as is known without it.
    pub fn file_ends_before(&self, from: Offset) -> bool {
        let next = self.waiting().first();
        self.written() == 0 || self.ends_before(from) || next.is_some_and(|entry| entry.last_offset < from)
    }
}
