//! `kafka-metadata-shell`: looks around in the metadata of a running cluster, by one command or by lines of standard
//! input. The paths are those of Ottla's tree, which ZooKeeper's clients know, not those of KRaft's records.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use ottla_rpc::AdminClient;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest, Node};

use super::options::{OptionSpec, Options, Takes, flag, refused, usage, value};
use crate::quorum::{self, TIMEOUT};
use crate::{err, out, output};

const NO_FILES: &str = "the metadata of a stopped coordinator is not read; name running ones with --controllers";

pub(super) static SPECS: &[OptionSpec] = &[
    value("controllers", "HOST:PORT[,…]", "The coordinators (default: OTTLA_COORDINATORS, else localhost:2181)."),
    refused("directory", Takes::Value, NO_FILES),
    flag("help", "Show this message."),
    refused("snapshot", Takes::Value, NO_FILES),
];

const COMMANDS: &str = "\
cat PATH…    Show the contents of nodes.
cd PATH      Go to a node.
exit         End the shell.
find [PATH]  Show all nodes below a node.
help         Show this message.
ls [PATH…]   List the nodes below a node.
pwd          Show the node that relative paths begin with.
tree [PATH]  Show all nodes below a node with their contents.";

/// Options come before the command, whose words may begin with a dash.
pub async fn run(arguments: &[String]) -> ExitCode {
    let mut own = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.as_slice().first().filter(|word| word.starts_with('-')) {
        own.push(if word == "-h" { "--help".to_owned() } else { word.clone() });
        rest.next();
        // The value of an option.
        if word.starts_with("--") && !word.contains('=') && word != "--help" {
            own.extend(rest.next().cloned());
        }
    }
    let options = match Options::parse(SPECS, &own) {
        Ok(options) => options,
        Err(error) => {
            err!("kafka-metadata-shell: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.has("help") {
        let line = "usage: kafka-metadata-shell [--controllers HOST:PORT[,…]] [COMMAND …]";
        out!("{line}\n\n{}\n\n{COMMANDS}", usage(SPECS).trim_end());
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = rest.cloned().collect();
    match shell(&options, &words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn shell(options: &Options, words: &[String]) -> Result<()> {
    let variable = std::env::var("OTTLA_COORDINATORS").ok().filter(|text| !text.is_empty());
    let controllers = options.get("controllers").map(str::to_owned).or(variable);
    let client = quorum::reader(&quorum::addresses(controllers.as_deref().unwrap_or("localhost:2181"))?)?;
    let mut shell = Shell { client, at: "/".to_owned() };
    if !words.is_empty() {
        shell.execute(words).await?;
        return Ok(());
    }
    let input = std::io::stdin().lock();
    let prompts = input.is_terminal();
    let prompt = || {
        if prompts {
            output::bytes(b">> ");
            output::flush();
        }
    };
    prompt();
    for line in input.lines() {
        let words: Vec<String> = line?.split_whitespace().map(str::to_owned).collect();
        // A line that cannot be carried out does not end the shell.
        match shell.execute(&words).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => out!("{error:#}"),
        }
        prompt();
    }
    Ok(())
}

struct Shell {
    client: AdminClient,
    /// Where relative paths begin.
    at: String,
}

impl Shell {
    /// True: the shell is to end.
    async fn execute(&mut self, words: &[String]) -> Result<bool> {
        let Some((command, rest)) = words.split_first() else { return Ok(false) };
        let paths: Vec<String> = match rest {
            [] => vec![self.at.clone()],
            rest => rest.iter().map(|path| resolved(&self.at, path)).collect(),
        };
        match (command.as_str(), rest) {
            ("cat", []) => bail!("cat: too few arguments"),
            ("cd" | "find" | "tree", [_, _, ..]) => bail!("{command}: too many arguments"),
            ("cat", _) => {
                for path in &paths {
                    out!("{}", self.content(path).await?);
                }
            }
            ("cd", _) => {
                let path = paths.into_iter().next().unwrap_or_default();
                self.node(&path).await?;
                self.at = path;
            }
            ("find", _) => {
                for path in self.below(&paths[0]).await? {
                    out!("{path}");
                }
            }
            ("tree", _) => {
                for path in self.below(&paths[0]).await? {
                    let node = self.node(&path).await?;
                    let depth = path.matches('/').count().saturating_sub(1);
                    let name = path.rsplit('/').next().unwrap_or_default();
                    let content = if node.json.is_empty() { String::new() } else { format!(": {}", node.json) };
                    out!("{}{name}{content}", "  ".repeat(depth));
                }
            }
            ("ls", _) => {
                for path in &paths {
                    if paths.len() > 1 {
                        out!("{path}:");
                    }
                    for name in self.names(path, false).await? {
                        out!("{name}");
                    }
                }
            }
            ("pwd", []) => out!("{}", self.at),
            ("help", _) => out!("{COMMANDS}"),
            ("exit" | "quit", []) => return Ok(true),
            _ => bail!("No command handler for \"{}\"; help names the commands", words.join(" ")),
        }
        Ok(false)
    }

    async fn node(&self, path: &str) -> Result<Node> {
        let request = GetNodeRequest { path: path.to_owned(), linearizable: true };
        match self.client.get_node(request, TIMEOUT).await?.node {
            Some(node) => Ok(node),
            None => bail!("{path}: no such node"),
        }
    }

    async fn content(&self, path: &str) -> Result<String> {
        let node = self.node(path).await?;
        if node.json.is_empty() {
            bail!("{path}: there is nothing but nodes below it");
        }
        Ok(node.json)
    }

    async fn names(&self, path: &str, recursive: bool) -> Result<Vec<String>> {
        let request = ListNodesRequest { path: path.to_owned(), recursive, linearizable: true };
        Ok(self.client.list_nodes(request, TIMEOUT).await?.names)
    }

    async fn below(&self, path: &str) -> Result<Vec<String>> {
        self.names(path, true).await
    }
}

/// A path from the root, without `.` and `..`.
fn resolved(at: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{at}/{path}") };
    let mut names = Vec::new();
    for name in whole.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_be_relative() {
        assert_eq!(resolved("/", "brokers"), "/brokers");
        assert_eq!(resolved("/brokers", "../config/./topics/"), "/config/topics");
        assert_eq!(resolved("/brokers/ids", "/a//b"), "/a/b");
        assert_eq!(resolved("/", "../.."), "/");
    }

    #[tokio::test]
    async fn files_are_refused_by_name() {
        for option in ["--snapshot", "--directory"] {
            let line = Options::parse(SPECS, &[option.to_owned(), "x".to_owned()]).expect_err("refused").to_string();
            assert!(line.contains(&option[2..]) && line.contains("--controllers"), "{line}");
        }
        let help = ["--controllers", "k:1", "-h"].map(str::to_owned);
        assert_eq!(run(&help).await, ExitCode::SUCCESS);
    }
}
