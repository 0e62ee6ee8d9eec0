//! PLAIN (RFC 4616): authorization id, user and password, separated by NUL.

use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::SaslError;
use crate::mechanism::Mechanism;

pub(crate) struct PlainMessage<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

pub(crate) fn encode(user: &str, password: &str) -> Vec<u8> {
    format!("\0{user}\0{password}").into_bytes()
}

pub(crate) fn parse(bytes: &[u8]) -> Result<PlainMessage<'_>, SaslError> {
    let malformed = |problem| SaslError::malformed(Mechanism::Plain, problem);
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
    let mut parts = text.split('\0');
    let (Some(authorization_id), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("expected three texts separated by NUL"));
    };
    if user.is_empty() || password.is_empty() {
        return Err(malformed("no user or no password"));
    }
    if !authorization_id.is_empty() && authorization_id != user {
        return Err(SaslError::OtherAuthorizationId);
    }
    Ok(PlainMessage { user, password })
}

/// Compares by digests: neither the length of the expected password nor where the two differ shows in the time.
pub(crate) fn is_same(expected: &str, given: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"comparison");
    let (expected, given) = (hmac::sign(&key, expected.as_bytes()), hmac::sign(&key, given.as_bytes()));
    expected.as_ref().ct_eq(given.as_ref()).into()
}
