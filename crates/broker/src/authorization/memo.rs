//! What was decided last of a resource. Clients ask again and again for the same topics, and a look into 1,000 rules
//! takes 0.18 µs, a seventeenth of the smallest fetch.

use std::sync::Arc;

use ottla_authorizer::{AclIndex, Operation, Requester, ResourceType};
use parking_lot::Mutex;

/// Some dozens of topics in use at a time. Each holds the rules that it was decided by: as many former states of them
/// at most.
const ENTRIES: usize = 64;

struct Decided {
    rules: Arc<AclIndex>,
    requester: Requester,
    operation: Operation,
    resource_type: ResourceType,
    name: Box<str>,
    is_allowed: bool,
}

/// One decision for each place; a name has its place by its last letters.
pub struct Memo {
    places: [Mutex<Option<Decided>>; ENTRIES],
}

impl Default for Memo {
    fn default() -> Self {
        Self { places: [const { Mutex::new(None) }; ENTRIES] }
    }
}

impl Memo {
    /// As `decide` says, which is not asked where the same was decided by the same rules.
    pub fn recall(
        &self,
        rules: &Arc<AclIndex>,
        requester: &Requester,
        (operation, resource_type, name): (Operation, ResourceType, &str),
        decide: impl FnOnce() -> bool,
    ) -> bool {
        // Another worker that is at this place is not waited for.
        let Some(mut place) = self.places[place_of(name, operation)].try_lock() else { return decide() };
        if let Some(decided) = &*place
            && Arc::ptr_eq(&decided.rules, rules)
            && decided.operation == operation
            && decided.resource_type == resource_type
            && *decided.name == *name
            && decided.requester == *requester
        {
            return decided.is_allowed;
        }
        let is_allowed = decide();
        *place = Some(Decided {
            rules: Arc::clone(rules),
            requester: requester.clone(),
            operation,
            resource_type,
            name: name.into(),
            is_allowed,
        });
        is_allowed
    }
}

fn place_of(name: &str, operation: Operation) -> usize {
    let begin = usize::from(operation.code().unsigned_abs());
    let last = name.bytes().rev().take(8);
    last.fold(begin, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(byte.into())) % ENTRIES
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ottla_model::KafkaPrincipal;

    use super::*;

    #[test]
    fn nothing_is_recalled_of_other_rules_clients_operations_or_names() {
        let memo = Memo::default();
        let (rules, other_rules) = (Arc::new(AclIndex::default()), Arc::new(AclIndex::default()));
        let requester =
            |name: &str, address: [u8; 4]| Requester { principal: KafkaPrincipal::user(name), address: address.into() };
        let alice = requester("alice", [10, 0, 0, 1]);
        let asked = Cell::new(0);
        let ask = |rules: &Arc<AclIndex>, requester: &Requester, operation, resource_type, name: &str, says: bool| {
            let answer = memo.recall(rules, requester, (operation, resource_type, name), || {
                asked.set(asked.get() + 1);
                says
            });
            (answer, asked.replace(0))
        };
        let (read, topic) = (Operation::Read, ResourceType::Topic);
        assert_eq!(ask(&rules, &alice, read, topic, "t", true), (true, 1));
        assert_eq!(ask(&rules, &alice, read, topic, "t", false), (true, 0), "recalled");
        assert_eq!(ask(&other_rules, &alice, read, topic, "t", false), (false, 1));
        assert_eq!(ask(&rules, &alice, read, topic, "t", true), (true, 1));
        assert_eq!(ask(&rules, &requester("bob", [10, 0, 0, 1]), read, topic, "t", false), (false, 1));
        assert_eq!(ask(&rules, &requester("bob", [10, 0, 0, 2]), read, topic, "t", true), (true, 1));
        assert_eq!(ask(&rules, &alice, Operation::Write, topic, "t", false), (false, 1));
        assert_eq!(ask(&rules, &alice, Operation::Write, ResourceType::Group, "t", true), (true, 1));
        // The same last letters.
        assert_eq!(ask(&rules, &alice, read, topic, "a-12345678", false), (false, 1));
        assert_eq!(ask(&rules, &alice, read, topic, "b-12345678", true), (true, 1));
    }
}
