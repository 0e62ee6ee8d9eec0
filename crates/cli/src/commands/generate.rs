//! `ottla generate`: completions of shells and manual pages, from the same table as `--help`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;

#[derive(Subcommand)]
pub enum GenerateCommand {
    /// The completion of a shell, to standard output
    Completions { shell: Shell },
    /// A manual page for each command, into a folder
    Man { folder: PathBuf },
}

pub fn run(command: GenerateCommand) -> Result<()> {
    let mut ottla = super::Arguments::command();
    match command {
        GenerateCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut ottla, "ottla", &mut script);
            crate::output::bytes(&script);
            crate::output::flush();
            Ok(())
        }
        GenerateCommand::Man { folder } => {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            clap_mangen::generate_to(ottla, &folder).with_context(|| folder.display().to_string())
        }
    }
}
