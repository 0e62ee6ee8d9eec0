//! The quotas of clients on this broker: limits from the image, use by client, and the wait that a client is told.
//!
//! Without any limit a request costs a comparison of two pointers.

pub mod connections;
pub mod entity;
pub mod throttle;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_metadata::quota_config::{self, QuotaKind};
use ottla_metadata::{ConfigKind, Image};
use ottla_network::RequestContext;
use ottla_quotas::{Charge, Client, Entity, Limits, Name, Quotas, Windows};
use ottla_replica_manager::clock;
use ottla_replica_manager::metadata_cache::MetadataCache;
use parking_lot::Mutex;

pub struct ClientQuotas {
    metadata: Arc<MetadataCache>,
    windows: Windows,
    controller_windows: Windows,
    known: ArcSwap<Known>,
    quotas: Mutex<ByKind>,
}

/// The image that the limits are from, and whether it has any.
struct Known {
    image: Arc<Image>,
    is_empty: bool,
}

#[derive(Default)]
struct ByKind {
    produce: Quotas,
    fetch: Quotas,
    request: Quotas,
    changes: Quotas,
    /// By address instead of the client id.
    connections: Quotas,
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct Sender {
    user: Arc<str>,
    client_id: String,
}

impl Sender {
    pub fn new(context: &RequestContext, client_id: Option<&str>) -> Self {
        Self { user: Arc::clone(&context.principal.name), client_id: client_id.unwrap_or_default().to_owned() }
    }

    fn client(&self) -> Client<'_> {
        Client { user: &self.user, client_id: &self.client_id }
    }
}

impl ClientQuotas {
    pub fn new(config: &BrokerConfig, metadata: &Arc<MetadataCache>) -> Arc<Self> {
        let windows = |count, length| Windows { count, length };
        Arc::new(Self {
            metadata: Arc::clone(metadata),
            windows: windows(config.quota_window_num, config.quota_window_size),
            controller_windows: windows(config.controller_quota_window_num, config.controller_quota_window_size),
            known: ArcSwap::from_pointee(Known { image: Arc::new(Image::empty()), is_empty: true }),
            quotas: Mutex::default(),
        })
    }

    /// Whether somebody has a limit now.
    fn are_set(&self) -> bool {
        let known = self.known.load();
        if self.metadata.peek().shares_configs(&known.image) {
            return !known.is_empty;
        }
        drop(known);
        self.reload()
    }

    fn reload(&self) -> bool {
        let image = self.metadata.current();
        let mut quotas = self.quotas.lock();
        let mut is_empty = true;
        for kind in QuotaKind::ALL {
            let limits = limits(&image, kind);
            is_empty &= limits.is_empty();
            quotas.of(kind).set_limits(limits);
        }
        self.known.store(Arc::new(Known { image, is_empty }));
        !is_empty
    }

    fn charge(&self, kind: QuotaKind, client: Client<'_>, amount: f64) -> Duration {
        self.quotas.lock().of(kind).charge(self.windows, clock::monotonic(), client, amount).wait()
    }

    /// Counts records that a client sent; how long it has to wait.
    pub fn produced(&self, context: &RequestContext, client_id: Option<&str>, bytes: usize) -> Duration {
        match self.are_set() {
            true => {
                let sender = Sender::new(context, client_id);
                self.charge(QuotaKind::ProducerByteRate, sender.client(), bytes as f64)
            }
            false => Duration::ZERO,
        }
    }

    /// Counts a response to a consumer.
    pub fn fetched(&self, context: &RequestContext, client_id: Option<&str>, bytes: usize) -> Duration {
        match self.are_set() {
            true => {
                let sender = Sender::new(context, client_id);
                self.charge(QuotaKind::ConsumerByteRate, sender.client(), bytes as f64)
            }
            false => Duration::ZERO,
        }
    }

    /// The most that one fetch may return: as much as the consumer may have within all windows, so that no response
    /// makes it wait longer than that.
    pub fn fetch_bytes_max(&self, context: &RequestContext, client_id: Option<&str>) -> Option<usize> {
        if !self.are_set() {
            return None;
        }
        let sender = Sender::new(context, client_id);
        let limit = self.quotas.lock().fetch.limit(sender.client())?;
        Some(self.windows.most(limit).min(i32::MAX.into()) as usize)
    }

    /// Who is to be charged for the time of a request; none if nobody has a limit.
    pub fn timed(&self, context: &RequestContext, client_id: Option<&str>) -> Option<Sender> {
        self.are_set().then(|| Sender::new(context, client_id))
    }

    /// Counts the time that a request took of a worker: percents of one. A client waits for one window at most.
    pub fn took(&self, sender: &Sender, time: Duration) -> Duration {
        let percents = time.as_secs_f64() * 100.0;
        self.charge(QuotaKind::RequestPercentage, sender.client(), percents).min(self.windows.length)
    }

    /// Counts partitions that a client creates or deletes.
    ///
    /// # Errors
    /// The change is refused; how long the client has to wait.
    pub fn changes(
        &self,
        context: &RequestContext,
        client_id: Option<&str>,
        partitions: usize,
        is_strict: bool,
    ) -> Result<Duration, Duration> {
        if !self.are_set() {
            return Ok(Duration::ZERO);
        }
        let sender = Sender::new(context, client_id);
        let (windows, now) = (self.controller_windows, clock::monotonic());
        let charged = self.quotas.lock().changes.change(windows, now, sender.client(), partitions as f64, is_strict);
        charged.map(Charge::wait)
    }

    /// Whether an address may open a connection now. One that is refused does not count.
    pub fn admits(&self, address: IpAddr) -> bool {
        if !self.are_set() {
            return true;
        }
        let (network, address) = (neighbourhood(address).to_string(), address.to_string());
        let client = Client { user: &network, client_id: &address };
        let is_within = self.charge(QuotaKind::ConnectionCreationRate, client, 1.0).is_zero();
        if !is_within {
            self.charge(QuotaKind::ConnectionCreationRate, client, -1.0);
        }
        is_within
    }
}

/// With whom an address shares an account once there are too many accounts: strangers who have filled them all, which
/// takes one customer's IPv6 network, must not use up what others may.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 80)).into(),
    }
}

impl ByKind {
    fn of(&mut self, kind: QuotaKind) -> &mut Quotas {
        match kind {
            QuotaKind::ProducerByteRate => &mut self.produce,
            QuotaKind::ConsumerByteRate => &mut self.fetch,
            QuotaKind::RequestPercentage => &mut self.request,
            QuotaKind::ControllerMutationRate => &mut self.changes,
            QuotaKind::ConnectionCreationRate => &mut self.connections,
        }
    }
}

/// The limits of one kind in an image. A value that cannot be read is none.
fn limits(image: &Image, kind: QuotaKind) -> Limits {
    let name = |text: &str| match text {
        ottla_metadata::nodes::config::DEFAULT_ENTITY => Name::Default,
        text => Name::Is(text.to_owned()),
    };
    let mut limits = Limits::default();
    for (entity, config) in image.quota_configs() {
        let value = config.entries.get(kind.as_str()).and_then(|value| quota_config::parse(kind, value).ok());
        let Some(value) = value.filter(|_| kind.is_for(entity.kind)) else { continue };
        let (user, client) = match entity.kind {
            ConfigKind::Users => (Some(name(&entity.name)), None),
            ConfigKind::Clients | ConfigKind::Ips => (None, Some(name(&entity.name))),
            ConfigKind::UserClients => match entity.as_user_client() {
                Some((user, client)) => (Some(name(&user)), Some(name(&client))),
                None => continue,
            },
            ConfigKind::Topics | ConfigKind::Brokers | ConfigKind::Groups | ConfigKind::ClientMetrics => continue,
        };
        limits.set(Entity { user, client }, value);
    }
    limits
}
