//! Keys and certificates out of PEM, PKCS12 and JKS.

use std::path::Path;

use p12_keystore::{KeyStore, KeyStoreEntry};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::TlsError;
use crate::jks;
use crate::settings::{Password, Source, TlsSettings};

/// A key and its certificates, its own first.
pub struct KeyMaterial {
    pub key: PrivateKeyDer<'static>,
    pub chain: Vec<CertificateDer<'static>>,
}

/// A larger file is no key store.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

fn failed(path: &Path, problem: impl ToString) -> TlsError {
    TlsError::Store { path: path.to_owned(), problem: problem.to_string().replace(char::is_control, " ") }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let metadata = std::fs::metadata(path).map_err(|error| failed(path, error))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(failed(path, "too large for a key store"));
    }
    std::fs::read(path).map_err(|error| failed(path, error))
}

/// The key of these settings; none if none is set.
pub fn key(settings: &TlsSettings) -> Result<Option<KeyMaterial>, TlsError> {
    let password = settings.key_password.as_ref();
    match &settings.key {
        None => Ok(None),
        Some(Source::Pem { key, certificates }) => {
            let chain = certificates_of_pem(certificates.as_bytes());
            let key = key_of_pem(key.reveal().as_bytes(), password);
            pem_material(key, chain).map(Some).map_err(|problem| TlsError::setting("ssl.keystore.key", problem))
        }
        Some(Source::PemFile(path)) => {
            let bytes = read(path)?;
            let material = pem_material(key_of_pem(&bytes, password), certificates_of_pem(&bytes));
            material.map(Some).map_err(|problem| failed(path, problem))
        }
        Some(Source::Store { path, password: store }) => {
            let entries = entries(path, store)?;
            let encrypted = entries.into_iter().find_map(|entry| match entry {
                Entry::Key { key, chain } => Some((key, chain)),
                Entry::Certificate(_) => None,
            });
            let (key, chain) = encrypted.ok_or_else(|| failed(path, "no private key is in it"))?;
            let key = key.open(password.unwrap_or(store)).map_err(|problem| failed(path, problem))?;
            Ok(Some(KeyMaterial { key: PrivatePkcs8KeyDer::from(key).into(), chain }))
        }
    }
}

/// The certificates that these settings trust; none: what the system trusts.
pub fn trusted(settings: &TlsSettings) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match &settings.trust {
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            if found.is_empty() {
                let problem = "is not set, and this system has no list of trusted certificates";
                return Err(TlsError::setting("ssl.truststore.location", problem));
            }
            Ok(found)
        }
        Some(Source::Pem { certificates, .. }) => certificates_of_pem(certificates.as_bytes())
            .map_err(|problem| TlsError::setting("ssl.truststore.certificates", problem)),
        Some(Source::PemFile(path)) => certificates_of_pem(&read(path)?).map_err(|problem| failed(path, problem)),
        Some(Source::Store { path, password }) => {
            let certificates = entries(path, password)?.into_iter().filter_map(|entry| match entry {
                Entry::Certificate(certificate) => Some(certificate),
                // As Java does: whose key is here is trusted.
                Entry::Key { chain, .. } => chain.into_iter().next(),
            });
            let certificates: Vec<_> = certificates.collect();
            if certificates.is_empty() {
                return Err(failed(path, "no trusted certificate is in it"));
            }
            Ok(certificates)
        }
    }
}

/// Trust anchors; certificates that can be none (of version 1, for example) are left out.
pub(crate) fn roots(certificates: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    roots
}

pub(crate) enum Entry {
    Key { key: StoredKey, chain: Vec<CertificateDer<'static>> },
    Certificate(CertificateDer<'static>),
}

/// A key of a store: PKCS12 opens it with the store, JKS with a password of its own.
pub(crate) enum StoredKey {
    Open(Vec<u8>),
    Jks(Vec<u8>),
}

impl StoredKey {
    fn open(self, password: &Password) -> Result<Vec<u8>, String> {
        match self {
            Self::Open(key) => Ok(key),
            Self::Jks(encrypted) => jks::decrypt_key(&encrypted, password.reveal()),
        }
    }
}

fn entries(path: &Path, password: &Password) -> Result<Vec<Entry>, TlsError> {
    let bytes = read(path)?;
    if jks::is_jks(&bytes) {
        return jks::entries(&bytes, password.reveal()).map_err(|problem| failed(path, problem));
    }
    if bytes.starts_with(b"-----BEGIN") {
        return Err(failed(path, "this is PEM: set the type of the store to PEM"));
    }
    if jks::is_jceks(&bytes) {
        let problem = "a JCEKS store; convert it: keytool -importkeystore -srckeystore FILE -destkeystore FILE.p12 \
                       -deststoretype PKCS12";
        return Err(failed(path, problem));
    }
    let store = KeyStore::from_pkcs12(&bytes, password.reveal())
        .map_err(|error| failed(path, format!("no PKCS12 or JKS store, or another password: {error}")))?;
    let certificate = |certificate: &p12_keystore::Certificate| CertificateDer::from(certificate.as_der().to_vec());
    Ok(store
        .entries()
        .filter_map(|(_, entry)| match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => Some(Entry::Key {
                key: StoredKey::Open(chain.key().to_vec()),
                chain: chain.chain().iter().map(certificate).collect(),
            }),
            KeyStoreEntry::Certificate(trusted) => Some(Entry::Certificate(certificate(trusted))),
            KeyStoreEntry::Secret(_) => None,
        })
        .collect())
}

fn pem_material(
    key: Result<PrivateKeyDer<'static>, String>,
    chain: Result<Vec<CertificateDer<'static>>, String>,
) -> Result<KeyMaterial, String> {
    Ok(KeyMaterial { key: key?, chain: chain? })
}

fn certificates_of_pem(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("no PEM certificate is in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("broken PEM: {error}")),
    }
}

fn key_of_pem(bytes: &[u8], password: Option<&Password>) -> Result<PrivateKeyDer<'static>, String> {
    const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
    let (begin, end) = (format!("-----BEGIN {ENCRYPTED}-----"), format!("-----END {ENCRYPTED}-----"));
    let Some((_, rest)) = text.split_once(&begin) else {
        return PrivateKeyDer::from_pem_slice(bytes).map_err(|_| "no PEM private key is in it".to_owned());
    };
    let Some(password) = password else { return Err("the key is encrypted, and ssl.key.password is not set".into()) };
    let (body, _) = rest.split_once(&end).ok_or("the key has no end")?;
    let der = decode_body(body)?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfo::try_from(der.as_slice()).map_err(|error| error.to_string())?;
    let document = encrypted
        .decrypt(password.reveal())
        .map_err(|_| "the key cannot be decrypted with ssl.key.password".to_owned())?;
    Ok(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec()).into())
}

/// The bytes between two markers: PEM of any kind is decoded as that of a certificate.
fn decode_body(body: &str) -> Result<Vec<u8>, String> {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", body.trim());
    let decoded = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("broken PEM: {error}"))?;
    Ok(decoded.to_vec())
}
