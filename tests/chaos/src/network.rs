//! A network whose links are lossy, slow, out of order or cut in one direction: each process has a network namespace
//! with a TUN device, and this program carries the packets between them. No kernel module for that (netem) is needed.
//!
//! A link is one direction between two hosts. What is lost or cut vanishes without a word, as on a real network: no
//! refusal, no reset.

use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};
use ottla_e2e::{Cluster, Host, Node, clients};
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::security::{self, Clients};

const DEVICE: &str = "ottla0";
const MTU: usize = 9_000;
/// The most packets that are on their way: what comes beyond is dropped, as a switch does.
const DELAYED_MAX: usize = 50_000;
/// How often those that read packets look whether the network is gone.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Where a packet of IPv4 has the last byte of its destination.
const DESTINATION: usize = 19;

/// A host: a process of the cluster, or the clients, which share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    Node(Node),
    Clients,
}

/// What one direction between two hosts does to packets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// The share of packets that are lost.
    pub loss: f64,
    pub delay: Duration,
    /// Each packet is delayed by up to this much more, for itself: they overtake each other.
    pub jitter: Duration,
}

impl Link {
    pub const CUT: Self = Self::lossy(1.0);

    pub const fn lossy(loss: f64) -> Self {
        Self { loss, delay: Duration::ZERO, jitter: Duration::ZERO }
    }

    pub const fn slow(delay: Duration, jitter: Duration) -> Self {
        Self { loss: 0.0, delay, jitter }
    }
}

type Octet = u8;

struct Delayed {
    due: Instant,
    number: u64,
    to: Octet,
    packet: Vec<u8>,
}

/// The heap gives the greatest first: the one that is due first.
impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Delayed {}

struct Switch {
    devices: BTreeMap<Octet, File>,
    links: Mutex<BTreeMap<(Octet, Octet), Link>>,
    random: Mutex<StdRng>,
    delayed: Mutex<(u64, BinaryHeap<Delayed>)>,
    is_sooner: Condvar,
    is_gone: AtomicBool,
}

impl Switch {
    fn carry(&self, from: Octet, packet: &[u8]) {
        let Some(to) = packet.get(DESTINATION).copied() else { return };
        let Some(link) = self.links.lock().get(&(from, to)).copied() else { return self.deliver(to, packet) };
        let (is_lost, jitter) = {
            let mut random = self.random.lock();
            (random.random_bool(link.loss), link.jitter.mul_f64(random.random()))
        };
        if is_lost {
            return;
        }
        let mut delayed = self.delayed.lock();
        let (last, packets) = &mut *delayed;
        if packets.len() < DELAYED_MAX {
            *last += 1;
            let due = Instant::now() + link.delay + jitter;
            packets.push(Delayed { due, number: *last, to, packet: packet.to_owned() });
            self.is_sooner.notify_one();
        }
    }

    /// Nobody waits for a packet: a device that is full drops it.
    fn deliver(&self, to: Octet, packet: &[u8]) {
        if let Some(mut device) = self.devices.get(&to) {
            let _ = device.write(packet);
        }
    }

    fn read(&self, from: Octet) {
        let Some(mut device) = self.devices.get(&from) else { return };
        let mut packet = vec![0; MTU];
        while !self.is_gone.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(device, PollFlags::IN)];
            if poll(&mut ready, Some(&LOOK)).is_ok_and(|count| count > 0)
                && let Ok(length) = device.read(&mut packet)
            {
                self.carry(from, packet.get(..length).unwrap_or_default());
            }
        }
    }

    fn deliver_delayed(&self) {
        let mut delayed = self.delayed.lock();
        while !self.is_gone.load(Ordering::Relaxed) {
            let now = Instant::now();
            match delayed.1.peek().map(|first| first.due) {
                Some(due) if due <= now => {
                    if let Some(first) = delayed.1.pop() {
                        self.deliver(first.to, &first.packet);
                    }
                }
                Some(due) => drop(self.is_sooner.wait_for(&mut delayed, due - now)),
                None => drop(self.is_sooner.wait_for(&mut delayed, Duration::from_millis(100))),
            }
        }
    }
}

/// A namespace, and the end of its device here.
struct Made {
    namespace: File,
    device: File,
}

/// The request of the kernel for a TUN device (`struct ifreq`).
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    unused: [u8; 22],
}

const TUN_WITHOUT_HEADER: u16 = 0x1001;

nix::ioctl_write_ptr_bad!(tunsetiff, nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()), DeviceRequest);

fn ip(arguments: &str) -> Result<()> {
    clients::run(Command::new("ip").args(arguments.split(' '))).map(drop)
}

/// On a thread of its own: the namespace is the thread's, and stays as long as somebody holds it.
fn make(address: Ipv4Addr) -> Result<Made> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = DeviceRequest { name: [0; 16], flags: TUN_WITHOUT_HEADER, unused: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(DEVICE.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes one ifreq (40 bytes), which lives during the call.
    unsafe { tunsetiff(device.as_raw_fd(), &raw const request) }?;
    rustix::io::ioctl_fionbio(&device, true)?;
    ip("link set lo up")?;
    ip(&format!("address add {address}/24 dev {DEVICE}"))?;
    ip(&format!("link set {DEVICE} up mtu {MTU}"))?;
    Ok(Made { namespace: File::open("/proc/thread-self/ns/net")?, device })
}

/// Hosts and the links between them. Dropping it ends the links; the namespaces end with the last process in them.
pub struct Network {
    hosts: BTreeMap<Place, (Octet, File)>,
    switch: Arc<Switch>,
}

impl Network {
    /// The calling thread, and what it starts, is at [`Place::Clients`] from now on. None, and a note of the skipped
    /// test, where nobody may make namespaces and devices.
    pub fn join(nodes: &[Node], seed: u64) -> Result<Option<Self>> {
        let (mut hosts, mut devices) = (BTreeMap::new(), BTreeMap::new());
        let places = nodes.iter().copied().map(Place::Node).chain([Place::Clients]);
        for (place, octet) in places.zip(1..) {
            let making = std::thread::spawn(move || make(Self::address(octet)));
            match making.join().map_err(|_| anyhow::anyhow!("the thread of a namespace panicked"))? {
                Ok(Made { namespace, device }) => {
                    hosts.insert(place, (octet, namespace));
                    devices.insert(octet, device);
                }
                Err(error) => {
                    ottla_test_support::skipped(&format!("no network namespace with a TUN device: {error:#}"));
                    return Ok(None);
                }
            }
        }
        let (_, clients) = hosts.get(&Place::Clients).context("a place for clients")?;
        setns(clients.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let octets: Vec<Octet> = devices.keys().copied().collect();
        let switch = Arc::new(Switch {
            devices,
            links: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            delayed: Mutex::default(),
            is_sooner: Condvar::new(),
            is_gone: AtomicBool::new(false),
        });
        for octet in octets {
            let switch = switch.clone();
            std::thread::spawn(move || switch.read(octet));
        }
        let delaying = switch.clone();
        std::thread::spawn(move || delaying.deliver_delayed());
        Ok(Some(Self { hosts, switch }))
    }

    fn address(octet: Octet) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, octet)
    }

    /// Where the processes of a cluster run.
    pub fn hosts(&self) -> BTreeMap<Node, Host> {
        let host = |(place, (octet, namespace)): (&Place, &(Octet, File))| {
            let Place::Node(node) = place else { return None };
            let namespace = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
            Some((*node, Host { address: Self::address(*octet), namespace }))
        };
        self.hosts.iter().filter_map(host).collect()
    }

    pub fn places(&self) -> Vec<Place> {
        self.hosts.keys().copied().collect()
    }

    fn octet(&self, place: Place) -> Octet {
        self.hosts.get(&place).map_or(0, |(octet, _)| *octet)
    }

    /// One direction.
    pub fn set(&self, from: Place, to: Place, link: Link) {
        self.switch.links.lock().insert((self.octet(from), self.octet(to)), link);
    }

    /// Both directions between the place and all others that `with` names.
    pub fn set_both(&self, place: Place, with: impl Fn(Place) -> bool, link: Link) {
        for other in self.places().into_iter().filter(|other| *other != place && with(*other)) {
            self.set(place, other, link);
            self.set(other, place, link);
        }
    }

    pub fn heal(&self) {
        self.switch.links.lock().clear();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.switch.is_gone.store(true, Ordering::Relaxed);
        self.switch.is_sooner.notify_all();
    }
}

/// The place of a process of the cluster.
impl From<Node> for Place {
    fn from(node: Node) -> Self {
        Self::Node(node)
    }
}

/// A cluster whose processes have hosts of their own, with the network between them. The seed is that of the lost
/// packets, and tells whether there is security.
pub fn networked_cluster(seed: u64) -> Result<Option<(Cluster, Clients, Network)>> {
    let mut options = ottla_e2e::ClusterOptions::default();
    let coordinators = (1..=options.coordinators).map(Node::Coordinator);
    let nodes: Vec<Node> = coordinators.chain((1..=options.brokers).map(Node::Broker)).collect();
    let Some(network) = Network::join(&nodes, seed)? else { return Ok(None) };
    options.hosts = network.hosts();
    let (cluster, clients) = security::start(options, seed)?;
    Ok(Some((cluster, clients, network)))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;

    use super::*;

    const ONE: Place = Place::Node(Node::Broker(1));
    /// What comes has this time: threads carry it, and a busy machine may let them wait.
    const ARRIVAL_MAX: Duration = Duration::from_secs(20);
    /// What does not come is waited for as long.
    const SILENCE: Duration = Duration::from_secs(1);

    /// A socket at the host of broker 1, and one of the clients.
    fn sockets(network: &Network) -> Result<(UdpSocket, UdpSocket)> {
        let (octet, namespace) = network.hosts.get(&ONE).context("a host")?;
        let (at, namespace) = (Network::address(*octet), namespace.try_clone()?);
        let bound = std::thread::spawn(move || -> Result<UdpSocket> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind((at, 1_000))?)
        });
        let one = bound.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        let client = UdpSocket::bind((Network::address(2), 1_000))?;
        one.connect((Network::address(2), 1_000))?;
        client.connect((at, 1_000))?;
        Ok((one, client))
    }

    fn received_within(socket: &UdpSocket, time: Duration) -> Result<Option<String>> {
        socket.set_read_timeout(Some(time))?;
        let mut packet = [0; 100];
        match socket.recv(&mut packet) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(packet.get(..length).unwrap_or_default()).into_owned())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn received(socket: &UdpSocket) -> Result<Option<String>> {
        received_within(socket, ARRIVAL_MAX)
    }

    #[test]
    fn a_link_is_cut_in_one_direction_loses_delays_and_reorders() -> Result<()> {
        let Some(network) = Network::join(&[Node::Broker(1)], 1)? else { return Ok(()) };
        let (one, client) = sockets(&network)?;
        one.send(b"a")?;
        client.send(b"b")?;
        assert_eq!((received(&client)?, received(&one)?), (Some("a".to_owned()), Some("b".to_owned())));
        network.set(ONE, Place::Clients, Link::CUT);
        one.send(b"a")?;
        client.send(b"b")?;
        assert_eq!((received(&one)?, received_within(&client, SILENCE)?), (Some("b".to_owned()), None));
        network.set(ONE, Place::Clients, Link::lossy(0.5));
        for _ in 0..100 {
            one.send(b"a")?;
        }
        let mut arrived = 0;
        while received_within(&client, SILENCE)?.is_some() {
            arrived += 1;
        }
        assert!((20..80).contains(&arrived), "{arrived} of 100");
        network.set(ONE, Place::Clients, Link::slow(Duration::from_millis(100), Duration::from_millis(50)));
        let begun = Instant::now();
        for number in 0..20 {
            one.send(&[b'a' + number])?;
        }
        let mut order = String::new();
        for _ in 0..20 {
            let letter = received(&client)?.context("all arrive")?;
            if order.is_empty() {
                assert!(begun.elapsed() >= Duration::from_millis(100));
            }
            order += &letter;
        }
        assert!(order.len() == 20 && order != "abcdefghijklmnopqrst", "{order}");
        network.heal();
        one.send(b"a")?;
        assert_eq!(received(&client)?, Some("a".to_owned()));
        Ok(())
    }
}
