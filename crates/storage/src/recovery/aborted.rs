//! Checks the indexes of aborted transactions of the segments that are not examined, and rebuilds damaged ones.

use std::collections::BTreeSet;
use std::io;

use ottla_model::{Offset, TransactionResult};
use ottla_protocol::record_batch::EndMarkerRecord;

use super::{Fault, Listing, Opening};
use crate::aborted_index::AbortedIndex;
use crate::env::{Env, File, OpenMode};
use crate::file_name;
use crate::producer_replay;
use crate::scan::{BatchScan, HeaderScan, Step};
use crate::segment::Segment;

impl<E: Env> Opening<'_, '_, E> {
    /// Gives the segments that are not examined their indexes of aborted transactions: those on disk if they are whole
    /// and, after an unclean end, their last entry is of a marker in the segment; else new ones.
    ///
    /// A missing file reads as "nothing was aborted". The file of a segment in `rebuilt`, whose other indexes were
    /// missing or damaged, is rebuilt too, as in Kafka: who copied a directory without its indexes left it out as well.
    pub(super) fn load_transaction_indexes(
        &mut self,
        listing: &Listing,
        rebuilt: &BTreeSet<Offset>,
        examine_from: Option<usize>,
    ) -> Result<(), Fault> {
        let trusted = examine_from.unwrap_or(self.log.segments.len());
        let mut replayed_to = None;
        for number in 0..trusted {
            let Some(base) = self.log.segments.get(number).map(|segment| segment.base_offset) else { break };
            if rebuilt.contains(&base) {
                let index = self.rebuild_transaction_index(number, &mut replayed_to)?;
                if let Some(segment) = self.log.segments.get_mut(number) {
                    segment.aborted = index;
                }
                continue;
            }
            if !listing.transaction_indexes.contains(&base) {
                continue;
            }
            let end = self.log.segments.get(number + 1).map_or(Offset::MAX, |next| next.base_offset);
            let path = self.log.place().path(base, file_name::TRANSACTION_INDEX);
            let index = match AbortedIndex::load(&self.log.env, &path, base, end)? {
                Some(index) if self.options.clean_shutdown || self.ends_with_its_marker(number, &index)? => index,
                _ => {
                    tracing::warn!(file = %path.display(), "rebuilding the segment's index of aborted transactions");
                    self.rebuild_transaction_index(number, &mut replayed_to)?
                }
            };
            if let Some(segment) = self.log.segments.get_mut(number) {
                segment.aborted = index;
            }
        }
        Ok(())
    }

    /// Whether the last entry is of a marker in the segment that aborts a transaction of its producer.
    fn ends_with_its_marker(&self, number: usize, index: &AbortedIndex) -> Result<bool, Fault> {
        let (Some(last), Some(segment)) = (index.known_last(), self.log.segments.get(number)) else {
            return Ok(index.len() == 0);
        };
        let file = self.open_log(segment)?;
        let Step::Batch(batch) = segment.find(self.log.place(), &file, last.last_offset)? else { return Ok(false) };
        let header = &batch.header;
        if header.base_offset != last.last_offset || header.producer_id != last.producer_id {
            return Ok(false);
        }
        let bytes = file.read_bytes(u64::from(batch.position), header.size_bytes())?;
        let marker = EndMarkerRecord::parse(header, &bytes);
        Ok(marker.is_some_and(|marker| marker.result == TransactionResult::Abort))
    }

    /// Reads the transactions that began before the segment from a producer snapshot, or from the records that were not
    /// read for an earlier segment yet (`replayed_to`: up to there they were), and the others from the segment.
    fn rebuild_transaction_index(
        &mut self,
        number: usize,
        replayed_to: &mut Option<Offset>,
    ) -> Result<AbortedIndex, Fault> {
        let place = self.log.place();
        let Some(segment) = self.log.segments.get(number) else { return Ok(AbortedIndex::empty()) };
        let (base, size) = (segment.base_offset, segment.size_bytes);
        let path = place.path(base, file_name::TRANSACTION_INDEX);
        let file = self.open_log(segment)?;
        place.env.remove_file_if_there(&path)?;
        if !has_markers(&file, size)? {
            return Ok(AbortedIndex::empty());
        }
        let end = self.log.segments.get(number + 1).map(|next| next.base_offset);
        let snapshot = self.log.snapshots.iter().copied().filter(|snapshot| *snapshot <= base).max();
        let from = match replayed_to.take() {
            Some(to) if to <= base && snapshot.is_none_or(|snapshot| snapshot <= to) => to,
            _ => self.log.load_producer_snapshot(base, self.options.now)?,
        };
        self.log.replay_producers(from, base)?;
        let mut index = AbortedIndex::empty();
        let mut scan = BatchScan::new(&file, base, size);
        while let Step::Batch((batch, bytes)) = scan.next()? {
            if let Some(aborted) = producer_replay::apply(&mut self.log.producers, &batch.header, bytes) {
                index.push(aborted);
            }
        }
        *replayed_to = end;
        if index.len() > 0 {
            index.write_out(&self.log.env, &path)?;
            // A file that a loss of power takes away again would read as "nothing was aborted".
            self.log.env.open(&path, OpenMode::Write)?.sync_data()?;
            self.log.env.sync_directory(&self.log.directory)?;
        }
        Ok(index)
    }

    fn open_log(&self, segment: &Segment) -> Result<E::File, Fault> {
        let path = self.log.place().path(segment.base_offset, file_name::LOG);
        Ok(self.log.env.open(&path, OpenMode::Read)?)
    }
}

/// Whether transactions end in the segment. Most segments have none: their records are not read.
fn has_markers(file: &impl File, size_bytes: u32) -> io::Result<bool> {
    let mut scan = HeaderScan::new(file, 0, size_bytes);
    while let Step::Batch(batch) = scan.next()? {
        if batch.header.is_control() && batch.header.has_producer_id() {
            return Ok(true);
        }
    }
    Ok(false)
}
