//! Stopping members.

use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal};

use super::layout::{Layout, Member};
use super::process;
use crate::out;
use crate::progress::Progress;

/// A controlled shutdown is bounded below this time; a member that takes longer hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

pub async fn stop(layout: &Layout, names: &[String]) -> Result<()> {
    let chosen = layout.select(names)?;
    let running: Vec<(Member, Pid)> =
        chosen.iter().filter_map(|member| Some((*member, process::running(layout, *member)?))).collect();
    if running.is_empty() {
        out!("no member of {} runs", layout.dir.display());
        return Ok(());
    }
    let (coordinators, brokers): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|(member, _)| matches!(member, Member::Coordinator(_)));
    let mut progress = Progress::new(Duration::from_millis(300));
    let mut hung = Vec::new();
    // Brokers first: their controlled shutdown needs the coordinators, which move their leaderships.
    for group in [brokers, coordinators] {
        for (_, pid) in &group {
            process::signal(*pid, Signal::TERM)?;
        }
        hung.extend(wait_gone(layout, &group, &mut progress).await?);
    }
    progress.clear();
    if hung.is_empty() {
        out!("stopped in {:.2} s; the data is in {}", progress.elapsed().as_secs_f64(), layout.dir.display());
        return Ok(());
    }
    bail!("{} did not end within {} s and had to be killed", hung.join(", "), STOP_TIMEOUT.as_secs())
}

/// Waits until all have ended; kills those that do not end, and returns their names.
async fn wait_gone(layout: &Layout, group: &[(Member, Pid)], progress: &mut Progress) -> Result<Vec<String>> {
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    loop {
        let left: Vec<&(Member, Pid)> =
            group.iter().filter(|(member, pid)| process::running(layout, *member) == Some(*pid)).collect();
        if left.is_empty() {
            return Ok(Vec::new());
        }
        if tokio::time::Instant::now() > deadline {
            for (_, pid) in &left {
                process::signal(*pid, Signal::KILL)?;
            }
            return Ok(left.iter().map(|(member, _)| member.to_string()).collect());
        }
        let names: Vec<String> = left.iter().map(|(member, _)| member.to_string()).collect();
        progress.show(&format!("stopping {}", names.join(", ")));
        tokio::time::sleep(POLL).await;
    }
}
