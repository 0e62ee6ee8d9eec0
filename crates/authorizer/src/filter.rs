//! Which rules a request to describe or delete rules is about.

use crate::WILDCARD;
use crate::rule::{EntryFilter, PatternType, ResourceType};

/// Which patterns of resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternFilter {
    /// Any pattern type; a name is compared with the pattern's.
    Any,
    /// Every pattern that a resource of this name belongs to.
    Match,
    Is(PatternType),
}

/// Which resource patterns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceFilter {
    /// None: any type.
    pub resource_type: Option<ResourceType>,
    pub pattern: PatternFilter,
    /// None: any name.
    pub name: Option<String>,
}

/// Which rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclFilter {
    pub pattern: ResourceFilter,
    pub entry: EntryFilter,
}

impl ResourceFilter {
    pub(crate) fn matches(&self, resource_type: ResourceType, pattern_type: PatternType, pattern: &str) -> bool {
        if self.resource_type.is_some_and(|wanted| wanted != resource_type) {
            return false;
        }
        if let PatternFilter::Is(wanted) = self.pattern
            && wanted != pattern_type
        {
            return false;
        }
        let Some(name) = &self.name else { return true };
        if self.pattern != PatternFilter::Match {
            return name == pattern;
        }
        match pattern_type {
            PatternType::Literal => name == pattern || pattern == WILDCARD,
            PatternType::Prefixed => name.starts_with(pattern),
        }
    }
}
