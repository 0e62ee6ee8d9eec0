//! Processes by their pid files: starting, recognising, signalling and measuring them.
//!
//! A pid file may outlive its process, and another process may have its number: a process counts as a member only if
//! its own environment names that member, or its name: the environment of a process that leaves no core dumps
//! (`core.dump.enable`) is for root alone.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};

use super::layout::{Layout, MARK, Member, create_private};

/// Starts a member in its own process group, so that Ctrl-C and the end of the terminal do not affect it.
pub fn spawn(layout: &Layout, member: Member) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;

    let folder = layout.folder(member);
    create_private(&folder.join("data"))?;
    let binary = beside_this(member.binary())?;
    let log_path = folder.join("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {}", log_path.display()))?;
    let inherited = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut child = Command::new(&binary)
        .arg0(marked_name(member, &folder))
        .env_clear()
        .envs(layout.environment(member, &inherited))
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let pid_file = folder.join("pid");
    if let Err(error) = fs::write(&pid_file, format!("{}\n", child.id())) {
        // Nobody would find it.
        let _ = child.kill().and_then(|()| child.wait());
        return Err(error).with_context(|| format!("write {}", pid_file.display()));
    }
    Ok(child)
}

/// A binary that was built with this one.
fn beside_this(name: &str) -> Result<std::path::PathBuf> {
    let this = std::env::current_exe()?.canonicalize()?;
    let path = this.parent().context("this program is in a directory")?.join(name);
    if !path.exists() {
        bail!("{} does not exist: `make build` builds it together with this program", path.display());
    }
    Ok(path)
}

/// The member's process, if it runs.
pub fn running(layout: &Layout, member: Member) -> Option<Pid> {
    let folder = layout.folder(member);
    let text = fs::read_to_string(folder.join("pid")).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    is_member(pid, member, &folder).then_some(pid)
}

/// What the list of processes shows of a member.
fn marked_name(member: Member, folder: &Path) -> String {
    format!("{} {MARK}={}", member.binary(), folder.display())
}

fn is_member(pid: Pid, member: Member, folder: &Path) -> bool {
    // Both are empty of a zombie, so a member that ended and was not reaped does not count.
    let has = |file: &str, wanted: &str| {
        let entries = fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
        entries.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    has("cmdline", &marked_name(member, folder)) || has("environ", &format!("{MARK}={}", folder.display()))
}

/// Sends a signal; it is not an error if the process has already ended.
pub fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signal process {}", pid.as_raw_nonzero())),
    }
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1_024)
}

/// Processor time that a process has used, user and system.
pub fn cpu_time(pid: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the name in brackets and may hold anything; the fields after it are counted from 3.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1_000 / per_second.max(1)))
}

/// The last `lines` lines of a member's log.
pub fn last_log_lines(layout: &Layout, member: Member, lines: usize) -> String {
    let text = fs::read(layout.folder(member).join("log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user who is not root may not read the environment of its own members.
    #[test]
    fn a_member_is_known_by_its_name_alone() {
        use std::os::unix::process::CommandExt as _;

        let folder = Path::new("/x/data/broker-1");
        let member = Member::Broker(1);
        let name = marked_name(member, folder);
        let mut child = Command::new("sleep").arg0(&name).arg("60").env_clear().spawn().expect("started");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
        let until = std::time::Instant::now() + Duration::from_secs(30);
        // Until it has become that program.
        while !is_member(pid, member, folder) && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let other = Path::new("/x/data/broker-2");
        let (own, others) = (is_member(pid, member, folder), is_member(pid, Member::Broker(2), other));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert!(own && !others);
        assert!(!is_member(pid, member, folder), "it has ended");
    }
}
