//! The login of one connection on a listener with SASL: which request is answered when (`SaslServerAuthenticator`).
//!
//! Before a client has logged in, only ApiVersions, SaslHandshake and its tokens are taken: the tokens in
//! SaslAuthenticate, or bare after a handshake of version 0. A login may end after a time; then the client logs in
//! again on the same connection, as the same principal and by the same mechanism (KIP-368).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use ottla_model::{ErrorCode, KafkaPrincipal};
use ottla_protocol::kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::{Api, RequestHeader, decode_request, frame};
use ottla_sasl::{Mechanism, SaslError, ServerSession, Step};

use crate::context::RequestContext;
use crate::response::{Reply, Response};
use crate::security::{LoginEvent, SaslListener};

/// Kafka's: a client that logs in again and again gets ILLEGAL_SASL_STATE.
const REAUTH_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Kafka's servers take as many random bytes.
const NONCE_BYTES: usize = 18;

enum State {
    Handshake,
    Tokens { mechanism: Mechanism, session: ServerSession, is_bare: bool },
    Done,
    Failed,
}

/// What is to be done with a frame.
pub(crate) enum Outcome {
    /// The client has logged in: the service handles the request.
    Serve,
    /// A request that is answered before a login too (ApiVersions), or refused.
    Early,
    Reply(Reply),
}

struct Login {
    mechanism: Mechanism,
    principal: KafkaPrincipal,
    is_by_token: bool,
    /// What remained of the login when it was made; none: it does not end.
    lifetime: Option<Duration>,
    expires: Option<Instant>,
    began: Instant,
}

pub(crate) struct Authentication {
    listener: Arc<SaslListener>,
    state: State,
    login: Option<Login>,
    /// Why the login failed, for the log.
    pub failure: Option<String>,
    /// Whether a login was made, or failed, that nobody has heard of yet.
    is_new: bool,
}

impl Authentication {
    pub fn new(listener: Arc<SaslListener>) -> Self {
        Self { listener, state: State::Handshake, login: None, failure: None, is_new: false }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the client has logged in with a delegation token.
    pub fn is_by_token(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.is_by_token)
    }

    /// Tells of a login that was made, or failed, with the last frame.
    pub fn tell(&mut self, context: &RequestContext) {
        let event = match (std::mem::take(&mut self.is_new), &self.failure, &self.login) {
            (true, Some(reason), _) => LoginEvent::Refused(reason),
            (true, None, Some(login)) => LoginEvent::Accepted(login.mechanism),
            _ => return,
        };
        if let Some(watcher) = &self.listener.watcher {
            watcher.login(context, event);
        }
    }

    /// The largest frame at this time.
    pub fn frame_bytes_max(&self, served: usize) -> usize {
        if self.is_done() { served } else { served.min(self.listener.receive_bytes_max) }
    }

    /// Takes a frame; `nonce` makes a fresh one. A login that succeeds sets the principal.
    pub fn take(
        &mut self,
        frame: &BytesMut,
        now: Instant,
        nonce: impl FnOnce() -> [u8; NONCE_BYTES],
        principal: &mut KafkaPrincipal,
    ) -> Outcome {
        match &self.state {
            State::Done if self.begins_again(frame, now) => self.state = State::Handshake,
            State::Done => {
                let has_expired = self.login.as_ref().and_then(|login| login.expires).is_some_and(|end| now >= end);
                if has_expired {
                    return Outcome::Reply(Reply::close("the login has expired, and the client did not renew it"));
                }
                return Outcome::Serve;
            }
            State::Failed => return Outcome::Reply(Reply::close("a request after a failed login")),
            State::Tokens { is_bare: true, .. } => return Outcome::Reply(self.bare_token(frame, now, principal)),
            State::Handshake | State::Tokens { .. } => {}
        }
        let Ok((header, body_start)) = frame::parse_header(frame) else { return Outcome::Early };
        let body = Bytes::copy_from_slice(frame.get(body_start..).unwrap_or_default());
        let answer = match (header.api(), &self.state) {
            (Some(Api::ApiVersions), _) => return Outcome::Early,
            (Some(Api::SaslHandshake), State::Handshake) => self.handshake(&header, body, &nonce()),
            (Some(Api::SaslAuthenticate), State::Tokens { .. }) => self.authenticate(&header, body, now, principal),
            (api, _) => {
                let api = api.map_or("an unknown API", Api::name);
                self.fail(format!("{api} before the login is complete"));
                Reply::close(format!("{api} before the login is complete"))
            }
        };
        Outcome::Reply(answer)
    }

    /// Whether the frame begins a new login. Where logins do not end, or too soon, the service refuses it.
    fn begins_again(&self, frame: &BytesMut, now: Instant) -> bool {
        let is_handshake = frame.first_chunk().is_some_and(|key| i16::from_be_bytes(*key) == Api::SaslHandshake.key());
        let may = |login: &Login| {
            login.expires.is_some() && now.saturating_duration_since(login.began) >= REAUTH_INTERVAL_MIN
        };
        is_handshake && self.login.as_ref().is_some_and(may)
    }

    fn fail(&mut self, reason: String) {
        self.state = State::Failed;
        self.failure = Some(reason);
        self.is_new = true;
    }

    fn handshake(&mut self, header: &RequestHeader, body: Bytes, nonce: &[u8; NONCE_BYTES]) -> Reply {
        let request = match decode_request::<SaslHandshakeRequest>(header.api_version, body) {
            Ok(request) => request,
            Err(error) => return Reply::close(error),
        };
        let offered = self.listener.mechanisms.iter().map(|mechanism| StrBytes::from_static_str(mechanism.name()));
        let response = SaslHandshakeResponse::default().with_mechanisms(offered.collect());
        let wanted =
            Mechanism::from_name(&request.mechanism).filter(|wanted| self.listener.mechanisms.contains(wanted));
        let Some(mechanism) = wanted else {
            self.fail(format!("the mechanism `{}` is not offered", request.mechanism.escape_debug()));
            let response = response.with_error_code(ErrorCode::UnsupportedSaslMechanism.code());
            return self.late(Response::encode_or_close::<SaslHandshakeRequest>(header, &response));
        };
        let session = ServerSession::new(mechanism, nonce);
        self.state = State::Tokens { mechanism, session, is_bare: header.api_version == 0 };
        Reply::encode::<SaslHandshakeRequest>(header, &response)
    }

    fn authenticate(
        &mut self,
        header: &RequestHeader,
        body: Bytes,
        now: Instant,
        principal: &mut KafkaPrincipal,
    ) -> Reply {
        let request = match decode_request::<SaslAuthenticateRequest>(header.api_version, body) {
            Ok(request) => request,
            Err(error) => return Reply::close(error),
        };
        match self.step(&request.auth_bytes, now, principal) {
            Ok(token) => {
                let lifetime = self.login.as_ref().filter(|_| self.is_done()).and_then(|login| login.lifetime);
                let lifetime_ms = lifetime.map_or(0, |left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
                let response = SaslAuthenticateResponse::default()
                    .with_auth_bytes(token.into())
                    .with_session_lifetime_ms(if header.api_version >= 1 { lifetime_ms } else { 0 });
                Reply::encode::<SaslAuthenticateRequest>(header, &response)
            }
            Err((reason, told)) => {
                self.fail(reason);
                let response = SaslAuthenticateResponse::default()
                    .with_error_code(ErrorCode::SaslAuthenticationFailed.code())
                    .with_error_message(Some(StrBytes::from_string(told)));
                self.late(Response::encode_or_close::<SaslAuthenticateRequest>(header, &response))
            }
        }
    }

    /// A token without a header. There is no answer to a failure but the end.
    fn bare_token(&mut self, token: &[u8], now: Instant, principal: &mut KafkaPrincipal) -> Reply {
        match self.step(token, now, principal) {
            Ok(token) => {
                let mut bytes = BytesMut::with_capacity(4 + token.len());
                bytes.put_i32(i32::try_from(token.len()).unwrap_or(i32::MAX));
                bytes.put_slice(&token);
                Reply::Ready(Response::bytes(bytes))
            }
            Err((reason, _)) => {
                self.fail(reason);
                self.late(Response::closing())
            }
        }
    }

    /// The token for the client; or the reason for the log, and the text for the client.
    fn step(
        &mut self,
        token: &[u8],
        now: Instant,
        principal: &mut KafkaPrincipal,
    ) -> Result<Vec<u8>, (String, String)> {
        let State::Tokens { mechanism, session, .. } = &mut self.state else {
            return Err(told(&SaslError::AfterTheEnd));
        };
        let mechanism = *mechanism;
        let step = session.step(token, &*self.listener.credentials).map_err(|error| told(&error))?;
        let (answer, user, by_token) = match step {
            Step::Continue(answer) => return Ok(answer),
            Step::Done { answer, user, token } => (answer, user, token),
        };
        let user = KafkaPrincipal::user(user);
        if let Some(before) = &self.login {
            if before.principal != user {
                let text =
                    format!("Cannot change principals during re-authentication from {} to {user}", before.principal);
                return Err((text.clone(), text));
            }
            if before.mechanism != mechanism {
                let text = format!("Cannot change the mechanism during re-authentication to {mechanism}");
                return Err((text.clone(), text));
            }
        }
        *principal = user.clone();
        let lifetime = ottla_sasl::login_lifetime(self.listener.reauth_max, by_token, wall_ms());
        // A time that no clock of this machine has never comes.
        let expires = lifetime.and_then(|lifetime| now.checked_add(lifetime));
        let is_by_token = by_token.is_some_and(|token| token.is_delegation);
        self.login = Some(Login { mechanism, principal: user, is_by_token, lifetime, expires, began: now });
        self.state = State::Done;
        self.is_new = true;
        Ok(answer)
    }

    /// A response after which the connection ends, held back for a while.
    fn late(&self, mut response: Response) -> Reply {
        response.close_after = true;
        let delay = self.listener.failure_delay;
        Reply::Held(Box::pin(async move {
            tokio::time::sleep(delay).await;
            Reply::Ready(response)
        }))
    }
}

fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn told(error: &SaslError) -> (String, String) {
    (error.to_string(), error.told())
}

#[cfg(test)]
mod tests;
