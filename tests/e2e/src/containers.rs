//! Deployments in containers: the images of the release binaries, and projects of docker-compose.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::clients::{have, run};
use crate::cluster::binary;
use crate::wait;

/// A service, a command in its container, and a text that its output must have.
pub type Check = (&'static str, &'static str, &'static str);

/// Runs `docker`.
pub fn docker(arguments: &[&str]) -> Result<String> {
    run(Command::new("docker").args(arguments))
}

/// Makes the images with this tag from the binaries under test.
pub fn make_images(tag: &str) -> Result<()> {
    let bin = binary("ottla")?;
    let bin = bin.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/images.sh");
    run(Command::new("bash").arg(script).env("OTTLA_BIN_DIR", bin).env("OTTLA_VERSION", tag))?;
    Ok(())
}

/// Whether a container engine answers; else the test is skipped.
pub fn has_engine() -> bool {
    let answers = have("docker") && docker(&["version"]).is_ok();
    if !answers {
        ottla_test_support::skipped("no container engine answers");
    }
    answers
}

/// A deployment that is up; taken down whatever happens.
pub struct Deployment {
    pub project: String,
    pub file: String,
    pub environment: Vec<(String, String)>,
}

impl Deployment {
    pub fn compose(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("docker-compose")
            .args(["-p", &self.project, "-f", &self.file])
            .args(arguments)
            .envs(self.environment.iter().cloned()))
    }

    /// The container of a service.
    pub fn container(&self, service: &str) -> Result<String> {
        Ok(self.compose(&["ps", "-q", service])?.trim().to_owned())
    }

    /// Waits until each check holds.
    pub fn becomes(&self, checks: &[Check]) -> Result<()> {
        for (service, command, expected) in checks {
            let seen = wait::until_ok(&format!("{}: {service}: {command}", self.file), || {
                let said = self.compose(&["exec", "-T", service, "sh", "-c", command])?;
                ensure!(said.contains(expected), "it lacks {expected:?}: {said}");
                Ok(())
            });
            seen.with_context(|| self.compose(&["logs", "--tail", "20"]).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.compose(&["down", "-v", "-t", "10"]);
    }
}

/// Whether docker-compose and a container engine are there; else the test is skipped.
pub fn has_compose() -> bool {
    if !has_engine() {
        return false;
    }
    let is_there = have("docker-compose");
    if !is_there {
        ottla_test_support::skipped("docker-compose is not installed");
    }
    is_there
}
