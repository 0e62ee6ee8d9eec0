//! Reads that wait for the disk: what is not in memory is read without the replica's lock, and the log may change
//! meanwhile.

use ottla_model::Offset;
use ottla_storage::{AbortedSearch, AbortedTransaction, ColdRead, Env, LogSlice, Read, ReadError as LogError};

use crate::leading::{OwnRead, ReadError};

/// Where a read may wait for its disk.
pub trait MayWait {
    fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T;
}

/// Records, and for a reader of committed ones the aborted transactions among them.
pub type ReadRecords<E> = (LogSlice<<E as Env>::File>, Vec<AbortedTransaction>);

/// A piece of a leader's own log.
pub struct OwnPiece<E: Env> {
    /// Where the piece begins; the first batch may begin before.
    pub from: Offset,
    /// Where the log ends.
    pub end: Offset,
    /// None at the end.
    pub records: Option<LogSlice<E::File>>,
}

/// The records of a fetch ([`crate::Fetched`]). `read_on` looks at the log again ([`crate::Replica::read_on`]).
///
/// # Errors
/// The log cannot be read, or the replica's role has changed meanwhile.
pub fn finish_fetch<E: Env>(
    records: Option<Read<E>>,
    aborted: Option<AbortedSearch<E>>,
    waits: &impl MayWait,
    read_on: impl FnMut(Offset) -> Result<Read<E>, ReadError>,
) -> Result<ReadRecords<E>, ReadError> {
    let records = match records {
        None => LogSlice::empty(),
        Some(Read::Done(records)) => records,
        Some(Read::Cold(cold)) => finish_cold(cold, waits, read_on)?,
    };
    let found = match aborted {
        None => Some(Vec::new()),
        Some(search) if search.needs_disk() => waits.wait_for(|| search.run(&records))?,
        Some(search) => search.run(&records)?,
    };
    // Segments went meanwhile: the fetcher asks again.
    Ok(found.map_or_else(|| (LogSlice::empty(), Vec::new()), |found| (records, found)))
}

/// Goes on with a read until it has found something. An empty slice: the log was cut meanwhile, or ends here.
///
/// # Errors
/// As `read_on`, or the disk's.
pub fn finish_cold<E: Env, Error: From<LogError>>(
    mut cold: ColdRead<E>,
    waits: &impl MayWait,
    mut read_on: impl FnMut(Offset) -> Result<Read<E>, Error>,
) -> Result<LogSlice<E::File>, Error> {
    loop {
        let from = match (waits.wait_for(|| cold.run())?, cold.next_offset()) {
            (Some(records), _) => return Ok(records),
            (None, None) => return Ok(LogSlice::empty()),
            // The rest of that segment was compacted away.
            (None, Some(from)) => from,
        };
        match read_on(from)? {
            Read::Done(records) => return Ok(records),
            Read::Cold(next) => cold = next,
        }
    }
}

/// The next piece of a leader's own log, from `from` on. `read` looks at the log ([`crate::Replica::read_own`]).
///
/// # Errors
/// As `read`, or the disk's.
pub fn read_own<E: Env>(
    mut from: Option<Offset>,
    waits: &impl MayWait,
    mut read: impl FnMut(Option<Offset>) -> Result<OwnRead<E>, ReadError>,
) -> Result<OwnPiece<E>, ReadError> {
    loop {
        let OwnRead { from: begin, end, records } = read(from)?;
        let piece = |records| Ok(OwnPiece { from: begin, end, records });
        let cold = match records {
            Read::Done(records) => return piece(Some(records).filter(|records| !records.is_empty())),
            Read::Cold(cold) => cold,
        };
        match (waits.wait_for(|| cold.run())?, cold.next_offset()) {
            (Some(records), _) if !records.is_empty() => return piece(Some(records)),
            // Segments went meanwhile.
            (Some(_), _) => from = Some(begin),
            // The rest of that segment was compacted away.
            (None, Some(next)) => from = Some(next),
            (None, None) => return piece(None),
        }
    }
}
