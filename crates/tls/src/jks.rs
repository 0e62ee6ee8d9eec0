//! Java's own key store format (JKS), read only. Sun's key protection is SHA-1 over the password and a salt: weak, but
//! `keytool` wrote it for twenty years and it stands in many deployments.
//!
//! Layout: magic, version, number of entries; per entry tag, alias, time, then a key with its chain or a certificate;
//! at the end a digest over the password and everything before.

use ring::digest;
use rustls::pki_types::CertificateDer;

use crate::store::{Entry, StoredKey};

const MAGIC: u32 = 0xFEED_FEED;
const JCEKS_MAGIC: u32 = 0xCECE_CECE;
const DIGEST_BYTES: usize = 20;
const WHITENER: &[u8] = b"Mighty Aphrodite";
const KEY_TAG: u32 = 1;
const CERTIFICATE_TAG: u32 = 2;

fn has_magic(bytes: &[u8], magic: u32) -> bool {
    bytes.first_chunk().is_some_and(|first| u32::from_be_bytes(*first) == magic)
}

pub(crate) fn is_jks(bytes: &[u8]) -> bool {
    has_magic(bytes, MAGIC)
}

pub(crate) fn is_jceks(bytes: &[u8]) -> bool {
    has_magic(bytes, JCEKS_MAGIC)
}

/// A password as Java digests it: two bytes per UTF-16 unit.
fn password_bytes(password: &str) -> Vec<u8> {
    password.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn sha1(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the key store ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<u32, String> {
        Ok(self.take(N)?.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
    }

    fn block(&mut self) -> Result<&'a [u8], String> {
        let length = self.number::<4>()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A text with its length in two bytes.
    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.number::<2>()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn certificate(&mut self, version: u32) -> Result<CertificateDer<'static>, String> {
        if version == 2 && self.text()? != b"X.509" {
            return Err("a certificate that is not X.509".to_owned());
        }
        Ok(CertificateDer::from(self.block()?.to_vec()))
    }
}

pub(crate) fn entries(bytes: &[u8], password: &str) -> Result<Vec<Entry>, String> {
    let end = bytes.len().checked_sub(DIGEST_BYTES).ok_or("the key store ends too early")?;
    let (content, expected) = bytes.split_at(end);
    if sha1(&[&password_bytes(password), WHITENER, content]) != expected {
        return Err("another password, or a damaged key store".to_owned());
    }
    let mut reader = Reader { rest: content };
    reader.take(4)?;
    let version = reader.number::<4>()?;
    let count = reader.number::<4>()?;
    if version != 1 && version != 2 {
        return Err(format!("version {version} of the format is unknown"));
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let tag = reader.number::<4>()?;
        let _alias = reader.text()?;
        let _created = reader.take(8)?;
        entries.push(match tag {
            KEY_TAG => {
                let key = StoredKey::Jks(reader.block()?.to_vec());
                let length = reader.number::<4>()?;
                let mut chain = Vec::new();
                for _ in 0..length {
                    chain.push(reader.certificate(version)?);
                }
                Entry::Key { key, chain }
            }
            CERTIFICATE_TAG => Entry::Certificate(reader.certificate(version)?),
            other => return Err(format!("an entry of the unknown kind {other}")),
        });
    }
    Ok(entries)
}

/// A key under Sun's protection: `EncryptedPrivateKeyInfo` around salt, key and digest.
pub(crate) fn decrypt_key(encrypted: &[u8], password: &str) -> Result<Vec<u8>, String> {
    let broken = || "a key under a protection that is not Sun's".to_owned();
    let (_, content) = element(&mut Reader { rest: encrypted }).map_err(|_| broken())?;
    let mut fields = Reader { rest: content };
    skip_element(&mut fields).map_err(|_| broken())?;
    let data = octet_string(&mut fields).map_err(|_| broken())?;
    let (salt, rest) = data.split_at_checked(DIGEST_BYTES).ok_or_else(broken)?;
    let (hidden, check) = rest.split_at_checked(rest.len().saturating_sub(DIGEST_BYTES)).ok_or_else(broken)?;
    let password = password_bytes(password);
    let mut stream = salt.to_vec();
    let mut key = Vec::with_capacity(hidden.len());
    for piece in hidden.chunks(DIGEST_BYTES) {
        stream = sha1(&[&password, &stream]).to_vec();
        key.extend(piece.iter().zip(&stream).map(|(a, b)| a ^ b));
    }
    if sha1(&[&password, &key]) != check {
        return Err("the key has another password (ssl.key.password)".to_owned());
    }
    Ok(key)
}

/// Tag and content of a DER element.
fn element<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), String> {
    let tag = reader.take(1)?[0];
    let first = reader.number::<1>()?;
    let length = match first {
        0..=0x7f => first,
        0x81 => reader.number::<1>()?,
        0x82 => reader.number::<2>()?,
        0x83 => reader.number::<3>()?,
        _ => return Err("an element that is too long".to_owned()),
    };
    Ok((tag, reader.take(usize::try_from(length).unwrap_or(usize::MAX))?))
}

fn skip_element(reader: &mut Reader<'_>) -> Result<(), String> {
    element(reader).map(|_| ())
}

fn octet_string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], String> {
    match element(reader)? {
        (4, content) => Ok(content),
        _ => Err("no octet string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store as keytool writes it, with one certificate and one key.
    fn store(password: &str, key_password: &str) -> Vec<u8> {
        let text = |text: &[u8]| [&u16::try_from(text.len()).expect("short").to_be_bytes(), text].concat();
        let block = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
        let mut bytes = [MAGIC, 2, 2].map(u32::to_be_bytes).concat();
        bytes.extend(
            [&CERTIFICATE_TAG.to_be_bytes()[..], &text(b"ca"), &[0; 8], &text(b"X.509"), &block(b"cert")].concat(),
        );
        let key = encrypt(b"a key of more than twenty bytes", key_password);
        bytes.extend([&KEY_TAG.to_be_bytes()[..], &text(b"me"), &[0; 8], &block(&key)].concat());
        bytes.extend([&1u32.to_be_bytes()[..], &text(b"X.509"), &block(b"own")].concat());
        let digest = sha1(&[&password_bytes(password), WHITENER, &bytes]);
        bytes.extend(digest);
        bytes
    }

    fn encrypt(key: &[u8], password: &str) -> Vec<u8> {
        let password = password_bytes(password);
        let mut stream = vec![7; DIGEST_BYTES];
        let mut data = stream.clone();
        for piece in key.chunks(DIGEST_BYTES) {
            stream = sha1(&[&password, &stream]).to_vec();
            data.extend(piece.iter().zip(&stream).map(|(a, b)| a ^ b));
        }
        data.extend(sha1(&[&password, key]));
        let tagged = |tag: u8, bytes: &[u8]| [&[tag, 0x81, u8::try_from(bytes.len()).expect("short")], bytes].concat();
        let algorithm = [0x30, 0x00];
        tagged(0x30, &[&algorithm[..], &tagged(4, &data)].concat())
    }

    #[test]
    fn a_store_is_read_with_its_passwords() {
        let bytes = store("changeit", "other");
        assert!(is_jks(&bytes) && !is_jceks(&bytes));
        let entries = entries(&bytes, "changeit").expect("readable");
        let [Entry::Certificate(ca), Entry::Key { key: StoredKey::Jks(key), chain }] = entries.as_slice() else {
            panic!("{} entries", entries.len());
        };
        assert_eq!((ca.as_ref(), chain[0].as_ref()), (&b"cert"[..], &b"own"[..]));
        assert_eq!(decrypt_key(key, "other").as_deref(), Ok(&b"a key of more than twenty bytes"[..]));
        assert!(decrypt_key(key, "changeit").expect_err("wrong").contains("ssl.key.password"));
        assert!(super::entries(&bytes, "wrong").is_err());
    }

    #[test]
    fn no_bytes_break_it() {
        let bytes = store("changeit", "changeit");
        for cut in 0..bytes.len() {
            assert!(entries(&bytes[..cut], "changeit").is_err(), "{cut}");
        }
        let key = encrypt(b"key", "x");
        for cut in 0..key.len() {
            assert!(decrypt_key(&key[..cut], "x").is_err(), "{cut}");
        }
    }
}
