//! A local cluster whose processes show each other certificates, and whose clients log in.
//!
//! The certificates are those of `deploy/certs.sh`: `ca.pem`, and `NAME.pem` for each member and for `admin`. Clients
//! come by SASL_SSL with SCRAM-SHA-512; rules hold, and `User:admin` may do everything. What the admin's tools need is
//! in `admin.properties` in the cluster's directory.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::layout::Member;
use crate::client_security;

const ADMIN: &str = "admin";
const PASSWORD_FILE: &str = "admin-password";
pub const PROPERTIES_FILE: &str = "admin.properties";
const AUTHORIZER: &str = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";

/// Where the certificates are, and the cluster's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Security {
    certificates: PathBuf,
    dir: PathBuf,
}

impl Security {
    pub fn new(certificates: &Path, dir: &Path) -> Result<Self> {
        let certificates =
            std::path::absolute(certificates).with_context(|| format!("the directory {}", certificates.display()))?;
        Ok(Self { certificates, dir: dir.to_owned() })
    }

    pub fn certificates(&self) -> &Path {
        &self.certificates
    }

    /// Refuses a folder without a certificate of one of these, before anything is started.
    pub fn check(&self, members: &[Member]) -> Result<()> {
        let names = members.iter().map(Member::to_string).chain([ADMIN.to_owned(), "ca".to_owned()]);
        let missing: Vec<String> = names.filter(|name| !self.store(name).exists()).collect();
        if !missing.is_empty() {
            let folder = self.certificates.display();
            bail!("{folder} has no certificate for {}: deploy/certs.sh {folder} NAME… makes them", missing.join(", "));
        }
        Ok(())
    }

    fn store(&self, name: &str) -> PathBuf {
        self.certificates.join(format!("{name}.pem"))
    }

    /// Makes the admin's password and the properties of its tools, once.
    pub fn make_admin(&self) -> Result<()> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        if !write_once(&self.dir.join(PASSWORD_FILE), &password)? {
            return Ok(());
        }
        let (ca, admin) = (self.store("ca"), self.store(ADMIN));
        let (ca, admin) = (ca.display(), admin.display());
        let properties = format!(
            "security.protocol=SASL_SSL\n\
             sasl.mechanism=SCRAM-SHA-512\n\
             sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{ADMIN}\" \
             password=\"{password}\";\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={ca}\n\
             zookeeper.ssl.client.enable=true\n\
             zookeeper.ssl.keystore.location={admin}\n\
             zookeeper.ssl.truststore.location={ca}\n"
        );
        write_once(&self.dir.join(PROPERTIES_FILE), &properties).map(drop)
    }

    /// From now on this process connects as the admin.
    pub fn take_over(&self) -> Result<()> {
        let path = self.dir.join(PROPERTIES_FILE);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        client_security::take_over(&ottla_config::parse_properties(&text)).map_err(anyhow::Error::msg)
    }

    /// The variables of a member, which win over others. `members`: of the whole cluster.
    pub fn environment(&self, member: Member, members: &[Member]) -> Vec<(String, String)> {
        let store = self.store(&member.to_string()).display().to_string();
        let ca = self.store("ca").display().to_string();
        let principals = members.iter().map(|member| format!("User:CN={member}")).collect::<Vec<_>>().join(";");
        let variables = match member {
            Member::Coordinator(_) => vec![
                ("COORDINATOR_SECURE_CLIENT_PORT", member.port().to_string()),
                ("COORDINATOR_SSL_QUORUM", "true".to_owned()),
                ("COORDINATOR_SSL_MEMBER_ID", "true".to_owned()),
                ("COORDINATOR_SSL_KEYSTORE_TYPE", "PEM".to_owned()),
                ("COORDINATOR_SSL_KEYSTORE_LOCATION", store),
                ("COORDINATOR_SSL_TRUSTSTORE_TYPE", "PEM".to_owned()),
                ("COORDINATOR_SSL_TRUSTSTORE_LOCATION", ca),
                ("COORDINATOR_ROLES_MEMBER", principals),
                ("COORDINATOR_ROLES_ADMIN", format!("User:CN={ADMIN}")),
            ],
            Member::Broker(_) => vec![
                ("KAFKA_ZOOKEEPER_SSL_CLIENT_ENABLE", "true".to_owned()),
                ("KAFKA_ZOOKEEPER_SSL_KEYSTORE_LOCATION", store.clone()),
                ("KAFKA_ZOOKEEPER_SSL_TRUSTSTORE_LOCATION", ca.clone()),
                ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "INTERNAL:SSL,HOST:SASL_SSL".to_owned()),
                ("KAFKA_LISTENER_NAME_INTERNAL_SSL_CLIENT_AUTH", "required".to_owned()),
                ("KAFKA_SSL_KEYSTORE_TYPE", "PEM".to_owned()),
                ("KAFKA_SSL_KEYSTORE_LOCATION", store),
                ("KAFKA_SSL_TRUSTSTORE_TYPE", "PEM".to_owned()),
                ("KAFKA_SSL_TRUSTSTORE_LOCATION", ca),
                ("KAFKA_SASL_ENABLED_MECHANISMS", "SCRAM-SHA-512".to_owned()),
                ("KAFKA_AUTHORIZER_CLASS_NAME", AUTHORIZER.to_owned()),
                ("KAFKA_SUPER_USERS", format!("User:{ADMIN};{principals}")),
                ("KAFKA_CLIENT_USERS", ADMIN.to_owned()),
                ("KAFKA_CLIENT_PASSWORDS_FILE", self.dir.join(PASSWORD_FILE).display().to_string()),
            ],
        };
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Whether the file was not there.
fn write_once(path: &Path, text: &str) -> Result<bool> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        made => made.with_context(|| format!("make {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    Ok(true)
}
