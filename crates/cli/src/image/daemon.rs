//! `-daemon` of Kafka's start scripts: the service goes on as a process of its own, and the script ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where Kafka's scripts put what such a process prints; LOG_DIR names another place.
const LOG_DIR: &str = "/opt/kafka/logs";
pub const OPTION: &str = "-daemon";

/// Starts the script `name` in the background, without the option that says so.
pub fn spawn(name: &str, arguments: &[String]) -> io::Result<Child> {
    let log = output(&log_path(name, std::env::var_os("LOG_DIR")))?;
    // Not of the terminal's foreground, so that Ctrl-C and the terminal's end do not affect it.
    Command::new(std::env::current_exe()?)
        .args(["as", name])
        .args(arguments.iter().filter(|word| *word != OPTION))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

/// Kafka's names of these files.
fn log_path(name: &str, log_dir: Option<OsString>) -> PathBuf {
    let file = if name.starts_with("zookeeper") { "zookeeper.out" } else { "kafkaServer.out" };
    let directory = log_dir.filter(|text| !text.is_empty()).unwrap_or_else(|| LOG_DIR.into());
    Path::new(&directory).join(file)
}

/// The file, or nothing at all where it cannot be written: the service is worth more than its lines.
fn output(path: &Path) -> io::Result<File> {
    let directory = path.parent().map_or(Ok(()), fs::create_dir_all);
    directory.and_then(|()| File::create(path)).or_else(|_| File::options().write(true).open("/dev/null"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_go_where_kafka_puts_them_or_nowhere() {
        let path = |name, log_dir: Option<&str>| log_path(name, log_dir.map(OsString::from));
        assert_eq!(path("kafka-server-start", None), Path::new("/opt/kafka/logs/kafkaServer.out"));
        assert_eq!(path("zookeeper-server-start", Some("/l")), Path::new("/l/zookeeper.out"));
        assert_eq!(path("kafka-server-start", Some("")), Path::new("/opt/kafka/logs/kafkaServer.out"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("logs/zookeeper.out");
        output(&file).expect("a file").write_all(b"line").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("made with its directory"), "line");
        // The file is in the way of a directory.
        output(&file.join("zookeeper.out")).expect("/dev/null").write_all(b"line").expect("taken");
    }
}
