//! The quotas of one kind: limits, what each client has used, and the wait that follows.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::MonotonicMs;

use crate::bucket::TokenBucket;
use crate::limits::{Limit, Limits};
use crate::rate::{Rate, Windows};

/// Clients with a limit whose use is kept apart. Client ids are chosen by clients: those of a user beyond it share one
/// account, so that new names get nobody more than its limit, and nobody waits for what others use.
const CLIENTS_MAX: usize = 10_000;
/// Of a client id so much tells it from others: one may have 32 KiB.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client<'a> {
    pub user: &'a str,
    pub client_id: &'a str,
}

/// How a request stands to its quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// It is within its limit, or has none.
    Within,
    /// The client waits so long before its next request.
    Throttled(Duration),
}

impl Charge {
    fn of(wait: Duration) -> Self {
        if wait.is_zero() { Self::Within } else { Self::Throttled(wait) }
    }

    pub fn wait(self) -> Duration {
        match self {
            Self::Within => Duration::ZERO,
            Self::Throttled(wait) => wait,
        }
    }
}

/// With whom a limit is shared: a user, a client id, or both.
type Account = (Option<String>, Option<String>);

#[derive(Debug, Default)]
pub struct Quotas {
    limits: Limits,
    rates: BTreeMap<Account, Rate>,
    buckets: BTreeMap<Account, TokenBucket>,
    /// When idle accounts were looked for. Once a window: a look at all of them must not be had for a new name.
    swept_at: Option<MonotonicMs>,
}

impl Quotas {
    pub fn set_limits(&mut self, limits: Limits) {
        if self.limits != limits {
            self.limits = limits;
            // A bucket is full by the limit that it was made for.
            self.buckets.clear();
        }
    }

    /// Whether nobody has a limit.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    pub fn limit(&self, client: Client<'_>) -> Option<f64> {
        self.limits.of(client.user, client.client_id).map(|limit| limit.value)
    }

    /// Counts what a client has used.
    pub fn charge(&mut self, windows: Windows, now: MonotonicMs, client: Client<'_>, amount: f64) -> Charge {
        let Some(limit) = self.limits.of(client.user, client.client_id) else { return Charge::Within };
        let account = account(&limit, client);
        let sweep = Sweep { swept_at: &mut self.swept_at, user: client.user, windows, now };
        let account = within(&mut self.rates, account, sweep, |rate| rate.is_idle(windows, now));
        let rate = self.rates.entry(account).or_default();
        rate.record(windows, now, amount);
        Charge::of(rate.throttle(windows, now, limit.value))
    }

    /// Counts changes of the cluster. Where it is strict, a client that has to wait for earlier changes gets none.
    ///
    /// # Errors
    /// The changes are refused; how long the client has to wait.
    pub fn change(
        &mut self,
        windows: Windows,
        now: MonotonicMs,
        client: Client<'_>,
        count: f64,
        is_strict: bool,
    ) -> Result<Charge, Duration> {
        let Some(limit) = self.limits.of(client.user, client.client_id) else { return Ok(Charge::Within) };
        let account = account(&limit, client);
        let sweep = Sweep { swept_at: &mut self.swept_at, user: client.user, windows, now };
        let is_idle = |bucket: &mut TokenBucket| bucket.is_idle(windows, now, limit.value);
        let account = within(&mut self.buckets, account, sweep, is_idle);
        let bucket = self.buckets.entry(account).or_insert_with(|| TokenBucket::new(windows, now, limit.value));
        let wait = bucket.throttle(windows, now, limit.value);
        if is_strict && !wait.is_zero() {
            return Err(wait);
        }
        bucket.take(windows, now, limit.value, count);
        Ok(match is_strict {
            true => Charge::Within,
            false => Charge::of(bucket.throttle(windows, now, limit.value)),
        })
    }
}

fn account(limit: &Limit, client: Client<'_>) -> Account {
    let client_id = &client.client_id[..client.client_id.floor_char_boundary(CLIENT_ID_BYTES_MAX)];
    (limit.of_user.then(|| client.user.to_owned()), limit.of_client.then(|| client_id.to_owned()))
}

struct Sweep<'a> {
    swept_at: &'a mut Option<MonotonicMs>,
    user: &'a str,
    windows: Windows,
    now: MonotonicMs,
}

impl Sweep<'_> {
    fn is_due(&self) -> bool {
        self.swept_at.is_none_or(|swept_at| self.now.since(swept_at) >= self.windows.length)
    }
}

/// The account, or the common one of its user if there are too many, or of all if there are too many users; idle ones
/// go first.
fn within<T>(
    accounts: &mut BTreeMap<Account, T>,
    account: Account,
    sweep: Sweep<'_>,
    mut is_idle: impl FnMut(&mut T) -> bool,
) -> Account {
    if accounts.len() < CLIENTS_MAX || accounts.contains_key(&account) {
        return account;
    }
    if sweep.is_due() {
        *sweep.swept_at = Some(sweep.now);
        accounts.retain(|_, use_of| !is_idle(use_of));
    }
    if accounts.len() < CLIENTS_MAX {
        return account;
    }
    let of_user = (Some(sweep.user.to_owned()), None);
    if accounts.len() < 2 * CLIENTS_MAX || accounts.contains_key(&of_user) { of_user } else { (None, None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Entity, Name};

    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };
    const NOW: MonotonicMs = MonotonicMs(5_000);

    fn quotas(user: Option<Name>, client: Option<Name>, value: f64) -> Quotas {
        let mut limits = Limits::default();
        limits.set(Entity { user, client }, value);
        let mut quotas = Quotas::default();
        quotas.set_limits(limits);
        quotas
    }

    fn client<'a>(user: &'a str, client_id: &'a str) -> Client<'a> {
        Client { user, client_id }
    }

    #[test]
    fn a_users_clients_share_its_limit_and_default_clients_do_not() {
        let mut of_user = quotas(Some(Name::Is("alice".to_owned())), None, 100.0);
        assert_eq!(of_user.charge(WINDOWS, NOW, client("alice", "a"), 1_000.0), Charge::Within);
        let wait = Charge::Throttled(Duration::from_secs(10));
        assert_eq!(of_user.charge(WINDOWS, NOW, client("alice", "b"), 1_000.0), wait);
        assert_eq!(of_user.charge(WINDOWS, NOW, client("bob", "b"), 1e9), Charge::Within, "no limit");
        let mut of_each = quotas(None, Some(Name::Default), 100.0);
        assert_eq!(of_each.charge(WINDOWS, NOW, client("alice", "a"), 1_000.0), Charge::Within);
        assert_eq!(of_each.charge(WINDOWS, NOW, client("alice", "b"), 1_000.0), Charge::Within);
        assert_eq!(of_each.charge(WINDOWS, NOW, client("bob", "a"), 1_000.0), wait);
    }

    #[test]
    fn strict_changes_are_refused_while_earlier_ones_are_not_paid_for() {
        let mut quotas = quotas(Some(Name::Default), None, 1.0);
        let alice = client("alice", "a");
        assert_eq!(quotas.change(WINDOWS, NOW, alice, 15.0, true), Ok(Charge::Within), "a burst");
        assert_eq!(quotas.change(WINDOWS, NOW, alice, 1.0, true), Err(Duration::from_secs(4)));
        let permissive = quotas.change(WINDOWS, NOW, alice, 1.0, false);
        assert_eq!(permissive, Ok(Charge::Throttled(Duration::from_secs(5))));
    }

    #[test]
    fn new_names_are_bounded_and_get_no_more_together_than_one_limit() {
        let mut quotas = quotas(None, Some(Name::Default), 100.0);
        let name = |at: usize| format!("client-{at}");
        for at in 0..CLIENTS_MAX {
            quotas.charge(WINDOWS, NOW, client("alice", &name(at)), 1.0);
        }
        let mut more = |at: usize, now| quotas.charge(WINDOWS, now, client("alice", &name(at)), 600.0);
        assert_eq!(more(CLIENTS_MAX, NOW), Charge::Within);
        assert!(matches!(more(CLIENTS_MAX + 1, NOW), Charge::Throttled(_)), "they share an account");
        // When the others are idle there is room again.
        let later = MonotonicMs(NOW.0 + 60_000);
        assert_eq!(more(CLIENTS_MAX + 2, later), Charge::Within);
        assert_eq!(more(CLIENTS_MAX + 3, later), Charge::Within);
        assert!(quotas.rates.len() <= CLIENTS_MAX + 1);
    }

    /// The names of one user filled the accounts, and everybody who came later waited for what it used.
    #[test]
    fn new_names_of_one_user_are_not_charged_to_others() {
        let mut quotas = quotas(None, Some(Name::Default), 100.0);
        for at in 0..=CLIENTS_MAX {
            quotas.charge(WINDOWS, NOW, client("mallory", &format!("client-{at}")), 1e9);
        }
        assert_eq!(quotas.charge(WINDOWS, NOW, client("alice", "a"), 600.0), Charge::Within);
        assert!(matches!(quotas.charge(WINDOWS, NOW, client("alice", "b"), 600.0), Charge::Throttled(_)));
        assert_eq!(quotas.rates.len(), CLIENTS_MAX + 2);
    }

    /// Ten thousand client ids of 32 KiB were kept, for each kind of quota.
    #[test]
    fn of_a_long_client_id_the_beginning_is_kept() {
        let mut quotas = quotas(None, Some(Name::Default), 100.0);
        quotas.charge(WINDOWS, NOW, client("alice", &"ü".repeat(16_000)), 1.0);
        let kept = quotas.rates.keys().filter_map(|(_, client_id)| client_id.as_ref());
        assert_eq!(kept.map(String::len).collect::<Vec<_>>(), [CLIENT_ID_BYTES_MAX]);
    }
}
