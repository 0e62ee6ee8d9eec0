//! Regular expressions over topic names, in RE2's syntax.
//!
//! What an expression may take when compiled is bounded, and how much work it may make ([`Expression`]): clients cannot
//! hurt. An expression must match the whole name.

use std::collections::{BTreeSet, VecDeque};

use ottla_coordinator_partition::Expression;
use ottla_model::{ErrorCode, TopicName};
use regex::RegexBuilder;

use super::error::HeartbeatError;
use crate::topics::{Topics, VisibleTopics};

/// Of one compiled expression. Counted repetitions multiply: `(((a{99}){99}){99})` would take gigabytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

fn compile(expression: &str) -> Result<Expression, regex::Error> {
    let plain = unquoted(expression);
    // It says what is wrong.
    RegexBuilder::new(&format!(r"\A(?:{plain})\z")).size_limit(COMPILED_BYTES_MAX).build()?;
    Expression::new(&plain, COMPILED_BYTES_MAX).ok_or(regex::Error::CompiledTooBig(COMPILED_BYTES_MAX))
}

/// RE2 takes `\Q…\E` literally, which this engine does not know.
fn unquoted(expression: &str) -> String {
    let mut plain = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        rest = match escape.strip_prefix(r"\Q") {
            Some(quoted) => {
                let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                plain.push_str(&regex::escape(literal));
                after
            }
            None => {
                // The escape and what it escapes, which may be a backslash.
                let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                let (pair, after) = escape.split_at(end);
                plain.push_str(pair);
                after
            }
        };
    }
    plain + rest
}

/// Compiled expressions, the last used ones: a member that joins, and topics that change, find most of them here.
#[derive(Debug, Default)]
pub(crate) struct RegexCache {
    /// The last used one is last.
    compiled: VecDeque<(String, Expression)>,
}

/// Expressions that are kept compiled: at most so many times [`COMPILED_BYTES_MAX`], mostly a few KB each.
const COMPILED_MAX: usize = 32;

impl RegexCache {
    fn get(&mut self, expression: &str) -> Result<Expression, regex::Error> {
        let known = self.compiled.iter().position(|(known, _)| known == expression);
        let entry = match known.and_then(|at| self.compiled.remove(at)) {
            Some(entry) => entry,
            None => (expression.to_owned(), compile(expression)?),
        };
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.pop_front();
        }
        let regex = entry.1.clone();
        self.compiled.push_back(entry);
        Ok(regex)
    }

    /// Refuses what is no expression, with Kafka's text.
    pub(super) fn validate(&mut self, expression: &str) -> Result<(), HeartbeatError> {
        match self.get(expression) {
            Ok(_) => Ok(()),
            Err(error) => {
                let reason = match &error {
                    regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
                    // The last line of a syntax error says what is wrong; the others draw where.
                    error => {
                        error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
                    }
                };
                Err(HeartbeatError::new(
                    ErrorCode::InvalidRegularExpression,
                    format!("SubscribedTopicRegex `{expression}` is not a valid regular expression: {reason}."),
                ))
            }
        }
    }

    /// The names that an expression matches, and how many names there were. One that does not compile (of a log that
    /// another system wrote), or that is too much work, matches nothing.
    pub(super) fn matched(
        &mut self,
        expression: &str,
        topics: &dyn Topics,
        visible: &VisibleTopics,
    ) -> (BTreeSet<TopicName>, usize) {
        let mut matched = BTreeSet::new();
        let mut scanned = 0;
        let Ok(regex) = self.get(expression) else { return (matched, scanned) };
        let mut scan = regex.scan();
        topics.names(&mut |name| {
            scanned += 1;
            if scan.is_match(name.as_str()) && visible.contain(name.as_str()) {
                matched.insert(name.clone());
            }
        });
        if scan.has_given_up() {
            matched.clear();
        }
        (matched, scanned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_whole_names() {
        let matches = |expression: &str, name: &str| compile(expression).unwrap().is_match(name);
        assert!(matches("foo.*", "foo-bar") && !matches("foo", "foo-bar") && !matches("bar", "foo-bar"));
        assert!(matches("a|b", "b") && !matches("a|b", "ab"));
        assert!(matches(r"\Qa.b\E.*", "a.bc") && !matches(r"\Qa.b\E.*", "axbc"));
        assert!(matches(r"\Qa.b", "a.b") && matches(r"a\\\Q.\E", r"a\."));
        assert!(matches(r"(?i)TOPIC\d+", "topic42") && matches(r"[[:alpha:]]+", "abc") && matches(r"\p{L}+", "abc"));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_kafkas_text() {
        for expression in ["foo(", "[a", "*", r"(?<look>", "a{9}{9999999}", "(((a{99}){99}){99})"] {
            let refused = RegexCache::default().validate(expression).unwrap_err();
            assert_eq!(refused.error, ErrorCode::InvalidRegularExpression);
            let begin = format!("SubscribedTopicRegex `{expression}` is not a valid regular expression: ");
            assert!(refused.message.starts_with(&begin) && refused.message.ends_with('.'), "{}", refused.message);
            assert!(!refused.message.contains('\n'));
        }
        assert_eq!(RegexCache::default().validate("foo.*"), Ok(()));
    }

    #[test]
    fn the_last_used_expressions_stay_compiled() {
        let mut cache = RegexCache::default();
        for number in 0..100 {
            cache.validate("topic-.*").unwrap();
            cache.validate(&format!("topic-{number}")).unwrap();
        }
        assert_eq!(cache.compiled.len(), COMPILED_MAX);
        assert!(cache.compiled.iter().any(|(expression, _)| expression == "topic-.*"));
    }
}
