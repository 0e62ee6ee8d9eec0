//! Dials a broker and requests its incarnation with Kafka's ApiVersions, whose response has it in a tagged field.
//!
//! Only two results prove something: a refused connection (no process listens), and an incarnation. Everything else,
//! from a missing route to a response of another kind of server, is "unknown".

use std::io::ErrorKind;

use ottla_metadata::controller::{PROBE_TIMEOUT, Probe, ProbeResult};
use ottla_model::{IncarnationId, SecurityProtocol};
use ottla_quorum_node::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::driver::DriverHandle;

/// Of an ApiVersions response, the tag under which a broker puts the 16 bytes of its incarnation. Kafka's own tags
/// count from 0.
pub const INCARNATION_TAG: u32 = 10_001;
/// A broker that serves every API of Kafka answers in 2 KiB.
const ANSWER_BYTES_MAX: u32 = 64 * 1024;
/// ApiVersions v3, correlation id 1, no client id; client software `ottla-coordinator`, version `1`.
const REQUEST: &[u8] = b"\x00\x00\x00\x20\x00\x12\x00\x03\x00\x00\x00\x01\xff\xff\x00\x12ottla-coordinator\x021\x00";

/// Dials once and sends the result to the driver, within [`PROBE_TIMEOUT`].
pub async fn run(probe: Probe, driver: DriverHandle) {
    let Probe { broker, incarnation, endpoint } = probe;
    let has_tls = SecurityProtocol::from_name(&endpoint.security_protocol).is_some_and(SecurityProtocol::has_tls);
    let result = dial(&endpoint.host, endpoint.port, has_tls).await;
    tracing::debug!(%broker, host = endpoint.host, port = endpoint.port, ?result, "probed");
    // A stopped driver needs no result.
    let _ = driver.send(Event::Probed { broker, incarnation, result }).await;
}

/// Behind TLS only a refusal proves something: this process has no certificates.
async fn dial(host: &str, port: u16, has_tls: bool) -> ProbeResult {
    match tokio::time::timeout(PROBE_TIMEOUT, ask(host, port, has_tls)).await {
        Ok(Ok(Some(incarnation))) => ProbeResult::Answered(incarnation),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => ProbeResult::Refused,
        Ok(Ok(None) | Err(_)) | Err(_) => ProbeResult::Unknown,
    }
}

async fn ask(host: &str, port: u16, has_tls: bool) -> std::io::Result<Option<IncarnationId>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    if has_tls {
        return Ok(None);
    }
    stream.set_nodelay(true)?;
    let answered = async {
        stream.write_all(REQUEST).await?;
        let length = stream.read_u32().await?;
        if length > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(incarnation(&answer))
    };
    // The connection was accepted: a later error is not a refusal.
    Ok(answered.await.unwrap_or(None))
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
        assert_eq!(dial("127.0.0.1", port, false).await, ProbeResult::Answered(IncarnationId([7; 16])));
        assert_eq!(dial("127.0.0.1", port, false).await, ProbeResult::Unknown, "accepted and closed proves nothing");
        served.await.expect("served");
        assert_eq!(dial("127.0.0.1", port, true).await, ProbeResult::Refused);
        assert_eq!(dial("127.0.0.1", port, false).await, ProbeResult::Refused);
        assert_eq!(dial("no-such-host.invalid", port, false).await, ProbeResult::Unknown);
    }
}
