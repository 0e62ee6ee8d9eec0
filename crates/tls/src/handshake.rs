//! Why a handshake failed, for operators: whose certificate it was, what is wrong with it, and what to do. The text of
//! one reason is always the same, so that a log can tell whether it has changed.

use std::cell::RefCell;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};

use crate::names;

thread_local! {
    /// The subject of the certificate that a verifier refused last on this thread. It is set and taken within one poll
    /// of a handshake: rustls tells its caller of the reason, not of the certificate.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A verifier refuses this certificate.
pub(crate) fn note_refused(certificate: &CertificateDer<'_>) {
    REFUSED.set(names::subject(certificate));
}

/// A handshake that did not end in a connection.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct HandshakeError {
    text: String,
    source: io::Error,
}

impl HandshakeError {
    fn new(subject: Option<String>, source: io::Error) -> Self {
        let text = match (explain(&source), subject) {
            (Some(reason), Some(subject)) => format!("the certificate of {subject}: {reason}"),
            (Some(reason), None) => reason.to_owned(),
            (None, _) => source.to_string(),
        };
        Self { text, source }
    }

    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Carries out a handshake; of either side.
pub async fn observe<T>(shaking: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    let mut shaking = pin!(shaking);
    let mut subject = None;
    let done = poll_fn(|context| {
        REFUSED.set(None);
        let polled = shaking.as_mut().poll(context);
        if let Some(refused) = REFUSED.take() {
            subject = Some(refused);
        }
        polled
    });
    done.await.map_err(|error| HandshakeError::new(subject, error))
}

/// What an error of TLS means and what to do, where that is known. In TLS 1.3 a client hears only after its handshake
/// that its certificate was refused: any error of a connection may be one.
pub fn explain(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    let mut text = String::new();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls) = [Some(error), inner].into_iter().flatten().find_map(|error| error.downcast_ref()) {
            return reason(tls);
        }
        text = error.to_string();
        // An io::Error that wraps another error is no cause of its own.
        cause = inner.or_else(|| error.source());
    }
    of_text(&text)
}

/// HTTP/2 keeps only the text of an error of its connection.
fn of_text(text: &str) -> Option<&'static str> {
    let is_told = |alert: &&AlertDescription| text.ends_with(&rustls::Error::AlertReceived(**alert).to_string());
    of_alert(*ALERTS.iter().find(is_told)?)
}

fn reason(error: &rustls::Error) -> Option<&'static str> {
    Some(match error {
        rustls::Error::InvalidCertificate(error) => of_certificate(error)?,
        rustls::Error::AlertReceived(alert) => of_alert(*alert)?,
        rustls::Error::NoCertificatesPresented => {
            "the other side shows no certificate, which it must: its ssl.keystore.location is missing"
        }
        rustls::Error::InvalidMessage(_) => "the other side does not speak TLS",
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired: put a new one in the place of its file"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: check its dates, and the clocks of both machines"
        }
        CertificateError::UnknownIssuer => {
            "its authority is not in the trust store of this process: add the authority, or have the certificate signed \
             by one that is there"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for other names than the one that was dialled: sign one with this name or address among its \
             alternative names"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for this side of a connection: sign one whose extended key usage has serverAuth and clientAuth"
        }
        CertificateError::Revoked => "it was revoked",
        _ => return None,
    })
}

/// Those of [`of_alert`].
const ALERTS: [AlertDescription; 10] = [
    AlertDescription::CertificateExpired,
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRevoked,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
    AlertDescription::HandshakeFailure,
    AlertDescription::ProtocolVersion,
];

fn of_alert(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateExpired => {
            "the other side says that the certificate of this process has expired, or is not valid yet: put a new one \
             in the place of its file"
        }
        AlertDescription::UnknownCA => {
            "the other side does not trust the authority of this process's certificate: add it to the other's trust \
             store, or have the certificate signed by an authority that is there"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => {
            "the other side refuses the certificate of this process: its log has the reason"
        }
        AlertDescription::CertificateRequired => {
            "the other side demands a certificate, and this process has none: set ssl.keystore.location"
        }
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => {
            "both sides have no version of TLS, or no cipher suite, in common"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn an_error_of_tls_is_found_behind_others() {
        let expired = || failed(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert!(explain(&expired()).is_some_and(|text| text.starts_with("it has expired")));
        let wrapped = HandshakeError::new(None, expired());
        assert!(explain(&wrapped).is_some_and(|text| text.starts_with("it has expired")));
        let twice = io::Error::other(io::Error::from(wrapped));
        assert!(explain(&twice).is_some_and(|text| text.starts_with("it has expired")));
        assert_eq!(explain(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }

    #[test]
    fn an_alert_is_known_by_its_text() {
        for alert in ALERTS {
            let text = io::Error::other(format!("connection error: {}", rustls::Error::AlertReceived(alert)));
            assert_eq!(explain(&text), of_alert(alert), "{alert:?}");
            assert!(of_alert(alert).is_some(), "{alert:?}");
        }
    }

    #[test]
    fn the_subject_stands_before_the_reason() {
        let unknown = failed(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        let text = HandshakeError::new(Some("CN=broker-1".to_owned()), unknown).to_string();
        assert!(text.starts_with("the certificate of CN=broker-1: its authority is not in the trust store"), "{text}");
        let other = HandshakeError::new(None, io::Error::other("something else"));
        assert_eq!(other.to_string(), "something else");
    }
}
