//! A rule: a principal may, or must not, execute an operation from a host on the resources of a pattern.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ottla_model::KafkaPrincipal;

use crate::WILDCARD;

/// Defines an enum of Kafka's with the codes of its protocol, its names in requests of tools, and those in ZooKeeper.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal, $tool:literal, $shown:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(i8)]
        pub enum $name {
            $($variant = $code,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn code(self) -> i8 {
                self as i8
            }

            pub fn from_code(code: i8) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.code() == code)
            }

            /// As Kafka's tools print it: `DESCRIBE_CONFIGS`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $tool,)+
                }
            }

            /// As Kafka kept it in ZooKeeper: `DescribeConfigs`.
            pub fn node_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $shown,)+
                }
            }

            pub fn from_node_name(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.node_name() == text)
            }

            /// Either name, in any case.
            pub fn parse(text: &str) -> Option<Self> {
                let is = |name: &str| name.eq_ignore_ascii_case(text);
                Self::ALL.iter().copied().find(|one| is(one.name()) || is(one.node_name()))
            }
        }
    };
}

coded! {
    ResourceType {
        Topic = 2, "TOPIC", "Topic";
        Group = 3, "GROUP", "Group";
        Cluster = 4, "CLUSTER", "Cluster";
        TransactionalId = 5, "TRANSACTIONAL_ID", "TransactionalId";
        DelegationToken = 6, "DELEGATION_TOKEN", "DelegationToken";
        User = 7, "USER", "User";
    }
}

coded! {
    PatternType {
        Literal = 3, "LITERAL", "literal";
        Prefixed = 4, "PREFIXED", "prefixed";
    }
}

coded! {
    Operation {
        All = 2, "ALL", "All";
        Read = 3, "READ", "Read";
        Write = 4, "WRITE", "Write";
        Create = 5, "CREATE", "Create";
        Delete = 6, "DELETE", "Delete";
        Alter = 7, "ALTER", "Alter";
        Describe = 8, "DESCRIBE", "Describe";
        ClusterAction = 9, "CLUSTER_ACTION", "ClusterAction";
        DescribeConfigs = 10, "DESCRIBE_CONFIGS", "DescribeConfigs";
        AlterConfigs = 11, "ALTER_CONFIGS", "AlterConfigs";
        IdempotentWrite = 12, "IDEMPOTENT_WRITE", "IdempotentWrite";
        CreateTokens = 13, "CREATE_TOKENS", "CreateTokens";
        DescribeTokens = 14, "DESCRIBE_TOKENS", "DescribeTokens";
        TwoPhaseCommit = 15, "TWO_PHASE_COMMIT", "TwoPhaseCommit";
    }
}

coded! {
    Permission {
        Deny = 2, "DENY", "Deny";
        Allow = 3, "ALLOW", "Allow";
    }
}

impl ResourceType {
    /// The operations that exist for resources of this type: those that "authorized operations" of an answer can hold.
    pub fn operations(self) -> &'static [Operation] {
        use Operation::*;
        match self {
            Self::Topic => &[Read, Write, Create, Describe, Delete, Alter, DescribeConfigs, AlterConfigs],
            Self::Group => &[Read, Describe, Delete, DescribeConfigs, AlterConfigs],
            Self::Cluster => &[Create, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite, Alter, Describe],
            Self::TransactionalId => &[Describe, Write, TwoPhaseCommit],
            Self::DelegationToken => &[Describe],
            Self::User => &[CreateTokens, DescribeTokens],
        }
    }
}

impl Operation {
    pub(crate) fn bit(self) -> u16 {
        1 << self.code()
    }

    /// The operations that a rule must name to allow this one.
    fn allowed_by(self) -> u16 {
        let direct = Self::All.bit() | self.bit();
        let implied = match self {
            Self::Describe => &[Self::Read, Self::Write, Self::Delete, Self::Alter][..],
            Self::DescribeConfigs => &[Self::AlterConfigs][..],
            _ => &[],
        };
        implied.iter().fold(direct, |bits, one| bits | one.bit())
    }

    /// The operations that a rule must name to deny this one: none is implied.
    fn denied_by(self) -> u16 {
        Self::All.bit() | self.bit()
    }
}

/// The resources that a rule is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResourcePattern {
    pub resource_type: ResourceType,
    pub pattern_type: PatternType,
    /// [`WILDCARD`] with [`PatternType::Literal`]: every resource of the type.
    pub name: String,
}

impl ResourcePattern {
    pub fn literal(resource_type: ResourceType, name: &str) -> Self {
        Self { resource_type, pattern_type: PatternType::Literal, name: name.to_owned() }
    }
}

/// What a rule says about the resources of its pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AclEntry {
    /// `User:*`: everybody.
    pub principal: KafkaPrincipal,
    /// An address, or [`WILDCARD`].
    pub host: String,
    pub operation: Operation,
    pub permission: Permission,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AclBinding {
    pub pattern: ResourcePattern,
    pub entry: AclEntry,
}

/// The operations that rules name, as bits by their codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Named {
    allow: u16,
    deny: u16,
}

impl Named {
    fn of(&mut self, permission: Permission) -> &mut u16 {
        match permission {
            Permission::Allow => &mut self.allow,
            Permission::Deny => &mut self.deny,
        }
    }

    fn add(&mut self, other: Self) {
        self.allow |= other.allow;
        self.deny |= other.deny;
    }
}

/// What the rules of one resource pattern say of one operation for one requester.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Said {
    pub allowed: bool,
    pub denied: bool,
}

/// The rules of one principal about one resource pattern.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Hosts {
    /// Of all hosts.
    any: Named,
    /// As the rules have them: a host that is no address never matches, as in Kafka.
    by_text: BTreeMap<String, Named>,
    /// The same, by address: an IPv6 address has several forms.
    by_address: BTreeMap<IpAddr, Named>,
}

impl Hosts {
    fn insert(&mut self, host: &str, permission: Permission, bit: u16) -> bool {
        let named = match host {
            WILDCARD => &mut self.any,
            host => {
                if let Some(address) = address_of(host) {
                    *self.by_address.entry(address).or_default().of(permission) |= bit;
                }
                self.by_text.entry(host.to_owned()).or_default()
            }
        };
        let named = named.of(permission);
        let is_new = *named & bit == 0;
        *named |= bit;
        is_new
    }

    fn named(&self, address: IpAddr) -> Named {
        let mut named = self.any;
        if let Some(more) = self.by_address.get(&address) {
            named.add(*more);
        }
        named
    }

    fn is_empty(&self) -> bool {
        self.any == Named::default() && self.by_text.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, Named)> {
        let any = std::iter::once((WILDCARD, self.any));
        any.chain(self.by_text.iter().map(|(host, named)| (host.as_str(), *named)))
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Which rules about a pattern. None means any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntryFilter {
    pub principal: Option<KafkaPrincipal>,
    pub host: Option<String>,
    pub operation: Option<Operation>,
    pub permission: Option<Permission>,
}

impl EntryFilter {
    const ANY: &Self = &Self { principal: None, host: None, operation: None, permission: None };

    fn within(&self, named: Named) -> Named {
        let operations = self.operation.map_or(u16::MAX, Operation::bit);
        let permitted = |permission| self.permission.is_none_or(|wanted| wanted == permission);
        let bits = |permission, bits: u16| if permitted(permission) { bits & operations } else { 0 };
        Named { allow: bits(Permission::Allow, named.allow), deny: bits(Permission::Deny, named.deny) }
    }
}

/// All rules about one resource pattern. A check costs two look-ups, however many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    everybody: Hosts,
    by_principal: BTreeMap<KafkaPrincipal, Hosts>,
    len: usize,
}

fn is_everybody(principal: &KafkaPrincipal) -> bool {
    &*principal.principal_type == KafkaPrincipal::USER && &*principal.name == WILDCARD
}

impl Rules {
    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// False if the rule is there already.
    pub fn insert(&mut self, entry: &AclEntry) -> bool {
        let hosts = match is_everybody(&entry.principal) {
            true => &mut self.everybody,
            false => self.by_principal.entry(entry.principal.clone()).or_default(),
        };
        let is_new = hosts.insert(&entry.host, entry.permission, entry.operation.bit());
        self.len += usize::from(is_new);
        is_new
    }

    pub fn contains(&self, entry: &AclEntry) -> bool {
        let hosts = match is_everybody(&entry.principal) {
            true => Some(&self.everybody),
            false => self.by_principal.get(&entry.principal),
        };
        let named = hosts.and_then(|hosts| match entry.host.as_str() {
            WILDCARD => Some(hosts.any),
            host => hosts.by_text.get(host).copied(),
        });
        named.is_some_and(|mut named| *named.of(entry.permission) & entry.operation.bit() != 0)
    }

    pub fn entries(&self) -> impl Iterator<Item = AclEntry> + '_ {
        self.matching(EntryFilter::ANY)
    }

    /// The rules that a filter matches. Those that it does not match cost a comparison each.
    pub(crate) fn matching<'a>(&'a self, filter: &'a EntryFilter) -> impl Iterator<Item = AclEntry> + 'a {
        let is_wanted = |principal: &KafkaPrincipal| filter.principal.as_ref().is_none_or(|wanted| wanted == principal);
        let everybody = (!self.everybody.is_empty()).then(|| KafkaPrincipal::user(WILDCARD)).filter(is_wanted);
        let everybody = everybody.map(|principal| (principal, &self.everybody));
        let others = self.by_principal.iter().filter(move |(principal, _)| is_wanted(principal));
        let others = others.map(|(principal, hosts)| (principal.clone(), hosts));
        everybody.into_iter().chain(others).flat_map(move |(principal, hosts)| {
            let hosts = hosts.iter().filter(|(host, _)| filter.host.as_deref().is_none_or(|wanted| wanted == *host));
            hosts.flat_map(move |(host, named)| entries_of(&principal, host, filter.within(named)))
        })
    }

    pub(crate) fn said(&self, principal: &KafkaPrincipal, address: IpAddr, operation: Operation) -> Said {
        let named = self.named(principal, address);
        Said { allowed: named.allow & operation.allowed_by() != 0, denied: named.deny & operation.denied_by() != 0 }
    }

    /// As [`Rules::said`], without implied operations.
    pub(crate) fn said_directly(&self, principal: &KafkaPrincipal, address: IpAddr, operation: Operation) -> Said {
        let named = self.named(principal, address);
        let bits = operation.denied_by();
        Said { allowed: named.allow & bits != 0, denied: named.deny & bits != 0 }
    }

    fn named(&self, principal: &KafkaPrincipal, address: IpAddr) -> Named {
        let mut named = self.everybody.named(address);
        if let Some(hosts) = self.by_principal.get(principal) {
            named.add(hosts.named(address));
        }
        named
    }
}

fn entries_of(principal: &KafkaPrincipal, host: &str, named: Named) -> Vec<AclEntry> {
    let mut entries = Vec::new();
    for (permission, bits) in [(Permission::Deny, named.deny), (Permission::Allow, named.allow)] {
        let operations = Operation::ALL.iter().filter(|operation| bits & operation.bit() != 0);
        entries.extend(operations.map(|operation| AclEntry {
            principal: principal.clone(),
            host: host.to_owned(),
            operation: *operation,
            permission,
        }));
    }
    entries
}

impl FromIterator<AclEntry> for Rules {
    fn from_iter<I: IntoIterator<Item = AclEntry>>(entries: I) -> Self {
        let mut rules = Self::default();
        for entry in entries {
            rules.insert(&entry);
        }
        rules
    }
}
