//! A listener that passes everything on to another one and counts the connections.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;

/// It ends with this value.
pub struct CountingProxy {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl CountingProxy {
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (accepted, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let proxy = Self { address, accepted: accepted.clone(), ended: ended.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                accepted.fetch_add(1, Ordering::AcqRel);
                // A broker that does not answer shows as a connection that ends.
                let _ = relay(client, target);
            }
        });
        Ok(proxy)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn relay(client: TcpStream, target: SocketAddr) -> Result<()> {
    let broker = TcpStream::connect(target)?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    let (from_client, from_broker) = (client.try_clone()?, broker.try_clone()?);
    std::thread::spawn(move || pump(from_client, broker));
    std::thread::spawn(move || pump(from_broker, client));
    Ok(())
}

/// A connection that is closed or reset at one end is so at the other.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                if to.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            Err(_) => {
                // The last of the two that drops the socket resets the connection; what the other one reads ends.
                let _ = rustix::net::sockopt::set_socket_linger(&to, Some(Duration::ZERO));
                for stream in [&from, &to] {
                    let _ = stream.shutdown(Shutdown::Read);
                }
                return;
            }
        }
    }
}
