//! Where clients come in, and as whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use crate::certificates::Identity;
use crate::clients;

/// The variable from which scripts take further settings of librdkafka, as JSON.
const SETTINGS: &str = "OTTLA_CLIENT_SETTINGS";

/// The bootstrap list, and what a client needs beside it.
#[derive(Clone, Debug)]
pub struct Access {
    pub bootstrap: String,
    login: Option<Login>,
}

#[derive(Clone, Debug)]
struct Login {
    /// The file of `--command-config`.
    properties: PathBuf,
    /// The same for librdkafka, as JSON.
    settings: String,
}

impl Access {
    pub fn plaintext(bootstrap: String) -> Self {
        Self { bootstrap, login: None }
    }

    /// By SASL_SSL and SCRAM-SHA-512. `ca`: the authority of the servers. Writes `USER.properties` into the folder.
    pub fn by_password(bootstrap: String, folder: &Path, ca: &Path, (user, password): (&str, &str)) -> Result<Self> {
        let module = "org.apache.kafka.common.security.scram.ScramLoginModule required";
        let properties = format!(
            "security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             sasl.mechanism=SCRAM-SHA-512\n\
             sasl.jaas.config={module} username=\"{user}\" password=\"{password}\";\n",
            ca.display()
        );
        let settings = json!({
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": ca,
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
        });
        Self::with_login(bootstrap, &folder.join(format!("{user}.properties")), &properties, &settings)
    }

    /// By SSL and a certificate. Writes `NAME.properties` into the folder.
    pub fn by_certificate(bootstrap: String, folder: &Path, ca: &Path, client: (&str, &Identity)) -> Result<Self> {
        let (name, identity) = client;
        let properties = format!(
            "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             ssl.keystore.type=PEM\nssl.keystore.location={}\n",
            ca.display(),
            identity.store.display()
        );
        let settings = json!({
            "security.protocol": "SSL",
            "ssl.ca.location": ca,
            "ssl.certificate.location": identity.certificate,
            "ssl.key.location": identity.key,
        });
        Self::with_login(bootstrap, &folder.join(format!("{name}.properties")), &properties, &settings)
    }

    fn with_login(bootstrap: String, file: &Path, properties: &str, settings: &serde_json::Value) -> Result<Self> {
        fs::write(file, properties)?;
        let login = Login { properties: file.to_owned(), settings: settings.to_string() };
        Ok(Self { bootstrap, login: Some(login) })
    }

    /// A tool of ours by its name ([`clients::tool`]).
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = clients::tool(name, &self.bootstrap, arguments)?;
        if let Some(login) = &self.login {
            command.arg("--command-config").arg(&login.properties);
        }
        Ok(command)
    }

    /// The output of a tool.
    pub fn run_tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        clients::run(&mut self.tool(name, arguments)?)
    }

    /// A Python script whose first argument is the bootstrap list, and which reads the further settings.
    pub fn script(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = clients::python_script(name, &[&[self.bootstrap.as_str()], arguments].concat());
        if let Some(login) = &self.login {
            command.env(SETTINGS, &login.settings);
        }
        command
    }
}
