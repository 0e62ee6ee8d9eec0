//! `security.protocol`, `ssl.*` and `sasl.*` of a client's properties; and `zookeeper.ssl.*`, for coordinators.

use std::sync::{Arc, PoisonError, RwLock};

use ottla_model::{ClusterSecret, SecurityProtocol};
use ottla_rpc::ChannelSecurity;
use ottla_sasl::jaas::{self, JaasEntry};
use ottla_sasl::oauth::token_source::TokenSource;
use ottla_sasl::{ClientCredentials, ClientLogin, Mechanism};
use ottla_secure_stream::StreamSecurity;
use ottla_tls::{ClientTls, TlsSettings};

const LOGIN_OPTION: &str = "-Djava.security.auth.login.config=";

/// The security of this process's connections: a tool has one command line.
static SECURITY: RwLock<Option<StreamSecurity>> = RwLock::new(None);

/// TLS of this process's connections to coordinators.
static COORDINATOR_TLS: RwLock<Option<Arc<ClientTls>>> = RwLock::new(None);

/// How this process connects to brokers; plaintext where nothing was said.
pub fn security() -> StreamSecurity {
    SECURITY.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
}

/// How this process connects to coordinators; plaintext where nothing was said.
pub fn coordinators(secret: Option<&ClusterSecret>) -> ChannelSecurity {
    let tls = COORDINATOR_TLS.read().unwrap_or_else(PoisonError::into_inner).clone();
    ChannelSecurity { tls, secret: secret.cloned() }
}

/// Takes over what the properties of a client say; the last call counts.
pub fn take_over(properties: &[(String, String)]) -> Result<(), String> {
    let options = std::env::var("KAFKA_OPTS").unwrap_or_default();
    let file = options.split_whitespace().find_map(|option| option.strip_prefix(LOGIN_OPTION));
    let security = read(properties, file)?;
    let coordinator_tls = read_coordinator_tls(properties)?;
    *SECURITY.write().unwrap_or_else(PoisonError::into_inner) = Some(security);
    *COORDINATOR_TLS.write().unwrap_or_else(PoisonError::into_inner) = coordinator_tls;
    Ok(())
}

/// Whether a client's property is read here.
pub fn is_read(name: &str) -> bool {
    name == "security.protocol"
        || name.starts_with("ssl.")
        || name.starts_with("sasl.")
        || name.starts_with("zookeeper.ssl.")
}

fn read_coordinator_tls(properties: &[(String, String)]) -> Result<Option<Arc<ClientTls>>, String> {
    let get = |name: &str| properties.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let settings = ottla_config::coordinator_tls(get).map_err(|error| error.to_string())?;
    let tls = settings.map(ClientTls::for_http).transpose();
    Ok(tls.map_err(|error| format!("zookeeper.ssl.client.enable: {error}"))?.map(Arc::new))
}

fn read(properties: &[(String, String)], login_file: Option<&str>) -> Result<StreamSecurity, String> {
    let get = |name: &str| properties.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let protocol = get("security.protocol").unwrap_or("PLAINTEXT");
    let protocol = SecurityProtocol::from_name(protocol).ok_or_else(|| {
        format!("security.protocol={protocol} is unknown: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL are known")
    })?;
    let tls = if protocol.has_tls() {
        let settings = TlsSettings::read(get).map_err(|error| error.to_string())?;
        Some(ClientTls::new(settings).map_err(|error| error.to_string())?)
    } else {
        None
    };
    let login = if protocol.has_sasl() { Some(login(&get, login_file)?) } else { None };
    StreamSecurity::new(tls, login).map_err(|error| error.to_string())
}

fn login<'a>(get: &dyn Fn(&str) -> Option<&'a str>, login_file: Option<&str>) -> Result<ClientLogin, String> {
    let name = get("sasl.mechanism").unwrap_or("GSSAPI");
    let mechanism = Mechanism::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Mechanism::ALL.iter().map(|mechanism| mechanism.name()).collect();
        format!("sasl.mechanism={name} is not supported: {} are", known.join(", "))
    })?;
    let modules: Vec<JaasEntry> = match (get("sasl.jaas.config"), login_file) {
        (Some(text), _) => jaas::parse(text).map_err(|error| format!("sasl.jaas.config: {error}"))?,
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            let mut sections = jaas::parse_file(&text).map_err(|error| format!("{path}: {error}"))?;
            sections.remove("KafkaClient").ok_or_else(|| format!("{path}: no section KafkaClient"))?
        }
        (None, None) => return Err("sasl.jaas.config is not set, and no login file is named".to_owned()),
    };
    let mut modules = modules.iter().filter(|module| module.serves(mechanism));
    if mechanism == Mechanism::OAuthBearer {
        let module = modules.next().ok_or_else(|| format!("sasl.jaas.config: no login module of {name}"))?;
        return TokenSource::read(get, module).map(ClientLogin::Bearer).map_err(|error| error.to_string());
    }
    let login = modules.find_map(|module| module.login().map(|(user, password)| (user, password, module.is_token())));
    let (user, password, is_token) =
        login.ok_or_else(|| format!("sasl.jaas.config: no login module of {name} with username and password"))?;
    let (user, password) = (user.to_owned(), password.to_owned());
    Ok(ClientLogin::User(ClientCredentials { mechanism, user, password, is_token }))
}

#[cfg(test)]
mod tests {
    use ottla_secure_stream::bearer::Login;

    use super::*;

    fn properties(text: &str) -> Vec<(String, String)> {
        ottla_config::parse_properties(text)
    }

    #[test]
    fn files_of_deployments_are_understood() {
        let text = "sasl.mechanism=PLAIN\nsecurity.protocol=SASL_PLAINTEXT\nsasl.jaas.config=\
                    org.apache.kafka.common.security.plain.PlainLoginModule required \\\n  username=\"admin\" \\\n\
                    password=\"admin-pass\";\n";
        let security = read(&properties(text), None).expect("understood");
        let login = security.login.expect("a login").current();
        let Login::User(credentials) = &*login else { panic!("a user") };
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("admin", "admin-pass"));
        assert!(security.tls.is_none());
        assert!(read(&[], None).expect("plaintext").login.is_none());
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, expected) in [
            ("security.protocol=SASL_PLAINTEXT", "sasl.mechanism=GSSAPI"),
            ("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN", "sasl.jaas.config is not set"),
            (
                "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.jaas.config=\
                 x.OAuthBearerLoginModule required clientSecret=hunter2;",
                "sasl.oauthbearer.token.endpoint.url",
            ),
            ("security.protocol=TLS", "security.protocol=TLS"),
            ("security.protocol=SSL\nssl.truststore.location=/no/such\nssl.truststore.password=hunter2", "/no/such"),
        ] {
            let error = read(&properties(text), None).expect_err("refused");
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
