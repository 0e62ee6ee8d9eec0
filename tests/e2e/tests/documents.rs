//! Checks of the documents against the code, and of the width of lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The numbers behind each occurrence of `prefix` in `text`, compared without case: `scenario_07_x` gives 7.
fn numbers_behind<'t>(text: &'t str, prefix: &str) -> impl Iterator<Item = u32> + use<'t> {
    text.split(prefix)
        .skip(1)
        .filter_map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect::<Vec<_>>()
        .into_iter()
}

#[test]
fn every_scenario_is_described_and_has_a_test() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/scenarios.md"))?;
    let mut described = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let number = row.trim_start_matches("| ").split(' ').next().and_then(|number| number.parse::<u32>().ok());
        if let Some(number) = number {
            described.insert(number, row.contains("No test yet"));
        }
    }
    ensure!(!described.is_empty(), "docs/scenarios.md has no table of scenarios");

    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files)?;
    rust_files(&root().join("tests"), &mut files)?;
    let mut tested = BTreeMap::new();
    for file in &files {
        let text = fs::read_to_string(file)?.to_lowercase();
        for number in numbers_behind(&text, "fn scenario_") {
            tested.insert(number, file.clone());
        }
        for number in numbers_behind(&text, "scenario ").chain(numbers_behind(&text, "scenarios ")) {
            ensure!(
                described.contains_key(&number),
                "{} cites scenario {number}, which docs/scenarios.md lacks",
                file.display()
            );
        }
    }
    for (number, has_none_yet) in &described {
        let test = tested.get(number);
        ensure!(test.is_some() || *has_none_yet, "scenario {number} has no test called scenario_{number:02}_…");
        ensure!(
            test.is_none() || !has_none_yet,
            "scenario {number} has a test: docs/scenarios.md says that it has none"
        );
    }
    for number in tested.keys() {
        described
            .get(number)
            .with_context(|| format!("a test is called scenario_{number:02}_…, docs/scenarios.md lacks it"))?;
    }
    Ok(())
}

#[test]
fn every_decision_is_in_the_index() -> Result<()> {
    let folder = root().join("docs/adr");
    let index = fs::read_to_string(folder.join("README.md"))?;
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "docs/adr/README.md does not list {name}"
        );
    }
    Ok(())
}

/// The width of rustfmt.toml, for comments and documents too: two files fit beside each other on a screen.
const COLUMNS_MAX: usize = 120;

/// Folders and files that may still have wider lines.
const STILL_WIDER: &[&str] = &[
    "CHANGELOG.md",
    "crates/broker/",
    "crates/broker-session/",
    "crates/cli/src/kafka_tools/",
    "crates/config/",
    "crates/group-coordinator/",
    "crates/network/",
    "crates/replica-manager/",
    "crates/rpc/",
    "tests/simulation/",
];

/// All source and text files below `directory`, without build results, test data and hidden folders.
fn text_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "data", "testdata"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            text_files(&path, files)?;
        } else if name == "Makefile"
            || path.extension().is_some_and(|extension| {
                ["rs", "md", "proto", "sh", "py", "toml", "yml", "java", "xml"].iter().any(|known| *known == extension)
            })
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Lines that cannot be broken: tables of Markdown, and lines of code with a text (Kafka's texts stay whole, so that a
/// search finds them).
fn may_be_wide(path: &Path, line: &str) -> bool {
    let line = line.trim_start();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => line.starts_with('|'),
        Some("rs") => (line.contains('"') || line.ends_with('\\')) && !line.starts_with("//"),
        _ => false,
    }
}

#[test]
fn no_line_is_wider_than_a_screen() -> Result<()> {
    let mut files = Vec::new();
    text_files(&root(), &mut files)?;
    for path in &files {
        let name = path.strip_prefix(root())?.to_string_lossy();
        if STILL_WIDER.iter().any(|wider| name.starts_with(wider)) {
            continue;
        }
        let text = fs::read_to_string(path)?;
        for (index, line) in text.lines().enumerate() {
            ensure!(
                line.chars().count() <= COLUMNS_MAX || may_be_wide(path, line),
                "{name}:{} is wider than {COLUMNS_MAX} columns",
                index + 1
            );
        }
    }
    Ok(())
}
