//! `kafka-storage`: `random-uuid`, `format` and `info`. There is nothing to format: a node makes its directories at its
//! first start. What `format` was told of the cluster's id and its first users is kept until then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ottla_config::FormattedUser;
use ottla_model::IncarnationId;
use ottla_sasl::scram::{ITERATIONS_MAX, ITERATIONS_MIN};
use ottla_sasl::{ScramCredential, ScramHash};

use super::usage;
use crate::{err, node, out};

const USAGE: &str = "kafka-storage random-uuid | format -t CLUSTER_ID -c FILE [--ignore-formatted] \
                     [--add-scram MECHANISM=[name=USER,password=TEXT]]… | info -c FILE";
const META: &str = "meta.properties";
const FORMATTED: &str = ottla_config::FORMATTED_FILE;

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
pub fn random_uuid() -> String {
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

/// The values of all of these options.
fn options<'a>(words: &'a [&'a str], names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    words.windows(2).filter(|pair| names.contains(&pair[0])).map(|pair| pair[1])
}

/// `SCRAM-SHA-256=[name=alice,password=secret]`, with `iterations` if wanted.
fn user(text: &str) -> Result<FormattedUser, String> {
    const ACCEPTED: &str = "--add-scram: accepted is MECHANISM=[name=USER,password=TEXT,iterations=N] with SCRAM-SHA-256 \
                            or SCRAM-SHA-512, and 4096 to 16384 iterations";
    let parsed = || {
        let (mechanism, fields) = text.split_once('=')?;
        let hash = ScramHash::from_name(mechanism)?;
        let fields: BTreeMap<&str, &str> =
            fields.trim_matches(['[', ']']).split(',').map(|field| field.split_once('=')).collect::<Option<_>>()?;
        let password = fields.get("password").filter(|password| !password.is_empty())?;
        let name = fields.get("name").filter(|name| !name.is_empty())?;
        let iterations = fields.get("iterations").map_or(Some(ITERATIONS_MIN), |text| text.parse().ok())?;
        let is_known = |name: &&str| ["name", "password", "iterations"].contains(name);
        let is_usable = (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) && fields.keys().all(is_known);
        let salt: [u8; 24] = rand::random();
        let credential = || ScramCredential::of_password(hash, password, salt.to_vec(), iterations);
        is_usable.then(|| FormattedUser { name: (*name).to_owned(), hash, credential: credential() })
    };
    parsed().ok_or_else(|| ACCEPTED.to_owned())
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
    let users: Result<Vec<_>, String> = options(words, &["-S", "--add-scram"]).map(user).collect();
    let users = match users {
        Ok(users) => users,
        Err(problem) => {
            err!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let ignores_formatted = words.iter().any(|word| matches!(*word, "-g" | "--ignore-formatted"));
    let directories = match log_dirs(file) {
        Ok(directories) => directories,
        Err(code) => return code,
    };
    for directory in directories {
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
            .and_then(|()| std::fs::write(directory.join(FORMATTED), ottla_config::formatted_text(cluster, &users)));
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
    // Scripts of images format with files that are not here; who asks what a file's directories hold must not be told
    // of others.
    if let Err(error) = std::fs::File::open(file) {
        err!("{file}: {error}");
        return ExitCode::FAILURE;
    }
    let directories = match log_dirs(file) {
        Ok(directories) => directories,
        Err(code) => return code,
    };
    let mut is_formatted = true;
    for directory in directories {
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

/// Those that a node would have.
fn log_dirs(file: &str) -> Result<Vec<PathBuf>, ExitCode> {
    node::log_dirs(Path::new(file)).map_err(|error| {
        err!("{error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_users_are_kept_without_their_passwords() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("server.properties");
        let logs = directory.path().join("logs");
        std::fs::write(&file, format!("log.dirs={}\n", logs.display())).expect("written");
        let file = file.display().to_string();
        let id = random_uuid();
        let formatted = |user: &str| format!("{:?}", format(&["-t", &id, "-c", &file, "--add-scram", user]));
        for wrong in
            ["alice", "SCRAM-SHA-1=[name=a,password=b]", "SCRAM-SHA-256=[name=a]", "SCRAM-SHA-256=[name=a,x=b]"]
        {
            assert_eq!(formatted(wrong), format!("{:?}", ExitCode::FAILURE), "{wrong}");
        }
        let made = formatted("SCRAM-SHA-512=[name=admin,password=hunter2]");
        assert_eq!(made, format!("{:?}", ExitCode::SUCCESS));
        let users = ottla_config::formatted_users(&logs);
        assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["admin"]);
        assert!(!std::fs::read_to_string(logs.join(FORMATTED)).expect("formatted").contains("hunter2"));
    }

    #[test]
    fn directories_are_those_of_the_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("server.properties");
        let file_name = file.display().to_string();
        let logs = |name: &str| directory.path().join(name).join(FORMATTED).exists();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let id = random_uuid();
        let format = |text: String| {
            std::fs::write(&file, text).expect("written");
            format!("{:?}", super::format(&["-t", &id, "-c", &file_name]))
        };
        let formatted = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(format(format!("log.dirs = {} , {}\n", path("a"), path("b"))), formatted);
        assert_eq!(format(format!("log.dir: {}\nmetadata.log.dir={}\n", path("c"), path("d"))), formatted);
        assert!(["a", "b", "c", "d"].into_iter().all(logs));
        assert_ne!(format("node.id=1\nbroker.id=2\n".to_owned()), formatted);
    }

    #[test]
    fn a_file_that_is_not_there_has_no_directories() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("server.properties");
        let told = || format!("{:?}", info(&["-c", &file.display().to_string()]));
        assert_eq!(told(), format!("{:?}", ExitCode::FAILURE));
        let logs = directory.path().join("logs");
        std::fs::write(&file, format!("log.dirs={}\n", logs.display())).expect("written");
        std::fs::create_dir(&logs).expect("made");
        std::fs::write(logs.join(META), "cluster.id=x\n").expect("written");
        assert_eq!(told(), format!("{:?}", ExitCode::SUCCESS));
    }

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
