//! Documents that name things of the code are checked against it.

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
