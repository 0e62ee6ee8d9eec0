//! What the cluster asks its clients for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_metadata::client_metrics_config::{INTERVAL_MS_DEFAULT, Subscription};

use crate::client::Identity;

/// All subscriptions together.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions(Vec<Subscription>);

/// What one client is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Names the set: a push for another one is refused. Brokers compute it alike.
    pub subscription_id: i32,
    /// Beginnings of names, or `*` alone; none: it pushes nothing.
    pub metrics: Arc<[String]>,
    pub interval_ms: i32,
}

impl Subscriptions {
    /// The subscriptions with these entries. One that cannot be read (another release may have written it) is none.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a BTreeMap<String, String>>) -> Self {
        Self(entries.into_iter().filter_map(|set| Subscription::parse(set).ok()).collect())
    }

    /// The metrics of all subscriptions that select the client, at the shortest of their intervals.
    pub(crate) fn of_client(&self, client: &Identity) -> Asked {
        let mut metrics: BTreeSet<&str> = BTreeSet::new();
        let mut interval_ms = INTERVAL_MS_DEFAULT;
        let instance = client.instance_id.to_string();
        for subscription in &self.0 {
            if subscription.matches(|attribute| client.attribute(attribute, &instance)) {
                metrics.extend(subscription.metrics.iter().map(String::as_str));
                interval_ms = interval_ms.min(subscription.interval_ms);
            }
        }
        if metrics.contains(Subscription::ALL) {
            metrics = BTreeSet::from([Subscription::ALL]);
        }
        let metrics: Arc<[String]> = metrics.into_iter().map(str::to_owned).collect();
        let mut described = format!("{metrics:?}{interval_ms}").into_bytes();
        described.extend_from_slice(client.instance_id.as_bytes());
        let subscription_id = crc_fast::crc32_iscsi(&described).cast_signed();
        Asked { subscription_id, metrics, interval_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::identity;

    fn subscriptions(sets: &[&[(&str, &str)]]) -> Subscriptions {
        let sets: Vec<BTreeMap<String, String>> = sets
            .iter()
            .map(|set| set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
            .collect();
        Subscriptions::of(&sets)
    }

    #[test]
    fn a_client_is_asked_for_what_all_its_subscriptions_name() {
        let asked = subscriptions(&[
            &[("metrics", "b,a"), ("interval.ms", "1000")],
            &[("metrics", "c"), ("interval.ms", "500"), ("match", "client_id=app")],
            &[("metrics", "d"), ("interval.ms", "100"), ("match", "client_id=other")],
            &[("interval.ms", "not readable")],
        ]);
        let app = asked.of_client(&identity(1, "app"));
        assert_eq!((&*app.metrics, app.interval_ms), (&["a", "b", "c"].map(String::from)[..], 500));
        let stranger = asked.of_client(&identity(2, "stranger"));
        assert_eq!((&*stranger.metrics, stranger.interval_ms), (&["a", "b"].map(String::from)[..], 1000));
        assert_eq!(subscriptions(&[]).of_client(&identity(1, "app")).interval_ms, INTERVAL_MS_DEFAULT);
    }

    #[test]
    fn all_metrics_are_named_by_a_star_alone() {
        let all = subscriptions(&[&[("metrics", "a,*")], &[("metrics", "b")]]).of_client(&identity(1, "app"));
        assert_eq!(&*all.metrics, ["*".to_owned()]);
    }

    #[test]
    fn the_id_follows_from_the_client_and_the_set() {
        let id = |metrics, client| {
            subscriptions(&[&[("metrics", metrics)]]).of_client(&identity(client, "app")).subscription_id
        };
        assert_eq!(id("a,b", 1), id("b,a", 1));
        assert!(id("a", 1) != id("b", 1) && id("a", 1) != id("a", 2));
    }
}
