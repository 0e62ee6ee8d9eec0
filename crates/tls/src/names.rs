//! The subject of a certificate as Java's `X500Principal.getName` writes it (RFC 2253): principals are made of it, and
//! ACLs name them.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The attributes that have a short name in RFC 2253; others are written by their number.
const KEYWORDS: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// None for a certificate that cannot be parsed.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(name(parsed.subject()))
}

/// The common names of a certificate and its DNS names; empty for one that cannot be parsed.
pub(crate) fn hosts(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let dns = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    common.chain(dns).map(str::to_owned).collect()
}

pub(crate) fn is_valid_at(certificate: &CertificateDer<'_>, seconds: u64) -> Option<bool> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let now = i64::try_from(seconds).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now))
}

fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter_rdn().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let keyword = KEYWORDS.iter().find(|(known, _)| *known == oid).map(|(_, keyword)| *keyword);
    match (keyword, attribute.as_str()) {
        (Some(keyword), Ok(value)) => format!("{keyword}={}", escape(value)),
        _ => {
            let value = attribute.attr_value();
            let mut text = format!("{}=#", keyword.unwrap_or(&oid));
            for byte in der(value.header.tag().0, value.data) {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            text
        }
    }
}

/// A primitive value with its tag and length; values of names are short.
fn der(tag: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(tag).unwrap_or_default()];
    match u8::try_from(data.len()) {
        Ok(length) if length < 0x80 => bytes.push(length),
        Ok(length) => bytes.extend([0x81, length]),
        Err(_) => {
            bytes.push(0x82);
            bytes.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    bytes.extend(data);
    bytes
}

fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for (at, c) in value.char_indices() {
        let is_edge = at == 0 || at + c.len_utf8() == value.len();
        let is_special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=');
        if is_special || (c == '#' && at == 0) || (c == ' ' && is_edge) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    #[test]
    fn subjects_are_written_as_java_writes_them() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, "AT"),
            (DnType::OrganizationName, "A, B+C"),
            (DnType::OrganizationalUnitName, " edge "),
            (DnType::CommonName, "broker-1"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "x");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let expected = "1.2.840.113549.1.9.1=#0c0178,CN=broker-1,OU=\\ edge\\ ,O=A\\, B\\+C,C=AT";
        assert_eq!(subject(certificate.der()).as_deref(), Some(expected));
        assert_eq!(subject(&CertificateDer::from(vec![1, 2, 3])), None);
        assert_eq!(hosts(certificate.der()), ["broker-1"]);
    }

    #[test]
    fn hosts_are_the_common_name_and_the_dns_names() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "b".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "c");
        params.subject_alt_names.push(rcgen::SanType::IpAddress([10, 0, 0, 1].into()));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let found = hosts(certificate.der());
        assert!(found.contains(&"a.example".to_owned()) && found.contains(&"b".to_owned()), "{found:?}");
        assert_eq!(found.iter().filter(|name| *name == "c").count(), 1, "{found:?}");
        assert_eq!(hosts(&CertificateDer::from(vec![1, 2, 3])), Vec::<String>::new());
    }
}
