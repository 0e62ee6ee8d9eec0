//! The audit log: who logged in, who was denied what, and who changed what, from where. One JSON object a line.
//!
//! Requests hand their lines to a thread, which writes them; none of them waits for the disk. What does not fit is
//! counted, and the number is the next line. [`refusals`] bounds the lines of who is refused or allowed again and
//! again; refusals have half of the queue, so that changes and logins that were allowed find room beside them.

mod refusals;

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ottla_authorizer::{Operation, Requester, ResourceType};
use ottla_config::AuditConfig;
use ottla_metrics::RateLimit;
use ottla_model::KafkaPrincipal;
use ottla_network::{LoginEvent, LoginWatcher, RequestContext};
use parking_lot::Mutex;
use serde_json::{Value, json};

use refusals::{LeftOut, Subject, Windows};

/// Lines that wait for the disk: 8 MiB with the longest texts.
const LINES_MAX: usize = 4_096;
/// Of these, refusals: a crowd that is refused takes no more.
const REFUSALS_WAITING_MAX: usize = LINES_MAX / 2;
/// Names that clients choose are cut at this.
const TEXT_CHARS_MAX: usize = 512;
/// As which kind of line logins that were accepted count.
const LOGIN: &str = "LOGIN";
/// How long the thread waits after a failure; lines that come meanwhile wait in the queue.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the thread looks whose refusals were left out and can be told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

struct Line {
    text: String,
    is_refusal: bool,
}

/// What requests and the thread share.
struct Shared {
    lost: AtomicU64,
    refusals_waiting: AtomicUsize,
    refusals: Mutex<Windows>,
    allowed: Mutex<Windows>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            lost: AtomicU64::new(0),
            refusals_waiting: AtomicUsize::new(0),
            refusals: Mutex::new(Windows::of_refusals()),
            allowed: Mutex::new(Windows::of_allowed()),
        }
    }
}

pub struct AuditLog {
    lines: SyncSender<Line>,
    shared: Arc<Shared>,
    /// Of lines: clients cannot choose two with the same hash.
    hashes: RandomState,
}

impl AuditLog {
    /// None: there is no audit log. Opens the file, which must be possible at the start.
    pub fn start(config: Option<&AuditConfig>) -> io::Result<Option<Arc<Self>>> {
        let Some(config) = config else { return Ok(None) };
        let (lines, waiting) = sync_channel(LINES_MAX);
        let mut output = Output { path: config.path.clone(), bytes_max: config.bytes_max, open: None };
        output.open()?;
        let log = Self::to(lines);
        let shared = Arc::clone(&log.shared);
        thread::Builder::new().name("audit".to_owned()).spawn(move || write(&waiting, &mut output, &shared))?;
        Ok(Some(Arc::new(log)))
    }

    fn to(lines: SyncSender<Line>) -> Self {
        Self { lines, shared: Arc::default(), hashes: RandomState::new() }
    }

    /// `operation`: of which kind it is.
    fn put_allowed(&self, event: Value, principal: String, operation: &'static str) {
        let (subject, now_ms) = (Subject::Allowed(principal, operation), now_ms());
        let is_admitted = self.shared.allowed.lock().admit(subject, 0, Instant::now(), now_ms);
        if is_admitted && !self.send(stamped(event, now_ms), false) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn put_refusal(&self, event: Value, subject: Subject) {
        let (line, now_ms) = (self.hashes.hash_one(event.to_string()), now_ms());
        if !self.shared.refusals.lock().admit(subject.clone(), line, Instant::now(), now_ms) {
            return;
        }
        let has_room = self.shared.refusals_waiting.load(Ordering::Relaxed) < REFUSALS_WAITING_MAX;
        if !has_room || !self.send(stamped(event, now_ms), true) {
            self.shared.refusals.lock().lost(&subject);
        }
    }

    fn send(&self, text: String, is_refusal: bool) -> bool {
        self.shared.refusals_waiting.fetch_add(usize::from(is_refusal), Ordering::Relaxed);
        match self.lines.try_send(Line { text, is_refusal }) {
            Ok(()) => true,
            // The process ends where nobody takes lines any more.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.refusals_waiting.fetch_sub(usize::from(is_refusal), Ordering::Relaxed);
                false
            }
        }
    }

    /// A check of a rule. What is allowed is written only if it changes something: reads and writes are many.
    pub fn checked(
        &self,
        requester: &Requester,
        operation: Operation,
        resource_type: ResourceType,
        name: &str,
        is_allowed: bool,
    ) {
        let is_change = matches!(
            operation,
            Operation::Create
                | Operation::Delete
                | Operation::Alter
                | Operation::AlterConfigs
                | Operation::CreateTokens
        );
        if is_allowed && !is_change {
            return;
        }
        let principal = cut(&requester.principal.to_string());
        let event = json!({
            "event": "access",
            "principal": principal,
            "host": requester.address.to_string(),
            "operation": operation.name(),
            "resource_type": resource_type.name(),
            "resource": cut(name),
            "allowed": is_allowed,
        });
        if is_allowed {
            return self.put_allowed(event, principal, operation.name());
        }
        let subject = match requester.principal == KafkaPrincipal::anonymous() {
            true => Subject::anonymous(requester.address),
            false => Subject::Principal(principal),
        };
        self.put_refusal(event, subject);
    }
}

impl LoginWatcher for AuditLog {
    fn login(&self, context: &RequestContext, event: LoginEvent<'_>) {
        let (mechanism, reason) = match event {
            LoginEvent::Accepted(mechanism) => (Some(mechanism.name()), None),
            LoginEvent::Refused(reason) => (None, Some(cut(reason))),
        };
        // Who was refused has said who it wants to be, and shown nothing of it.
        let principal = mechanism.map(|_| cut(&context.principal.to_string()));
        let event = json!({
            "event": "login",
            "principal": principal,
            "host": context.peer.ip().to_canonical().to_string(),
            "listener": context.listener.as_str(),
            "mechanism": mechanism,
            "reason": reason,
            "allowed": reason.is_none(),
        });
        match principal {
            Some(principal) => self.put_allowed(event, principal, LOGIN),
            None => self.put_refusal(event, Subject::logins(context.peer.ip())),
        }
    }
}

fn stamped(mut event: Value, time_ms: u64) -> String {
    event["time_ms"] = json!(time_ms);
    event.to_string()
}

/// The line that tells how many lines of one subject were not written.
fn left_out_line(left_out: &LeftOut) -> Value {
    let (of, principal, host) = match &left_out.subject {
        Subject::Allowed(principal, LOGIN) => ("login", Some(principal.clone()), None),
        Subject::Principal(principal) | Subject::Allowed(principal, _) => ("access", Some(principal.clone()), None),
        Subject::Anonymous(host) => ("access", Some(KafkaPrincipal::anonymous().to_string()), Some(host.to_string())),
        Subject::Logins(host) => ("login", None, Some(host.to_string())),
        Subject::Others => ("any", None, None),
    };
    let operation = match left_out.subject {
        Subject::Allowed(_, operation) if operation != LOGIN => Some(operation),
        _ => None,
    };
    json!({
        "event": "left_out",
        "of": of,
        "principal": principal,
        "host": host,
        "operation": operation,
        "lines": left_out.lines,
        "since_ms": left_out.since_ms,
    })
}

pub(crate) fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX)
}

/// The file, and the one before it, whose name ends with `.1`.
struct Output {
    path: PathBuf,
    bytes_max: u64,
    open: Option<(File, u64)>,
}

impl Output {
    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        let opened = match self.open.take() {
            Some(open) => open,
            None => {
                // It says who may do what.
                let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
                let length = file.metadata()?.len();
                (file, length)
            }
        };
        Ok(self.open.insert(opened))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64 + 1;
        let bytes_max = self.bytes_max;
        let (_, length) = self.open()?;
        if *length > 0 && *length + bytes > bytes_max {
            self.open = None;
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            fs::rename(&self.path, before)?;
        }
        let (file, length) = self.open()?;
        file.write_all(format!("{line}\n").as_bytes())?;
        *length += bytes;
        Ok(())
    }
}

/// Writes lines until nobody can hand over another.
fn write(waiting: &Receiver<Line>, output: &mut Output, shared: &Shared) {
    let mut looked = Instant::now();
    loop {
        let received = waiting.recv_timeout(LOOK_INTERVAL);
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        let line = received.ok();
        if line.as_ref().is_some_and(|line| line.is_refusal) {
            shared.refusals_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let mut lines = Vec::new();
        let missing = shared.lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            lines.push(stamped(json!({"event": "lost", "lines": missing}), now_ms()));
        }
        if is_over || looked.elapsed() >= LOOK_INTERVAL {
            looked = Instant::now();
            for windows in [&shared.refusals, &shared.allowed] {
                let left_out = windows.lock().end_windows(looked, is_over);
                lines.extend(left_out.iter().map(|left_out| stamped(left_out_line(left_out), now_ms())));
            }
        }
        lines.extend(line.map(|line| line.text));
        write_lines(&lines, missing, output, shared);
        if is_over {
            return;
        }
    }
}

/// `missing`: how many lines the first one tells of.
fn write_lines(lines: &[String], missing: u64, output: &mut Output, shared: &Shared) {
    static COMPLAINTS: LazyLock<RateLimit> = LazyLock::new(RateLimit::per_second);
    for (at, line) in lines.iter().enumerate() {
        if let Err(error) = output.append(line) {
            let path = output.path.display();
            COMPLAINTS.run(|more| tracing::error!(%path, %error, more, "the audit log cannot be written"));
            let told_before = if at == 0 { missing } else { 0 };
            let unwritten = (lines.len() - at) as u64 - u64::from(told_before > 0);
            shared.lost.fetch_add(told_before + unwritten, Ordering::Relaxed);
            // The file may be gone, or its disk may have room again.
            output.open = None;
            thread::sleep(PAUSE);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::Image;
    use ottla_replica_manager::metadata_cache::MetadataCache;

    use super::*;
    use crate::audit::refusals::{ALLOWED_PER_WINDOW, REPEATS_MAX};
    use crate::authorization::Access;
    use crate::request::test_context::context;

    fn lines(path: &std::path::Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn written(waiting: &Receiver<Line>) -> Vec<Value> {
        waiting.try_iter().map(|line| serde_json::from_str(&line.text).expect("JSON in one line")).collect()
    }

    /// One principal wrote 19 MB in 0.6 s, and nothing that others had done was left.
    #[test]
    fn one_principals_denials_leave_what_others_do() {
        const MANY: usize = 100_000;
        let (sender, waiting) = sync_channel(LINES_MAX);
        let log = AuditLog::to(sender);
        let requester = |name: &str| Requester { principal: KafkaPrincipal::user(name), address: [10, 0, 0, 1].into() };
        let (eve, admin) = (requester("eve"), requester("admin"));
        for number in 0..MANY {
            let name = format!("{}{number}", "n".repeat(600));
            log.checked(&eve, Operation::Read, ResourceType::Topic, &name, false);
            if number % 1_000 == 0 {
                log.checked(&admin, Operation::Delete, ResourceType::Topic, &name, true);
            }
        }
        let of = |lines: &[Value], name: &str| lines.iter().filter(|line| line["principal"] == name).count();
        let lines = written(&waiting);
        assert_eq!(of(&lines, "User:admin"), MANY / 1_000);
        assert!((1..=REPEATS_MAX as usize).contains(&of(&lines, "User:eve")), "names are cut, and then alike");
        assert_eq!(log.shared.lost.load(Ordering::Relaxed), 0);

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let mut output = Output { path: path.clone(), bytes_max: 1 << 20, open: None };
        let shared = Arc::clone(&log.shared);
        drop(log);
        write(&waiting, &mut output, &shared);
        let told = self::lines(&path);
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0]["event"], &told[0]["principal"]), (&json!("left_out"), &json!("User:eve")));
        assert_eq!(told[0]["lines"].as_u64(), Some((MANY - of(&lines, "User:eve")) as u64));
        assert!(told[0]["since_ms"].is_u64());
    }

    /// A principal that might create topics washed out of the files what others did, by names that were there.
    #[test]
    fn one_principals_changes_leave_what_others_do() {
        let (sender, waiting) = sync_channel(LINES_MAX);
        let log = AuditLog::to(sender);
        let requester = |name: &str| Requester { principal: KafkaPrincipal::user(name), address: [10, 0, 0, 1].into() };
        let (eve, admin) = (requester("eve"), requester("admin"));
        let allowed = |requester: &Requester, operation| {
            log.checked(requester, operation, ResourceType::Topic, "t", true);
        };
        (0..2 * LINES_MAX).for_each(|_| allowed(&eve, Operation::Create));
        allowed(&admin, Operation::Create);
        allowed(&eve, Operation::Delete);
        let lines = written(&waiting);
        let of = |name: &str, operation: &str| {
            lines.iter().filter(|line| line["principal"] == name && line["operation"] == operation).count()
        };
        let counts = [of("User:eve", "CREATE"), of("User:admin", "CREATE"), of("User:eve", "DELETE")];
        assert_eq!(counts, [ALLOWED_PER_WINDOW as usize, 1, 1]);
        assert_eq!(log.shared.lost.load(Ordering::Relaxed), 0);
        let left_out = log.shared.allowed.lock().end_windows(Instant::now(), true);
        let told: Vec<_> = left_out.iter().map(left_out_line).collect();
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0]["operation"], &told[0]["principal"]), (&json!("CREATE"), &json!("User:eve")));
        assert_eq!(told[0]["lines"].as_u64(), Some(2 * LINES_MAX as u64 - u64::from(ALLOWED_PER_WINDOW)));
    }

    #[test]
    fn a_change_that_is_only_validated_is_not_written() {
        let (sender, waiting) = sync_channel(LINES_MAX);
        let (log, metadata) = (Arc::new(AuditLog::to(sender)), MetadataCache::new(Arc::new(Image::empty()), PAUSE));
        let of_sender = || Access::of(None, Some(&log), &metadata, &context("CLIENT"));
        assert!(of_sender().validating(true).topic(Operation::Create, "t"));
        assert!(written(&waiting).is_empty());
        assert!(of_sender().validating(false).topic(Operation::Create, "t"));
        assert_eq!(written(&waiting).len(), 1);
    }

    /// However many are refused, half of the queue is for others.
    #[test]
    fn a_crowd_of_refused_leaves_half_of_the_queue() {
        let (sender, waiting) = sync_channel(LINES_MAX);
        let log = AuditLog::to(sender);
        for number in 0..LINES_MAX {
            let principal = KafkaPrincipal::user(format!("user-{}", number / 50));
            let requester = Requester { principal, address: [10, 0, 0, 1].into() };
            log.checked(&requester, Operation::Read, ResourceType::Topic, &number.to_string(), false);
        }
        assert_eq!(written(&waiting).len(), REFUSALS_WAITING_MAX);
        assert_eq!(log.shared.lost.load(Ordering::Relaxed), 0);
    }

    /// The lines of an output are whole, and two files are the most.
    #[test]
    fn the_files_are_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let mut output = Output { path: path.clone(), bytes_max: 100, open: None };
        for number in 0..100 {
            output.append(&json!({ "number": number }).to_string()).expect("written");
        }
        let before = folder.path().join("audit.log.1");
        let (now, old) = (lines(&path), lines(&before));
        assert_eq!(now.last().expect("a line")["number"], 99);
        assert_eq!(old.last().expect("a line")["number"].as_u64().map(|n| n + 1), now[0]["number"].as_u64());
        for path in [&path, &before] {
            assert!(fs::metadata(path).expect("a file").len() <= 100);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }

    #[test]
    fn denials_and_changes_are_written_and_reads_are_not() {
        let (sender, waiting) = sync_channel(2);
        let log = AuditLog::to(sender);
        let requester = Requester { principal: KafkaPrincipal::user("al\"ice"), address: [10, 0, 0, 1].into() };
        let check = |operation, is_allowed| log.checked(&requester, operation, ResourceType::Topic, "t\n", is_allowed);
        check(Operation::Read, true);
        check(Operation::Read, false);
        check(Operation::Delete, true);
        // No room is left.
        check(Operation::Create, true);
        assert_eq!(log.shared.lost.load(Ordering::Relaxed), 1);
        let written = written(&waiting);
        assert_eq!(written.len(), 2);
        let mut denied = written[0].clone();
        assert!(denied["time_ms"].take().is_u64());
        let expected = json!({
            "event": "access", "principal": "User:al\"ice", "host": "10.0.0.1", "operation": "READ",
            "resource_type": "TOPIC", "resource": "t\n", "allowed": false, "time_ms": null,
        });
        assert_eq!(denied, expected);
        assert_eq!((&written[1]["operation"], &written[1]["allowed"]), (&json!("DELETE"), &json!(true)));
    }

    /// A file that cannot be written keeps nobody; what was lost is told when it can be.
    #[test]
    fn what_was_lost_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sub").join("audit.log");
        let config = AuditConfig { path: path.clone(), bytes_max: 1_000 };
        assert!(AuditLog::start(Some(&config)).is_err(), "there is no such folder");
        fs::create_dir(folder.path().join("sub")).expect("a folder");
        let shared = Shared::default();
        shared.lost.store(3, Ordering::Relaxed);
        let (sender, waiting) = sync_channel(1);
        sender.send(Line { text: "{}".to_owned(), is_refusal: false }).expect("room");
        drop(sender);
        write(&waiting, &mut Output { path: path.clone(), bytes_max: 1_000, open: None }, &shared);
        assert_eq!(lines(&path).iter().map(|line| line["lines"].as_u64()).collect::<Vec<_>>(), [Some(3), None]);
    }
}
