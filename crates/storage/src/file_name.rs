//! The names of a log's files: the base offset in twenty digits, and a suffix for the kind.

use std::path::{Path, PathBuf};

use ottla_model::Offset;

pub const LOG: &str = "log";
pub const OFFSET_INDEX: &str = "index";
pub const TIME_INDEX: &str = "timeindex";
/// Aborted transactions; only where there are any.
pub const TRANSACTION_INDEX: &str = "txnindex";
pub const PRODUCER_SNAPSHOT: &str = "snapshot";
/// The files that make up a segment, in the order in which a swap renames them.
pub const SEGMENT_KINDS: [&str; 4] = [LOG, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX];

/// Being written by the cleaner; worth nothing after a crash.
pub const CLEANED_SUFFIX: &str = ".cleaned";
/// Written by the cleaner, about to take the place of other segments; a crash leaves the rest to the next opening.
pub const SWAP_SUFFIX: &str = ".swap";
/// To be removed.
pub const DELETED_SUFFIX: &str = ".deleted";

pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
pub const PARTITION_METADATA: &str = "partition.metadata";

/// `DIRECTORY/00000000000000000042.KIND`
pub fn path_of(directory: &Path, offset: Offset, kind: &str) -> PathBuf {
    directory.join(format!("{:020}.{kind}", offset.0))
}

/// `PATH.SUFFIX`, where the suffix brings its dot.
pub fn with_suffix(path: PathBuf, suffix: &str) -> PathBuf {
    let mut name = path.into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// The offset and the kind of a name of that form.
pub fn parse(name: &str) -> Option<(Offset, &str)> {
    let (digits, kind) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Offset(digits.parse().ok()?), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_twenty_digits() {
        let path = path_of(Path::new("d"), Offset(42), LOG);
        assert_eq!(path, Path::new("d/00000000000000000042.log"));
        assert_eq!(parse("00000000000000000042.log"), Some((Offset(42), "log")));
        assert_eq!(parse("00000000000000000042.log.deleted"), Some((Offset(42), "log.deleted")));
        assert_eq!(parse("42.log"), None);
        assert_eq!(parse("99999999999999999999.log"), None, "beyond 63 bits");
        assert_eq!(parse("leader-epoch-checkpoint"), None);
    }
}
