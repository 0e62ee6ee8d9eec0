//! An authority of a test, and what it signs, as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_rpc::ChannelSecurity;
use ottla_tls::{ClientTls, TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

pub struct Authority {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join(format!("{name}-ca.pem")), certificate.pem()).expect("written");
        Self { folder: folder.to_owned(), name: name.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for this machine in the name of `CN=name`, and for the host `name`; the file with its key.
    pub fn sign(&self, name: &str) -> PathBuf {
        self.sign_until(name, 4_000)
    }

    pub fn sign_until(&self, name: &str, year: i32) -> PathBuf {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), name.to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = self.folder.join(format!("{}-{name}.pem", self.name));
        fs::write(&path, key.serialize_pem() + &certificate.pem()).expect("written");
        path
    }

    /// The `ssl.*` settings of a process with this store, which trusts this authority.
    pub fn flags(&self, store: &Path) -> Vec<(String, String)> {
        let ca = self.folder.join(format!("{}-ca.pem", self.name));
        let flags = [
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", store.display().to_string()),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", ca.display().to_string()),
        ];
        flags.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// A client that trusts this authority, and shows this store.
    pub fn client(&self, store: Option<&Path>) -> ChannelSecurity {
        let flags = self.flags(store.unwrap_or(Path::new("")));
        let get = |name: &str| {
            let known = flags.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            known.filter(|_| store.is_some() || !name.starts_with("ssl.keystore"))
        };
        let settings = TlsSettings::read(get).expect("settings");
        let tls = ClientTls::for_http(settings).expect("a client");
        ChannelSecurity { tls: Some(Arc::new(tls)), secret: None }
    }
}
