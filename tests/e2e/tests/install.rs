//! `make install PREFIX=…`: the binaries, the names of Kafka's tools, completions and manual
//! pages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::clients::run;
use ottla_e2e::cluster::binary;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn everything_is_installed_under_the_prefix() -> Result<()> {
    let ottla = binary("ottla")?;
    let binaries = ottla.parent().context("a folder")?;
    let prefix = tempfile::tempdir()?;
    // `-o build`: what is there is installed.
    run(Command::new("make")
        .args(["-o", "build", "install"])
        .current_dir(root())
        .args([format!("OTTLA_BIN_DIR={}", binaries.display()), format!("PREFIX={}", prefix.path().display())]))?;
    let bin = prefix.path().join("bin");
    for name in ["ottla-broker", "ottla-coordinator", "kafka-topics", "kafka-topics.sh", "kafka-dump-log"] {
        ensure!(bin.join(name).exists(), "{name} is not there");
    }
    let share = prefix.path().join("share");
    let zsh = std::fs::read_to_string(share.join("zsh/site-functions/_ottla"))?;
    ensure!(zsh.starts_with("#compdef ottla") && zsh.contains("'lag:"), "{zsh}");
    let fish = std::fs::read_to_string(share.join("fish/vendor_completions.d/ottla.fish"))?;
    ensure!(fish.contains("complete -c ottla"), "{fish}");
    for page in ["ottla.1", "ottla-topic.1", "ottla-topic-create.1", "ottla-group-lag.1"] {
        let text = std::fs::read_to_string(share.join("man/man1").join(page))?;
        ensure!(text.contains(".SH NAME") && text.contains("ottla"), "{page}: {text}");
    }
    let version = run(Command::new(bin.join("kafka-topics.sh")).arg("--version"))?;
    ensure!(version.contains("(Ottla)"), "{version}");

    let script = "
        . share/bash-completion/completions/kafka-topics
        reply() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _ottla; echo \"${COMPREPLY[*]}\"; }
        reply kafka-topics --create
        reply kafka-dump-log --offs
        reply ottla topi
        complete -p kafka-topics";
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let told = run(Command::new("bash").args(["-c", script]).current_dir(prefix.path()).env("PATH", path))?;
    let wanted = ["--create", "--offsets-decoder", "topic", "complete -o default -F _ottla kafka-topics"];
    ensure!(told.lines().eq(wanted), "{told}");
    Ok(())
}
