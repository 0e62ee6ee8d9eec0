//! Who is connected, and what they may do: logins and checks by the image that this broker has.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ottla_authorizer::{Authorizer, CLUSTER, Operation, Requester, ResourceType};
use ottla_metadata::Image;
use ottla_metadata::logins::BrokenRules as LoginRules;
use ottla_model::{ErrorCode, KafkaPrincipal, MonotonicMs, TimestampMs, TopicIdPartition};
use ottla_sasl::oauth::{Bearer, TokenError};
use ottla_sasl::{
    ClientCredentials, ClientSession, Credentials, ScramCredential, ScramHash, ServerSession, Step, TokenCredential,
    TokenLogin, TokenSecret, login_lifetime,
};

use super::process::Process;
use crate::facts::{Checked, Fact, LoggedIn};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::security::clients::TOKEN_SECRET;
use crate::security::{BROKER, address_of};
use crate::world::SCRIPT;

/// Of users that do not exist, and of tokens: the same at every broker.
const SALT_SECRET: [u8; 32] = [7; 32];
/// The addresses of brokers begin here.
const BROKER_ADDRESSES: u32 = 60_000;

/// What was derived from tokens, by all brokers: it is the same, and costs a while.
pub type DerivedTokens = Rc<RefCell<BTreeMap<String, ScramCredential>>>;

/// The part of a broker's configuration.
#[derive(Clone)]
pub struct AccessConfig {
    pub authorizer: Authorizer,
    pub reauth_max: Option<Duration>,
    pub login_rules: LoginRules,
    pub derived: DerivedTokens,
}

/// The logins of a process.
pub(super) struct Access {
    pub config: AccessConfig,
    logins: BTreeMap<u32, Login>,
}

struct Login {
    principal: KafkaPrincipal,
    expires: Option<MonotonicMs>,
}

impl Login {
    fn is_over(&self, now: MonotonicMs) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }
}

impl Access {
    pub fn new(config: AccessConfig) -> Self {
        Self { config, logins: BTreeMap::new() }
    }
}

/// What a broker knows of users, by its image.
struct Users<'a> {
    image: &'a Image,
    wall: TimestampMs,
    config: &'a AccessConfig,
}

impl Credentials for Users<'_> {
    fn password(&self, _: &str) -> Option<String> {
        None
    }

    fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential> {
        ScramCredential::from_text(hash, self.image.scram_credential(user, hash.mechanism_name())?)
    }

    fn token(&self, hash: ScramHash, id: &str) -> Option<TokenCredential> {
        let token = self.image.valid_token(id, self.wall, self.config.login_rules)?;
        let mut derived = self.config.derived.borrow_mut();
        let credential = derived.entry(id.to_owned()).or_insert_with(|| {
            ScramCredential::of_token(hash, &SALT_SECRET, id, &TokenSecret::new(TOKEN_SECRET).password(id))
        });
        let (credential, owner) = (credential.clone(), token.owner.name.to_string());
        Some(TokenCredential { credential, owner, expires_ms: token.expires.0 })
    }

    fn bearer(&self, _: &str) -> Result<Bearer, TokenError> {
        Err(TokenError::UnknownKey(String::new()))
    }

    fn nobody_secret(&self) -> [u8; 32] {
        SALT_SECRET
    }
}

/// The whole conversation. None: the server refused.
fn converse(
    mut client: ClientSession,
    mut server: ServerSession,
    users: &Users<'_>,
) -> Result<Option<(String, Option<TokenLogin>)>, String> {
    let mut answer = Vec::new();
    loop {
        let message = match client.step(&answer) {
            Ok(Some(message)) => message,
            Ok(None) => return Err("a client thinks that it has logged in".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        match server.step(&message, users) {
            Ok(Step::Continue(next)) => answer = next,
            Ok(Step::Done { answer, user, token }) => {
                return match client.step(&answer) {
                    Ok(None) => Ok(Some((user, token))),
                    _ => Err("a client does not believe its server".to_owned()),
                };
            }
            Err(_) => return Ok(None),
        }
    }
}

impl Process {
    /// Whether a client has to log in before its next request.
    pub fn needs_login(&self, now: MonotonicMs, client: u32) -> bool {
        let Some(access) = &self.access else { return false };
        access.logins.get(&client).is_none_or(|login| login.is_over(now))
    }

    pub fn log_in(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        client: u32,
        credentials: ClientCredentials,
        out: &mut Outbox,
    ) {
        let mut nonce = || {
            let half = self.random.bytes_16();
            std::array::from_fn(|place| half[place % half.len()])
        };
        let (of_client, of_server) = (nonce(), nonce());
        let Some(access) = &mut self.access else { return };
        let users = Users { image: &self.image, wall, config: &access.config };
        let server = ServerSession::new(credentials.mechanism, &of_server);
        let done = match converse(ClientSession::new(credentials.clone(), &of_client), server, &users) {
            Ok(done) => done,
            Err(what) => return out.facts.push(Fact::Broken { what }),
        };
        access.logins.remove(&client);
        let user = done.as_ref().map(|(user, _)| user.clone());
        if let Some((user, token)) = done {
            let lifetime = login_lifetime(access.config.reauth_max, token, wall.0);
            let (principal, expires) = (KafkaPrincipal::user(user), lifetime.map(|lifetime| now + lifetime));
            access.logins.insert(client, Login { principal, expires });
        }
        out.note(format_args!("k{client} comes as {}: {user:?}", credentials.user));
        let revision = self.image.revision();
        out.facts.push(Fact::LoggedIn(Box::new(LoggedIn { credentials, user, wall, revision })));
    }

    fn requester(&self, now: MonotonicMs, from: NodeId) -> Option<Requester> {
        let access = self.access.as_ref()?;
        let (principal, address) = match from {
            NodeId::Client(client) if from == SCRIPT => (KafkaPrincipal::user("script"), address_of(client)),
            NodeId::Client(client) => {
                let login = access.logins.get(&client).filter(|login| !login.is_over(now))?;
                (login.principal.clone(), address_of(client))
            }
            NodeId::Broker(id) => (KafkaPrincipal::user(BROKER), address_of(BROKER_ADDRESSES + id.unsigned_abs())),
            NodeId::Coordinator(_) => return None,
        };
        Some(Requester { principal, address })
    }

    fn check(
        &self,
        now: MonotonicMs,
        from: NodeId,
        (operation, resource_type, name): (Operation, ResourceType, &str),
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        let Some(access) = &self.access else { return Ok(()) };
        let requester = self.requester(now, from).ok_or(ErrorCode::SaslAuthenticationFailed)?;
        let acls = self.image.acls();
        let is_allowed = access.config.authorizer.is_allowed(acls, &requester, operation, resource_type, name);
        let (name, revision) = (name.to_owned(), self.image.revision());
        let checked = Checked { requester, operation, resource_type, name, is_allowed, revision };
        out.facts.push(Fact::Checked(Box::new(checked)));
        match (is_allowed, resource_type) {
            (true, _) => Ok(()),
            (false, ResourceType::Cluster) => Err(ErrorCode::ClusterAuthorizationFailed),
            (false, _) => Err(ErrorCode::TopicAuthorizationFailed),
        }
    }

    /// Whether the sender may do this with the topic of a partition.
    pub(super) fn check_topic(
        &self,
        now: MonotonicMs,
        from: NodeId,
        operation: Operation,
        id: TopicIdPartition,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        match self.image.topic_by_id(id.topic_id) {
            Some(topic) => self.check(now, from, (operation, ResourceType::Topic, topic.name.as_str()), out),
            // The answer says no more than that.
            None => Ok(()),
        }
    }

    /// Whether the sender is one of the brokers.
    pub(super) fn check_broker(&self, now: MonotonicMs, from: NodeId, out: &mut Outbox) -> Result<(), ErrorCode> {
        self.check(now, from, (Operation::ClusterAction, ResourceType::Cluster, CLUSTER), out)
    }
}
