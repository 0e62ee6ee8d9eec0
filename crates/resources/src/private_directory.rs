//! Directories of data: they hold records, and keys of users, so that no other user of the machine may look into them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// For their owner alone. The process's umask can only take away from it.
const MODE: u32 = 0o700;
/// What users have who are neither the owner nor of the group. A group may be meant: containers of some platforms run
/// as any user of one group.
const OTHERS: u32 = 0o007;

/// Creates the directory, and those above it that are missing, for this user alone. One that is there stays as it is.
pub fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(path)
}

/// Warns of a directory that other users may look into: whoever made it may have meant it.
pub fn warn_if_open(path: &Path) {
    if let Some(mode) = mode_for_others(path) {
        tracing::warn!(
            "{}: every user of this machine may look into it (mode {mode:o}): chmod 700, unless that is wanted",
            path.display()
        );
    }
}

/// The permissions of a directory that other users may look into.
fn mode_for_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_created_is_for_the_owner_alone_and_what_is_there_stays() {
        let root = tempfile::tempdir().expect("a folder");
        let (above, path) = (root.path().join("above"), root.path().join("above/data"));
        create(&path).expect("created");
        for path in [&above, &path] {
            assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o700);
            assert_eq!(mode_for_others(path), None);
        }
        for (mode, told) in [(0o755, Some(0o755)), (0o770, None), (0o701, Some(0o701))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            create(&path).expect("it is there");
            assert_eq!(mode_for_others(&path), told);
        }
    }
}
