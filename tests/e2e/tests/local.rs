//! `ottla local`, which `make run` uses: on its promised ports, also on a machine with many outgoing connections (A11).

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::{clients, cluster};
use ottla_rpc::ports;
use ottla_tls::{ClientTls, TlsSettings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

const CONNECTIONS: usize = 2_000;
/// Each connection has both of its ends in this process.
const DESCRIPTORS: u64 = 2 * CONNECTIONS as u64 + 500;
const STARTS: usize = 10;
/// The ports of brokers and coordinators that `make run` promises.
const PORTS: [u16; 6] = [29_092, 39_092, 49_092, 22_181, 32_181, 42_181];

/// Processes of `ottla local`, which end with this.
struct Local(TempDir);

impl Local {
    fn run(&self, command: &str) -> Result<String> {
        self.run_with(command, &[])
    }

    fn run_with(&self, command: &str, options: &[&str]) -> Result<String> {
        let dir = self.0.path().display().to_string();
        let mut ottla = Command::new(cluster::binary("ottla")?);
        clients::run(ottla.args(["local", command, "--dir", &dir]).args(options))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.run("stop");
    }
}

/// Every so many connections one is closed by the side that opened it, and keeps its port for another minute.
const CLOSED_BY_CLIENT_EVERY: usize = 200;

/// Short-lived outgoing connections, from ports that the system chooses: [`CONNECTIONS`] at a time, each ends after as
/// many others have begun.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Traffic {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (full, is_full) = std::sync::mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut held: VecDeque<(TcpStream, TcpStream)> = VecDeque::new();
            let mut ended = 0;
            while !stopped.load(Ordering::Acquire) {
                let outgoing = TcpStream::connect(listener.local_addr()?)?;
                held.push_back((outgoing, listener.accept()?.0));
                if held.len() > CONNECTIONS {
                    ended += 1;
                    if let Some((outgoing, accepted)) = held.pop_front() {
                        if ended % CLOSED_BY_CLIENT_EVERY == 0 {
                            end(outgoing, accepted)
                        } else {
                            end(accepted, outgoing)
                        }
                    }
                    let _ = full.send(());
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(())
        });
        is_full.recv()?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    }
}

/// Closes one side, and the other one after it.
fn end(first: TcpStream, second: TcpStream) {
    drop(first);
    // Reads the end of the stream: then the other side has closed.
    let _ = (&second).read(&mut [0]);
    drop(second);
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// False if this process may not open enough descriptors.
fn raise_limit() -> Result<bool> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < DESCRIPTORS) {
        return Ok(false);
    }
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: limit.maximum })?;
    }
    Ok(true)
}

/// These ports are there once on a machine.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn ports_are_free() -> bool {
    for port in PORTS {
        if let Err(error) = ports::Reservation::new(([127, 0, 0, 1], port).into()).await {
            ottla_test_support::skipped(&format!("port {port} of `make run`: {error}{}", ports::held_by(port)));
            return false;
        }
    }
    true
}

/// A member whose data directory cannot be written ends at once; the five others had begun.
#[tokio::test]
async fn a_start_that_fails_ends_all_that_it_began() -> Result<()> {
    let _alone = ALONE.lock().await;
    if !ports_are_free().await {
        return Ok(());
    }
    let local = Local(TempDir::with_prefix("ottla-local-")?);
    // Not even root opens a directory for writing.
    std::fs::create_dir_all(local.0.path().join("broker-3/data/.lock"))?;
    let refused = local.run("start").err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("broker-3 ended with") && refused.contains("ended again: coordinator-1"), "{refused}");
    let mark = format!("OTTLA_LOCAL_MEMBER={}/", local.0.path().display());
    for process in std::fs::read_dir("/proc")? {
        let process = process?.path();
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let is_member = environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()));
        ensure!(!is_member, "{} still runs", process.display());
    }
    // Nothing of it is in the way of the next start.
    std::fs::remove_dir(local.0.path().join("broker-3/data/.lock"))?;
    let out = local.run("start")?;
    ensure!(out.contains(" ready in "), "{out}");
    Ok(())
}

/// What a broker says to the first message of a user's login by SCRAM.
async fn first_scram_answer(tls: &ClientTls, port: u16, user: &str) -> Result<String> {
    const SASL_HANDSHAKE: i16 = 17;
    const SASL_AUTHENTICATE: i16 = 36;
    let first = format!("n,,n={user},r=nonce");
    let with_length = |bytes: &[u8], length: &[u8]| [length, bytes].concat();
    let mechanism = "SCRAM-SHA-512".as_bytes();
    let handshake = with_length(mechanism, &u16::try_from(mechanism.len())?.to_be_bytes());
    let token = with_length(first.as_bytes(), &u32::try_from(first.len())?.to_be_bytes());
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let mut stream = tls.connect(ClientTls::server_name("127.0.0.1")?, socket).await?;
    let mut answer = Vec::new();
    for (api, body) in [(SASL_HANDSHAKE, handshake), (SASL_AUTHENTICATE, token)] {
        let version = i16::from(api == SASL_HANDSHAKE);
        stream.write_all(&clients::request_frame(api, version, 1, &body)).await?;
        let length = usize::try_from(stream.read_u32().await?)?;
        answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        ensure!(answer.get(4..6) == Some(&[0, 0]), "{}", String::from_utf8_lossy(&answer));
    }
    // The correlation id, no error, no message, and the length of the token.
    Ok(String::from_utf8_lossy(answer.get(12..).unwrap_or_default()).into_owned())
}

/// Before, each broker had its own salts of users that do not exist: two answers told which users do.
#[tokio::test]
async fn brokers_of_a_secure_local_cluster_answer_alike_for_a_user_that_does_not_exist() -> Result<()> {
    let _alone = ALONE.lock().await;
    if !ports_are_free().await {
        return Ok(());
    }
    let certificates = TempDir::with_prefix("ottla-local-certificates-")?;
    let authority = Authority::new(certificates.path(), "ours")?;
    let ca = certificates.path().join("ca.pem");
    std::fs::copy(&authority.certificate, &ca)?;
    let members = ["coordinator", "broker"].map(|kind| [1, 2, 3].map(|number| format!("{kind}-{number}")));
    for name in members.into_iter().flatten().chain(["admin".to_owned()]) {
        authority.sign(&name)?;
    }
    let local = Local(TempDir::with_prefix("ottla-local-")?);
    local.run_with("start", &["--certificates", &certificates.path().display().to_string()])?;
    let ca = ca.display().to_string();
    let tls = ClientTls::new(TlsSettings::read(|name| match name {
        "ssl.truststore.type" => Some("PEM"),
        "ssl.truststore.location" => Some(&ca),
        _ => None,
    })?)?;
    // Without the nonce, which is fresh each time.
    let salt = |answer: String| answer.split_once(",s=").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    for user in ["admin", "nobody", "somebody"] {
        let mut salts = Vec::new();
        for port in &PORTS[..3] {
            salts.push(salt(first_scram_answer(&tls, *port, user).await?));
        }
        ensure!(!salts[0].is_empty() && salts.iter().all(|salt| *salt == salts[0]), "{user}: {salts:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_local_cluster_comes_up_ten_times_among_2_000_outgoing_connections() -> Result<()> {
    let _alone = ALONE.lock().await;
    if !ports_are_free().await {
        return Ok(());
    }
    if !raise_limit()? {
        ottla_test_support::skipped("fewer than 4,500 file descriptors are allowed");
        return Ok(());
    }
    let mut traffic = Traffic::start()?;
    for start in 1..=STARTS {
        let local = Local(TempDir::with_prefix("ottla-local-")?);
        let out = local.run("start")?;
        ensure!(out.contains(" ready in "), "start {start}: {out}");
        local.run("stop")?;
    }
    traffic.end()?;
    Ok(())
}
