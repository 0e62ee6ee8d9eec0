//! Variables of other images that name files with secrets, or a Java option.

use std::path::Path;

use super::Entry;
use crate::error::ConfigError;

/// Where cp-kafka's files lie.
pub(super) const DIRECTORY: &str = "/etc/kafka/secrets";

/// cp-kafka: the variable names a file in the directory, whose path is the property.
const FILES: &[(&str, &str)] = &[
    ("KAFKA_SSL_KEYSTORE_FILENAME", "ssl.keystore.location"),
    ("KAFKA_SSL_TRUSTSTORE_FILENAME", "ssl.truststore.location"),
];

/// cp-kafka: the variable names a file in the directory, whose content is the property.
const CONTENTS: &[(&str, &str)] = &[
    ("KAFKA_SSL_KEYSTORE_CREDENTIALS", "ssl.keystore.password"),
    ("KAFKA_SSL_KEY_CREDENTIALS", "ssl.key.password"),
    ("KAFKA_SSL_TRUSTSTORE_CREDENTIALS", "ssl.truststore.password"),
];

/// bitnami: one password for all.
const CERTIFICATE_PASSWORD: &str = "KAFKA_CERTIFICATE_PASSWORD";
const PASSWORDS: &[&str] = &["ssl.keystore.password", "ssl.key.password", "ssl.truststore.password"];

const LOGIN_OPTION: &str = "-Djava.security.auth.login.config=";

/// What these variables stand for; properties that have variables of their own win over them.
pub(super) fn entries(variables: &[(String, String)], directory: &Path) -> Result<Vec<Entry>, ConfigError> {
    let filled = |name: &str| variables.iter().find(|(known, value)| known == name && !value.is_empty());
    let entry = |property: &str, value: String, variable: &str| Entry {
        property: property.to_owned(),
        value,
        variable: variable.to_owned(),
    };
    let mut entries = Vec::new();
    if let Some((_, options)) = filled("KAFKA_OPTS")
        && let Some(file) = options.split_whitespace().find_map(|option| option.strip_prefix(LOGIN_OPTION))
    {
        entries.push(entry("java.security.auth.login.config", file.to_owned(), "KAFKA_OPTS"));
    }
    if let Some((variable, password)) = filled(CERTIFICATE_PASSWORD) {
        entries.extend(PASSWORDS.iter().map(|property| entry(property, password.clone(), variable)));
    }
    for (variable, property) in FILES {
        if let Some((_, name)) = filled(variable) {
            entries.push(entry(property, directory.join(name).display().to_string(), variable));
        }
    }
    for (variable, property) in CONTENTS {
        let Some((_, name)) = filled(variable) else { continue };
        let path = directory.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Variable {
            variable: (*variable).to_owned(),
            problem: format!("{}: {error}", path.display()),
            accepted: format!("a readable file that holds the value of {property}"),
        })?;
        entries.push(entry(property, text.trim_end_matches(['\n', '\r']).to_owned(), variable));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_secrets_are_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("creds"), "changeit\n").expect("written");
        let variables = [
            ("KAFKA_SSL_KEYSTORE_FILENAME", "kafka.jks"),
            ("KAFKA_SSL_KEYSTORE_CREDENTIALS", "creds"),
            ("KAFKA_SSL_TRUSTSTORE_CREDENTIALS", ""),
            ("KAFKA_OPTS", "-Xmx1G -Djava.security.auth.login.config=/jaas.conf -Da=b"),
        ];
        let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let found = entries(&variables, directory.path()).expect("readable");
        let flat: Vec<_> = found.iter().map(|entry| format!("{}={}", entry.property, entry.value)).collect();
        let location = format!("ssl.keystore.location={}", directory.path().join("kafka.jks").display());
        assert_eq!(flat, ["java.security.auth.login.config=/jaas.conf", &location, "ssl.keystore.password=changeit"]);
        let missing = [("KAFKA_SSL_KEY_CREDENTIALS".to_owned(), "none".to_owned())];
        let error = entries(&missing, directory.path()).expect_err("no file").to_string();
        assert!(error.starts_with("KAFKA_SSL_KEY_CREDENTIALS: ") && !error.contains('\n'), "{error}");
    }
}
