//! How a coordinator reaches brokers, as a client of Kafka: over which listener, and as which user. Its certificate is
//! that of `ssl.*`.

use ottla_model::ListenerName;
use ottla_sasl::jaas::{self, JaasEntry};
use ottla_sasl::oauth::token_source::TokenSource;
use ottla_sasl::{ClientCredentials, ClientLogin, Mechanism};

use crate::error::ConfigError;
use crate::properties::Properties;
use crate::reader::Reader;

const LISTENER: &str = "broker.listener.name";
const MECHANISM: &str = "sasl.mechanism";
const JAAS: &str = "sasl.jaas.config";
const ACCEPTED_MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";
const ACCEPTED_MODULE: &str = "a login module of sasl.mechanism with username and password, or with a source of tokens";

#[derive(Clone, Debug, Default)]
pub struct BrokerClientConfig {
    /// `broker.listener.name`; none: the inter-broker listener, or another one that this coordinator can speak to.
    pub listener: Option<ListenerName>,
    /// `sasl.mechanism` and `sasl.jaas.config`; none: listeners with SASL are not for it.
    pub login: Option<ClientLogin>,
}

impl BrokerClientConfig {
    pub(crate) fn read(properties: &Properties) -> Result<Self, ConfigError> {
        let reader = Reader::new(properties);
        let listener = reader.text(LISTENER).map(|name| ListenerName::new(name.to_ascii_uppercase()));
        Ok(Self { listener, login: login(properties, &reader)? })
    }
}

fn login(properties: &Properties, reader: &Reader<'_>) -> Result<Option<ClientLogin>, ConfigError> {
    let (mechanism, module) = match (reader.property(MECHANISM), reader.property(JAAS)) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(ConfigError::missing(MECHANISM, ACCEPTED_MECHANISMS)),
        (Some(_), None) => return Err(ConfigError::missing(JAAS, ACCEPTED_MODULE)),
        (Some(mechanism), Some(module)) => (mechanism, module),
    };
    let known = Mechanism::from_name(&mechanism.value)
        .ok_or_else(|| ConfigError::invalid(MECHANISM, mechanism, "is not supported", ACCEPTED_MECHANISMS))?;
    let invalid = |problem: String| ConfigError::invalid(JAAS, module, problem, ACCEPTED_MODULE);
    let modules = jaas::parse(&module.value).map_err(|error| invalid(error.to_string()))?;
    let mut own = modules.iter().filter(|module| module.serves(known));
    if known == Mechanism::OAuthBearer {
        let module = own.next().ok_or_else(|| invalid(format!("has no module of {known}")))?;
        let get = |name: &str| properties.get(name).map(|property| property.value.as_str());
        let source = TokenSource::read(&get, module);
        let source = source.map_err(|error| match reader.property(&error.name) {
            Some(property) => ConfigError::invalid(&error.name, property, error.problem, "as of a client"),
            None => ConfigError::missing(&error.name, error.problem),
        });
        return Ok(Some(ClientLogin::Bearer(source?)));
    }
    let module: Option<&JaasEntry> = own.find(|module| module.login().is_some());
    let Some((module, (user, password))) = module.and_then(|module| Some((module, module.login()?))) else {
        return Err(invalid(format!("has no module of {known} with username and password")));
    };
    if module.is_token() {
        // It would end, and nobody would notice before the next question.
        return Err(invalid("names a delegation token".to_owned()));
    }
    let (user, password) = (user.to_owned(), password.to_owned());
    Ok(Some(ClientLogin::User(ClientCredentials { mechanism: known, user, password, is_token: false })))
}

#[cfg(test)]
mod tests {
    use crate::{CoordinatorConfig, Sources};

    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<BrokerClientConfig, String> {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let loaded = CoordinatorConfig::load(&Sources { flags, ..Sources::default() });
        loaded.map(|loaded| loaded.config.broker_client).map_err(|error| error.to_string())
    }

    const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"c\" \
                         password=\"hunter2\";";

    #[test]
    fn a_coordinator_logs_in_as_a_client_does() {
        let none = read(&[]).expect("nothing is set");
        assert!(none.login.is_none() && none.listener.is_none());
        let set = [(MECHANISM, "SCRAM-SHA-512"), (JAAS, SCRAM), (LISTENER, "internal")];
        let config = read(&set).expect("understood");
        let Some(ClientLogin::User(user)) = &config.login else { panic!("{config:?}") };
        assert_eq!((user.mechanism, user.user.as_str()), (Mechanism::Scram(ottla_sasl::ScramHash::Sha512), "c"));
        assert_eq!(config.listener, Some(ListenerName::new("INTERNAL")));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_log_in_is_refused_by_name_and_without_its_password() {
        let token = SCRAM.replace("required", "required tokenauth=\"true\"");
        for (flags, expected) in [
            (vec![(JAAS, SCRAM)], "sasl.mechanism is not set"),
            (vec![(MECHANISM, "PLAIN")], "sasl.jaas.config is not set"),
            (vec![(MECHANISM, "GSSAPI"), (JAAS, SCRAM)], "sasl.mechanism=GSSAPI"),
            (vec![(MECHANISM, "PLAIN"), (JAAS, SCRAM)], "has no module of PLAIN"),
            (vec![(MECHANISM, "SCRAM-SHA-512"), (JAAS, &token)], "names a delegation token"),
            (vec![(MECHANISM, "OAUTHBEARER"), (JAAS, "x.OAuthBearerLoginModule required;")], "token.endpoint.url"),
        ] {
            let error = read(&flags).expect_err("refused");
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
