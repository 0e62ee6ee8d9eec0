//! All clients of one broker that ask for a subscription or push.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ClientInstanceId, MonotonicMs};

use crate::client::{Client, Identity, Refused};
use crate::page;
use crate::point::{Points, Series};
use crate::subscriptions::Subscriptions;

pub use crate::client::Push;
pub use crate::subscriptions::Asked as Subscribed;

/// Clients that are remembered, at 1 KiB each with long texts. The one that was silent for the longest time gives way
/// to a new one; it loses nothing but what is shown of it until its next push.
const CLIENTS_MAX: usize = 8_192;
/// What the series of all clients may take, with what a page says of their clients: those of ten clients with many
/// partitions, or of a thousand small ones. A page is not much larger.
const BYTES_MAX: usize = 12 * 1024 * 1024;
/// Silent clients are looked for at most so often: a look costs a step for each client.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How much is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    pub clients: usize,
    pub bytes: usize,
    pub bytes_max: usize,
    /// Values that were not shown, or not any longer, since the start.
    pub left_out: usize,
}

/// The series of one client, as a page shows them.
pub(crate) struct Shown {
    pub identity: Arc<Identity>,
    pub series: Arc<BTreeMap<Series, f64>>,
}

#[derive(Debug, Default)]
pub struct Clients {
    subscriptions: Subscriptions,
    subscriptions_version: u64,
    clients: BTreeMap<ClientInstanceId, Client>,
    /// The same clients by the time at which they were heard of last.
    by_silence: BTreeSet<(MonotonicMs, ClientInstanceId)>,
    bytes: usize,
    left_out: usize,
    swept_at: Option<MonotonicMs>,
}

impl Clients {
    /// From now on clients are asked for these.
    pub fn subscribe(&mut self, subscriptions: Subscriptions) {
        self.subscriptions = subscriptions;
        self.subscriptions_version += 1;
    }

    /// A client asks what it shall push.
    pub fn get(&mut self, now: MonotonicMs, connection_id: u64, identity: Identity) -> Result<Subscribed, Refused> {
        let client = self.client(now, connection_id, identity);
        client.get(now)?;
        Ok(client.asked.clone())
    }

    /// A client pushes. What it pushed of the metrics that it was asked for, which this returns, is given to
    /// [`Self::record`].
    pub fn check(
        &mut self,
        now: MonotonicMs,
        connection_id: u64,
        identity: Identity,
        push: &Push,
    ) -> Result<Arc<[String]>, Refused> {
        const RESERVED: [ClientInstanceId; 2] = [ClientInstanceId::ZERO, ClientInstanceId(1_u128.to_be_bytes())];
        if RESERVED.contains(&identity.instance_id) {
            return Err(Refused::NoInstance);
        }
        let client = self.client(now, connection_id, identity);
        client.push(now, push)?;
        Ok(Arc::clone(&client.asked.metrics))
    }

    /// The client, with what it is asked for by now.
    fn client(&mut self, now: MonotonicMs, connection_id: u64, identity: Identity) -> &mut Client {
        self.sweep(now);
        let id = identity.instance_id;
        if !self.clients.contains_key(&id)
            && self.clients.len() >= CLIENTS_MAX
            && let Some((_, silent)) = self.by_silence.first().copied()
        {
            self.forget(silent);
        }
        let version = self.subscriptions_version;
        let begin = |identity: Identity| {
            let asked = self.subscriptions.of_client(&identity);
            Client::new(identity, connection_id, asked, version)
        };
        let client = match self.clients.entry(id) {
            Entry::Vacant(vacant) => vacant.insert(begin(identity)),
            Entry::Occupied(known) => {
                let known = known.into_mut();
                self.by_silence.remove(&(known.heard_at, id));
                if known.connection_id != connection_id || known.subscriptions_version != version {
                    let before = std::mem::replace(known, begin(identity));
                    let count = before.series.len();
                    if page::bytes_beside(&known.identity, count) <= page::bytes_beside(&before.identity, count) {
                        // What it pushed before is still its own.
                        (known.series, known.series_bytes) = (before.series, before.series_bytes);
                    } else {
                        // It was counted with a shorter name, and is shown again with the next push.
                        self.bytes -= before.series_bytes;
                    }
                }
                known
            }
        };
        client.heard_at = now;
        self.by_silence.insert((now, id));
        client
    }

    /// Shows what a client pushed, instead of what it pushed before.
    pub fn record(&mut self, id: ClientInstanceId, points: Points) {
        self.left_out += points.left_out;
        let Some(client) = self.clients.get(&id) else { return };
        let before = Arc::clone(&client.series);
        self.bytes -= client.series_bytes;
        let bytes = points.bytes + page::bytes_beside(&client.identity, points.series.len());
        let has_room = self.make_room(id, bytes);
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !has_room {
            self.left_out += points.series.len();
            (client.series, client.series_bytes) = (Arc::default(), 0);
            return;
        }
        let sums = points.series.into_iter().map(|(series, (value, is_delta))| {
            let last = if is_delta { before.get(&series).copied().unwrap_or_default() } else { 0.0 };
            (series, last + value)
        });
        client.series = Arc::new(sums.collect());
        client.series_bytes = bytes;
        self.bytes += bytes;
    }

    /// Makes room for the series of a client: while there is none, the client that holds the most loses what it has,
    /// if that is more. False: there is no room.
    fn make_room(&mut self, id: ClientInstanceId, bytes: usize) -> bool {
        while self.bytes + bytes > BYTES_MAX {
            let others = self.clients.iter_mut().filter(|(other, _)| **other != id).map(|(_, other)| other);
            let Some(largest) = others.max_by_key(|other| other.series_bytes) else { return false };
            if largest.series_bytes <= bytes {
                return false;
            }
            self.left_out += largest.series.len();
            self.bytes -= largest.series_bytes;
            (largest.series, largest.series_bytes) = (Arc::default(), 0);
        }
        true
    }

    fn sweep(&mut self, now: MonotonicMs) {
        if self.swept_at.is_some_and(|swept| now.since(swept) < SWEEP_INTERVAL) {
            return;
        }
        self.swept_at = Some(now);
        let silent = |(id, client): (&ClientInstanceId, &Client)| {
            (now.since(client.heard_at) >= client.silence_max()).then_some(*id)
        };
        let silent: Vec<ClientInstanceId> = self.clients.iter().filter_map(silent).collect();
        for id in silent {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ClientInstanceId) {
        if let Some(client) = self.clients.remove(&id) {
            self.bytes -= client.series_bytes;
            self.by_silence.remove(&(client.heard_at, id));
        }
    }

    pub fn held(&self) -> Held {
        Held { clients: self.clients.len(), bytes: self.bytes, bytes_max: BYTES_MAX, left_out: self.left_out }
    }

    /// What clients pushed. The page is made by [`page::Page::render`], which needs no lock.
    pub fn page(&mut self, now: MonotonicMs) -> page::Page {
        self.sweep(now);
        let with_series = self.clients.values().filter(|client| !client.series.is_empty());
        let shown =
            |client: &Client| Shown { identity: Arc::clone(&client.identity), series: Arc::clone(&client.series) };
        page::Page::new(with_series.map(shown).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::identity;
    use crate::testing::{Metric, counter, gauge, payload};

    fn subscribed(metrics: &str) -> Clients {
        let mut clients = Clients::default();
        let set = [("metrics", metrics), ("interval.ms", "1000")];
        let set: BTreeMap<String, String> =
            set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        clients.subscribe(Subscriptions::of([&set]));
        clients
    }

    fn id(instance: u16) -> ClientInstanceId {
        let mut id = [7; 16];
        id[..2].copy_from_slice(&instance.to_be_bytes());
        ClientInstanceId(id)
    }

    fn client(instance: u16) -> Identity {
        Identity { instance_id: id(instance), ..identity(0, "app") }
    }

    fn push(subscription_id: i32) -> Push {
        Push { subscription_id, is_terminating: false, is_compression_known: true, bytes: 1, bytes_max: 1 }
    }

    fn pushed(clients: &mut Clients, at: u64, instance: u16, metrics: &[Metric]) {
        let asked = clients.subscriptions.of_client(&client(instance)).subscription_id;
        let asked = clients.check(MonotonicMs(at), 1, client(instance), &push(asked)).expect("in time");
        clients.record(id(instance), Points::read(&payload(&[], metrics), &asked).expect("a message"));
    }

    fn lines(clients: &mut Clients, at: u64) -> Vec<String> {
        let page = clients.page(MonotonicMs(at)).render();
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_client_learns_of_a_new_subscription_at_once() {
        let mut clients = subscribed("a");
        let first = clients.get(MonotonicMs(0), 1, client(1)).expect("in time");
        assert_eq!((&*first.metrics, first.interval_ms), (&["a".to_owned()][..], 1000));
        assert_eq!(clients.get(MonotonicMs(1), 1, client(1)), Err(Refused::Early));
        clients.subscribe(Subscriptions::default());
        let push = push(first.subscription_id);
        assert_eq!(clients.check(MonotonicMs(2), 1, client(1), &push), Err(Refused::UnknownSubscription));
        let second = clients.get(MonotonicMs(3), 1, client(1)).expect("at once");
        assert!(second.metrics.is_empty());
    }

    #[test]
    fn another_connection_begins_anew() {
        let mut clients = subscribed("a");
        assert!(clients.get(MonotonicMs(0), 1, client(1)).is_ok());
        assert!(clients.get(MonotonicMs(0), 2, client(1)).is_ok());
        assert_eq!(clients.held().clients, 1);
    }

    #[test]
    fn pushes_need_an_id() {
        let mut clients = subscribed("a");
        for reserved in [ClientInstanceId::ZERO, ClientInstanceId(1_u128.to_be_bytes())] {
            let identity = Identity { instance_id: reserved, ..client(1) };
            assert_eq!(clients.check(MonotonicMs(0), 1, identity, &push(0)), Err(Refused::NoInstance));
        }
        assert_eq!(clients.held().clients, 0);
    }

    #[test]
    fn the_last_push_is_shown_and_deltas_are_added_up() {
        let mut clients = subscribed("*");
        pushed(&mut clients, 0, 1, &[gauge("rate", 0.5, &[]), counter("n", 2, true, &[]), counter("m", 9, false, &[])]);
        pushed(&mut clients, 1000, 1, &[counter("n", 3, true, &[]), counter("m", 11, false, &[])]);
        let lines = lines(&mut clients, 1001);
        let value =
            |name: &str| lines.iter().find(|line| line.starts_with(name)).and_then(|line| line.split(' ').next_back());
        assert_eq!(value("ottla_client_n_total"), Some("5"));
        assert_eq!(value("ottla_client_m_total"), Some("11"));
        assert_eq!(value("ottla_client_rate"), None, "{lines:?}");
    }

    #[test]
    fn silent_clients_are_forgotten() {
        let mut clients = subscribed("*");
        pushed(&mut clients, 0, 1, &[gauge("rate", 0.5, &[])]);
        pushed(&mut clients, 50_000, 2, &[gauge("rate", 0.5, &[])]);
        assert_eq!(lines(&mut clients, 59_000).len(), 4);
        assert_eq!(lines(&mut clients, 61_000).len(), 2);
        assert!(lines(&mut clients, 200_000).is_empty());
        assert_eq!((clients.held().bytes, clients.by_silence.len()), (0, 0));
    }

    #[test]
    fn clients_are_bounded_and_the_most_silent_gives_way() {
        let mut clients = subscribed("*");
        for instance in 0..=u16::try_from(CLIENTS_MAX).expect("fits") {
            assert!(clients.get(MonotonicMs(instance.into()), 1, client(instance)).is_ok());
        }
        assert_eq!((clients.held().clients, clients.by_silence.len()), (CLIENTS_MAX, CLIENTS_MAX));
        assert!(!clients.clients.contains_key(&id(0)) && clients.clients.contains_key(&id(1)));
    }

    #[test]
    fn series_are_bounded_and_who_holds_the_most_gives_way() {
        let mut clients = subscribed("*");
        let many: Vec<Metric> = (0..7_000).map(|number| gauge(&format!("m{number}"), 1.0, &[])).collect();
        for instance in 0..12 {
            pushed(&mut clients, 0, instance, &many);
        }
        let held = clients.held();
        assert!(held.bytes <= BYTES_MAX && held.left_out >= many.len(), "{held:?}");
        let small = [gauge("small", 1.0, &[])];
        pushed(&mut clients, 0, 100, &small);
        pushed(&mut clients, 0, 101, &many);
        assert!(clients.held().bytes <= BYTES_MAX);
        let shown = lines(&mut clients, 1);
        assert_eq!(shown.iter().filter(|line| line.starts_with("ottla_client_small")).count(), 1);
        let sum: usize = clients.clients.values().map(|client| client.series_bytes).sum();
        assert_eq!(clients.held().bytes, sum);
    }

    /// A page said long names of clients, and numbers of three hundred digits, in each of very many short lines: it had
    /// 45 MB, and each slow reader held one.
    #[test]
    fn a_page_is_not_much_larger_than_what_is_counted() {
        let mut clients = subscribed("*");
        let tiny: Vec<Metric> =
            (0..8_000).map(|number| gauge("m", f64::MIN_POSITIVE, &[("a", &number.to_string())])).collect();
        let asked = ["*".to_owned()];
        for instance in 0..20 {
            let named = Identity { instance_id: id(instance), ..identity(0, &"\"".repeat(256)) };
            clients.client(MonotonicMs(0), 1, named);
            clients.record(id(instance), Points::read(&payload(&[], &tiny), &asked).expect("a message"));
        }
        let held = clients.held();
        let page = clients.page(MonotonicMs(1)).render();
        assert!(held.bytes <= BYTES_MAX && page.len() < held.bytes, "{held:?}, {} bytes", page.len());
        // Nor when a client comes back under a longer name.
        let mut clients = subscribed("*");
        pushed(&mut clients, 0, 1, &tiny);
        assert!(clients.held().bytes > 0);
        let renamed = Identity { client_id: "x".repeat(256), ..client(1) };
        clients.client(MonotonicMs(1), 2, renamed);
        assert_eq!((clients.held().bytes, lines(&mut clients, 2).len()), (0, 0));
    }
}
