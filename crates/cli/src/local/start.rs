//! Starting members and waiting until they serve.

use std::io;
use std::net::Ipv4Addr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use ottla_rpc::ports::{self, Reservation};

use super::layout::{Layout, Member};
use super::process;
use crate::kafka;
use crate::out;
use crate::progress::Progress;

/// A start of six members takes a second; longer than a member waits for a port that an outgoing connection has.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// Interval of the requests to a member that is not ready.
const POLL: Duration = Duration::from_millis(10);
/// Timeout of one request to a member.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

pub async fn start(layout: &Layout, names: &[String]) -> Result<()> {
    let fresh = !layout.exists();
    let chosen = layout.select(names)?;
    if let Some(security) = &layout.security {
        security.check(&layout.members())?;
    }
    layout.save()?;
    if fresh {
        layout.make_secret()?;
    }
    if let Some(security) = &layout.security {
        security.make_admin()?;
        security.take_over()?;
    }
    let mut progress = Progress::new(Duration::ZERO);
    let mut absent = Vec::new();
    for &member in &chosen {
        if let Some(pid) = process::running(layout, member) {
            progress.clear();
            out!("{member} runs already (process {})", pid.as_raw_nonzero());
        } else {
            absent.push(member);
        }
    }
    // Until everything serves: the waiting below connects to these ports before anybody listens there.
    let _reserved = reserve(&absent).await?;
    let mut started: Vec<(Member, Child)> = Vec::new();
    for &member in &absent {
        match process::spawn(layout, member) {
            Ok(child) => started.push((member, child)),
            Err(error) => bail!("{error:#}\n{}", end(started)),
        }
    }
    if let Err(error) = wait_ready(layout, &mut started, &mut progress).await {
        progress.clear();
        let ended = end(started);
        bail!("{error:#}\n{ended}");
    }
    progress.clear();
    let names: Vec<String> = started.iter().map(|(member, _)| member.to_string()).collect();
    if !names.is_empty() {
        let from = if fresh { " from an empty directory" } else { "" };
        out!("{} ready in {:.2} s{from}", names.join(", "), progress.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn reserve(members: &[Member]) -> Result<Vec<Reservation>> {
    let mut reserved = Vec::with_capacity(members.len());
    for member in members {
        let port = member.port();
        let reservation = Reservation::new((Ipv4Addr::LOCALHOST, port).into())
            .await
            .map_err(|error| anyhow!("{member} needs port {port}: {error}{}", ports::held_by(port)))?;
        reserved.push(reservation);
    }
    Ok(reserved)
}

/// Stops the members that this start began, so that a failed start leaves no process; says what became of each.
fn end(started: Vec<(Member, Child)>) -> String {
    told(started.into_iter().map(|(member, mut child)| {
        // One that ended by itself is reaped by the wait.
        let ended = child.kill().and_then(|()| child.wait().map(drop));
        (member, ended)
    }))
}

/// One that could not be stopped does not keep the others.
fn told(ends: impl Iterator<Item = (Member, io::Result<()>)>) -> String {
    let (mut ended, mut lines) = (Vec::new(), Vec::new());
    for (member, end) in ends {
        match end {
            Ok(()) => ended.push(member.to_string()),
            Err(error) => lines.push(format!("{member} could not be stopped and still runs: {error}")),
        }
    }
    lines.insert(0, format!("ended again: {}", ended.join(", ")));
    lines.join("\n")
}

/// Waits until each broker that was started is in the Metadata of all brokers that run, and each coordinator listens.
async fn wait_ready(layout: &Layout, started: &mut [(Member, Child)], progress: &mut Progress) -> Result<()> {
    let members = layout.members();
    loop {
        for (member, child) in started.iter_mut() {
            if let Some(status) = child.try_wait()? {
                progress.clear();
                let log = process::last_log_lines(layout, *member, 5);
                bail!("{member} ended with {status}; the end of its log:\n{log}");
            }
        }
        let running: Vec<Member> =
            members.iter().copied().filter(|member| process::running(layout, *member).is_some()).collect();
        let brokers: Vec<i32> = running.iter().filter_map(|member| broker_id(*member)).collect();
        let mut ready = 0;
        for (member, _) in started.iter() {
            if is_ready(*member, &brokers).await {
                ready += 1;
            }
        }
        if ready == started.len() {
            return Ok(());
        }
        if progress.elapsed() > READY_TIMEOUT {
            progress.clear();
            bail!(
                "only {ready} of {} are ready after {} s; see `ottla local logs`",
                started.len(),
                READY_TIMEOUT.as_secs()
            );
        }
        progress.show(&format!("starting: {ready} of {} ready", started.len()));
        tokio::time::sleep(POLL).await;
    }
}

fn broker_id(member: Member) -> Option<i32> {
    match member {
        Member::Broker(n) => Some(i32::from(n)),
        Member::Coordinator(_) => None,
    }
}

async fn is_ready(member: Member, brokers: &[i32]) -> bool {
    let address = format!("127.0.0.1:{}", member.port());
    match member {
        Member::Coordinator(_) => tokio::net::TcpStream::connect(&address).await.is_ok(),
        Member::Broker(_) => match tokio::time::timeout(ANSWER_TIMEOUT, kafka::broker_ids(&address)).await {
            Ok(Ok(known)) => brokers.iter().all(|id| known.contains(id)),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_cannot_be_stopped_does_not_keep_the_others() {
        let ends = (1..=3).map(|n| (Member::Broker(n), if n == 1 { Err(io::Error::other("no")) } else { Ok(()) }));
        assert_eq!(told(ends), "ended again: broker-2, broker-3\nbroker-1 could not be stopped and still runs: no");
    }
}
