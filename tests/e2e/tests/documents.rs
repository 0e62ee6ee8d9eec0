//! Checks of the documents against the code, and of the width of lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::clients::run_script;

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
        for rest in text.split("fn scenario_").skip(1) {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            ensure!(digits == 0 || digits == 2, "{}: a scenario's number has two digits", file.display());
        }
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

/// Lines that cannot be broken: tables of Markdown, the path of one name, and lines of code with a text (Kafka's texts
/// stay whole, so that a search finds them).
fn may_be_wide(path: &Path, line: &str) -> bool {
    let line = line.trim_start();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => line.starts_with('|'),
        Some("rs") => {
            let is_text = line.contains('"') || line.ends_with('\\');
            (is_text && !line.starts_with("//")) || line.starts_with("use ")
        }
        _ => false,
    }
}

#[test]
fn no_line_is_wider_than_a_screen() -> Result<()> {
    let mut files = Vec::new();
    text_files(&root(), &mut files)?;
    for path in &files {
        let name = path.strip_prefix(root())?.to_string_lossy();
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

/// The metrics that dashboards and alerts ask for are those that `docs/metrics.md` lists.
#[test]
fn monitoring_asks_for_metrics_that_exist() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/metrics.md"))?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `ottla_")?.split_once('`'));
    let known: Vec<String> = rows.map(|(name, _)| format!("ottla_{name}")).collect();
    ensure!(!known.is_empty(), "docs/metrics.md lists no metric");
    for file in ["alerts.yml", "grafana-dashboard.json"] {
        let text = fs::read_to_string(root().join("deploy/monitoring").join(file))?;
        let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let mut asked = 0;
        for name in text.split(|character: char| !is_name(character)).filter(|word| word.starts_with("ottla_")) {
            let histogram = name.strip_suffix("_bucket").unwrap_or(name);
            ensure!(known.iter().any(|known| known == histogram), "{file} asks for {name}, which no service has");
            asked += 1;
        }
        ensure!(asked > 0, "{file} asks for nothing");
    }
    Ok(())
}

/// The log lines that `docs/operations.md` explains are those that the services write. `…` stands for what differs.
#[test]
fn explained_log_lines_are_in_the_code() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/operations.md"))?;
    let (_, section) = page.split_once("\n## Log lines\n").context("docs/operations.md has no section of log lines")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let explained: Vec<&str> =
        section.lines().filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0)).collect();
    ensure!(explained.len() > 20, "{explained:?}");
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files)?;
    let mut code = String::new();
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        code += &fs::read_to_string(file)?;
    }
    for line in explained {
        let parts = || line.split('…').filter(|part| !part.is_empty());
        let is_written = code.lines().any(|source| {
            let mut rest = source;
            parts().all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        });
        ensure!(is_written && parts().count() > 0, "docs/operations.md explains `{line}`, which no service writes");
    }
    Ok(())
}

/// The manifests of `deploy/kubernetes` fit Kubernetes' schemas.
#[test]
fn kubernetes_would_take_the_manifests() -> Result<()> {
    let folder = root().join("deploy/kubernetes");
    let files = ["coordinators.yaml", "brokers.yaml"].map(|file| folder.join(file).display().to_string());
    let objects = run_script("validate_kubernetes.py", &[&files[0], &files[1]])?;
    ensure!(objects.trim() == "7", "{objects}");
    Ok(())
}

/// `{a,b}` in a path stands for both.
fn expanded(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => names.split(',').map(|name| format!("{before}{name}{after}")).collect(),
        None => vec![path.to_owned()],
    }
}

/// Where to find an answer: each file of the table is there, and has the functions that its row names.
#[test]
fn architecture_names_files_and_functions_that_exist() -> Result<()> {
    let crates = root().join("crates");
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md"))?;
    let (_, table) = text.split_once("## Where to find an answer").context("the table")?;
    let (table, _) = table.split_once("\n## ").context("its end")?;
    let (mut files, mut functions) = (0, 0);
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let words: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let mut sources = String::new();
        for path in words.iter().filter(|word| word.contains("/src/")).flat_map(|word| expanded(word)) {
            let found = crates.join(&path);
            ensure!(found.exists(), "{path} is not there: {row}");
            files += 1;
            if found.is_file() {
                sources.push_str(&fs::read_to_string(found)?);
            }
        }
        let is_function = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        for function in words.into_iter().filter(is_function) {
            let exists = ["(", "<"].iter().any(|next| sources.contains(&format!("fn {function}{next}")));
            ensure!(exists, "no function {function}: {row}");
            functions += 1;
        }
    }
    ensure!(files > 50 && functions > 10, "{files} files, {functions} functions");
    Ok(())
}
