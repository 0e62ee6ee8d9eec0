//! TLS of a coordinator: `ssl.*` as brokers have it, for its secure port and between coordinators.

use ottla_tls::{ClientAuth, TlsError, TlsSettings};

use crate::error::ConfigError;
use crate::known::UNIFICATION;
use crate::properties::{Origin, Properties, Property};
use crate::reader::Reader;

const QUORUM: &str = "ssl.quorum";
const TRUSTSTORE: &str = "ssl.truststore.location";

#[derive(Clone, Debug)]
pub struct CoordinatorTls {
    /// Of both sides: each coordinator is a server of the others, and their client.
    pub settings: TlsSettings,
    /// `ssl.quorum`: coordinators dial each other by TLS, and the port for peers speaks nothing else.
    pub between_coordinators: bool,
    /// `port.unification`: `client.port` and the port for peers accept TLS and plaintext, and every port accepts the
    /// messages of peers. For the time of a rolling change.
    pub unifies_ports: bool,
}

impl CoordinatorTls {
    /// None where nothing is by TLS.
    pub(crate) fn read(
        properties: &Properties,
        secure_client_port: Option<u16>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, ConfigError> {
        let reader = Reader::new(properties);
        let between_coordinators = reader.boolean(QUORUM)?;
        let unifies_ports = reader.boolean(UNIFICATION)?;
        if secure_client_port.is_none() && !between_coordinators && !unifies_ports {
            let set =
                properties.iter().find(|(name, property)| name.starts_with("ssl.") && property.origin.is_static());
            if let Some((name, property)) = set.filter(|(name, _)| *name != QUORUM) {
                let origin = &property.origin;
                warnings.push(format!(
                    "{name} ({origin}) has no effect without secure.client.port, {QUORUM} or {UNIFICATION}"
                ));
            }
            return Ok(None);
        }
        let text = |name: &str| properties.get(name).map(|property| property.value.as_str());
        let settings = TlsSettings::read(|name| match (name, text(name)) {
            // ZooKeeper's words.
            ("ssl.client.auth", Some("need")) => Some("required"),
            ("ssl.client.auth", Some("want")) => Some("requested"),
            (_, text) => text,
        });
        let settings = settings.map_err(|error| setting_error(&reader, &error))?;
        if settings.key.is_none() {
            let accepted = "a key and its certificate, for secure.client.port, ssl.quorum and port.unification";
            return Err(ConfigError::missing("ssl.keystore.location", accepted));
        }
        // The system's list has public authorities: whoever has a certificate of theirs would be let in.
        if settings.client_auth != ClientAuth::None && settings.trust.is_none() {
            let accepted = "the authority whose certificates are let in, or ssl.client.auth=none";
            return Err(ConfigError::missing(TRUSTSTORE, accepted));
        }
        Ok(Some(Self { settings, between_coordinators, unifies_ports }))
    }
}

fn setting_error(reader: &Reader<'_>, error: &TlsError) -> ConfigError {
    let TlsError::Setting { name, problem } = error else {
        return ConfigError::missing("ssl.keystore.location", error.to_string());
    };
    let unset = Property { value: String::new(), origin: Origin::Default };
    ConfigError::invalid(name, reader.property(name).unwrap_or(&unset), problem, "Kafka's ssl.* settings")
}

#[cfg(test)]
mod tests {
    use crate::{CoordinatorConfig, Sources};

    fn load(flags: &[(&str, &str)]) -> Result<CoordinatorConfig, String> {
        let certified = [("ssl.keystore.location", "/k.jks"), ("ssl.truststore.location", "/t.jks")];
        let flags = certified.iter().chain(flags).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = CoordinatorConfig::load(&Sources { flags: flags.collect(), ..Sources::default() });
        loaded.map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    const SERVERS: (&str, &str) = ("servers", "1@a:2181,2@b:2181");
    const ID: (&str, &str) = ("id", "1");

    /// The steps of a rolling change, at ports that stay.
    #[test]
    fn each_step_to_tls_is_a_configuration() {
        let steps: [&[(&str, &str)]; 4] = [
            &[],
            &[("port.unification", "true")],
            &[("portUnification", "true"), ("sslQuorum", "true")],
            &[("secure.client.port", "2181"), ("ssl.quorum", "true")],
        ];
        let shown = steps.map(|step| {
            let config = load(&[&[SERVERS, ID], step].concat()).expect("a configuration");
            let between = config.tls.as_ref().map(|tls| tls.between_coordinators);
            (config.client_port, config.secure_client_port, between, config.unifies_ports())
        });
        let expected = [
            (Some(2181), None, None, false),
            (Some(2181), None, Some(false), true),
            (Some(2181), None, Some(true), true),
            (None, Some(2181), Some(true), false),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn ports_that_peers_would_not_find_are_refused() {
        let refused = |flags: &[(&str, &str)], expected: &str| {
            let error = load(&[&[SERVERS, ID], flags].concat()).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        };
        refused(&[("ssl.quorum", "true")], "the list of servers names client.port");
        refused(&[("secure.client.port", "2181")], "the list of servers names secure.client.port");
        let both = [("port.unification", "true"), ("secure.client.port", "2181"), ("ssl.quorum", "true")];
        refused(&both, "client.port is not set");
        let differing = [("portUnification", "true"), ("client.portUnification", "false")];
        refused(&differing, "the same for all ports");
    }
}
