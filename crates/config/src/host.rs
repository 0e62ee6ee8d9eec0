//! What the configuration must know about this machine: its name, and which addresses are its own.

use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

/// This machine, as far as deriving listeners needs it. Tests put another one in.
#[derive(Clone)]
pub struct Host {
    name: String,
    owns: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

impl Host {
    /// The machine that the process runs on.
    pub fn this() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // The kernel lets a socket bind only to an address that an interface has.
        Self::new(name, |address| UdpSocket::bind((address, 0)).is_ok())
    }

    pub fn new(name: impl Into<String>, owns: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { name: name.into(), owns: Arc::new(owns) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a socket of this machine can bind to `address`.
    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_unspecified() || (self.owns)(address)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}
