//! What the listeners demand of their clients, and how brokers speak to each other: `ssl.*`, `sasl.*`, JAAS texts, with
//! the prefixes of single listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ListenerName, SecurityProtocol};
use ottla_sasl::jaas::{self, JaasEntry};
use ottla_sasl::oauth::settings::{BearerSettings, SettingError};
use ottla_sasl::oauth::token_source::TokenSource;
use ottla_sasl::{ClientCredentials, ClientLogin, Mechanism};
use ottla_tls::{Password, TlsError, TlsSettings};

use crate::error::ConfigError;
use crate::listeners::Listeners;
use crate::properties::{Origin, Properties, Property};
use crate::reader::{Reader, items};

const JAAS: &str = "sasl.jaas.config";
pub(crate) const CLIENT_AUTH: &str = "ssl.client.auth";
const MECHANISMS: &str = "sasl.enabled.mechanisms";
const INTER_BROKER_MECHANISM: &str = "sasl.mechanism.inter.broker.protocol";
const LOGIN_FILE: &str = "java.security.auth.login.config";
const ACCEPTED_MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";
const SERVER_HANDLER: &str = "sasl.server.callback.handler.class";
const LOGIN_HANDLER: &str = "sasl.login.callback.handler.class";

/// The security of every listener, and of the connections to other brokers.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    pub listeners: BTreeMap<ListenerName, ListenerSecurity>,
    pub inter_broker: PeerSecurity,
    /// `connection.failed.authentication.delay.ms`.
    pub failed_authentication_delay: Duration,
    login_file: Option<Arc<LoginFile>>,
}

/// What one listener demands.
#[derive(Clone, Debug)]
pub struct ListenerSecurity {
    pub protocol: SecurityProtocol,
    /// Of SSL and SASL_SSL.
    pub tls: Option<TlsSettings>,
    /// Of SASL_PLAINTEXT and SASL_SSL.
    pub sasl: Option<SaslConfig>,
}

#[derive(Clone, Debug)]
pub struct SaslConfig {
    /// At least one.
    pub mechanisms: BTreeSet<Mechanism>,
    /// The users of PLAIN.
    pub plain_users: BTreeMap<String, Password>,
    /// Users whose SCRAM passwords stand in the configuration (`client.users`); those of the cluster win.
    pub scram_users: BTreeMap<String, Password>,
    /// Of OAUTHBEARER.
    pub bearer: Option<BearerSettings>,
    /// `connections.max.reauth.ms`; none: a login holds as long as its connection.
    pub reauth_max: Option<Duration>,
    /// `sasl.server.max.receive.size`.
    pub receive_bytes_max: usize,
}

/// How a connection to another broker is made.
#[derive(Clone, Debug)]
pub struct PeerSecurity {
    pub tls: Option<TlsSettings>,
    pub login: Option<ClientLogin>,
}

/// Reads a setting of one listener: its own value, else that of all listeners.
struct Scope<'a> {
    properties: &'a Properties,
    /// `listener.name.NAME.`.
    prefix: String,
}

impl<'a> Scope<'a> {
    fn of(properties: &'a Properties, listener: &ListenerName) -> Self {
        Self { properties, prefix: format!("listener.name.{}.", listener.as_str().to_ascii_lowercase()) }
    }

    fn own(&self, name: &str) -> Option<&'a Property> {
        self.properties.get(&format!("{}{name}", self.prefix))
    }

    fn property(&self, name: &str) -> Option<&'a Property> {
        self.own(name).or_else(|| self.properties.get(name))
    }

    fn filled(&self, name: &str) -> Option<&'a Property> {
        self.property(name).filter(|property| !property.value.is_empty())
    }

    /// The name under which the value of `name` stands.
    fn key(&self, name: &str) -> String {
        if self.own(name).is_some() { format!("{}{name}", self.prefix) } else { name.to_owned() }
    }

    fn tls(&self) -> Result<TlsSettings, ConfigError> {
        // Kafka's default `JKS` of a type, and `https`, are those of the reader as well.
        let settings = TlsSettings::read(|name| self.property(name).map(|property| property.value.as_str()));
        settings.map_err(|error| self.tls_error(&error))
    }

    /// Of the server's side. As at Kafka a listener with logins asks for certificates only where that is said of it:
    /// its clients have passwords.
    fn server_tls(&self, protocol: SecurityProtocol) -> Result<TlsSettings, ConfigError> {
        let is_own = |name: &str| name == CLIENT_AUTH && protocol.has_sasl();
        let get = |name: &str| if is_own(name) { self.own(name) } else { self.property(name) };
        let settings = TlsSettings::read(|name| get(name).map(|property| property.value.as_str()));
        settings.map_err(|error| self.tls_error(&error))
    }

    fn tls_error(&self, error: &TlsError) -> ConfigError {
        let TlsError::Setting { name, problem } = error else {
            return ConfigError::missing("ssl.keystore.location", error.to_string());
        };
        let unset = Property { value: String::new(), origin: Origin::Default };
        ConfigError::invalid(&self.key(name), self.property(name).unwrap_or(&unset), problem, "Kafka's ssl.* settings")
    }

    /// The value of a setting of the listener; of OAUTHBEARER's handlers only those behind `oauthbearer.`.
    fn bearer_setting(&self, name: &str) -> Option<&'a str> {
        let property = match name {
            SERVER_HANDLER | LOGIN_HANDLER => self.filled(&format!("oauthbearer.{name}")),
            name => self.filled(name),
        };
        property.map(|property| property.value.as_str())
    }

    fn bearer_error(&self, error: SettingError) -> ConfigError {
        match self.filled(&error.name) {
            Some(property) => ConfigError::invalid(
                &self.key(&error.name),
                property,
                error.problem,
                "Kafka's sasl.oauthbearer.* settings",
            ),
            None => ConfigError::missing(&self.key(&error.name), error.problem),
        }
    }

    fn bearer(&self, file: Option<&LoginFile>) -> Result<BearerSettings, ConfigError> {
        let modules = self.modules(Mechanism::OAuthBearer, file)?;
        let module = modules.iter().find(|module| module.serves(Mechanism::OAuthBearer));
        let get = |name: &str| self.bearer_setting(name);
        BearerSettings::read(&get, get(SERVER_HANDLER), module).map_err(|error| self.bearer_error(error))
    }

    fn mechanisms(&self) -> Result<BTreeSet<Mechanism>, ConfigError> {
        let Some(property) = self.filled(MECHANISMS) else {
            return Err(ConfigError::missing(&self.key(MECHANISMS), ACCEPTED_MECHANISMS));
        };
        items(&property.value).into_iter().map(|name| mechanism(&self.key(MECHANISMS), property, name)).collect()
    }

    /// The login modules for a mechanism, and the key that they stand under; by Kafka's order of places.
    fn modules(&self, mechanism: Mechanism, file: Option<&LoginFile>) -> Result<Vec<JaasEntry>, ConfigError> {
        let own = format!("{}.{JAAS}", mechanism.name().to_ascii_lowercase());
        for name in [own.as_str(), JAAS] {
            let Some(property) = self.filled(name) else { continue };
            if name == JAAS && file.is_some() {
                continue;
            }
            let parsed = jaas::parse(&property.value).map_err(|error| {
                let accepted = "org.apache.kafka.common.security.plain.PlainLoginModule required …;";
                ConfigError::invalid(&self.key(name), property, error.to_string(), accepted)
            })?;
            return Ok(parsed);
        }
        let Some(file) = file else { return Ok(Vec::new()) };
        let listener = self.prefix.trim_start_matches("listener.name.");
        let section = [format!("{listener}KafkaServer"), "KafkaServer".to_owned()]
            .into_iter()
            .find_map(|name| file.sections.get(&name));
        Ok(section.cloned().unwrap_or_default())
    }
}

/// TLS of a listener, for whoever dials it.
pub(crate) fn listener_tls(properties: &Properties, listener: &ListenerName) -> Result<TlsSettings, ConfigError> {
    Scope::of(properties, listener).tls()
}

/// What somebody has set of these settings for a listener, or for all listeners.
pub(crate) fn listener_settings<'a>(
    properties: &'a Properties,
    listener: &ListenerName,
    names: impl Iterator<Item = &'a str>,
) -> Vec<(&'a str, &'a Property)> {
    let scope = Scope::of(properties, listener);
    let set = names.filter_map(|name| Some((name, scope.property(name)?)));
    set.filter(|(_, property)| property.origin != Origin::Default).collect()
}

fn mechanism(key: &str, property: &Property, name: &str) -> Result<Mechanism, ConfigError> {
    Mechanism::from_name(name).ok_or_else(|| {
        let problem = format!("the mechanism {name} is not served");
        ConfigError::invalid(key, property, problem, ACCEPTED_MECHANISMS)
    })
}

/// A login file of Java's, which `KAFKA_OPTS` names.
#[derive(Debug)]
struct LoginFile {
    sections: BTreeMap<String, Vec<JaasEntry>>,
}

impl LoginFile {
    fn read(properties: &Properties) -> Result<Option<Self>, ConfigError> {
        let Some(property) = Reader::new(properties).property(LOGIN_FILE) else { return Ok(None) };
        let invalid = |problem: String| {
            ConfigError::invalid(LOGIN_FILE, property, problem, "a readable login file with a section KafkaServer")
        };
        let text = std::fs::read_to_string(Path::new(&property.value)).map_err(|error| invalid(error.to_string()))?;
        let sections = jaas::parse_file(&text).map_err(|error| invalid(error.to_string()))?;
        Ok(Some(Self { sections }))
    }
}

impl SecurityConfig {
    /// `before`: what was read at the start. Its login file is not read again: this may run where nothing may wait for
    /// a disk.
    pub(crate) fn read(
        properties: &Properties,
        listeners: &Listeners,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let reader = Reader::new(properties);
        let has_sasl = listeners.listeners.iter().any(|listener| listener.protocol.has_sasl());
        let login_file = match before {
            Some(before) => before.login_file.clone(),
            None if has_sasl => LoginFile::read(properties)?.map(Arc::new),
            None => None,
        };
        let file = login_file.as_deref();
        if has_sasl {
            refuse_handlers(properties)?;
        }
        let shared = shared_users(&reader)?;
        let mut by_name = BTreeMap::new();
        for listener in &listeners.listeners {
            let scope = Scope::of(properties, &listener.name);
            let tls = if listener.protocol.has_tls() { Some(scope.server_tls(listener.protocol)?) } else { None };
            if let Some(tls) = &tls
                && tls.key.is_none()
            {
                let accepted = format!("a key and certificate for {} ({})", listener.name, listener.protocol);
                return Err(ConfigError::missing(&scope.key("ssl.keystore.location"), accepted));
            }
            let sasl = if listener.protocol.has_sasl() { Some(SaslConfig::read(&scope, file, &shared)?) } else { None };
            by_name.insert(listener.name.clone(), ListenerSecurity { protocol: listener.protocol, tls, sasl });
        }
        let delay = reader.number("connection.failed.authentication.delay.ms", 0..=i32::MAX)?;
        Ok(Self {
            inter_broker: PeerSecurity::read(properties, listeners, file, &reader)?,
            listeners: by_name,
            failed_authentication_delay: Duration::from_millis(delay.unsigned_abs().into()),
            login_file,
        })
    }
}

impl SaslConfig {
    fn read(
        scope: &Scope<'_>,
        file: Option<&LoginFile>,
        shared: &BTreeMap<String, Password>,
    ) -> Result<Self, ConfigError> {
        let mechanisms = scope.mechanisms()?;
        let mut plain_users = BTreeMap::new();
        if mechanisms.contains(&Mechanism::Plain) {
            plain_users.clone_from(shared);
            let modules = scope.modules(Mechanism::Plain, file)?;
            let users = modules.iter().filter(|module| module.serves(Mechanism::Plain)).flat_map(JaasEntry::users);
            plain_users.extend(users.map(|(user, password)| (user.to_owned(), Password::new(password))));
        }
        let number = |name: &str, least: u64, most: u64| {
            let key = scope.key(name);
            let property = scope.filled(name).ok_or_else(|| ConfigError::missing(&key, "a whole number"))?;
            let accepted = format!("a whole number from {least} to {most}");
            let parsed = property.value.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
            parsed.ok_or_else(|| ConfigError::invalid(&key, property, "is no such number", accepted))
        };
        let reauth_ms = number("connections.max.reauth.ms", 0, i64::MAX.unsigned_abs())?;
        let receive_bytes_max = number("sasl.server.max.receive.size", 1, i32::MAX.unsigned_abs().into())?;
        let bearer = mechanisms.contains(&Mechanism::OAuthBearer).then(|| scope.bearer(file)).transpose()?;
        Ok(Self {
            mechanisms,
            plain_users,
            bearer,
            scram_users: shared.clone(),
            reauth_max: (reauth_ms > 0).then(|| Duration::from_millis(reauth_ms)),
            receive_bytes_max: usize::try_from(receive_bytes_max).unwrap_or(usize::MAX),
        })
    }
}

impl PeerSecurity {
    fn read(
        properties: &Properties,
        listeners: &Listeners,
        file: Option<&LoginFile>,
        reader: &Reader<'_>,
    ) -> Result<Self, ConfigError> {
        let scope = Scope::of(properties, &listeners.inter_broker);
        let protocol = listeners
            .listeners
            .iter()
            .find(|listener| listener.name == listeners.inter_broker)
            .map_or(SecurityProtocol::Plaintext, |listener| listener.protocol);
        let tls = if protocol.has_tls() { Some(scope.tls()?) } else { None };
        if !protocol.has_sasl() {
            return Ok(Self { tls, login: None });
        }
        let property = reader
            .property(INTER_BROKER_MECHANISM)
            .ok_or_else(|| ConfigError::missing(INTER_BROKER_MECHANISM, ACCEPTED_MECHANISMS))?;
        let mechanism = mechanism(INTER_BROKER_MECHANISM, property, &property.value)?;
        if !scope.mechanisms()?.contains(&mechanism) {
            let problem = format!("{} does not offer it", listeners.inter_broker);
            return Err(ConfigError::invalid(INTER_BROKER_MECHANISM, property, problem, "one of its mechanisms"));
        }
        let modules = scope.modules(mechanism, file)?;
        let mut own_modules = modules.iter().filter(|module| module.serves(mechanism));
        let module_name = format!("{}{}.{JAAS}", scope.prefix, mechanism.name().to_ascii_lowercase());
        if mechanism == Mechanism::OAuthBearer {
            let module = own_modules
                .next()
                .ok_or_else(|| ConfigError::missing(&module_name, "the login module of OAUTHBEARER"))?;
            let source = TokenSource::read(&|name| scope.bearer_setting(name), module);
            let source = source.map_err(|error| scope.bearer_error(error))?;
            return Ok(Self { tls, login: Some(ClientLogin::Bearer(source)) });
        }
        let login = own_modules.find_map(|module| Some((module.login()?, module.is_token())));
        if login.is_some_and(|(_, is_token)| is_token) {
            // It would end, and the cluster with it.
            return Err(ConfigError::missing(&module_name, "a user, not a delegation token, for other brokers"));
        }
        let login = login.map(|(login, _)| login);
        let own = reader.text("inter.broker.user").zip(reader.text("inter.broker.password"));
        let Some((user, password)) = login.or(own) else {
            return Err(ConfigError::missing(
                &module_name,
                "a login module with username and password, for other brokers",
            ));
        };
        let (user, password) = (user.to_owned(), password.to_owned());
        let credentials = ClientCredentials { mechanism, user, password, is_token: false };
        Ok(Self { tls, login: Some(ClientLogin::User(credentials)) })
    }
}

/// bitnami's `KAFKA_CLIENT_USERS` and `KAFKA_CLIENT_PASSWORDS`, and the brokers' own user: they may log in by every
/// mechanism that a listener has.
fn shared_users(reader: &Reader<'_>) -> Result<BTreeMap<String, Password>, ConfigError> {
    let separated = |name: &str| -> Vec<&str> {
        let text = reader.text(name).unwrap_or_default();
        text.split([',', ';', ' ']).map(str::trim).filter(|item| !item.is_empty()).collect()
    };
    let (users, passwords) = (separated("client.users"), separated("client.passwords"));
    if users.len() != passwords.len() {
        let accepted = format!("as many passwords as client.users has users ({})", users.len());
        return Err(ConfigError::missing("client.passwords", accepted));
    }
    let own = reader.text("inter.broker.user").zip(reader.text("inter.broker.password"));
    let all = users.into_iter().zip(passwords).chain(own);
    Ok(all.map(|(user, password)| (user.to_owned(), Password::new(password))).collect())
}

/// Java classes that would decide who gets in.
fn refuse_handlers(properties: &Properties) -> Result<(), ConfigError> {
    const HANDLERS: [&str; 4] =
        [SERVER_HANDLER, LOGIN_HANDLER, "sasl.client.callback.handler.class", "sasl.login.class"];
    for (name, property) in properties.iter() {
        let is_handler = HANDLERS.iter().any(|handler| name == *handler || name.ends_with(&format!(".{handler}")));
        let is_of_bearer = [SERVER_HANDLER, LOGIN_HANDLER]
            .iter()
            .any(|handler| name.strip_suffix(handler).is_some_and(|scope| scope.ends_with("oauthbearer.")));
        // Those of OAUTHBEARER are looked at by its settings.
        if is_handler && !is_of_bearer && !property.value.is_empty() {
            let problem = "there is no such class here";
            return Err(ConfigError::invalid(name, property, problem, "users of PLAIN in sasl.jaas.config, or SCRAM"));
        }
    }
    Ok(())
}
