//! A disk that is slow, does not answer, fails or is full: a file system in user space (FUSE) that passes everything
//! through to a directory, mounted where a process has its data.
//!
//! Nothing is synced to the directory behind it: the host's power is not lost in these tests. The page cache of the
//! kernel works as on any disk: what was read or written before is read without the disk.
//!
//! `state`: the states of the disk; `files`: the directory behind it; `pass_through`: the requests of the kernel.

mod files;
mod pass_through;
mod state;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;
use fuser::{BackgroundSession, Config};
use ottla_e2e::{Cluster, Node};
use tempfile::TempDir;

use files::Shared;
use pass_through::PassThrough;
pub use state::DiskState;

/// Requests of several threads are served at once, as a disk does.
const THREADS: usize = 4;

/// A disk that works until it is told otherwise. Dropping it makes it fail, so that nobody waits for it any more, and
/// takes it away.
pub struct FaultyDisk {
    shared: Arc<Shared>,
    at: PathBuf,
    _session: BackgroundSession,
    _directory: TempDir,
}

impl FaultyDisk {
    /// Mounts a new, empty one there. None, and a note of the skipped test, where nobody may mount one.
    pub fn mount(at: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let directory = TempDir::with_prefix("ottla-disk-")?;
        let root = OwnedFd::from(File::open(directory.path())?);
        let shared = Arc::new(Shared::new(root));
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        match fuser::spawn_mount(PassThrough(shared.clone()), at, &config) {
            Ok(session) => Ok(Some(Self { shared, at: at.to_owned(), _session: session, _directory: directory })),
            Err(error) => {
                ottla_test_support::skipped(&format!("no FUSE file system can be mounted here: {error}"));
                Ok(None)
            }
        }
    }

    pub fn set(&self, state: DiskState) {
        self.shared.set(state);
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.set(DiskState::Failed);
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Gives a broker that has not started a second log directory. The first of the two, for the disk that is to fail, and
/// the second.
pub fn two_log_directories(cluster: &mut Cluster, broker: Node) -> Result<(PathBuf, PathBuf)> {
    let faulty = cluster.data_folder(broker)?;
    let sound = faulty.with_file_name("data-2");
    fs::create_dir(&sound)?;
    let both = format!("{},{}", faulty.display(), sound.display());
    cluster.set_variable(broker, "KAFKA_LOG_DIRS", &both)?;
    Ok((faulty, sound))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    fn disk() -> Result<Option<(TempDir, FaultyDisk)>> {
        let folder = TempDir::new()?;
        Ok(FaultyDisk::mount(&folder.path().join("disk"))?.map(|disk| (folder, disk)))
    }

    #[test]
    fn a_disk_that_works_is_a_file_system() -> Result<()> {
        let Some((_folder, disk)) = disk()? else { return Ok(()) };
        let at = |name: &str| disk.at.join(name);
        fs::create_dir(at("d"))?;
        fs::write(at("d/a"), "abc")?;
        let mut appended = File::options().append(true).open(at("d/a"))?;
        appended.write_all(b"de")?;
        appended.sync_all()?;
        fs::rename(at("d/a"), at("b"))?;
        appended.write_all(b"f")?;
        assert_eq!(fs::read_to_string(at("b"))?, "abcdef");
        fs::hard_link(at("b"), at("c"))?;
        let mut open = File::options().read(true).write(true).open(at("c"))?;
        fs::remove_file(at("b"))?;
        fs::remove_file(at("c"))?;
        open.set_len(4)?;
        open.rewind()?;
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        assert_eq!((text.as_str(), open.metadata()?.len()), ("abcd", 4));
        fs::remove_dir(at("d"))?;
        assert_eq!(fs::read_dir(&disk.at)?.count(), 0);
        for number in 0..300 {
            fs::write(at(&format!("file-{number}")), "")?;
        }
        assert_eq!(fs::read_dir(&disk.at)?.count(), 300);
        Ok(())
    }

    #[test]
    fn each_state_has_its_effect_and_ends() -> Result<()> {
        let Some((_folder, disk)) = disk()? else { return Ok(()) };
        let mut file = File::create(disk.at.join("a"))?;
        file.write_all(b"a")?;
        disk.set(DiskState::Full);
        assert_eq!(file.write(b"b").map_err(|error| error.kind()), Err(ErrorKind::StorageFull));
        file.sync_all()?;
        disk.set(DiskState::Failed);
        let eio = Some(rustix::io::Errno::IO.raw_os_error());
        assert_eq!(file.write(b"b").map_err(|error| error.raw_os_error()), Err(eio));
        assert_eq!(file.sync_all().map_err(|error| error.raw_os_error()), Err(eio));
        let begun = Instant::now();
        disk.set(DiskState::Slow(Duration::from_millis(300)));
        file.write_all(b"b")?;
        file.sync_all()?;
        assert!(begun.elapsed() >= Duration::from_millis(300));
        disk.set(DiskState::Stalled);
        let (returned, has_returned) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let written = file.write_all(b"c");
            let _ = returned.send(());
            written
        });
        assert_eq!(has_returned.recv_timeout(Duration::from_millis(300)), Err(mpsc::RecvTimeoutError::Timeout));
        disk.set(DiskState::Works);
        assert!(matches!(writer.join(), Ok(Ok(()))));
        assert_eq!(fs::read_to_string(disk.at.join("a"))?, "abc");
        Ok(())
    }
}
