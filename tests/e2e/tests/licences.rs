//! Licences and sources of everything that the lock file holds, against `deny.toml`. cargo-deny checks more where it is
//! installed; this needs neither it nor a network.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
const DENY: &str = include_str!("../../../deny.toml");
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn packages() -> Result<Vec<Value>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--manifest-path", MANIFEST])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().context("packages")?.clone())
}

/// The strings of a `key = [ … ]` list of `deny.toml`.
fn list(key: &str) -> Result<BTreeSet<String>> {
    let start = DENY.lines().position(|line| line.trim() == format!("{key} = [")).context("the list in deny.toml")?;
    Ok(DENY
        .lines()
        .skip(start + 1)
        .take_while(|line| line.trim() != "]")
        .filter_map(|line| line.trim().strip_prefix('"')?.split('"').next().map(str::to_owned))
        .collect())
}

/// Whether an SPDX expression can be met with the allowed licences alone.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = alternatives(&tokens, &mut at, allowed)?;
    ensure!(at == tokens.len(), "{expression} goes on after its end");
    Ok(met)
}

fn alternatives(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool> {
    let mut met = together(tokens, at, allowed)?;
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= together(tokens, at, allowed)?;
    }
    Ok(met)
}

fn together(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool> {
    let mut met = one(tokens, at, allowed)?;
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed)?;
    }
    Ok(met)
}

fn one(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool> {
    // `MPL-2.0+` is that version or a later one: that version will do.
    let token = tokens.get(*at).context("the expression ends too early")?.trim_end_matches('+');
    *at += 1;
    if token == "(" {
        let met = alternatives(tokens, at, allowed)?;
        ensure!(tokens.get(*at) == Some(&")"), "a bracket is missing");
        *at += 1;
        return Ok(met);
    }
    if tokens.get(*at) == Some(&"WITH") {
        let exception = tokens.get(*at + 1).context("WITH what?")?;
        *at += 2;
        return Ok(allowed.contains(&format!("{token} WITH {exception}")) || allowed.contains(token));
    }
    Ok(allowed.contains(token))
}

#[test]
fn everything_is_licensed_as_we_may_use_it() -> Result<()> {
    let allowed = list("allow")?;
    let mut refused = Vec::new();
    for package in packages()? {
        let name =
            format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        match package["license"].as_str() {
            Some(licence) if is_met(licence, &allowed)? => {}
            Some(licence) => refused.push(format!("{name}: {licence}")),
            None => refused.push(format!("{name}: names no licence")),
        }
    }
    if !refused.is_empty() {
        bail!("not allowed by deny.toml:\n{}", refused.join("\n"));
    }
    Ok(())
}

#[test]
fn everything_comes_from_the_registry() -> Result<()> {
    for package in packages()? {
        let source = package["source"].as_str();
        ensure!(source.is_none_or(|source| source == CRATES_IO), "{} comes from {source:?}", package["name"]);
    }
    Ok(())
}

#[test]
fn expressions_are_read_as_spdx_means_them() -> Result<()> {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned).into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(GPL-2.0 OR LGPL-2.1) AND MIT", false),
        ("MIT/Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
    ] {
        ensure!(is_met(expression, &allowed)? == met, "{expression}");
    }
    Ok(())
}
