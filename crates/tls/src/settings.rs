//! Kafka's `ssl.*` settings.

use std::fmt;
use std::path::PathBuf;

use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::TlsError;
use crate::principal::PrincipalRules;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// `ssl.client.auth`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    None,
    Requested,
    Required,
}

/// Where a key or certificates are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// PKCS12 or JKS, whichever the file is.
    Store {
        path: PathBuf,
        password: Password,
    },
    PemFile(PathBuf),
    /// The PEM texts themselves: the key (hidden as a password) and the certificates.
    Pem {
        key: Password,
        certificates: String,
    },
}

impl Source {
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Store { path, .. } | Self::PemFile(path) => Some(path),
            Self::Pem { .. } => None,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct TlsSettings {
    pub key: Option<Source>,
    /// `ssl.key.password`; none: that of the store.
    pub key_password: Option<Password>,
    /// None: the certificates that the system trusts.
    pub trust: Option<Source>,
    pub client_auth: ClientAuth,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Empty: all.
    pub cipher_suites: Vec<String>,
    /// `ssl.endpoint.identification.algorithm=https`.
    pub verifies_host: bool,
    pub principal_rules: PrincipalRules,
}

const KEYSTORE: StoreNames = StoreNames {
    location: "ssl.keystore.location",
    kind: "ssl.keystore.type",
    password: "ssl.keystore.password",
    certificates: "ssl.keystore.certificate.chain",
    key: Some("ssl.keystore.key"),
};
const TRUSTSTORE: StoreNames = StoreNames {
    location: "ssl.truststore.location",
    kind: "ssl.truststore.type",
    password: "ssl.truststore.password",
    certificates: "ssl.truststore.certificates",
    key: None,
};

struct StoreNames {
    location: &'static str,
    kind: &'static str,
    password: &'static str,
    certificates: &'static str,
    key: Option<&'static str>,
}

/// The name of a cipher suite as Java has it.
pub(crate) fn suite_name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

impl TlsSettings {
    /// Reads the settings through `get`, which returns the text of a setting that is set (an empty text too).
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, TlsError> {
        let filled = |name: &str| get(name).filter(|text| !text.is_empty());
        if let Some(class) = filled("ssl.engine.factory.class") {
            return Err(TlsError::setting("ssl.engine.factory.class", format!("{class} is a Java class")));
        }
        let key_password = filled("ssl.key.password").map(Password::new);
        let client_auth = match filled("ssl.client.auth").unwrap_or("none") {
            "none" => ClientAuth::None,
            "requested" => ClientAuth::Requested,
            "required" => ClientAuth::Required,
            other => {
                let problem = format!("`{other}` is unknown; accepted: none, requested, required");
                return Err(TlsError::setting("ssl.client.auth", problem));
            }
        };
        let rules = filled("ssl.principal.mapping.rules").unwrap_or("DEFAULT");
        let principal_rules = PrincipalRules::parse(rules)
            .map_err(|problem| TlsError::setting("ssl.principal.mapping.rules", problem))?;
        let verifies_host = match get("ssl.endpoint.identification.algorithm").unwrap_or("https") {
            "" => false,
            algorithm if algorithm.eq_ignore_ascii_case("https") => true,
            other => {
                let problem = format!("`{other}` is unknown; accepted: https, or nothing");
                return Err(TlsError::setting("ssl.endpoint.identification.algorithm", problem));
            }
        };
        Ok(Self {
            key: source(&filled, &KEYSTORE)?,
            key_password,
            trust: source(&filled, &TRUSTSTORE)?,
            client_auth,
            versions: versions(filled("ssl.enabled.protocols").unwrap_or("TLSv1.2,TLSv1.3"))?,
            cipher_suites: cipher_suites(filled("ssl.cipher.suites").unwrap_or_default())?,
            verifies_host,
            principal_rules,
        })
    }

    /// The files that these settings name.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.key, &self.trust].into_iter().flatten().filter_map(Source::path)
    }
}

fn versions(text: &str) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    const NAME: &str = "ssl.enabled.protocols";
    let mut versions = Vec::new();
    for item in items(text) {
        versions.push(match item {
            "TLSv1.2" => &rustls::version::TLS12,
            "TLSv1.3" => &rustls::version::TLS13,
            other => {
                return Err(TlsError::setting(NAME, format!("`{other}` is not served; accepted: TLSv1.2, TLSv1.3")));
            }
        });
    }
    if versions.is_empty() {
        return Err(TlsError::setting(NAME, "names no protocol; accepted: TLSv1.2, TLSv1.3"));
    }
    Ok(versions)
}

/// Suites that only Java has are passed over, as long as one is left.
fn cipher_suites(text: &str) -> Result<Vec<String>, TlsError> {
    let known: Vec<String> = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().map(|suite| suite_name(*suite)).collect();
    let wanted: Vec<String> = items(text).map(str::to_owned).collect();
    if !wanted.is_empty() && !wanted.iter().any(|name| known.contains(name)) {
        let problem = format!("none of them is served; accepted: {}", known.join(", "));
        return Err(TlsError::setting("ssl.cipher.suites", problem));
    }
    Ok(wanted.into_iter().filter(|name| known.contains(name)).collect())
}

fn source<'a>(filled: &impl Fn(&str) -> Option<&'a str>, names: &StoreNames) -> Result<Option<Source>, TlsError> {
    let kind = filled(names.kind).unwrap_or("JKS");
    let is_pem = kind.eq_ignore_ascii_case("PEM");
    let is_store = ["JKS", "PKCS12"].iter().any(|known| kind.eq_ignore_ascii_case(known));
    if !is_pem && !is_store {
        return Err(TlsError::setting(names.kind, format!("`{kind}` is unknown; accepted: JKS, PKCS12, PEM")));
    }
    let path = filled(names.location).map(PathBuf::from);
    let password = filled(names.password).map(Password::new);
    let certificates = filled(names.certificates);
    let key = names.key.and_then(filled);
    if certificates.is_some() || key.is_some() {
        if !is_pem {
            let problem = format!("texts in PEM need {}=PEM", names.kind);
            return Err(TlsError::setting(names.certificates, problem));
        }
        if path.is_some() {
            let problem = format!("{} is set as well: one of the two", names.certificates);
            return Err(TlsError::setting(names.location, problem));
        }
        let Some(certificates) = certificates else {
            return Err(TlsError::setting(names.certificates, "is not set, and the key is"));
        };
        let Some(key) = key.or(names.key.is_none().then_some("")) else {
            return Err(TlsError::setting("ssl.keystore.key", "is not set, and the certificate chain is"));
        };
        let (key, certificates) = (Password::new(lines(key)), lines(certificates));
        return Ok(Some(Source::Pem { key, certificates }));
    }
    Ok(path.map(|path| match is_pem {
        true => Source::PemFile(path),
        false => Source::Store { path, password: password.unwrap_or_default() },
    }))
}

/// A PEM text that stands in one line of a properties file, with blanks where its line breaks were.
fn lines(text: &str) -> String {
    if text.trim().contains('\n') {
        return text.to_owned();
    }
    text.split("-----")
        .enumerate()
        .map(|(at, part)| match at % 2 {
            // Between two markers, or between the end of one block and the next.
            0 => part.split_whitespace().collect::<Vec<_>>().join("\n") + if at == 0 { "" } else { "\n" },
            _ => format!("-----{part}-----\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &'static str)]) -> Result<TlsSettings, TlsError> {
        TlsSettings::read(|name| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    #[test]
    fn defaults_are_kafkas() {
        let settings = read(&[]).expect("nothing to refuse");
        assert_eq!(settings.client_auth, ClientAuth::None);
        assert!(settings.verifies_host && settings.key.is_none() && settings.trust.is_none());
        assert_eq!(settings.versions.len(), 2);
        let settings = read(&[("ssl.endpoint.identification.algorithm", "")]).expect("no verification");
        assert!(!settings.verifies_host);
    }

    #[test]
    fn stores_are_found_and_passwords_hidden() {
        let settings = read(&[
            ("ssl.keystore.location", "/k.jks"),
            ("ssl.keystore.password", "hunter2"),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", "/ca.pem"),
        ])
        .expect("readable");
        assert_eq!(settings.files().collect::<Vec<_>>(), [&PathBuf::from("/k.jks"), &PathBuf::from("/ca.pem")]);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (settings, expected) in [
            (&[("ssl.client.auth", "maybe")][..], "ssl.client.auth: `maybe`"),
            (&[("ssl.enabled.protocols", "TLSv1.1")], "ssl.enabled.protocols: `TLSv1.1`"),
            (&[("ssl.keystore.type", "BKS")], "ssl.keystore.type: `BKS`"),
            (&[("ssl.keystore.key", "x")], "texts in PEM need ssl.keystore.type=PEM"),
            (&[("ssl.keystore.type", "PEM"), ("ssl.keystore.key", "x")], "certificate.chain: is not set"),
            (&[("ssl.cipher.suites", "SSL_NULL")], "ssl.cipher.suites: none"),
            (&[("ssl.engine.factory.class", "x.Y")], "x.Y is a Java class"),
            (&[("ssl.endpoint.identification.algorithm", "ldaps")], "`ldaps`"),
        ] {
            let error = read(settings).expect_err("refused").to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let some = read(&[("ssl.cipher.suites", "TLS_AES_128_GCM_SHA256,SSL_NULL")]).expect("one is served");
        assert_eq!(some.cipher_suites, ["TLS_AES_128_GCM_SHA256"]);
    }

    #[test]
    fn pem_in_one_line_gets_its_lines_back() {
        let text = "-----BEGIN CERTIFICATE----- QUJD REVG -----END CERTIFICATE----- -----BEGIN CERTIFICATE----- QQ== \
                    -----END CERTIFICATE-----";
        let expected = "-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----\n\n\
                        -----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n\n";
        assert_eq!(lines(text), expected);
    }
}
