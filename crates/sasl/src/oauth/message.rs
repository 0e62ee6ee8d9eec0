//! The messages of OAUTHBEARER (RFC 7628): one of the client, and an empty one of the server, or the server's reason
//! and the client's consent to the end.

use crate::SaslError;
use crate::mechanism::Mechanism;

const SEPARATOR: char = '\u{1}';
/// The client's answer to the reason of a refusal.
pub(crate) const CONSENT: &[u8] = &[1];
/// Kafka's answer to a token that is not accepted.
pub(crate) const REFUSAL: &str = r#"{"status":"invalid_token"}"#;

#[derive(Debug)]
pub(crate) struct ClientResponse<'a> {
    /// Empty: the client wants to be the user of its token.
    pub authorization_id: String,
    pub token: &'a str,
}

pub(crate) fn encode(token: &str) -> Vec<u8> {
    format!("n,,{SEPARATOR}auth=Bearer {token}{SEPARATOR}{SEPARATOR}").into_bytes()
}

pub(crate) fn parse(message: &[u8]) -> Result<ClientResponse<'_>, SaslError> {
    let malformed = |problem| SaslError::malformed(Mechanism::OAuthBearer, problem);
    let text = std::str::from_utf8(message).map_err(|_| malformed("not UTF-8"))?;
    let (header, pairs) = text.split_once(SEPARATOR).ok_or_else(|| malformed("no token"))?;
    let authorization_id = match header.strip_prefix("n,").and_then(|rest| rest.strip_suffix(',')) {
        Some("") => String::new(),
        Some(named) => {
            let name = named.strip_prefix("a=").filter(|name| !name.is_empty() && !name.contains(','));
            name.ok_or_else(|| malformed("no header"))?.replace("=2C", ",").replace("=3D", "=")
        }
        None => return Err(malformed("no header")),
    };
    let pairs = pairs.strip_suffix("\u{1}\u{1}").ok_or_else(|| malformed("no end"))?;
    // Other pairs are extensions of clients, which Kafka's brokers pass over too.
    let value = pairs.split(SEPARATOR).find_map(|pair| pair.strip_prefix("auth="));
    let (scheme, token) = value.and_then(|value| value.split_once(' ')).ok_or_else(|| malformed("no token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed("another scheme than Bearer"));
    }
    Ok(ClientResponse { authorization_id, token: token.trim_start_matches(' ') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_of_a_client_is_read() {
        let encoded = encode("a.b.c");
        let read = parse(&encoded).expect("readable");
        assert_eq!((read.authorization_id.as_str(), read.token), ("", "a.b.c"));
        // As RFC 7628 has it, with extensions and another case.
        let text = "n,a=us=2Cer=3D@example.com,\u{1}host=server.example.com\u{1}port=143\u{1}\
                    auth=bearer  vF9.d-_\u{1}\u{1}";
        let read = parse(text.as_bytes()).expect("readable");
        assert_eq!((read.authorization_id.as_str(), read.token), ("us,er=@example.com", "vF9.d-_"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "n,,",
            "n,,\u{1}\u{1}",
            "n,,\u{1}auth=Bearer\u{1}\u{1}",
            "n,,\u{1}auth=Basic abc\u{1}\u{1}",
            "n,,\u{1}auth=Bearer a.b.c",
            "n,,\u{1}auth=Bearer a.b.c\u{1}",
            "y,,\u{1}auth=Bearer a.b.c\u{1}\u{1}",
            "n,a=,\u{1}auth=Bearer a.b.c\u{1}\u{1}",
            "n,b=c,\u{1}auth=Bearer a.b.c\u{1}\u{1}",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(&[0xff]).is_err());
    }
}
