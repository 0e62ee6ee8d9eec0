//! The running members, their roles, and their CPU and memory use.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Pid;

use super::layout::{Layout, Member};
use super::process;
use crate::{kafka, out, quorum};

/// Timeout for finding the roles: a cluster that is half down should still show its status at once.
const ROLE_TIMEOUT: Duration = Duration::from_millis(500);

struct Row {
    member: Member,
    pid: Option<Pid>,
    role: &'static str,
    resident_bytes: u64,
}

pub async fn status(layout: &Layout, measure_s: Option<u64>) -> Result<()> {
    let members = layout.members();
    let pids: Vec<(Member, Option<Pid>)> =
        members.iter().map(|member| (*member, process::running(layout, *member))).collect();
    let cpu = match measure_s {
        Some(seconds) => Some(measure_cpu(&pids, Duration::from_secs(seconds.max(1))).await),
        None => None,
    };
    if let Some(security) = &layout.security {
        security.take_over()?;
    }
    let (leader, controller) = tokio::join!(leader(layout, &pids), controller(&pids));
    let rows: Vec<Row> = pids
        .iter()
        .map(|(member, pid)| Row {
            member: *member,
            pid: *pid,
            role: role(*member, pid.is_some(), leader, controller),
            resident_bytes: pid.and_then(process::resident_bytes).unwrap_or(0),
        })
        .collect();
    print(layout, &rows, cpu.zip(measure_s));
    Ok(())
}

fn role(member: Member, runs: bool, leader: Option<u64>, controller: Option<i32>) -> &'static str {
    match member {
        _ if !runs => "-",
        Member::Coordinator(n) if leader == Some(u64::from(n)) => "quorum leader",
        Member::Coordinator(_) => "coordinator",
        Member::Broker(n) if controller == Some(i32::from(n)) => "broker, controller",
        Member::Broker(_) => "broker",
    }
}

async fn leader(layout: &Layout, pids: &[(Member, Option<Pid>)]) -> Option<u64> {
    if !pids.iter().any(|(member, pid)| matches!(member, Member::Coordinator(_)) && pid.is_some()) {
        return None;
    }
    let status = quorum::status(&layout.coordinator_addresses(), ROLE_TIMEOUT).await.ok()?;
    (status.leader_id != 0).then_some(status.leader_id)
}

async fn controller(pids: &[(Member, Option<Pid>)]) -> Option<i32> {
    let brokers = pids.iter().filter(|(member, pid)| matches!(member, Member::Broker(_)) && pid.is_some());
    for (member, _) in brokers {
        let address = format!("127.0.0.1:{}", member.port());
        if let Ok(Ok(controller)) = tokio::time::timeout(ROLE_TIMEOUT, kafka::controller_id(&address)).await {
            return controller;
        }
    }
    None
}

/// Processor time of all members over `span`, in percent of one core.
async fn measure_cpu(pids: &[(Member, Option<Pid>)], span: Duration) -> f64 {
    let used = || -> Duration { pids.iter().filter_map(|(_, pid)| process::cpu_time((*pid)?)).sum() };
    let (before, started) = (used(), Instant::now());
    tokio::time::sleep(span).await;
    // A member that ended in between would make the sum smaller.
    used().saturating_sub(before).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0
}

fn print(layout: &Layout, rows: &[Row], cpu: Option<(f64, u64)>) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    out!("{:<16} {:<20} {:>8} {:>10}  LISTENS", "NAME", "ROLE", "PROCESS", "RESIDENT");
    for row in rows {
        let address = format!("127.0.0.1:{}", row.member.port());
        match row.pid {
            Some(pid) => out!(
                "{:<16} {:<20} {:>8} {:>6.1} MiB  {address}",
                row.member.to_string(),
                row.role,
                pid.as_raw_nonzero(),
                mib(row.resident_bytes)
            ),
            None => out!("{:<16} {:<20} {:>8} {:>10}  -", row.member.to_string(), "stopped", "-", "-"),
        }
    }
    let running = rows.iter().filter(|row| row.pid.is_some()).count();
    let resident: u64 = rows.iter().map(|row| row.resident_bytes).sum();
    let cpu = cpu.map_or(String::new(), |(percent, seconds)| format!(", {percent:.1} % of a core over {seconds} s"));
    out!("{running} of {} run: {:.1} MiB resident{cpu}; data in {}", rows.len(), mib(resident), layout.dir.display());
}
