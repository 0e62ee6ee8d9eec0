//! The SASL conversation of a client: SaslHandshake, then tokens in SaslAuthenticate.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ottla_model::ErrorCode;
use ottla_protocol::kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::{decode_response, encode_request};
use ottla_sasl::{ClientCredentials, ClientSession};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::SecureError;

const HANDSHAKE_VERSION: i16 = 1;
/// Tells how long the login holds (KIP-368).
const AUTHENTICATE_VERSION: i16 = 1;
/// A list of mechanisms, a token or a text.
const ANSWER_BYTES_MAX: u32 = 64 * 1024;

pub(crate) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: ClientCredentials,
) -> Result<Option<Duration>, SecureError> {
    let mechanism = credentials.mechanism;
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism.name()));
    let answer = call(stream, HANDSHAKE_VERSION, &handshake).await?;
    if answer.error_code != 0 {
        let offered: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
        let text = format!("the broker does not take {mechanism}, only {}", offered.join(", "));
        return Err(SecureError::Login(text));
    }
    let mut session = ClientSession::new(credentials, &rand::random());
    let mut token = Vec::new();
    let mut lifetime = None;
    while let Some(next) = session.step(&token).map_err(|error| SecureError::Login(error.to_string()))? {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(next.into());
        let answer = call(stream, AUTHENTICATE_VERSION, &request).await?;
        if answer.error_code != 0 {
            let code = ErrorCode::from_code(answer.error_code);
            let text = answer.error_message.map_or_else(|| format!("{code:?}"), |text| text.to_string());
            return Err(SecureError::Login(text));
        }
        let lifetime_ms = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
        lifetime = (lifetime_ms > 0).then(|| Duration::from_millis(lifetime_ms));
        token = answer.auth_bytes.to_vec();
    }
    Ok(lifetime)
}

async fn call<S: AsyncRead + AsyncWrite + Unpin, R: Request>(
    stream: &mut S,
    version: i16,
    request: &R,
) -> Result<R::Response, SecureError> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let frame = encode_request(version, 0, None, request).map_err(|error| invalid(&error))?;
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let length = stream.read_u32().await?;
    if length > ANSWER_BYTES_MAX {
        return Err(invalid(&"the answer to a login is no answer of Kafka's").into());
    }
    let mut answer = BytesMut::zeroed(length as usize);
    stream.read_exact(&mut answer).await?;
    let answer: Bytes = answer.freeze();
    Ok(decode_response::<R>(version, answer).map_err(|error| invalid(&error))?.1)
}
