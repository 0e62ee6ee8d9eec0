//! How this coordinator reaches brokers, as a client of Kafka: which of their listeners it asks, with its certificate
//! or its user.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_config::{BrokerClientConfig, HostPort};
use ottla_metadata::image::BrokerRegistration;
use ottla_model::{ListenerName, SecurityProtocol};
use ottla_secure_stream::StreamSecurity;
use ottla_tls::{ClientTls, TlsError};

/// Without a certificate and a user it asks over plaintext listeners, as the anonymous user.
#[derive(Clone, Debug, Default)]
pub struct BrokerSecurity {
    /// The only listener that may be asked; none: see [`BrokerSecurity::way`].
    listener: Option<ListenerName>,
    /// With all that this coordinator has to show.
    whole: StreamSecurity,
}

/// Where brokers are asked, and how.
#[derive(Debug)]
pub struct Way {
    pub listener: ListenerName,
    /// host:port of each broker that has the listener.
    pub addresses: Vec<String>,
    pub security: StreamSecurity,
}

/// Why no listener can be asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no listener of the brokers can be asked by this coordinator: {listeners}")]
pub struct NoWay {
    /// Each listener, and what it needs.
    listeners: String,
}

impl BrokerSecurity {
    /// May read files with certificates of an identity provider.
    pub fn new(config: &BrokerClientConfig, tls: Option<Arc<ClientTls>>) -> Result<Self, TlsError> {
        let whole = StreamSecurity { tls, ..StreamSecurity::new(None, config.login.clone())? };
        Ok(Self { listener: config.listener.clone(), whole })
    }

    /// Of connections that need no user.
    pub fn tls(&self) -> Option<Arc<ClientTls>> {
        self.whole.tls.clone()
    }

    fn can_speak(&self, protocol: SecurityProtocol) -> bool {
        (!protocol.has_tls() || self.whole.tls.is_some()) && (!protocol.has_sasl() || self.whole.login.is_some())
    }

    fn security(&self, protocol: SecurityProtocol) -> StreamSecurity {
        StreamSecurity {
            tls: self.whole.tls.clone().filter(|_| protocol.has_tls()),
            login: self.whole.login.clone().filter(|_| protocol.has_sasl()),
        }
    }

    /// The listener that most of these brokers have, since Metadata leaves out those that do not have it; of these the
    /// one between brokers, then one with TLS, then one with a login.
    pub fn way(&self, brokers: &[&BrokerRegistration]) -> Result<Way, NoWay> {
        let mut listeners: BTreeMap<(ListenerName, SecurityProtocol), (usize, bool)> = BTreeMap::new();
        for broker in brokers {
            for endpoint in &broker.endpoints {
                let Some(protocol) = SecurityProtocol::from_name(&endpoint.security_protocol) else { continue };
                let (count, is_inter_broker) = listeners.entry((endpoint.listener.clone(), protocol)).or_default();
                *count += 1;
                *is_inter_broker |= endpoint.listener == broker.inter_broker_listener;
            }
        }
        let is_allowed = |name: &ListenerName| self.listener.as_ref().is_none_or(|only| only == name);
        let usable = listeners.iter().filter(|((name, protocol), _)| is_allowed(name) && self.can_speak(*protocol));
        let best = usable.max_by_key(|((_, protocol), (count, is_inter_broker))| {
            (*count, *is_inter_broker, protocol.has_tls(), protocol.has_sasl())
        });
        let Some(((listener, protocol), _)) = best else {
            let needs = |(name, protocol): &(ListenerName, SecurityProtocol)| self.needs(name, *protocol);
            return Err(NoWay { listeners: listeners.keys().map(needs).collect::<Vec<_>>().join("; ") });
        };
        let endpoints = brokers.iter().filter_map(|broker| broker.endpoint(listener));
        let same = endpoints.filter(|endpoint| endpoint.security_protocol == protocol.name());
        let addresses = same.map(|endpoint| HostPort::new(&endpoint.host, endpoint.port).to_string()).collect();
        Ok(Way { listener: listener.clone(), addresses, security: self.security(*protocol) })
    }

    fn needs(&self, name: &ListenerName, protocol: SecurityProtocol) -> String {
        let mut needs = Vec::new();
        if protocol.has_tls() && self.whole.tls.is_none() {
            needs.push("secure.client.port or ssl.quorum, and ssl.*");
        }
        if protocol.has_sasl() && self.whole.login.is_none() {
            needs.push("sasl.mechanism and sasl.jaas.config");
        }
        match needs.is_empty() {
            true => format!("{name} is not broker.listener.name"),
            false => format!("{name} is {protocol}, for which the coordinator needs {}", needs.join(", and ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::image::{Endpoint, LeaderSettings};
    use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, TimestampMs};
    use ottla_sasl::{ClientCredentials, ClientLogin, Mechanism};
    use ottla_tls::TlsSettings;

    use super::*;

    /// A broker with these listeners (`NAME:PROTOCOL`), of which the first is that of brokers.
    fn broker(id: i32, listeners: &[&str]) -> BrokerRegistration {
        let endpoint = |listener: &&str| {
            let (name, protocol) = listener.split_once(':').expect("NAME:PROTOCOL");
            Endpoint {
                listener: ListenerName::new(name),
                host: format!("{}-{id}", name.to_lowercase()),
                port: 9092,
                security_protocol: protocol.to_owned(),
            }
        };
        let endpoints: Vec<Endpoint> = listeners.iter().map(endpoint).collect();
        BrokerRegistration {
            id: BrokerId(id),
            epoch: BrokerEpoch(1),
            incarnation: IncarnationId([1; 16]),
            inter_broker_listener: endpoints[0].listener.clone(),
            endpoints,
            rack: None,
            ready: true,
            shutting_down: false,
            awaits_clients: false,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
            registered_at: TimestampMs(0),
        }
    }

    fn trusting() -> TlsSettings {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate").pem();
        let get = |name: &str| match name {
            "ssl.truststore.type" => Some("PEM"),
            "ssl.truststore.certificates" => Some(certificate.as_str()),
            _ => None,
        };
        TlsSettings::read(get).expect("settings")
    }

    fn security(listener: Option<&str>, has_tls: bool, has_user: bool) -> BrokerSecurity {
        let credentials = ClientCredentials {
            mechanism: Mechanism::Plain,
            user: "coordinator".to_owned(),
            password: "x".to_owned(),
            is_token: false,
        };
        let login = has_user.then(|| ClientLogin::User(credentials));
        let config = BrokerClientConfig { listener: listener.map(ListenerName::new), login };
        let tls = has_tls.then(|| Arc::new(ClientTls::new(trusting()).expect("a trusted certificate")));
        BrokerSecurity::new(&config, tls).expect("no files")
    }

    /// What is chosen of these listeners of each of two brokers: its name, by TLS, with a login.
    fn chosen(security: &BrokerSecurity, listeners: &[&str]) -> Result<(String, bool, bool), String> {
        let brokers = [broker(1, listeners), broker(2, listeners)];
        let way = security.way(&brokers.iter().collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        assert_eq!(way.addresses.len(), 2);
        Ok((way.listener.to_string(), way.security.tls.is_some(), way.security.login.is_some()))
    }

    #[test]
    fn the_listener_between_brokers_is_asked_where_the_coordinator_can_speak_to_it() {
        let all = ["INTERNAL:SSL", "CLIENT:SASL_SSL", "OLD:PLAINTEXT"];
        let asked = |listener, has_tls, has_user| chosen(&security(listener, has_tls, has_user), &all);
        assert_eq!(asked(None, true, true), Ok(("INTERNAL".to_owned(), true, false)));
        assert_eq!(asked(None, true, false), Ok(("INTERNAL".to_owned(), true, false)));
        assert_eq!(asked(None, false, false), Ok(("OLD".to_owned(), false, false)));
        assert_eq!(asked(Some("CLIENT"), true, true), Ok(("CLIENT".to_owned(), true, true)));
        let plain = ["INTERNAL:PLAINTEXT", "CLIENT:SSL"];
        assert_eq!(chosen(&security(None, true, true), &plain), Ok(("INTERNAL".to_owned(), false, false)));
    }

    #[test]
    fn a_coordinator_that_can_speak_to_no_listener_says_what_it_lacks() {
        let refused =
            |security: BrokerSecurity, listeners: &[&str]| chosen(&security, listeners).expect_err("none can be asked");
        let text = refused(security(None, true, false), &["CLIENT:SASL_SSL"]);
        assert!(text.contains("CLIENT is SASL_SSL, for which the coordinator needs sasl.mechanism"), "{text}");
        let text = refused(security(None, false, true), &["CLIENT:SASL_SSL"]);
        assert!(text.contains("needs secure.client.port or ssl.quorum"), "{text}");
        let text = refused(security(Some("OTHER"), true, true), &["CLIENT:SSL"]);
        assert!(text.contains("CLIENT is not broker.listener.name"), "{text}");
    }

    /// While brokers are restarted with other listeners, those that have the former one are not forgotten.
    #[test]
    fn a_listener_that_more_brokers_have_goes_before_another_one() {
        let (old, new) = (["A:PLAINTEXT", "B:SSL"], ["B:SSL"]);
        let brokers = [broker(1, &old), broker(2, &old), broker(3, &new)];
        let way = security(None, true, false).way(&brokers.iter().collect::<Vec<_>>()).expect("a listener");
        assert_eq!((way.listener.as_str(), way.addresses.len()), ("B", 3));
    }
}
