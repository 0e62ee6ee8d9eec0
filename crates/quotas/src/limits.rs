//! Whose limit holds for a client: Kafka's order of users, clients and their defaults.

use std::collections::BTreeMap;

/// A name that limits are set for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    /// Everyone who has no own limit.
    Default,
    Is(String),
}

/// For whom a limit is set. At least one of both is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entity {
    pub user: Option<Name>,
    pub client: Option<Name>,
}

/// The limit of a client, and with whom it is shared.
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    pub value: f64,
    /// Clients of one user share the user's limit, users of one client id that of the client id.
    pub of_user: bool,
    pub of_client: bool,
}

/// All limits of one kind of quota.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Limits {
    by_entity: BTreeMap<Entity, f64>,
}

impl Limits {
    pub fn set(&mut self, entity: Entity, value: f64) {
        self.by_entity.insert(entity, value);
    }

    pub fn is_empty(&self) -> bool {
        self.by_entity.is_empty()
    }

    /// The limit that holds for a client of a user: the first of Kafka's eight that is set.
    pub fn of(&self, user: &str, client: &str) -> Option<Limit> {
        if self.by_entity.is_empty() {
            return None;
        }
        let (user, client) = (|| Name::Is(user.to_owned()), || Name::Is(client.to_owned()));
        let default = || Name::Default;
        let order: [(Option<Name>, Option<Name>); 8] = [
            (Some(user()), Some(client())),
            (Some(user()), Some(default())),
            (Some(user()), None),
            (Some(default()), Some(client())),
            (Some(default()), Some(default())),
            (Some(default()), None),
            (None, Some(client())),
            (None, Some(default())),
        ];
        order.into_iter().find_map(|(user, client)| {
            let (of_user, of_client) = (user.is_some(), client.is_some());
            let value = *self.by_entity.get(&Entity { user, client })?;
            Some(Limit { value, of_user, of_client })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each limit is set alone, then all that come before it in Kafka's order are added one after the other.
    #[test]
    fn the_most_special_limit_holds() {
        let is = |name: &str| Some(Name::Is(name.to_owned()));
        let order = [
            (None, Some(Name::Default), (false, true)),
            (None, is("app"), (false, true)),
            (Some(Name::Default), None, (true, false)),
            (Some(Name::Default), Some(Name::Default), (true, true)),
            (Some(Name::Default), is("app"), (true, true)),
            (is("alice"), None, (true, false)),
            (is("alice"), Some(Name::Default), (true, true)),
            (is("alice"), is("app"), (true, true)),
        ];
        let mut limits = Limits::default();
        assert_eq!(limits.of("alice", "app"), None);
        for (value, (user, client, shared)) in (1..).zip(order) {
            limits.set(Entity { user, client }, f64::from(value));
            let limit = limits.of("alice", "app").expect("there is one");
            assert_eq!((limit.value, (limit.of_user, limit.of_client)), (f64::from(value), shared));
        }
        assert_eq!(limits.of("bob", "app").map(|limit| limit.value), Some(5.0));
        assert_eq!(limits.of("bob", "other").map(|limit| limit.value), Some(4.0));
        assert_eq!(limits.of("alice", "other").map(|limit| limit.value), Some(7.0));
    }
}
