//! All rules, by resource type and pattern.

use std::sync::Arc;

use imbl::OrdMap;

use crate::WILDCARD;
use crate::filter::AclFilter;
use crate::rule::{AclBinding, PatternType, ResourcePattern, ResourceType, Rules};

/// The patterns of one resource type.
#[derive(Clone, PartialEq, Debug, Default)]
struct Patterns {
    /// The rules about every resource of the type.
    wildcard: Option<Arc<Rules>>,
    literal: OrdMap<String, Arc<Rules>>,
    prefixed: OrdMap<String, Arc<Rules>>,
}

/// The rules of a cluster. Cheap to clone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AclIndex {
    by_type: [Patterns; ResourceType::ALL.len()],
    len: usize,
}

fn at(resource_type: ResourceType) -> usize {
    ResourceType::ALL.iter().position(|one| *one == resource_type).unwrap_or_default()
}

impl Patterns {
    fn set(&mut self, pattern_type: PatternType, name: &str, rules: Option<Arc<Rules>>) -> Option<Arc<Rules>> {
        let patterns = match (pattern_type, name) {
            (PatternType::Literal, WILDCARD) => return std::mem::replace(&mut self.wildcard, rules),
            (PatternType::Literal, _) => &mut self.literal,
            (PatternType::Prefixed, _) => &mut self.prefixed,
        };
        match rules {
            Some(rules) => patterns.insert(name.to_owned(), rules),
            None => patterns.remove(name),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (PatternType, &str, &Arc<Rules>)> {
        let wildcard = self.wildcard.iter().map(|rules| (PatternType::Literal, WILDCARD, rules));
        let literal = self.literal.iter().map(|(name, rules)| (PatternType::Literal, name.as_str(), rules));
        let prefixed = self.prefixed.iter().map(|(name, rules)| (PatternType::Prefixed, name.as_str(), rules));
        wildcard.chain(literal).chain(prefixed)
    }
}

impl AclIndex {
    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rules about a pattern; none if there are none.
    pub fn rules(&self, pattern: &ResourcePattern) -> Option<&Arc<Rules>> {
        let patterns = &self.by_type[at(pattern.resource_type)];
        match (pattern.pattern_type, pattern.name.as_str()) {
            (PatternType::Literal, WILDCARD) => patterns.wildcard.as_ref(),
            (PatternType::Literal, name) => patterns.literal.get(name),
            (PatternType::Prefixed, name) => patterns.prefixed.get(name),
        }
    }

    /// Replaces all rules about a pattern.
    pub fn set(&mut self, pattern: &ResourcePattern, rules: Rules) {
        let new = (!rules.is_empty()).then(|| Arc::new(rules));
        self.len += new.as_ref().map_or(0, |rules| rules.len());
        let old = self.by_type[at(pattern.resource_type)].set(pattern.pattern_type, &pattern.name, new);
        self.len -= old.map_or(0, |rules| rules.len());
    }

    /// The rules that a filter matches, in order of their patterns.
    pub fn matching<'a>(&'a self, filter: &'a AclFilter) -> impl Iterator<Item = AclBinding> + 'a {
        ResourceType::ALL.iter().zip(&self.by_type).flat_map(move |(resource_type, patterns)| {
            let matching = move |(pattern_type, name, _): &(PatternType, &str, &Arc<Rules>)| {
                filter.pattern.matches(*resource_type, *pattern_type, name)
            };
            patterns.iter().filter(matching).flat_map(move |(pattern_type, name, rules)| {
                rules.matching(&filter.entry).map(move |entry| {
                    let pattern =
                        ResourcePattern { resource_type: *resource_type, pattern_type, name: name.to_owned() };
                    AclBinding { pattern, entry }
                })
            })
        })
    }

    /// Calls `visit` with the rules about a resource, until it returns false.
    pub(crate) fn visit(
        &self,
        resource_type: ResourceType,
        name: &str,
        mut visit: impl FnMut(PatternType, &Rules) -> bool,
    ) {
        let patterns = &self.by_type[at(resource_type)];
        let exact = [patterns.literal.get(name), patterns.wildcard.as_ref()];
        if exact.into_iter().flatten().all(|rules| visit(PatternType::Literal, rules)) {
            prefixes_of(&patterns.prefixed, name, |rules| visit(PatternType::Prefixed, rules));
        }
    }

    /// The patterns of a type with their rules.
    pub(crate) fn of_type(&self, resource_type: ResourceType) -> impl Iterator<Item = (PatternType, &str, &Rules)> {
        self.by_type[at(resource_type)].iter().map(|(pattern_type, name, rules)| (pattern_type, name, &**rules))
    }
}

/// Visits the rules whose prefix `name` begins with, the longest first, and returns how many entries it looked at.
///
/// The greatest entry that is not above the name is either one of its prefixes, or shares a shorter beginning with it;
/// no prefix of the name between the two lengths exists, because it would sort between the entry and the name. So each
/// step finds a prefix or shortens the name, and entries beside the path are not looked at.
pub(crate) fn prefixes_of(
    prefixes: &OrdMap<String, Arc<Rules>>,
    name: &str,
    mut visit: impl FnMut(&Rules) -> bool,
) -> usize {
    let (mut rest, mut steps) = (name, 0);
    while let Some((prefix, rules)) = prefixes.get_prev(rest) {
        steps += 1;
        let common = common_bytes(name, prefix);
        let is_prefix = common == prefix.len();
        if is_prefix && !visit(rules) {
            break;
        }
        // Beyond a prefix that was found, go on with the shorter ones.
        let end = if is_prefix { common.checked_sub(1) } else { Some(common) };
        let Some(end) = end.map(|end| name.floor_char_boundary(end)).filter(|end| *end > 0) else { break };
        rest = &name[..end];
    }
    steps
}

fn common_bytes(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}
