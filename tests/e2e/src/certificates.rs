//! An authority of a test, and certificates that it signed, as PEM files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

pub struct Authority {
    folder: PathBuf,
    /// The file of its own certificate.
    pub certificate: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one key: certificate and key apart, and both in one.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub store: PathBuf,
}

impl Authority {
    /// Nothing ends before it, unless a test wants it.
    pub const LAST_YEAR: i32 = 4_000;

    /// Writes `NAME-ca.pem` into the folder.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let path = folder.join(format!("{name}-ca.pem"));
        fs::write(&path, certificate.pem())?;
        Ok(Self { folder: folder.to_owned(), certificate: path, issuer: Issuer::new(params, key) })
    }

    /// A certificate for this machine's addresses, in the name of `CN=name`.
    pub fn sign(&self, name: &str) -> Result<Identity> {
        self.sign_until(name, Self::LAST_YEAR)
    }

    /// As [`Authority::sign`], good until the beginning of a year.
    pub fn sign_until(&self, name: &str, year: i32) -> Result<Identity> {
        self.sign_with(name, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    /// As [`Authority::sign`], for a host and an address that may be another machine's.
    pub fn sign_for(&self, name: &str, host: &str, address: [u8; 4], year: i32) -> Result<Identity> {
        let host = host.to_owned().try_into()?;
        self.sign_with(name, |params| {
            params.subject_alt_names = vec![SanType::DnsName(host), SanType::IpAddress(address.into())];
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        })
    }

    /// As [`Authority::sign`], with what `change` does to it.
    pub fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Identity> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(Self::LAST_YEAR, 1, 1);
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = |ending: &str| self.folder.join(format!("{name}{ending}"));
        let identity = Identity { certificate: path(".crt"), key: path(".key"), store: path(".pem") };
        fs::write(&identity.certificate, certificate.pem())?;
        fs::write(&identity.key, key.serialize_pem())?;
        fs::write(&identity.store, key.serialize_pem() + &certificate.pem())?;
        Ok(identity)
    }
}
