//! `kafka-storage`: `random-uuid`, `format` and `info`. There is nothing to format: a node makes its directories at its
//! first start. What `format` was told is the cluster's id is kept until then.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ottla_model::IncarnationId;

use super::usage;
use crate::{err, out};

const USAGE: &str = "kafka-storage random-uuid | format -t CLUSTER_ID -c FILE [--ignore-formatted] | info -c FILE";
const LOG_DIR: &str = "/var/lib/kafka/data";
const META: &str = "meta.properties";
const FORMATTED: &str = "formatted.properties";

pub fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["random-uuid", ..] => {
            out!("{}", random_uuid());
            ExitCode::SUCCESS
        }
        ["format", rest @ ..] => format(rest),
        ["info", rest @ ..] => info(rest),
        _ => usage(USAGE),
    }
}

/// Kafka's form, not beginning with a dash, which tools would take for a flag.
fn random_uuid() -> String {
    loop {
        let text = IncarnationId(rand::random()).to_string();
        if !text.starts_with('-') {
            return text;
        }
    }
}

/// The value after the first of these options.
fn option<'a>(words: &[&'a str], names: &[&str]) -> Option<&'a str> {
    let at = words.iter().position(|word| names.contains(word))?;
    words.get(at + 1).copied()
}

fn format(words: &[&str]) -> ExitCode {
    let (Some(cluster), Some(file)) = (option(words, &["-t", "--cluster-id"]), option(words, &["-c", "--config"]))
    else {
        return usage(USAGE);
    };
    let is_id = cluster.len() == 22 && cluster.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !is_id {
        err!("Cluster ID string {cluster} does not appear to be a valid UUID: 22 characters of URL-safe base64");
        return ExitCode::FAILURE;
    }
    let ignores_formatted = words.iter().any(|word| matches!(*word, "-g" | "--ignore-formatted"));
    for directory in log_dirs(Path::new(file)) {
        if [META, FORMATTED].iter().any(|name| directory.join(name).exists()) {
            if ignores_formatted {
                continue;
            }
            err!(
                "Log directory {} is already formatted. Use --ignore-formatted to ignore this directory and format the others.",
                directory.display()
            );
            return ExitCode::FAILURE;
        }
        let written = std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join(FORMATTED), format!("cluster.id={cluster}\n")));
        if let Err(error) = written {
            err!("{}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
        out!("Formatting {} for cluster {cluster}.", directory.display());
    }
    ExitCode::SUCCESS
}

fn info(words: &[&str]) -> ExitCode {
    let Some(file) = option(words, &["-c", "--config"]) else { return usage(USAGE) };
    let mut is_formatted = true;
    for directory in log_dirs(Path::new(file)) {
        let found = [META, FORMATTED].iter().find_map(|name| std::fs::read_to_string(directory.join(name)).ok());
        is_formatted &= found.is_some();
        out!("Found log directory:\n  {}\n", directory.display());
        match found {
            Some(text) => out!("Found metadata: {}\n", properties(&text)),
            None => out!("{} is not formatted.\n", directory.display()),
        }
    }
    if is_formatted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As Kafka shows them: by name, without the comments of the file.
fn properties(text: &str) -> String {
    let mut properties: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    properties.sort_unstable();
    format!("{{{}}}", properties.join(", "))
}

/// Those of the environment or of the file, as a node would have them.
fn log_dirs(file: &Path) -> Vec<PathBuf> {
    let of_environment = std::env::var("KAFKA_LOG_DIRS").or_else(|_| std::env::var("KAFKA_CFG_LOG_DIRS")).ok();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let of_file = || text.lines().find_map(|line| line.trim().strip_prefix("log.dirs=").map(str::to_owned));
    let list = of_environment.or_else(of_file).unwrap_or_else(|| LOG_DIR.to_owned());
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_shown_without_the_comments_of_their_file() {
        let file = "#\n#Sat Nov 28 2026\nversion=0\nbroker.id=1\ncluster.id=x\n";
        assert_eq!(properties(file), "{broker.id=1, cluster.id=x, version=0}");
    }

    #[test]
    fn a_random_id_is_one_that_can_be_formatted_with() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("server.properties");
        let logs = directory.path().join("logs");
        std::fs::write(&file, format!("log.dirs={}\n", logs.display())).expect("written");
        let file = file.display().to_string();
        let id = random_uuid();
        assert_eq!(format!("{:?}", format(&["-t", &id, "-c", &file])), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(std::fs::read_to_string(logs.join(FORMATTED)).expect("formatted"), format!("cluster.id={id}\n"));
        let again = format(&["-t", &id, "-c", &file]);
        assert_eq!(format!("{again:?}"), format!("{:?}", ExitCode::FAILURE));
        let ignored = format(&["--ignore-formatted", "-t", &id, "-c", &file]);
        assert_eq!(format!("{ignored:?}"), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(format!("{:?}", format(&["-t", "short", "-c", &file])), format!("{:?}", ExitCode::FAILURE));
    }
}
