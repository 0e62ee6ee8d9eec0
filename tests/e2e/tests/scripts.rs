//! The start scripts and checks of other people's images, called by hand as their users do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use ottla_e2e::clients::run;
use ottla_e2e::cluster::binary;
use ottla_e2e::wait;
use ottla_test_support::free_ports;
use rustix::process::{Pid, Signal, kill_process};

/// A script by its name, as a link of that name would call it.
fn script(name: &str) -> Result<Command> {
    let mut command = Command::new(binary("ottla")?);
    command.args(["as", name]);
    Ok(command)
}

/// The processes that were started with this file.
fn processes_of(file: &Path) -> Vec<Pid> {
    let file = file.display().to_string();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let number: i32 = entry.file_name().to_string_lossy().parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|word| word == file.as_bytes()).then_some(number)
    });
    numbers.filter_map(Pid::from_raw).collect()
}

/// Ends what was started in the background, whatever happens.
struct Background(PathBuf);

impl Drop for Background {
    fn drop(&mut self) {
        for process in processes_of(&self.0) {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

#[test]
fn a_coordinator_in_the_background_is_found_by_zookeepers_scripts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let port = free_ports(1)?[0];
    let file = path("zoo.cfg");
    fs::write(&file, format!("clientPort={port}\ndataDir={}\n", path("data").display()))?;
    let status = || run(script("zkServer.sh")?.arg("status").arg(&file));
    ensure!(status().is_err(), "nothing runs yet");

    let _background = Background(file.clone());
    // The script returns while what it started runs.
    run(script("zookeeper-server-start.sh")?.arg("-daemon").arg(&file).env("LOG_DIR", path("logs")))?;
    wait::until_ok("the coordinator serves", || {
        let told = status()?;
        ensure!(told.contains("Mode: standalone"), "{told}");
        Ok(())
    })?;
    ensure!(processes_of(&file).len() == 1, "one process of its own");
    wait::until_ok("its lines are where Kafka's script has them", || {
        let log = fs::read_to_string(path("logs/zookeeper.out"))?;
        ensure!(log.contains(&format!("binding to port 0.0.0.0:{port}")), "{log}");
        Ok(())
    })?;

    let server = format!("127.0.0.1:{port}");
    let shell = binary("ottla")?.display().to_string();
    let lines = format!("printf 'get /no/such\n\nls /\nls /cluster\nquit\n' | {shell} as zookeeper-shell \"$0\"");
    wait::until_ok("the tree has the cluster's id", || {
        let told = run(Command::new("sh").arg("-c").arg(&lines).arg(&server))?;
        ensure!(told.contains("cluster") && told.contains("[id]"), "{told}");
        let told = run(script("zkCli.sh")?.args(["-server", server.as_str(), "ls", "/cluster"]))?;
        ensure!(told.contains("[id]"), "{told}");
        Ok(())
    })
}
