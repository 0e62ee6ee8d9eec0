//! Ports for the servers of a test.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Below the ports that Linux gives to outgoing connections (`ip_local_port_range`, from 32768): one of those would
/// take the port of a process that a test kills and starts again. Above the ports of usual services.
const FIRST: u16 = 10_000;
const END: u16 = 32_700;
/// More are tried only where nearly all are taken.
const TRIES_MAX: usize = 10_000;

/// Where `ottla local` has its first three brokers and coordinators for clients, each other and metrics
/// (crates/cli/src/local/layout.rs): its tests start them beside other tests.
fn is_of_local(port: u16) -> bool {
    matches!(port, 19_091..=19_093 | 20_001..=20_003 | 21_001..=21_003 | 22_181 | 29_092 | 32_181)
}

/// Names of the ports that this process has chosen. The kernel frees them with the process, also when it is killed.
static CHOSEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Ports of 127.0.0.1 that nothing listens on. No other test gets them as long as this process lives, so that a server
/// may be stopped and started again.
///
/// # Errors
///
/// When there are not as many.
pub fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let mut ports = Vec::with_capacity(count);
    for _ in 0..TRIES_MAX {
        if ports.len() == count {
            return Ok(ports);
        }
        let random = RandomState::new().build_hasher().finish();
        let port = FIRST + (random % u64::from(END - FIRST)) as u16;
        if is_of_local(port) {
            continue;
        }
        let name = SocketAddr::from_abstract_name(format!("ottla-test-port-{port}"))?;
        let Ok(chosen) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            CHOSEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(chosen);
            ports.push(port);
        }
    }
    Err(std::io::Error::other(format!("{} of {count} free ports were found", ports.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_is_free() {
        let mut ports = free_ports(500).expect("500 of some 22,000");
        for port in &ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("nothing listens");
        }
        assert!(!ports.iter().any(|port| is_of_local(*port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 500);
    }
}
