//! What the admins have asked for, place by place, and which states may follow. A place is one rule, one credential,
//! one token or one quota.
//!
//! - A change that was acknowledged holds until another one changes its place.
//! - A change is made once at most, however often its request was sent: a place becomes what a change wants no more
//!   often than such changes were asked for.

use std::collections::{BTreeMap, BTreeSet};

use ottla_authorizer::AclBinding;
use ottla_metadata::ConfigEntity;
use ottla_model::KafkaPrincipal;

use super::model::Model;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Slot {
    Acl(AclBinding),
    Token(String),
    Config(ConfigEntity, String),
}

impl Slot {
    fn is_of(&self, principal: &KafkaPrincipal) -> bool {
        matches!(self, Self::Acl(binding) if binding.entry.principal == *principal)
    }
}

type Value = Option<String>;

/// Names a change from its beginning to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChangeId(u64);

/// How a change ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Made,
    /// It was refused, and nothing has changed.
    Refused,
    /// Nobody can tell.
    Unknown,
}

struct Place {
    /// What the newest revision has.
    now: Value,
    /// What it may have.
    may_be: BTreeSet<Value>,
    /// Changes that want each value so far, less those that were seen to happen.
    wanted: BTreeMap<Value, u64>,
    /// Changes that may still happen.
    open: BTreeSet<ChangeId>,
}

struct Change {
    writes: Vec<(Slot, Value)>,
    /// It takes every rule of this principal away, also those that others make in the meantime.
    sweeps: Option<KafkaPrincipal>,
    /// Places that another change has touched since this one began.
    crossed: BTreeSet<Slot>,
}

#[derive(Default)]
pub struct Ledger {
    places: BTreeMap<Slot, Place>,
    changes: BTreeMap<ChangeId, Change>,
    last: u64,
}

impl Ledger {
    /// A change is asked for.
    pub fn begin(&mut self, mut writes: Vec<(Slot, Value)>, sweeps: Option<KafkaPrincipal>) -> ChangeId {
        self.last += 1;
        let id = ChangeId(self.last);
        if let Some(principal) = &sweeps {
            let swept = self.places.keys().filter(|slot| slot.is_of(principal));
            writes.extend(swept.map(|slot| (slot.clone(), None)));
        }
        self.changes.insert(id, Change { writes: Vec::new(), sweeps, crossed: BTreeSet::new() });
        for (slot, value) in writes {
            let sweeping = self.changes.iter().filter(|(other, change)| {
                let is_swept = change.sweeps.as_ref().is_some_and(|principal| slot.is_of(principal));
                **other != id && is_swept
            });
            let sweeping: Vec<_> = sweeping.map(|(other, _)| *other).collect();
            for other in sweeping {
                self.write(other, &slot, None);
            }
            self.write(id, &slot, value);
        }
        id
    }

    /// The change writes this, too.
    fn write(&mut self, id: ChangeId, slot: &Slot, value: Value) {
        let place = self.places.entry(slot.clone()).or_insert_with(|| Place {
            now: None,
            may_be: BTreeSet::from([None]),
            wanted: BTreeMap::new(),
            open: BTreeSet::new(),
        });
        if !place.open.insert(id) {
            return;
        }
        place.may_be.insert(value.clone());
        *place.wanted.entry(value.clone()).or_default() += 1;
        let is_crossed = place.open.len() > 1;
        for change in place.open.iter().filter(|_| is_crossed) {
            if let Some(change) = self.changes.get_mut(change) {
                change.crossed.insert(slot.clone());
            }
        }
        if let Some(change) = self.changes.get_mut(&id) {
            change.writes.push((slot.clone(), value));
        }
    }

    /// It ended.
    pub fn end(&mut self, id: ChangeId, outcome: Outcome) {
        if outcome == Outcome::Unknown {
            // It may happen at any time.
            return;
        }
        let Some(change) = self.changes.remove(&id) else { return };
        for (slot, value) in change.writes {
            let Some(place) = self.places.get_mut(&slot) else { continue };
            place.open.remove(&id);
            if place.open.is_empty() {
                place.wanted.clear();
            }
            if !change.crossed.contains(&slot) {
                let after = if outcome == Outcome::Made { value } else { place.now.clone() };
                place.may_be = BTreeSet::from([after]);
            }
        }
    }

    /// The newest revision has this. What is wrong with it, if anything is.
    pub fn see(&mut self, model: &Model) -> Option<String> {
        for (slot, place) in &mut self.places {
            let value = model.value(slot);
            if value == place.now {
                continue;
            }
            if !place.may_be.contains(&value) {
                return Some(format!("{slot:?} became {value:?}, and may be {:?} only", place.may_be));
            }
            let wanted = place.wanted.entry(value.clone()).or_default();
            if *wanted == 0 {
                return Some(format!("{slot:?} became {value:?} more often than that was asked for"));
            }
            *wanted -= 1;
            place.now = value;
        }
        None
    }

    /// What has not come together: a place that must be something, and is not.
    pub fn missing(&self) -> Option<String> {
        let place = self.places.iter().find(|(_, place)| !place.may_be.contains(&place.now));
        place.map(|(slot, place)| format!("{slot:?} is {:?}, and may be {:?}", place.now, place.may_be))
    }

    /// The places that may hold something.
    pub fn held(&self) -> impl Iterator<Item = &Slot> {
        self.places.iter().filter(|(_, place)| place.may_be.iter().any(Option::is_some)).map(|(slot, _)| slot)
    }
}
