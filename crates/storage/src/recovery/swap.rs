//! Finishing, or taking back, a compaction that was interrupted while it swapped segments (Kafka's `LogLoader.load`).
//!
//! `.cleaned` files are incomplete and dropped. A `.swap` is complete only if no `.cleaned` file of its offset or an
//! earlier one is left: files are renamed in the order log, index, time index, and later segments first. A complete one
//! replaces all segments from its base offset to its end.

use std::path::Path;

use ottla_model::Offset;

use super::Fault;
use crate::env::{DirectoryEntry, Env, File, OpenMode};
use crate::error::OpenError;
use crate::file_name::{self, CLEANED_SUFFIX, DELETED_SUFFIX, SWAP_SUFFIX};
use crate::scan::{HeaderScan, Step};

const TMP_SUFFIX: &str = ".tmp";
/// Files that an interrupted process left.
const LEFT_OVER: [&str; 4] = [CLEANED_SUFFIX, SWAP_SUFFIX, DELETED_SUFFIX, TMP_SUFFIX];

/// Removes incomplete files, and finishes a swap. Returns what the directory, which holds `entries` now, then holds: it
/// is listed once if there is nothing to do, because a start waits for the directories of a hundred thousand logs.
pub(super) fn finish<E: Env>(
    env: &E,
    directory: &Path,
    entries: Vec<DirectoryEntry>,
) -> Result<Vec<DirectoryEntry>, Fault> {
    let files = || entries.iter().filter(|entry| !entry.is_directory);
    if !files().any(|file| LEFT_OVER.iter().any(|suffix| file.name.ends_with(suffix))) {
        return Ok(entries);
    }
    let names: Vec<String> = files().map(|file| file.name.clone()).collect();
    finish_files(env, directory, &names)?;
    Ok(env.list(directory)?)
}

fn finish_files<E: Env>(env: &E, directory: &Path, names: &[String]) -> Result<(), Fault> {
    let with = |suffix: &'static str| {
        names.iter().filter_map(move |name| {
            let (offset, _) = file_name::parse(name.strip_suffix(suffix)?)?;
            Some((offset, directory.join(name)))
        })
    };
    let first_cleaned = with(CLEANED_SUFFIX).map(|(offset, _)| offset).min().unwrap_or(Offset::MAX);
    let swaps: Vec<_> = with(SWAP_SUFFIX).filter(|(offset, _)| *offset < first_cleaned).collect();
    // Before anything is removed: a swap that cannot be finished is for people to look at.
    let end = end_of(env, directory, &swaps)?;
    for name in names.iter().filter(|name| name.ends_with(DELETED_SUFFIX) || name.ends_with(TMP_SUFFIX)) {
        env.remove_file_if_there(&directory.join(name))?;
    }
    // The `.swap` files first: without the `.cleaned` ones they would count.
    for (_, path) in with(SWAP_SUFFIX).filter(|(offset, _)| *offset >= first_cleaned) {
        env.remove_file_if_there(&path)?;
    }
    for (_, path) in with(CLEANED_SUFFIX) {
        env.remove_file_if_there(&path)?;
    }
    let (Some(first), Some(end)) = (swaps.iter().map(|(offset, _)| *offset).min(), end) else { return Ok(()) };
    tracing::info!(directory = %directory.display(), %first, %end, "finishing an interrupted compaction");
    for name in names {
        if let Some((offset, kind)) = file_name::parse(name)
            && file_name::SEGMENT_KINDS.contains(&kind)
            && offset >= first
            && offset < end
        {
            env.remove_file_if_there(&directory.join(name))?;
        }
    }
    for (_, path) in &swaps {
        env.rename(path, &path.with_extension(""))?;
    }
    env.sync_directory(directory)?;
    Ok(())
}

/// The end of the swapped log files. [`Offset::ZERO`] if only indexes are left to be renamed, none if nothing is.
fn end_of<E: Env>(env: &E, directory: &Path, swaps: &[(Offset, std::path::PathBuf)]) -> Result<Option<Offset>, Fault> {
    let mut end = (!swaps.is_empty()).then_some(Offset::ZERO);
    for (base, path) in swaps {
        let log_name = file_name::path_of(directory, *base, file_name::LOG);
        if *path != file_name::with_suffix(log_name, SWAP_SUFFIX) {
            continue;
        }
        let file = env.open(path, OpenMode::Read)?;
        let size = u32::try_from(file.size_bytes()?).unwrap_or(u32::MAX);
        let mut scan = HeaderScan::new(&file, 0, size);
        let mut next = *base;
        loop {
            match scan.next()? {
                Step::Batch(batch) => next = batch.header.next_offset(),
                Step::End => break,
                // It was synced before it got this name: the disk does not return the written data.
                Step::Invalid { position } => {
                    let position = u64::from(position);
                    return Err(Fault::Refused(OpenError::CorruptMiddle { file: path.clone(), position }));
                }
            }
        }
        // A segment without records still takes the place of the one of its name.
        end = end.max(Some(next.max(base.next())));
    }
    Ok(end)
}
