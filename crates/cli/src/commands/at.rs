//! Which cluster a command is for: its flags, else the environment, else a profile, else whoever answers on this
//! machine.
//!
//! A profile is a file of properties: `bootstrap.servers`, `coordinators`, and the properties of a client
//! (`security.protocol`, `ssl.*`, `sasl.*`), and of connections to coordinators (`zookeeper.ssl.*`).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use ottla_model::ClusterSecret;
use ottla_rpc::AdminClient;
use tokio::net::TcpStream;

use crate::{client_security, kafka, quorum};

/// The cluster of processes that `ottla local` starts by default.
const LOCAL_BROKERS: &str = "127.0.0.1:29092,127.0.0.1:39092,127.0.0.1:49092";
const LOCAL_COORDINATORS: &str = "127.0.0.1:22181,127.0.0.1:32181,127.0.0.1:42181";
/// Where a broker or a coordinator usually listens: `ottla dev`, a package, a container whose port is published.
const USUAL_BROKER: &str = "127.0.0.1:9092";
const USUAL_COORDINATOR: &str = "127.0.0.1:2181";
/// A port of this machine answers, or refuses, at once.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// A broker answers at once.
const BROKER_TIMEOUT: Duration = Duration::from_millis(500);
const SHOWN_FOLDER: &str = "~/.config/ottla";
const DEFAULT_PROFILE: &str = "default";

/// The bootstrap brokers.
#[derive(Args, Default)]
pub struct Bootstrap {
    /// host:port[,host:port…] of some brokers; else OTTLA_BOOTSTRAP, else the profile's, else localhost:9092 or 29092
    #[arg(long, short = 'b', value_name = "ADDRESSES", alias = "broker-list")]
    bootstrap_server: Option<String>,
    #[command(flatten)]
    profile: Profile,
}

/// The coordinators.
#[derive(Args, Default)]
pub struct Coordinators {
    /// host:port[,host:port…] of coordinators; else OTTLA_COORDINATORS, else the profile's, else localhost:2181 or
    /// 22181
    #[arg(long, short = 'c', value_name = "ADDRESSES")]
    coordinators: Option<String>,
    #[command(flatten)]
    profile: Profile,
}

/// The coordinators, for a command that alters the cluster.
#[derive(Args)]
pub struct Quorum {
    #[command(flatten)]
    pub coordinators: Coordinators,
    /// The file with the cluster's secret, if it has one; else OTTLA_CLUSTER_SECRET_FILE
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
}

#[derive(Args, Default)]
struct Profile {
    /// NAME.properties in ~/.config/ottla, with bootstrap.servers, coordinators and a client's properties; else
    /// OTTLA_PROFILE, else `default`
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A file with a client's properties, such as security.protocol, and zookeeper.ssl.* for coordinators; it goes
    /// before the profile
    #[arg(long, value_name = "FILE")]
    command_config: Option<PathBuf>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// `$XDG_CONFIG_HOME/ottla`, else `~/.config/ottla`.
fn folder() -> Option<PathBuf> {
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    Some(config.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")))?.join("ottla"))
}

impl Profile {
    /// The properties of the profile, then those of the file, which win. What they say of TLS and SASL holds for this
    /// process from then on.
    fn properties(&self) -> Result<Vec<(String, String)>> {
        let named = self.profile.clone().or_else(|| variable("OTTLA_PROFILE"));
        if let Some(name) = named.as_deref().filter(|name| !is_profile_name(name)) {
            bail!("--profile {name}: a profile is the name of a file in {SHOWN_FOLDER}, without a path");
        }
        let mut properties = Vec::new();
        let path =
            folder().map(|folder| folder.join(format!("{}.properties", named.as_deref().unwrap_or(DEFAULT_PROFILE))));
        match (path, named) {
            (Some(path), named) if named.is_some() || path.exists() => {
                let text = std::fs::read_to_string(&path).with_context(|| format!("the profile {}", path.display()))?;
                properties.extend(ottla_config::parse_properties(&text));
            }
            (None, Some(named)) => bail!("the profile {named} needs HOME or XDG_CONFIG_HOME"),
            _ => {}
        }
        if let Some(path) = &self.command_config {
            let text = std::fs::read_to_string(path).with_context(|| format!("--command-config {}", path.display()))?;
            properties.extend(ottla_config::parse_properties(&text));
        }
        if !properties.is_empty() {
            client_security::take_over(&properties).map_err(anyhow::Error::msg)?;
        }
        Ok(properties)
    }
}

/// A name of one file: a path would lead out of the folder.
fn is_profile_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.')
}

fn value(properties: &[(String, String)], name: &str) -> Option<String> {
    properties.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

async fn answers(address: &str) -> bool {
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

impl Bootstrap {
    pub async fn addresses(&self) -> Result<String> {
        let properties = self.profile.properties()?;
        let said = self.bootstrap_server.clone().or_else(|| variable("OTTLA_BOOTSTRAP"));
        match said.or_else(|| value(&properties, "bootstrap.servers")) {
            Some(said) => Ok(said),
            None if answers(USUAL_BROKER).await => Ok(USUAL_BROKER.to_owned()),
            None => Ok(LOCAL_BROKERS.to_owned()),
        }
    }
}

impl Coordinators {
    pub async fn addresses(&self) -> Result<Vec<String>> {
        let properties = self.profile.properties()?;
        let said = self.coordinators.clone().or_else(|| variable("OTTLA_COORDINATORS"));
        let text = match said.or_else(|| value(&properties, "coordinators")) {
            Some(said) => said,
            None if answers(USUAL_COORDINATOR).await => USUAL_COORDINATOR.to_owned(),
            None => LOCAL_COORDINATORS.to_owned(),
        };
        quorum::addresses(&text)
    }
}

/// Why coordinators did not answer, where what listens there are brokers.
pub async fn explain(addresses: &[String], error: anyhow::Error) -> anyhow::Error {
    for address in addresses {
        let address = address.split('/').next().unwrap_or(address);
        let asked = tokio::time::timeout(BROKER_TIMEOUT, kafka::broker_ids(address)).await;
        if matches!(asked, Ok(Ok(_))) {
            return anyhow!(
                "{address} is a broker's port, not a coordinator's: a command for brokers has --bootstrap-server"
            );
        }
    }
    error
}

impl Quorum {
    pub async fn client(&self) -> Result<AdminClient> {
        let named = || variable("OTTLA_CLUSTER_SECRET_FILE").map(PathBuf::from);
        let secret = match self.cluster_secret_file.clone().or_else(named) {
            Some(file) => {
                let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                Some(ClusterSecret::new(text.trim()))
            }
            None => None,
        };
        let addresses = quorum::informed_first(self.coordinators.addresses().await?).await;
        Ok(AdminClient::secured(&addresses, &client_security::coordinators(secret.as_ref()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_lie_in_their_folder() {
        assert!(is_profile_name("prod") && is_profile_name("eu-1.prod"));
        for wrong in ["../x", "/etc/x", "a/b", "", ".hidden", ".."] {
            assert!(!is_profile_name(wrong), "{wrong}");
        }
    }
}
