//! TLS of a coordinator: `ssl.*` as brokers have it, for its secure port and between coordinators.

use ottla_tls::{ClientAuth, TlsError, TlsSettings};

use crate::error::ConfigError;
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
        if secure_client_port.is_none() && !between_coordinators {
            let set =
                properties.iter().find(|(name, property)| name.starts_with("ssl.") && property.origin.is_static());
            if let Some((name, property)) = set.filter(|(name, _)| *name != QUORUM) {
                let origin = &property.origin;
                warnings.push(format!("{name} ({origin}) has no effect without secure.client.port or {QUORUM}"));
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
            let accepted = "a key and its certificate, for secure.client.port and ssl.quorum";
            return Err(ConfigError::missing("ssl.keystore.location", accepted));
        }
        // The system's list has public authorities: whoever has a certificate of theirs would be let in.
        if settings.client_auth != ClientAuth::None && settings.trust.is_none() {
            let accepted = "the authority whose certificates are let in, or ssl.client.auth=none";
            return Err(ConfigError::missing(TRUSTSTORE, accepted));
        }
        Ok(Some(Self { settings, between_coordinators }))
    }
}

fn setting_error(reader: &Reader<'_>, error: &TlsError) -> ConfigError {
    let TlsError::Setting { name, problem } = error else {
        return ConfigError::missing("ssl.keystore.location", error.to_string());
    };
    let unset = Property { value: String::new(), origin: Origin::Default };
    ConfigError::invalid(name, reader.property(name).unwrap_or(&unset), problem, "Kafka's ssl.* settings")
}
