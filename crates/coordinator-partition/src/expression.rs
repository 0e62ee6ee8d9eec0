//! Regular expressions of clients, matched against many names, and how much work that may be.
//!
//! Time that is linear in a name is not enough: an expression of twenty letters has tens of thousands of states, and
//! whoever walks all of them for each letter takes milliseconds for a name. Here the automaton of an expression is made
//! while names are matched, each of its states once. Where they take too much room, the expression is given up.

use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, MatchErrorKind};

/// What the states may take before they are thrown away, and how often that may be: room for a list of a thousand
/// names, and some hundred milliseconds of work at most.
const STATES_BYTES_MAX: usize = 4 << 20;
const CLEARS_MAX: usize = 1;

/// A regular expression that a whole name has to match. Names are ASCII: of others, an expression with a boundary of
/// words matches none.
#[derive(Clone, Debug)]
pub struct Expression(Arc<DFA>);

impl Expression {
    /// None: the text is no expression, or takes more bytes when compiled.
    pub fn new(text: &str, compiled_bytes_max: usize) -> Option<Self> {
        Self::bounded(text, compiled_bytes_max, STATES_BYTES_MAX)
    }

    fn bounded(text: &str, compiled_bytes_max: usize, states_bytes_max: usize) -> Option<Self> {
        let states = DFA::config()
            .unicode_word_boundary(true)
            .cache_capacity(states_bytes_max)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(CLEARS_MAX));
        let compiled = thompson::Config::new().nfa_size_limit(Some(compiled_bytes_max));
        let whole = format!(r"\A(?:{text})\z");
        let automaton = DFA::builder().configure(states).thompson(compiled).build(&whole).ok()?;
        Some(Self(Arc::new(automaton)))
    }

    /// Matches many names.
    pub fn scan(&self) -> Scan<'_> {
        Scan { automaton: &self.0, states: self.0.create_cache(), has_given_up: false }
    }

    pub fn is_match(&self, name: &str) -> bool {
        self.scan().is_match(name)
    }
}

pub struct Scan<'a> {
    automaton: &'a DFA,
    states: Cache,
    has_given_up: bool,
}

impl Scan<'_> {
    /// False also after the expression has been given up.
    pub fn is_match(&mut self, name: &str) -> bool {
        if self.has_given_up {
            return false;
        }
        let name = Input::new(name).anchored(Anchored::Yes);
        match self.automaton.try_search_fwd(&mut self.states, &name) {
            Ok(found) => found.is_some(),
            Err(error) => {
                self.has_given_up = !matches!(error.kind(), MatchErrorKind::Quit { .. });
                false
            }
        }
    }

    /// Whether the expression was too much work.
    pub fn has_given_up(&self) -> bool {
        self.has_given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPILED: usize = 1 << 20;

    #[test]
    fn whole_names_are_matched() {
        let matches = |text: &str, name: &str| Expression::new(text, COMPILED).unwrap().is_match(name);
        assert!(matches("foo.*", "foo-bar") && !matches("foo", "foo-bar") && !matches("bar", "foo-bar"));
        assert!(matches("a|ab", "ab") && !matches("a|b", "ab") && matches("", "") && !matches("", "a"));
        assert!(matches(r"(?i)TOPIC\d+", "topic42") && matches(r"\w+\b.*", "abc.d") && matches(r"\p{L}+", "abc"));
        assert!(matches(".", "ü") && !matches(r"\b.*", "ü"));
        for text in ["(", "*", "(((a{99}){99}){99}){99}"] {
            assert!(Expression::new(text, COMPILED).is_none(), "{text}");
        }
    }

    #[test]
    fn many_names_of_an_ordinary_expression_are_no_work() {
        let names: Vec<String> = (0..1_000).map(|number| format!("orders-of-customer-{number}")).collect();
        let expression = Expression::new(&names.join("|"), COMPILED).unwrap();
        let mut scan = expression.scan();
        assert!(names.iter().all(|name| scan.is_match(name)) && !scan.is_match("orders-of-customer-1000"));
        assert!(!scan.has_given_up());
    }

    /// Each letter of a name was compared with thousands of states: a heartbeat held its groups for minutes.
    #[test]
    fn an_expression_that_is_too_much_work_is_given_up() {
        let expression = Expression::bounded("(?:[a-z]?){5000}", COMPILED, 0).unwrap();
        let mut scan = expression.scan();
        assert!(scan.is_match("abc") && !scan.has_given_up());
        assert!(!scan.is_match(&"a".repeat(249)) && scan.has_given_up());
        assert!(!scan.is_match("abc"), "no name is looked at any more");
    }
}
