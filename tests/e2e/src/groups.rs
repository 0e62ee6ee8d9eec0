//! Groups of third-party consumers: crews of members as processes, their reports, and the checks of these reports.
//!
//! - Each group reads every record of the topic.
//! - No record is read twice from a committed position: the owner of a partition starts at the last offset whose commit
//!   was acknowledged before, or later.
//! - A partition has one owner at a time, as far as the members' own callbacks show.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait;

/// The format of a crew's reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tongue {
    /// `group_members.py`.
    Members,
    /// Kafka's VerifiableConsumer.
    Verifiable,
    /// A line for each record with its partition and offset, and nothing about ownership: kcat, console consumers.
    Offsets,
}

/// A report of a member, and its time: seconds since 1970 by its own clock, which is this machine's.
#[derive(Clone, Debug)]
struct Said {
    at: f64,
    member: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    /// Lost without a revocation: the group had continued without the member.
    Lost(Vec<i32>),
    Left,
    Read(Vec<(i32, i64)>),
    /// The next offset to read.
    Committed(Vec<(i32, i64)>),
    /// A poll or a commit ended with this error of the client.
    Failed(String),
}

impl What {
    fn is_of_ownership(&self) -> bool {
        matches!(self, Self::Assigned(_) | Self::Revoked(_) | Self::Lost(_) | Self::Left)
    }

    /// What it says of one partition; `None` where it says nothing of it.
    fn of(&self, partition: i32) -> Option<String> {
        let offsets = |records: &[(i32, i64)]| {
            let mut offsets = records.iter().filter(|(at, _)| *at == partition).map(|(_, offset)| *offset);
            let first = offsets.next()?;
            Some(format!("{first} to {}", offsets.next_back().unwrap_or(first)))
        };
        match self {
            Self::Assigned(partitions) => partitions.contains(&partition).then(|| "assigned".to_owned()),
            Self::Revoked(partitions) => partitions.contains(&partition).then(|| "revoked".to_owned()),
            Self::Lost(partitions) => partitions.contains(&partition).then(|| "lost".to_owned()),
            Self::Left => Some("left".to_owned()),
            Self::Read(records) => offsets(records).map(|offsets| format!("read {offsets}")),
            Self::Committed(records) => offsets(records).map(|offsets| format!("committed {offsets}")),
            Self::Failed(error) => Some(format!("failed: {error}")),
        }
    }
}

type Ledger = Arc<Mutex<Vec<Said>>>;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

/// Members of one group in one process.
struct Crew {
    child: Child,
    input: Option<ChildStdin>,
    listener: JoinHandle<()>,
    complaints: Complaints,
    members: Arc<Mutex<BTreeSet<String>>>,
}

/// What a crew writes to its standard error, where clients log: the last lines.
struct Complaints {
    reader: Option<JoinHandle<()>>,
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// Lines of a crew's log that are kept: a rebalance that does not end takes a few lines a second.
const COMPLAINTS_MAX: usize = 400;

impl Complaints {
    fn of(errors: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let into = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == COMPLAINTS_MAX {
                    kept.pop_front();
                }
                kept.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { reader: Some(reader), lines }
    }

    fn so_far(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// When the crew has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}

impl Crew {
    fn start(mut command: Command, tongue: Tongue, ledger: &Ledger) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let (output, errors) = child.stdout.take().zip(child.stderr.take()).context("both outputs are pipes")?;
        let complaints = Complaints::of(errors);
        let members = Arc::new(Mutex::new(BTreeSet::new()));
        let (ledger, known, name) = (ledger.clone(), members.clone(), child.id().to_string());
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Some(said) = understood(tongue, &line, &name) else { continue };
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(said.member.clone());
                ledger.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            }
        });
        Ok(Self { input: child.stdin.take(), child, listener, complaints, members })
    }

    /// Without a word.
    fn crash(mut self, ledger: &Ledger) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let _ = self.listener.join();
        let members = std::mem::take(&mut *self.members.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.extend(members.into_iter().map(|member| Said { at: now(), member, what: What::Left }));
        Ok(())
    }

    /// Makes it leave the group and end.
    fn ask_to_leave(&mut self, tongue: Tongue) -> Result<()> {
        self.input = None;
        let signal = match tongue {
            Tongue::Members => return Ok(()),
            // A JVM goes on ignoring SIGINT where it was ignored before, as in jobs that a shell starts in the
            // background.
            Tongue::Verifiable => Signal::TERM,
            Tongue::Offsets => Signal::INT,
        };
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    fn wait(mut self, tongue: Tongue) -> Result<()> {
        let deadline = Instant::now() + LEAVING;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    self.child.kill()?;
                    self.child.wait()?;
                    let told = self.complaints.all();
                    bail!("a crew was still there {LEAVING:?} after it was asked to leave:\n{told}");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let _ = self.listener.join();
        let told = self.complaints.all();
        // Console consumers end with a status that names the signal.
        ensure!(status.success() || tongue != Tongue::Members, "a crew ended with {status}:\n{told}");
        Ok(())
    }
}

/// How long members may take to say good-bye.
const LEAVING: Duration = Duration::from_secs(120);

fn understood(tongue: Tongue, line: &str, crew: &str) -> Option<Said> {
    match tongue {
        Tongue::Members => told_by_members(line),
        Tongue::Verifiable => told_by_verifiable(line, crew),
        Tongue::Offsets => {
            let mut numbers = line.split_whitespace().map(|word| word.rsplit(':').next().unwrap_or(word));
            let record = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
            Some(Said { at: now(), member: crew.to_owned(), what: What::Read(vec![record]) })
        }
    }
}

fn told_by_members(line: &str) -> Option<Said> {
    let json: Value = serde_json::from_str(line).ok()?;
    let partitions = || {
        let partitions = json.get("p")?.as_array()?.iter();
        partitions.map(|at| i32::try_from(at.as_i64()?).ok()).collect::<Option<Vec<i32>>>()
    };
    let offsets = || {
        let offsets = json.get("o")?.as_array()?.iter();
        offsets
            .map(|pair| Some((i32::try_from(pair.get(0)?.as_i64()?).ok()?, pair.get(1)?.as_i64()?)))
            .collect::<Option<Vec<_>>>()
    };
    let what = match json.get("e")?.as_str()? {
        "assigned" => What::Assigned(partitions()?),
        "revoked" => What::Revoked(partitions()?),
        "lost" => What::Lost(partitions()?),
        "left" => What::Left,
        "read" => What::Read(offsets()?),
        "committed" => What::Committed(offsets()?),
        "failed" => What::Failed(json.get("error")?.as_str()?.to_owned()),
        _ => return None,
    };
    Some(Said { at: json.get("t")?.as_f64()?, member: json.get("m")?.as_str()?.to_owned(), what })
}

fn told_by_verifiable(line: &str, crew: &str) -> Option<Said> {
    let json: Value = serde_json::from_str(line).ok()?;
    let partition = |entry: &Value| i32::try_from(entry.get("partition")?.as_i64()?).ok();
    let list = |name: &str| json.get(name).and_then(Value::as_array).cloned();
    let partitions = || list("partitions")?.iter().map(partition).collect::<Option<Vec<_>>>();
    let what = match json.get("name")?.as_str()? {
        "partitions_assigned" => What::Assigned(partitions()?),
        "partitions_revoked" => What::Revoked(partitions()?),
        "shutdown_complete" => What::Left,
        "records_consumed" => {
            let mut records = Vec::new();
            for entry in list("partitions")? {
                let (first, last) = (entry.get("minOffset")?.as_i64()?, entry.get("maxOffset")?.as_i64()?);
                records.extend((first..=last).map(|offset| (partition(&entry), offset)));
            }
            What::Read(records.into_iter().filter_map(|(at, offset)| Some((at?, offset))).collect())
        }
        "offsets_committed" if json.get("success")?.as_bool()? => {
            let offsets = list("offsets")?;
            What::Committed(
                offsets.iter().filter_map(|at| Some((partition(at)?, at.get("offset")?.as_i64()?))).collect(),
            )
        }
        _ => return None,
    };
    Some(Said { at: json.get("timestamp")?.as_f64()? / 1_000.0, member: crew.to_owned(), what })
}

/// One group of a test.
pub struct Group {
    pub name: String,
    tongue: Tongue,
    /// Makes the command of one more crew.
    recruit: Box<dyn Fn() -> Command>,
    crews: Vec<Crew>,
    ledger: Ledger,
    /// See [`Self::committing_unprinted`].
    unprinted: Option<usize>,
}

impl Group {
    pub fn new(name: &str, tongue: Tongue, recruit: impl Fn() -> Command + 'static) -> Self {
        let (name, recruit) = (name.to_owned(), Box::new(recruit));
        Self { name, tongue, recruit, crews: Vec::new(), ledger: Ledger::default(), unprinted: None }
    }

    /// A member of this group may commit the last record that it received without printing it: one record for each
    /// member that left or was killed. kcat is such a client: librdkafka stores the offset when it hands the record
    /// over, and kcat drops the record if a signal came meanwhile (`consume_cb` begins with `if (!conf.run) return`),
    /// then commits on close.
    pub fn committing_unprinted(mut self) -> Self {
        self.unprinted = Some(0);
        self
    }

    fn one_has_gone(&mut self) {
        self.unprinted = self.unprinted.map(|records| records + 1);
    }

    /// Starts one more crew.
    pub fn join(&mut self) -> Result<()> {
        let crew = Crew::start((self.recruit)(), self.tongue, &self.ledger).with_context(|| self.name.clone())?;
        self.crews.push(crew);
        Ok(())
    }

    /// Kills the oldest crew.
    pub fn crash(&mut self) -> Result<()> {
        ensure!(!self.crews.is_empty(), "{} has no crew", self.name);
        self.one_has_gone();
        self.crews.remove(0).crash(&self.ledger)
    }

    /// The oldest crew leaves.
    pub fn leave(&mut self) -> Result<()> {
        ensure!(!self.crews.is_empty(), "{} has no crew", self.name);
        self.one_has_gone();
        let mut crew = self.crews.remove(0);
        crew.ask_to_leave(self.tongue)?;
        crew.wait(self.tongue).with_context(|| self.name.clone())
    }

    /// All members leave.
    pub fn end(&mut self) -> Result<()> {
        for crew in &mut self.crews {
            crew.ask_to_leave(self.tongue)?;
        }
        for crew in self.crews.drain(..) {
            crew.wait(self.tongue).with_context(|| self.name.clone())?;
        }
        Ok(())
    }

    /// Whether all crews still run; the error contains the output of a crew that ended by itself.
    fn all_run(&mut self) -> Result<()> {
        for at in 0..self.crews.len() {
            let Some(crew) = self.crews.get_mut(at) else { break };
            if let Some(status) = crew.child.try_wait()? {
                let told = self.crews.remove(at).complaints.all();
                bail!("a crew of {} ended by itself with {status}:\n{told}", self.name);
            }
        }
        Ok(())
    }

    /// The reports that match `wanted`, in order of time.
    fn said(&self, wanted: impl Fn(&Said) -> bool) -> Vec<Said> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said: Vec<Said> = ledger.iter().filter(|said| wanted(said)).cloned().collect();
        said.sort_by(|a, b| a.at.total_cmp(&b.at));
        said
    }

    /// The current owner of each partition, by the members' reports.
    pub fn owners(&self) -> BTreeMap<i32, String> {
        let mut owners = BTreeMap::new();
        for said in self.said(|said| said.what.is_of_ownership()) {
            match said.what {
                What::Assigned(partitions) => {
                    owners.extend(partitions.into_iter().map(|at| (at, said.member.clone())));
                }
                What::Revoked(gone) | What::Lost(gone) => {
                    owners.retain(|at, owner| *owner != said.member || !gone.contains(at));
                }
                What::Left => owners.retain(|_, owner| *owner != said.member),
                What::Read(_) | What::Committed(_) | What::Failed(_) => {}
            }
        }
        owners
    }

    /// What members were given and what was taken from them since `moment`, for the text of a failure.
    pub fn ownership_since(&self, moment: f64) -> String {
        let said = self.said(|said| said.at > moment && said.what.is_of_ownership());
        said.iter().map(|said| format!("\n{:.3} {} {:?}", said.at - moment, said.member, said.what)).collect()
    }

    /// How many partitions were taken from members since `moment`.
    pub fn revoked_since(&self, moment: f64) -> usize {
        let count = |said: Said| match said.what {
            What::Revoked(gone) | What::Lost(gone) => gone.len(),
            _ => 0,
        };
        self.said(|said| said.at > moment).into_iter().map(count).sum()
    }

    /// Waits until every partition has an owner and `members` members own some, or as many as there are partitions.
    /// Always true of groups without reports.
    pub fn wait_settled(&mut self, partitions: i32, members: usize) -> Result<()> {
        if self.tongue == Tongue::Offsets {
            return Ok(());
        }
        let members = members.min(usize::try_from(partitions)?);
        let wanted: BTreeSet<i32> = (0..partitions).collect();
        let what = format!("{}: {members} members own {partitions} partitions", self.name);
        self.until_ok(&what, |group| {
            let owners = group.owners();
            let who: BTreeSet<&String> = owners.values().collect();
            match wanted.iter().all(|at| owners.contains_key(at)) && who.len() == members {
                true => Ok(()),
                false => bail!("{} partitions are owned by {} members", owners.len(), who.len()),
            }
        })
    }

    /// [`wait::until_ok`], for all crews. A crew that ends by itself ends the wait, as nothing will come of it; any
    /// other failure ends with what the members' clients logged last.
    fn until_ok(&mut self, what: &str, mut attempt: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let result = wait::until_ok(what, || match self.all_run() {
            Ok(()) => attempt(self).map(Ok),
            Err(ended) => Ok(Err(ended)),
        });
        result.flatten().map_err(|error| {
            let crews = self.crews.iter();
            let logs =
                crews.map(|crew| format!("\nthe log of crew {}:\n{}", crew.child.id(), crew.complaints.so_far()));
            anyhow!("{error:#}{}", logs.collect::<String>())
        })
    }

    /// Waits until these crews own such partitions of the topic.
    pub fn wait_owned(&mut self, what: &str, are_right: impl Fn(&[i32]) -> bool) -> Result<()> {
        self.until_ok(&format!("{}: {what}", self.name), |group| {
            let owned: Vec<i32> = group.owners().into_keys().collect();
            ensure!(are_right(&owned), "{owned:?}");
            Ok(())
        })
    }

    /// As [`Self::wait_settled`], and every member owns as many partitions as the others, or one more: on the way there
    /// every partition may be owned while some have not moved yet.
    pub fn wait_balanced(&mut self, partitions: i32, members: usize) -> Result<()> {
        self.wait_settled(partitions, members)?;
        let what = format!("{}: {members} members own equal shares of {partitions} partitions", self.name);
        let whole = usize::try_from(partitions)?;
        self.until_ok(&what, |group| {
            let owners = group.owners();
            let mut shares: BTreeMap<&String, usize> = BTreeMap::new();
            owners.values().for_each(|owner| *shares.entry(owner).or_default() += 1);
            let (least, most) = (shares.values().min().copied(), shares.values().max().copied());
            match (least, most) {
                // A partition that one has given up may not have come to another yet.
                (Some(least), Some(most)) if shares.len() == members && most - least <= 1 && owners.len() == whole => {
                    Ok(())
                }
                _ => bail!("the shares are {:?}", shares.values()),
            }
        })
    }

    fn read(&self) -> BTreeMap<i32, BTreeSet<i64>> {
        let mut read: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
        for said in self.ledger.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let What::Read(records) = &said.what {
                for (at, offset) in records {
                    read.entry(*at).or_default().insert(*offset);
                }
            }
        }
        read
    }

    /// What members said of a partition from shortly before they should have read this offset.
    fn told_around(&self, partition: i32, offset: i64) -> String {
        const BEFORE: usize = 5;
        const LINES: usize = 60;
        let all = self.said(|_| true);
        let is_past = |said: &Said| {
            matches!(&said.what, What::Read(records)
                if records.iter().any(|(at, read)| *at == partition && *read + 1 >= offset))
        };
        let from = all.iter().position(is_past).unwrap_or(all.len());
        let text = |said: &Said| Some(format!("{:.3} {} {}\n", said.at, said.member, said.what.of(partition)?));
        let mut before: Vec<String> = all[..from].iter().rev().filter_map(text).take(BEFORE).collect();
        before.reverse();
        before.into_iter().chain(all[from..].iter().filter_map(text).take(LINES)).collect()
    }

    /// Waits until everything below these ends was read, but for what was committed and not printed.
    pub fn wait_read(&mut self, ends: &BTreeMap<i32, i64>) -> Result<()> {
        let what = format!("{}: everything is read", self.name);
        let unprinted = self.unprinted.unwrap_or(0);
        self.until_ok(&what, |group| {
            let read = group.read();
            let nothing = BTreeSet::new();
            let missing = ends.iter().flat_map(|(at, end)| {
                let read = read.get(at).unwrap_or(&nothing);
                (0..*end).filter(move |offset| !read.contains(offset)).map(move |offset| (*at, offset))
            });
            let missing: Vec<(i32, i64)> = missing.collect();
            // What lies before a record that was read will not be read any more; what lies behind it still may be.
            let is_passed =
                |(at, offset): &(i32, i64)| read.get(at).and_then(BTreeSet::last).is_some_and(|last| offset < last);
            match missing.first() {
                Some((at, offset)) if missing.len() > unprinted || !missing.iter().all(is_passed) => {
                    let told = group.told_around(*at, *offset);
                    bail!("partition {at} offset {offset} and {} more; around it:\n{told}", missing.len() - 1)
                }
                _ => Ok(()),
            }
        })
    }

    /// The checks of all reports; with `one_owner` also that no member owned a partition that another had not revoked.
    pub fn check(&self, one_owner: bool) -> Result<()> {
        let mut committed: BTreeMap<i32, i64> = BTreeMap::new();
        // By member and partition: from where it may read.
        let mut from: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let mut owners: BTreeMap<i32, String> = BTreeMap::new();
        let mut overlaps: BTreeMap<(String, i32), String> = BTreeMap::new();
        for said in self.said(|_| true) {
            let member = said.member;
            match said.what {
                What::Committed(offsets) => {
                    for (at, offset) in offsets {
                        let known = committed.entry(at).or_insert(offset);
                        *known = offset.max(*known);
                    }
                }
                What::Assigned(partitions) => {
                    for at in partitions {
                        from.insert((member.clone(), at), committed.get(&at).copied().unwrap_or(0));
                        if let Some(before) = owners.insert(at, member.clone()).filter(|before| *before != member) {
                            overlaps
                                .insert((before.clone(), at), format!("partition {at} of {before} went to {member}"));
                        }
                    }
                }
                What::Read(records) => {
                    for (at, offset) in records {
                        let least = from.get(&(member.clone(), at)).copied().unwrap_or(0);
                        let text = "had been committed up to";
                        ensure!(
                            offset >= least,
                            "{}: {member} read {at} from {offset}, which {text} {least}",
                            self.name
                        );
                    }
                }
                What::Revoked(gone) => owners.retain(|at, owner| *owner != member || !gone.contains(at)),
                What::Lost(gone) => {
                    // A member learns late that the group continued without it.
                    overlaps.retain(|(before, at), _| *before != member || !gone.contains(at));
                    owners.retain(|at, owner| *owner != member || !gone.contains(at));
                }
                What::Left => owners.retain(|_, owner| *owner != member),
                What::Failed(_) => {}
            }
        }
        if one_owner && let Some(((_, at), overlap)) = overlaps.into_iter().next() {
            bail!("{}: {overlap}, which had not given it up; who had it:\n{}", self.name, self.history(at));
        }
        Ok(())
    }

    /// The reports about the owners of a partition, for an error message.
    pub fn history(&self, at: i32) -> String {
        let mut lines = String::new();
        for said in self.said(|said| said.what.is_of_ownership()) {
            if let Some(what) = said.what.of(at) {
                let _ = writeln!(lines, "{:.3} {} {what}", said.at, said.member);
            }
        }
        lines
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for crew in &mut self.crews {
            let _ = crew.child.kill();
            let _ = crew.child.wait();
        }
    }
}

/// The moment, for [`Group::revoked_since`].
pub fn moment() -> f64 {
    now()
}
