//! The clients that tests use: a few requests written by hand, and the scripts that drive other people's clients.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Reached only where something is wrong: a machine may be busy with other things, and its disk too.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A script that takes longer than this hangs.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(180);

/// One request by hand: `body` goes to `address`; returns the frame of the response without its size.
pub fn call(address: SocketAddr, api_key: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
    let mut stream = connect(address)?;
    stream.write_all(&request_frame(api_key, version, 7, body))?;
    read_frame(&mut stream)
}

pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A frame with request header version 1 (client id `e2e`).
pub fn request_frame(api_key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(13 + body.len());
    payload.extend(api_key.to_be_bytes());
    payload.extend(version.to_be_bytes());
    payload.extend(correlation_id.to_be_bytes());
    payload.extend(3i16.to_be_bytes());
    payload.extend(b"e2e");
    payload.extend(body);
    let mut frame = i32::try_from(payload.len()).unwrap_or(i32::MAX).to_be_bytes().to_vec();
    frame.extend(payload);
    frame
}

pub fn read_frame(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).context("a negative frame size")?;
    let mut frame = vec![0; size];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// The body of an HTTP answer.
pub fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}

/// The broker ids that Metadata (version 1, no topics) reports.
pub fn broker_ids(address: SocketAddr) -> Result<Vec<i32>> {
    let frame = call(address, 3, 1, &0i32.to_be_bytes())?;
    let mut at = 4;
    let mut take = |count: usize| -> Result<&[u8]> {
        let piece = frame.get(at..at + count).context("a short Metadata answer")?;
        at += count;
        Ok(piece)
    };
    let brokers = i32::from_be_bytes(take(4)?.try_into()?);
    let mut ids = Vec::new();
    for _ in 0..brokers {
        ids.push(i32::from_be_bytes(take(4)?.try_into()?));
        let host = i16::from_be_bytes(take(2)?.try_into()?);
        take(usize::try_from(host)? + 4)?;
        let rack = i16::from_be_bytes(take(2)?.try_into()?);
        take(usize::try_from(rack.max(0))?)?;
    }
    Ok(ids)
}

/// The Python that has the clients: `OTTLA_PYTHON` (the Makefile's virtual environment), else the system's.
pub fn python() -> String {
    std::env::var("OTTLA_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Where a client's source lies.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Starts a Python client script with piped input and output.
pub fn start_script(name: &str, arguments: &[&str]) -> Result<Child> {
    start_piped(&mut python_script(name, arguments))
}

/// Starts a command with piped input and output.
pub fn start_piped(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().with_context(|| format!("start {command:?}"))
}

/// Runs a Python client script to its end; its output, or an error with it.
pub fn run_script(name: &str, arguments: &[&str]) -> Result<String> {
    run(&mut python_script(name, arguments))
}

/// Runs a command to its end, bounded; its standard output, or an error with both outputs.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let pid = child.id();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let is_late =
            finished.recv_timeout(SCRIPT_PATIENCE).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout);
        if is_late && let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        is_late
    });
    let output = child.wait_with_output()?;
    drop(done);
    let is_late = watchdog.join().unwrap_or_default();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let why = if is_late { format!(", it was ended after {SCRIPT_PATIENCE:?}") } else { String::new() };
        bail!("{shown}: {}{why}\n{out}\n{err}", output.status);
    }
    Ok(out.into_owned())
}

/// A tool of ours by its name, ready to be run against `bootstrap`.
pub fn tool(name: &str, bootstrap: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(crate::cluster::binary("ottla")?);
    command.arg0(name).args(arguments).args(["--bootstrap-server", bootstrap]);
    Ok(command)
}

/// A tool of ours by its name that asks the coordinators, as tools of Kafka 2 asked ZooKeeper.
pub fn tool_of_zookeepers_era(name: &str, coordinators: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(crate::cluster::binary("ottla")?);
    match name {
        "kafka-acls" => {
            command.arg0(name).args(["--authorizer-properties", &format!("zookeeper.connect={coordinators}")])
        }
        _ => command.arg0(name).args(["--zookeeper", coordinators]),
    };
    command.args(arguments);
    Ok(command)
}

/// A tool or client of Apache Kafka by its class; none if the Makefile could not fetch its jars (`OTTLA_KAFKA_JARS`).
pub fn java(class: &str, arguments: &[&str]) -> Option<Command> {
    let jars = std::env::var_os("OTTLA_KAFKA_JARS")?;
    let mut command = jvm(&format!("{}/*", jars.to_string_lossy()));
    command.arg(class).args(arguments);
    Some(command)
}

/// A Java machine that is small and quick to start: these programs live for seconds.
pub fn jvm(class_path: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx128M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path]);
    command
}

/// The command of a Python client script.
pub fn python_script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(script(name)).args(arguments);
    command
}

/// kcat. By itself it ends where it has no metadata after 5 s, which a busy machine or a broker that was just killed
/// may take.
pub fn kcat(arguments: &[&str]) -> Command {
    let mut command = Command::new("kcat");
    command.args(["-m", "60"]).args(arguments);
    command
}

/// Whether a program is on the path.
pub fn have(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|o| o.status.success())
}
