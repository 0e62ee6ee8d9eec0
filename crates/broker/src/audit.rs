//! The audit log: who logged in, who was denied what, and who changed what, from where. One JSON object a line.
//!
//! Requests hand their lines to a thread, which writes them; none of them waits for the disk. What does not fit is
//! counted, and the number is the next line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla_authorizer::{Operation, Requester, ResourceType};
use ottla_config::AuditConfig;
use ottla_metrics::RateLimit;
use ottla_network::{LoginEvent, LoginWatcher, RequestContext};
use serde_json::{Value, json};

/// Lines that wait for the disk: 8 MiB with the longest texts.
const LINES_MAX: usize = 4_096;
/// Names that clients choose are cut at this.
const TEXT_CHARS_MAX: usize = 512;
/// How long the thread waits after a failure; lines that come meanwhile wait in the queue.
const PAUSE: Duration = Duration::from_secs(1);

pub struct AuditLog {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

impl AuditLog {
    /// None: there is no audit log. Opens the file, which must be possible at the start.
    pub fn start(config: Option<&AuditConfig>) -> io::Result<Option<Arc<Self>>> {
        let Some(config) = config else { return Ok(None) };
        let (lines, waiting) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let mut output = Output { path: config.path.clone(), bytes_max: config.bytes_max, open: None };
        output.open()?;
        let counted = Arc::clone(&lost);
        thread::Builder::new().name("audit".to_owned()).spawn(move || write(&waiting, &mut output, &counted))?;
        Ok(Some(Arc::new(Self { lines, lost })))
    }

    fn put(&self, mut event: Value) {
        event["time_ms"] = json!(now_ms());
        if let Err(TrySendError::Full(_)) = self.lines.try_send(event.to_string()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
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
        self.put(json!({
            "event": "access",
            "principal": cut(&requester.principal.to_string()),
            "host": requester.address.to_string(),
            "operation": operation.name(),
            "resource_type": resource_type.name(),
            "resource": cut(name),
            "allowed": is_allowed,
        }));
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
        self.put(json!({
            "event": "login",
            "principal": principal,
            "host": context.peer.ip().to_canonical().to_string(),
            "listener": context.listener.as_str(),
            "mechanism": mechanism,
            "reason": reason,
            "allowed": reason.is_none(),
        }));
    }
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
fn write(waiting: &Receiver<String>, output: &mut Output, lost: &AtomicU64) {
    let complaints = RateLimit::per_second();
    while let Ok(line) = waiting.recv() {
        let missing = lost.swap(0, Ordering::Relaxed);
        let told = (missing > 0).then(|| json!({"event": "lost", "lines": missing, "time_ms": now_ms()}).to_string());
        for line in told.iter().chain([&line]) {
            if let Err(error) = output.append(line) {
                let path = output.path.display();
                complaints.run(|more| tracing::error!(%path, %error, more, "the audit log cannot be written"));
                lost.fetch_add(missing.max(1), Ordering::Relaxed);
                // The file may be gone, or its disk may have room again.
                output.open = None;
                thread::sleep(PAUSE);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::KafkaPrincipal;

    use super::*;

    fn lines(path: &std::path::Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
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
        let log = AuditLog { lines: sender, lost: Arc::default() };
        let requester = Requester { principal: KafkaPrincipal::user("al\"ice"), address: [10, 0, 0, 1].into() };
        let check = |operation, is_allowed| log.checked(&requester, operation, ResourceType::Topic, "t\n", is_allowed);
        check(Operation::Read, true);
        check(Operation::Read, false);
        check(Operation::Delete, true);
        // No room is left.
        check(Operation::Create, true);
        assert_eq!(log.lost.load(Ordering::Relaxed), 1);
        let written: Vec<Value> =
            waiting.try_iter().map(|line| serde_json::from_str(&line).expect("JSON in one line")).collect();
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
        let lost = AtomicU64::new(3);
        let (sender, waiting) = sync_channel(1);
        sender.send("{}".to_owned()).expect("room");
        drop(sender);
        write(&waiting, &mut Output { path: path.clone(), bytes_max: 1_000, open: None }, &lost);
        assert_eq!(lines(&path).iter().map(|line| line["lines"].as_u64()).collect::<Vec<_>>(), [Some(3), None]);
    }
}
