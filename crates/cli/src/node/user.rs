//! A container starts as root only to make its volumes writable; what serves is not root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::err;

/// Set by the images: the user that a service runs as where root started it and its volumes belong to nobody else.
pub(super) const VARIABLE: &str = "OTTLA_USER";

/// Where root started this process in an image: gives the directories to the user that serves, and starts this program
/// anew as that user. Returns where there is nothing to do, or where root may not do it.
pub fn leave_root(directories: &[PathBuf]) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(user) = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<u32>().ok()).filter(|user| *user != 0)
    else {
        return Ok(());
    };
    // A volume that another image's user filled stays that user's: 1000 of cp-kafka and apache/kafka, 1001 of bitnami.
    let owner = directories.iter().find_map(|directory| fs::metadata(directory).ok()).map(|metadata| metadata.uid());
    let user = owner.filter(|owner| *owner != 0).unwrap_or(user);
    for directory in directories {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        if let Err(error) = give(directory, user) {
            err!("ottla: {}: cannot be given to user {user} ({error}): running as root", directory.display());
            return Ok(());
        }
    }
    let program = std::env::current_exe()?;
    let error = Command::new(program).args(arguments()).uid(user).gid(user).exec();
    err!("ottla: cannot run as user {user} ({error}): running as root");
    Ok(())
}

/// This process's own arguments. A program that was called by a script's name must be so again.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut line = std::env::args_os();
    let called = line.next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut arguments = Vec::new();
    if name != "ottla" {
        arguments.extend(["as".into(), name.into()]);
    }
    arguments.extend(line);
    arguments
}

/// Changes the owner of a directory and of what is in it, where it is another. Links are not followed.
fn give(path: &Path, user: u32) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() != user {
        lchown(path, Some(user), Some(user))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}
