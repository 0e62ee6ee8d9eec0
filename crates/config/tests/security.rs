//! TLS and SASL by the environments of deployments that exist, and what is refused by name.
#![allow(clippy::unwrap_used)]

use ottla_config::{BrokerConfig, ConfigError, Host, Loaded, Sources};
use ottla_model::{ListenerName, SecurityProtocol};
use ottla_sasl::oauth::token_source::TokenSource;
use ottla_sasl::{ClientLogin, Mechanism};
use ottla_tls::ClientAuth;

const BASE: &[(&str, &str)] = &[("KAFKA_ZOOKEEPER_CONNECT", "zookeeper:2181")];

fn load(variables: &[(&str, &str)]) -> Result<Loaded<BrokerConfig>, ConfigError> {
    let all = BASE.iter().chain(variables).copied();
    BrokerConfig::load_on(&Sources::of_environment(all), &Host::new("broker", |address| address.is_loopback()))
}

fn config(variables: &[(&str, &str)]) -> BrokerConfig {
    load(variables).unwrap_or_else(|error| panic!("{error}")).config
}

fn refused(variables: &[(&str, &str)], expected: &str) {
    let error = load(variables).unwrap_err().to_string();
    assert!(error.contains(expected) && !error.contains('\n') && !error.contains("hunter2"), "{error}");
}

/// The mechanisms of a listener and its users of PLAIN.
fn sasl(config: &BrokerConfig, listener: &str) -> (Vec<&'static str>, Vec<String>) {
    let sasl = config.security.listeners[&ListenerName::new(listener)].sasl.as_ref().unwrap();
    (sasl.mechanisms.iter().map(|mechanism| mechanism.name()).collect(), sasl.plain_users.keys().cloned().collect())
}

/// confluentinc/cp-kafka 7 with ZooKeeper: PKCS12 stores, login modules of listeners, keys in mixed case.
#[test]
fn three_listeners_by_a_file_of_variables() {
    let config = config(&[
        ("KAFKA_LISTENERS", "INTERNAL://:29092,NOAUTH://:9092,PLAIN://:9192,SCRAM://:9292"),
        (
            "KAFKA_ADVERTISED_LISTENERS",
            "INTERNAL://kafka-1:29092,NOAUTH://localhost:9092,PLAIN://localhost:9192,SCRAM://localhost:9292",
        ),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "INTERNAL:PLAINTEXT,NOAUTH:SSL,PLAIN:SASL_SSL,SCRAM:SASL_SSL"),
        ("KAFKA_SSL_KEYSTORE_LOCATION", "/etc/kafka/secrets/server.keystore.p12"),
        ("KAFKA_SSL_KEYSTORE_PASSWORD", "hunter2"),
        ("KAFKA_SSL_KEY_PASSWORD", "hunter2"),
        ("KAFKA_SSL_TRUSTSTORE_LOCATION", "/etc/kafka/secrets/truststore.p12"),
        ("KAFKA_SSL_TRUSTSTORE_PASSWORD", "hunter2"),
        ("KAFKA_SSL_KEYSTORE_TYPE", "PKCS12"),
        ("KAFKA_SSL_TRUSTSTORE_TYPE", "PKCS12"),
        ("KAFKA_SASL_ENABLED_MECHANISMS", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
        ("KAFKA_LISTENER_NAME_plain_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_LISTENER_NAME_plain_SASL_ENABLED_MECHANISMS", "PLAIN"),
        ("KAFKA_LISTENER_NAME_scram_SASL_ENABLED_MECHANISMS", "SCRAM-SHA-256,SCRAM-SHA-512"),
        (
            "KAFKA_LISTENER_NAME_scram_SCRAM-SHA-256_SASL_JAAS_CONFIG",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        (
            "KAFKA_LISTENER_NAME_plain_PLAIN_SASL_JAAS_CONFIG",
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_admin=\"hunter2\" \
             user_test=\"hunter2\";",
        ),
    ]);
    assert_eq!(sasl(&config, "PLAIN"), (vec!["PLAIN"], vec!["admin".to_owned(), "test".to_owned()]));
    assert_eq!(sasl(&config, "SCRAM"), (vec!["SCRAM-SHA-256", "SCRAM-SHA-512"], Vec::new()));
    let noauth = &config.security.listeners[&ListenerName::new("NOAUTH")];
    assert_eq!(noauth.protocol, SecurityProtocol::Ssl);
    let files: Vec<_> = noauth.tls.as_ref().unwrap().files().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["/etc/kafka/secrets/server.keystore.p12", "/etc/kafka/secrets/truststore.p12"]);
    assert!(config.security.inter_broker.tls.is_none() && config.security.inter_broker.login.is_none());
    assert!(!format!("{:?}", config.security).contains("hunter2"));
}

/// confluentinc/cp-kafka with KRaft: names of files, TLS between brokers, an empty value, keys that nobody knows.
#[test]
fn files_of_secrets_and_tls_between_brokers() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().join("creds");
    std::fs::write(&credentials, "hunter2").unwrap();
    let credentials = credentials.display().to_string();
    let config = config(&[
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,SSL:SSL,PLAINTEXT_HOST:PLAINTEXT"),
        ("KAFKA_ADVERTISED_LISTENERS", "SSL://kafka:29092,PLAINTEXT_HOST://localhost:9092"),
        ("KAFKA_LISTENERS", "SSL://:29092,CONTROLLER://:29093,PLAINTEXT_HOST://0.0.0.0:9092"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "SSL"),
        ("KAFKA_SECURITY_PROTOCOL", "SSL"),
        ("KAFKA_SSL_ENABLED_MECHANISMS", "PLAIN,SSL"),
        ("KAFKA_SSL_KEYSTORE_FILENAME", "kafka.keystore.jks"),
        ("KAFKA_SSL_KEYSTORE_CREDENTIALS", &credentials),
        ("KAFKA_SSL_KEY_CREDENTIALS", &credentials),
        ("KAFKA_SSL_TRUSTSTORE_FILENAME", "kafka.truststore.jks"),
        ("KAFKA_SSL_TRUSTSTORE_CREDENTIALS", &credentials),
        ("KAFKA_SSL_CLIENT_AUTH", "requested"),
        ("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", ""),
    ]);
    let peers = config.security.inter_broker.tls.unwrap();
    assert!(!peers.verifies_host && peers.client_auth == ClientAuth::Requested);
    let files: Vec<_> = peers.files().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["/etc/kafka/secrets/kafka.keystore.jks", "/etc/kafka/secrets/kafka.truststore.jks"]);
}

/// apache/kafka: a login file by KAFKA_OPTS, with the module of one mechanism only.
#[test]
fn a_login_file_by_a_java_option() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kafka_server_jaas.conf");
    std::fs::write(
        &file,
        "KafkaServer {\n // the users are made by kafka-configs\n x.ScramLoginModule required;\n};\n\
         external.KafkaServer { x.PlainLoginModule required user_a=hunter2; };\n",
    )
    .unwrap();
    let options = format!("-Djava.security.auth.login.config={}", file.display());
    let variables = [
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,EXTERNAL://0.0.0.0:19092"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "EXTERNAL:SASL_PLAINTEXT,PLAINTEXT:PLAINTEXT"),
        ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://kafka:9092,EXTERNAL://127.0.0.1:19092"),
        ("KAFKA_SASL_ENABLED_MECHANISMS", "SCRAM-SHA-512,PLAIN"),
        ("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "SCRAM-SHA-512"),
        ("KAFKA_SASL_MECHANISM_CONTROLLER_PROTOCOL", "PLAIN"),
        ("KAFKA_OPTS", &options),
    ];
    let config = config(&variables);
    assert_eq!(sasl(&config, "EXTERNAL"), (vec!["PLAIN", "SCRAM-SHA-512"], vec!["a".to_owned()]));
    std::fs::remove_file(&file).unwrap();
    refused(&variables, "java.security.auth.login.config=");
}

/// apache/kafka: a login module over several lines, with the backslashes of a properties file.
#[test]
fn a_login_module_in_a_variable() {
    let config = config(&[
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "AUTH:SASL_PLAINTEXT,INTERNAL:PLAINTEXT"),
        ("KAFKA_LISTENERS", "AUTH://:9092,INTERNAL://:29092"),
        ("KAFKA_ADVERTISED_LISTENERS", "AUTH://broker:9092,INTERNAL://broker:29092"),
        ("KAFKA_SASL_ENABLED_MECHANISMS", "PLAIN"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
        (
            "KAFKA_LISTENER_NAME_AUTH_PLAIN_SASL_JAAS_CONFIG",
            "org.apache.kafka.common.security.plain.PlainLoginModule required \\\nusername=\"admin\" \\\n\
             password=\"hunter2\" \\\nuser_admin=\"hunter2\" \\\nuser_alice=\"hunter2\";\n",
        ),
    ]);
    assert_eq!(sasl(&config, "AUTH"), (vec!["PLAIN"], vec!["admin".to_owned(), "alice".to_owned()]));
}

/// bitnami/kafka: users by their own variables, for every mechanism, and the brokers' own.
#[test]
fn users_of_bitnamis_variables() {
    let variables = [
        ("KAFKA_CFG_LISTENERS", "CLIENT://:9092,INTERNAL://:9094"),
        ("KAFKA_CFG_ADVERTISED_LISTENERS", "CLIENT://kafka:9092,INTERNAL://kafka:9094"),
        ("KAFKA_CFG_LISTENER_SECURITY_PROTOCOL_MAP", "CLIENT:SASL_PLAINTEXT,INTERNAL:SASL_PLAINTEXT"),
        ("KAFKA_CFG_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
        ("KAFKA_CFG_SASL_ENABLED_MECHANISMS", "PLAIN,SCRAM-SHA-256"),
        ("KAFKA_CFG_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "SCRAM-SHA-256"),
        ("KAFKA_CLIENT_USERS", "user1,user2"),
        ("KAFKA_CLIENT_PASSWORDS", "hunter2,hunter2"),
        ("KAFKA_INTER_BROKER_USER", "controller"),
        ("KAFKA_INTER_BROKER_PASSWORD", "hunter2"),
    ];
    let config = config(&variables);
    let users = ["controller", "user1", "user2"].map(str::to_owned).to_vec();
    assert_eq!(sasl(&config, "CLIENT"), (vec!["PLAIN", "SCRAM-SHA-256"], users.clone()));
    let Some(ClientLogin::User(credentials)) = config.security.inter_broker.login else { panic!("a user") };
    assert_eq!((credentials.mechanism, credentials.user.as_str()), (Mechanism::ALL[1], "controller"));
    let scram = &config.security.listeners[&ListenerName::new("CLIENT")].sasl.as_ref().unwrap().scram_users;
    assert_eq!(scram.keys().cloned().collect::<Vec<_>>(), users);
    let mut fewer = variables;
    fewer[7].1 = "hunter2";
    refused(&fewer, "client.passwords");
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let one = |protocol: &'static str| {
        [
            ("KAFKA_LISTENERS", "OWN://:9092"),
            ("KAFKA_ADVERTISED_LISTENERS", "OWN://kafka:9092"),
            ("KAFKA_INTER_BROKER_LISTENER_NAME", "OWN"),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", protocol),
        ]
    };
    let (ssl, sasl) = (one("OWN:SSL"), one("OWN:SASL_PLAINTEXT"));
    let with = |base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| [base, more].concat();
    refused(&ssl, "ssl.keystore.location is not set");
    refused(&with(&ssl, &[("KAFKA_SSL_CLIENT_AUTH", "perhaps")]), "ssl.client.auth=perhaps");
    refused(
        &with(&ssl, &[("KAFKA_LISTENER_NAME_OWN_SSL_ENABLED_PROTOCOLS", "TLSv1")]),
        "listener.name.own.ssl.enabled",
    );
    refused(&sasl, "sasl.enabled.mechanisms=GSSAPI (default): the mechanism GSSAPI is not served");
    let plain = ("KAFKA_SASL_ENABLED_MECHANISMS", "PLAIN");
    let oauth = ("KAFKA_SASL_ENABLED_MECHANISMS", "OAUTHBEARER");
    refused(&with(&sasl, &[oauth]), "sasl.oauthbearer.jwks.endpoint.url is not set");
    let url = ("KAFKA_SASL_OAUTHBEARER_JWKS_ENDPOINT_URL", "ldap://p.example/keys");
    refused(&with(&sasl, &[oauth, url]), "sasl.oauthbearer.jwks.endpoint.url=ldap://p.example/keys");
    let validator = ("KAFKA_SASL_OAUTHBEARER_JWT_VALIDATOR_CLASS", "org.example.Validator");
    refused(&with(&sasl, &[oauth, validator]), "sasl.oauthbearer.jwt.validator.class=org.example.Validator");
    refused(&with(&sasl, &[plain]), "sasl.mechanism.inter.broker.protocol=GSSAPI");
    let between = ("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "PLAIN");
    refused(&with(&sasl, &[plain, between]), "listener.name.own.plain.sasl.jaas.config is not set");
    let broken = ("KAFKA_LISTENER_NAME_OWN_PLAIN_SASL_JAAS_CONFIG", "x.PlainLoginModule required user_a=hunter2");
    refused(&with(&sasl, &[plain, between, broken]), "the login configuration ends too early");
    let handler = ("KAFKA_LISTENER_NAME_OWN_PLAIN_SASL_SERVER_CALLBACK_HANDLER_CLASS", "org.example.Handler");
    refused(&with(&sasl, &[plain, between, handler]), "sasl.server.callback.handler.class");
    let scram = ("KAFKA_SASL_ENABLED_MECHANISMS", "SCRAM-SHA-512");
    let between = ("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "SCRAM-SHA-512");
    let token = (
        "KAFKA_LISTENER_NAME_OWN_SCRAM-SHA-512_SASL_JAAS_CONFIG",
        "x.ScramLoginModule required username=t password=hunter2 tokenauth=true;",
    );
    refused(&with(&sasl, &[scram, between, token]), "a user, not a delegation token");
}

/// Signed bearer tokens on a listener of clients, and between brokers; unsecured ones where a listener asks for them.
#[test]
fn bearer_tokens_are_checked_as_each_listener_says() {
    const HANDLER: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler";
    let config = config(&[
        ("KAFKA_LISTENERS", "OWN://:9092,TRIAL://:9093"),
        ("KAFKA_ADVERTISED_LISTENERS", "OWN://kafka:9092,TRIAL://kafka:9093"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "OWN"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "OWN:SASL_PLAINTEXT,TRIAL:SASL_PLAINTEXT"),
        ("KAFKA_SASL_ENABLED_MECHANISMS", "OAUTHBEARER"),
        ("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "OAUTHBEARER"),
        ("KAFKA_LISTENER_NAME_OWN_SASL_OAUTHBEARER_JWKS_ENDPOINT_URL", "https://p.example/keys"),
        ("KAFKA_SASL_OAUTHBEARER_EXPECTED_AUDIENCE", "kafka,other"),
        ("KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://p.example/token"),
        ("KAFKA_LISTENER_NAME_OWN_OAUTHBEARER_SASL_SERVER_CALLBACK_HANDLER_CLASS", HANDLER),
        (
            "KAFKA_LISTENER_NAME_OWN_OAUTHBEARER_SASL_JAAS_CONFIG",
            "x.OAuthBearerLoginModule required clientId=me clientSecret=hunter2 ssl.truststore.password=hunter2;",
        ),
        (
            "KAFKA_LISTENER_NAME_TRIAL_OAUTHBEARER_SASL_JAAS_CONFIG",
            "x.OAuthBearerLoginModule required unsecuredValidatorRequiredScope=trial;",
        ),
    ]);
    let bearer = |name: &str| {
        let sasl = config.security.listeners[&ListenerName::new(name)].sasl.as_ref().unwrap();
        sasl.bearer.clone().unwrap()
    };
    let own = bearer("OWN");
    assert!(own.keys.is_some() && own.rules.is_signed && own.rules.audiences.len() == 2);
    let trial = bearer("TRIAL");
    assert!(trial.keys.is_none() && !trial.rules.is_signed && trial.rules.required_scope.contains("trial"));
    let login = config.security.inter_broker.login.clone();
    assert!(matches!(login, Some(ClientLogin::Bearer(TokenSource::Endpoint(_)))), "{login:?}");
    assert!(!format!("{:?}", config.security).contains("hunter2"));
}

/// Kafka refuses to start without a login module; here its users may come later, and whoever waits in vain is told.
#[test]
fn plain_without_users_is_warned_of() {
    let warns = |jaas: &str| {
        let variables = [
            ("KAFKA_LISTENERS", "INTERNAL://:29092,CLIENT://:9092"),
            ("KAFKA_ADVERTISED_LISTENERS", "INTERNAL://kafka:29092,CLIENT://localhost:9092"),
            ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "INTERNAL:PLAINTEXT,CLIENT:SASL_PLAINTEXT"),
            ("KAFKA_SASL_ENABLED_MECHANISMS", "PLAIN"),
            ("KAFKA_LISTENER_NAME_CLIENT_PLAIN_SASL_JAAS_CONFIG", jaas),
        ];
        let warnings = load(&variables).unwrap_or_else(|error| panic!("{error}")).warnings;
        warnings.iter().any(|warning| warning.contains("CLIENT offers PLAIN and has no users"))
    };
    assert!(warns("") && !warns("x.PlainLoginModule required user_alice=\"a\";"));
}

/// As Kafka has it: clients that log in by SASL need a certificate only where their listener says so itself.
#[test]
fn certificates_are_asked_for_beside_a_login_only_by_the_listener_itself() {
    let base = [
        ("KAFKA_LISTENERS", "CERTS://:9093,LOGIN://:9094,BOTH://:9095,PLAINTEXT://:9092"),
        (
            "KAFKA_ADVERTISED_LISTENERS",
            "CERTS://broker:9093,LOGIN://broker:9094,BOTH://broker:9095,PLAINTEXT://broker:9092",
        ),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CERTS:SSL,LOGIN:SASL_SSL,BOTH:SASL_SSL,PLAINTEXT:PLAINTEXT"),
        ("KAFKA_SSL_KEYSTORE_TYPE", "PEM"),
        ("KAFKA_SSL_KEYSTORE_LOCATION", "/etc/kafka/broker.pem"),
        ("KAFKA_SSL_TRUSTSTORE_TYPE", "PEM"),
        ("KAFKA_SSL_TRUSTSTORE_LOCATION", "/etc/kafka/ca.pem"),
        ("KAFKA_SASL_ENABLED_MECHANISMS", "SCRAM-SHA-512"),
        ("KAFKA_SSL_CLIENT_AUTH", "required"),
        ("KAFKA_LISTENER_NAME_BOTH_SSL_CLIENT_AUTH", "requested"),
    ];
    let loaded = load(&base).unwrap();
    let asks = |listener: &str| {
        let listener = &loaded.config.security.listeners[&ListenerName::new(listener)];
        listener.tls.as_ref().unwrap().client_auth
    };
    assert_eq!(
        [asks("CERTS"), asks("LOGIN"), asks("BOTH")],
        [ClientAuth::Required, ClientAuth::None, ClientAuth::Requested]
    );
    let told: Vec<_> = loaded.warnings.iter().filter(|warning| warning.contains("ssl.client.auth")).collect();
    assert_eq!(
        told,
        ["ssl.client.auth=required is not for the listener LOGIN, whose clients log in: \
          listener.name.login.ssl.client.auth is"]
    );
}
