//! Dials a broker and requests its incarnation with Kafka's ApiVersions, whose response has it in a tagged field. Where
//! the listener speaks TLS, the coordinator shows its own certificate. ApiVersions needs no login.
//!
//! Only two results prove something: a refused connection (no process listens), and an incarnation. Everything else,
//! from a missing route to a response of another kind of server, is "unknown".

use std::io::{self, ErrorKind};
use std::sync::Arc;

use ottla_metadata::controller::{PROBE_TIMEOUT, Probe, ProbeResult};
use ottla_model::{IncarnationId, SecurityProtocol};
use ottla_quorum_node::Event;
use ottla_tls::ClientTls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::driver::DriverHandle;

/// Of an ApiVersions response, the tag under which a broker puts the 16 bytes of its incarnation. Kafka's own tags
/// count from 0.
pub const INCARNATION_TAG: u32 = 10_001;
/// A broker that serves every API of Kafka answers in 2 KiB.
const ANSWER_BYTES_MAX: u32 = 64 * 1024;
/// ApiVersions v3, correlation id 1, no client id; client software `ottla-coordinator`, version `1`.
const REQUEST: &[u8] = b"\x00\x00\x00\x20\x00\x12\x00\x03\x00\x00\x00\x01\xff\xff\x00\x12ottla-coordinator\x021\x00";

/// How a listener is spoken to.
enum Transport {
    Plaintext,
    Tls(Arc<ClientTls>),
    /// By TLS, for which this coordinator has no certificates: only a refused connection proves something.
    Closed,
}

/// Dials once and sends the result to the driver, within [`PROBE_TIMEOUT`].
pub async fn run(probe: Probe, driver: DriverHandle, tls: Option<Arc<ClientTls>>) {
    let Probe { broker, incarnation, endpoint } = probe;
    let has_tls = SecurityProtocol::from_name(&endpoint.security_protocol).is_some_and(SecurityProtocol::has_tls);
    let transport = match (has_tls, tls) {
        (false, _) => Transport::Plaintext,
        (true, Some(tls)) => Transport::Tls(tls),
        (true, None) => Transport::Closed,
    };
    let result = dial(&endpoint.host, endpoint.port, transport).await;
    tracing::debug!(%broker, host = endpoint.host, port = endpoint.port, ?result, "probed");
    // A stopped driver needs no result.
    let _ = driver.send(Event::Probed { broker, incarnation, result }).await;
}

async fn dial(host: &str, port: u16, transport: Transport) -> ProbeResult {
    match tokio::time::timeout(PROBE_TIMEOUT, ask(host, port, transport)).await {
        Ok(Ok(Some(incarnation))) => ProbeResult::Answered(incarnation),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => ProbeResult::Refused,
        Ok(Ok(None) | Err(_)) | Err(_) => ProbeResult::Unknown,
    }
}

async fn ask(host: &str, port: u16, transport: Transport) -> io::Result<Option<IncarnationId>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let answered = async {
        match transport {
            Transport::Plaintext => request(stream).await,
            Transport::Tls(tls) => request(tls.connect(ClientTls::server_name(host)?, stream).await?).await,
            Transport::Closed => Ok(None),
        }
    };
    // The connection was accepted: a later error is not a refusal.
    Ok(answered.await.unwrap_or(None))
}

async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Option<IncarnationId>> {
    stream.write_all(REQUEST).await?;
    stream.flush().await?;
    let length = stream.read_u32().await?;
    if length > ANSWER_BYTES_MAX {
        return Ok(None);
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    Ok(incarnation(&answer))
}

/// Finds the incarnation in a response of version 3 (header version 0).
fn incarnation(answer: &[u8]) -> Option<IncarnationId> {
    let mut rest = Cursor { bytes: answer };
    if rest.take(4)? != [0, 0, 0, 1] || rest.take(2)? != [0, 0] {
        return None;
    }
    let apis = rest.varint()?.checked_sub(1)?;
    for _ in 0..apis {
        rest.take(6)?;
        rest.skip_tags()?;
    }
    rest.take(4)?;
    let tags = rest.varint()?;
    for _ in 0..tags {
        let tag = rest.varint()?;
        let length = rest.varint()?;
        let value = rest.take(usize::try_from(length).ok()?)?;
        if tag == INCARNATION_TAG {
            return IncarnationId::from_slice(value);
        }
    }
    None
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    fn skip_tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.take(usize::try_from(length).ok()?)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Two APIs, throttle 0, Kafka's tag 1 (finalized features epoch), then ours.
    fn response() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 3];
        bytes.extend([0, 18, 0, 0, 0, 4, 0]);
        bytes.extend([0, 3, 0, 0, 0, 13, 1, 5, 1, 9]);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend([2, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0x91, 0x4E, 16]);
        bytes.extend([7; 16]);
        bytes
    }

    #[test]
    fn the_request_is_what_it_says() {
        assert_eq!(REQUEST.len(), 4 + 0x20);
        assert_eq!(REQUEST[3], 0x20);
    }

    #[test]
    fn finds_the_incarnation_and_survives_anything() {
        let whole = response();
        assert_eq!(incarnation(&whole), Some(IncarnationId([7; 16])));
        for cut in 0..whole.len() {
            assert_eq!(incarnation(&whole[..cut]), None, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] = 0xFF;
            let _ = incarnation(&broken);
        }
    }

    #[tokio::test]
    async fn tells_refused_from_unknown_from_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a probe");
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).await.expect("the request");
            assert_eq!(request, REQUEST);
            let answer = response();
            stream.write_u32(answer.len() as u32).await.expect("written");
            stream.write_all(&answer).await.expect("written");
            let (stream, _) = listener.accept().await.expect("another probe");
            drop(stream);
        });
        let plaintext = async |host: &str| dial(host, port, Transport::Plaintext).await;
        assert_eq!(plaintext("127.0.0.1").await, ProbeResult::Answered(IncarnationId([7; 16])));
        assert_eq!(plaintext("127.0.0.1").await, ProbeResult::Unknown, "accepted and closed proves nothing");
        served.await.expect("served");
        assert_eq!(dial("127.0.0.1", port, Transport::Closed).await, ProbeResult::Refused);
        assert_eq!(plaintext("127.0.0.1").await, ProbeResult::Refused);
        assert_eq!(plaintext("no-such-host.invalid").await, ProbeResult::Unknown);
    }

    #[tokio::test]
    async fn a_broker_behind_tls_is_recognised_by_a_coordinator_that_trusts_it() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let (certificate, key) = (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem());
        let settings = ottla_tls::TlsSettings::read(|name| match name {
            "ssl.keystore.type" | "ssl.truststore.type" => Some("PEM"),
            "ssl.keystore.key" => Some(key.as_str()),
            "ssl.keystore.certificate.chain" | "ssl.truststore.certificates" => Some(certificate.as_str()),
            _ => None,
        });
        let settings = settings.expect("settings");
        let server = ottla_tls::ServerTls::new(settings.clone()).expect("a server");
        let client = Arc::new(ClientTls::new(settings).expect("a client"));
        let listener = TcpListener::bind("localhost:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a probe");
            let mut stream = server.accept(stream).await.expect("TLS");
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).await.expect("the request");
            let answer = response();
            stream.write_u32(answer.len() as u32).await.expect("written");
            stream.write_all(&answer).await.expect("written");
            stream.flush().await.expect("written");
            // Until the probe has gone.
            let _ = stream.read(&mut request).await;
            let (stream, _) = listener.accept().await.expect("another probe");
            drop(stream);
        });
        let transport = Transport::Tls(client);
        assert_eq!(dial("localhost", port, transport).await, ProbeResult::Answered(IncarnationId([7; 16])));
        assert_eq!(dial("localhost", port, Transport::Closed).await, ProbeResult::Unknown);
        served.await.expect("served");
    }
}
