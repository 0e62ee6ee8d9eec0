//! Clusters with security on: who clients are, who changes what they may do, and a plain model of it.
//!
//! - [`model`]: rules, credentials, tokens and quotas as the tree at one revision has them, decided naively.
//! - [`admin`]: two admins, who change them through the controller while everything else fails.
//! - [`ledger`]: which states the changes that were asked for may lead to.
//! - [`clients`]: who clients are and what they log in with; an intruder, who may do nothing.
//! - [`impostor`]: requests in the names of brokers.

pub mod admin;
pub mod clients;
pub mod impostor;
pub mod ledger;
pub mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ottla_authorizer::{AclIndex, Authorizer, BrokenRules as AuthorizerRules};
use ottla_metadata::logins::BrokenRules as LoginRules;
use ottla_metadata::watch::BrokenRules as WatchRules;
use ottla_model::{KafkaPrincipal, Revision};

use crate::client::Producer;
use crate::clock::SimTime;
use crate::random::Random;
use admin::Admin;
use clients::Logins;
use impostor::Impostor;
use ledger::Ledger;
use model::Model;

/// The admins, as clients.
pub const ADMINS: [u32; 2] = [401, 402];
/// A producer that no rule ever allows anything.
pub const INTRUDER: u32 = 490;
/// Sends requests in the names of brokers.
pub const IMPOSTOR: u32 = 491;

/// What brokers log in as.
pub const BROKER: &str = "broker";

/// A login lasts so long, where logins end.
const REAUTH_MS: (u64, u64) = (2_000, 8_000);

/// The security of a run.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    pub allow_everyone_if_no_acl_found: bool,
    /// Brokers are super users; otherwise a rule allows them what they need.
    pub brokers_are_super_users: bool,
    pub reauth_max: Option<Duration>,
    pub rules: SecurityRules,
}

/// Rules that are taken out, to see that the checks notice.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecurityRules {
    pub authorizer: AuthorizerRules,
    pub watch: WatchRules,
    pub logins: LoginRules,
}

impl SecurityConfig {
    pub fn draw(random: &mut Random) -> Self {
        let reauth_ms = random.between(REAUTH_MS.0, REAUTH_MS.1);
        Self {
            allow_everyone_if_no_acl_found: random.percent(25),
            brokers_are_super_users: random.percent(60),
            reauth_max: random.percent(70).then(|| Duration::from_millis(reauth_ms)),
            rules: SecurityRules::default(),
        }
    }

    /// Of one seed of four.
    pub fn of_seed(seed: u64) -> Option<Self> {
        let mut random = Random::new(seed ^ 0x5EC0_12E5);
        (random.below(4) == 0).then(|| Self::draw(&mut random))
    }

    /// Of a process of a broker that starts with these super users beside the brokers.
    pub fn authorizer(&self, super_users: &BTreeSet<KafkaPrincipal>) -> Authorizer {
        let mut super_users = super_users.clone();
        if self.brokers_are_super_users {
            super_users.insert(KafkaPrincipal::user(BROKER));
        }
        Authorizer {
            super_users,
            allow_everyone_if_no_acl_found: self.allow_everyone_if_no_acl_found,
            broken: self.rules.authorizer,
        }
    }
}

/// The user of a client.
pub fn user_of(client: u32) -> String {
    match client {
        INTRUDER => "intruder".to_owned(),
        client => format!("client-{client}"),
    }
}

/// Where clients and brokers connect from: each from a host of its own.
pub fn address_of(client: u32) -> IpAddr {
    let [.., high, low] = client.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

/// What the world has of it.
pub struct Security {
    pub config: SecurityConfig,
    pub random: Random,
    pub admins: BTreeMap<u32, Admin>,
    pub ledger: Ledger,
    pub logins: Logins,
    pub impostor: Impostor,
    pub intruder: Producer,
    /// By revision, of every one that a coordinator applied. Neighbours that are equal share theirs.
    pub models: BTreeMap<Revision, Arc<Model>>,
    /// Super users of the configuration that brokers start with.
    pub super_users: BTreeSet<KafkaPrincipal>,
    /// What was compared last for each broker.
    pub compared: BTreeMap<i32, (Arc<Model>, Arc<AclIndex>)>,
    /// The newest revision that an acknowledged change came with.
    pub acknowledged: Revision,
    /// The rules of the run's end are to be made.
    pub is_restoring: bool,
    /// A script says what is changed: nothing is drawn.
    pub is_led: bool,
    /// When each broker heard last from the quorum's leader, and of which revision.
    pub heard: BTreeMap<i32, (SimTime, Revision)>,
    /// Since when a broker has not had a change that it could have, and which.
    pub lags_since: BTreeMap<i32, (SimTime, Revision)>,
    pub counts: Counts,
}

/// What a run's security came to, to see that it was worth something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub changes: u64,
    pub uncertain: u64,
    pub allowed: u64,
    pub refused: u64,
    pub logins: u64,
    pub refused_logins: u64,
    pub compared: u64,
    pub forged: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} changes ({} uncertain), {} requests allowed, {} refused, {} logins, {} refused, {} images compared, {} \
             forged requests refused",
            self.changes,
            self.uncertain,
            self.allowed,
            self.refused,
            self.logins,
            self.refused_logins,
            self.compared,
            self.forged
        )
    }
}

impl Security {
    pub fn new(config: SecurityConfig, coordinators: &[u64], brokers: &[i32], clients: &[u32], seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0ACC_E55E);
        let mut logins = Logins::new(clients, random.fork());
        let mut admins: BTreeMap<u32, Admin> =
            ADMINS.iter().map(|id| (*id, Admin::new(*id, coordinators, random.fork()))).collect();
        if let Some(first) = admins.get_mut(&ADMINS[0]) {
            first.set_up(&config, &mut logins);
        }
        Self {
            config,
            admins,
            ledger: Ledger::default(),
            logins,
            impostor: Impostor::new(coordinators.to_vec(), random.fork()),
            intruder: Producer::new(INTRUDER, -1, 2_000, brokers.to_vec(), random.fork()),
            models: BTreeMap::from([(Revision(0), Arc::new(Model::default()))]),
            super_users: BTreeSet::new(),
            compared: BTreeMap::new(),
            acknowledged: Revision(0),
            is_restoring: false,
            is_led: false,
            heard: BTreeMap::new(),
            lags_since: BTreeMap::new(),
            counts: Counts::default(),
            random,
        }
    }

    /// Whether the rules that are there from the beginning hold. Before that nobody adds others.
    pub fn is_set_up(&self) -> bool {
        self.admins.get(&ADMINS[0]).is_some_and(Admin::is_set_up)
    }
}
