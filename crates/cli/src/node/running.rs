//! Where the services of this container serve. `ottla start` leaves it in files, because a health check knows neither
//! the command line that started them nor what a script exported before.

use std::path::{Path, PathBuf};
use std::{fs, io};

use ottla_config::{HostPort, Service};

use super::user;

/// A service that was started, and how it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    pub process: u32,
    pub address: HostPort,
    /// Whether it answers without TLS and without a login.
    pub is_open: bool,
}

impl Running {
    /// One of this process.
    pub fn here(address: HostPort, is_open: bool) -> Self {
        Self { process: std::process::id(), address, is_open }
    }

    pub fn is_alive(&self) -> bool {
        Path::new("/proc").join(self.process.to_string()).exists()
    }

    fn text(&self) -> String {
        format!("{} {} {}\n", self.process, self.address, if self.is_open { "open" } else { "secure" })
    }

    fn parse(text: &str) -> Option<Self> {
        let [process, address, kind]: [&str; 3] = text.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        let address = HostPort::parse(address, None).ok()?;
        Some(Self { process: process.parse().ok()?, address, is_open: kind == "open" })
    }
}

/// The directory of the files; none outside of the images, where nodes that know nothing of each other share it.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(user::VARIABLE).map(|_| std::env::temp_dir())
}

fn file(directory: &Path, service: Service) -> PathBuf {
    directory.join(match service {
        Service::Broker => "ottla-broker.running",
        Service::Coordinator => "ottla-coordinator.running",
    })
}

pub fn remember(directory: &Path, service: Service, running: &Running) -> io::Result<()> {
    // A check never reads half a file.
    let unfinished = directory.join(format!("ottla.running.{}", running.process));
    fs::write(&unfinished, running.text())?;
    fs::rename(&unfinished, file(directory, service))
}

/// A service that ended as it was asked to is not missed.
pub fn forget(directory: &Path, service: Service) {
    // Nothing is there at a first start.
    let _ = fs::remove_file(file(directory, service));
}

pub fn recall(directory: &Path, service: Service) -> Option<Running> {
    Running::parse(&fs::read_to_string(file(directory, service)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_learns_what_a_start_left() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let directory = directory.path();
        assert_eq!(recall(directory, Service::Broker), None);
        let broker = Running::here(HostPort::new("::1", 19092), false);
        let coordinator = Running::here(HostPort::new("127.0.0.1", 2182), true);
        remember(directory, Service::Broker, &broker).expect("written");
        remember(directory, Service::Coordinator, &coordinator).expect("written");
        assert_eq!(recall(directory, Service::Broker), Some(broker.clone()));
        assert!(broker.is_alive() && !Running { process: u32::MAX, ..broker }.is_alive());
        forget(directory, Service::Broker);
        assert_eq!(recall(directory, Service::Broker), None);
        assert_eq!(recall(directory, Service::Coordinator), Some(coordinator));
    }
}
