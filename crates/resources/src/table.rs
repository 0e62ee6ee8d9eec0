//! The resources of a process as its metrics show them: used, ceiling, refused.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ottla_metrics::Registry;

use crate::ledger::Ledger;

/// One resource at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub used: u64,
    pub ceiling: u64,
    /// Since the process started.
    pub refused: u64,
}

impl From<&Ledger> for Usage {
    fn from(ledger: &Ledger) -> Self {
        Self { used: ledger.used(), ceiling: ledger.ceiling(), refused: ledger.refused() }
    }
}

type Row = (&'static str, Box<dyn Fn() -> Usage + Send + Sync>);

/// The scarce things whose owners have told how to read them.
#[derive(Clone, Default)]
pub struct ResourceTable(Arc<Mutex<Vec<Row>>>);

impl fmt::Debug for ResourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResourceTable")
    }
}

impl ResourceTable {
    pub fn new(registry: &Registry) -> Self {
        let table = Self::default();
        let computed = |name: &str, help: &str, value: fn(&Usage) -> u64| {
            let table = table.clone();
            registry.computed(name, help, &["resource"], move || table.values(value));
        };
        computed("resource_used", "What is used of the resource", |usage| usage.used);
        computed("resource_ceiling", "The most that may be used of the resource", |usage| usage.ceiling);
        computed("resource_refused", "Refusals because of a ceiling since the start", |usage| usage.refused);
        table
    }

    /// `read` must not wait for a lock that may be held during disk I/O.
    pub fn add(&self, name: &'static str, read: impl Fn() -> Usage + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, Box::new(read)));
    }

    pub fn add_ledger(&self, name: &'static str, ledger: &Arc<Ledger>) {
        let ledger = Arc::clone(ledger);
        self.add(name, move || Usage::from(&*ledger));
    }

    fn values(&self, value: fn(&Usage) -> u64) -> Vec<(Vec<String>, f64)> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(name, read)| (vec![(*name).to_owned()], value(&read()) as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scarce_thing_is_shown_with_its_ceiling() {
        let registry = Registry::new("ottla_test");
        let table = ResourceTable::new(&registry);
        let ledger = Ledger::new(10);
        table.add_ledger("things", &ledger);
        let _share = ledger.take(4).expect("there is room");
        assert!(ledger.take(7).is_none());
        let page = registry.render();
        for (name, value) in [("used", 4), ("ceiling", 10), ("refused", 1)] {
            let line = format!("ottla_test_resource_{name}{{resource=\"things\"}} {value}\n");
            assert!(page.contains(&line), "{line} is missing in\n{page}");
        }
    }
}
