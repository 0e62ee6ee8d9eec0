//! Where a client gets its bearer token from: a file, the token endpoint of an identity provider, or itself
//! (unsecured).

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Uri;
use serde_json::{Map, Value, json};

use super::settings::{Location, SettingError, TlsOptions, class, has_unsecured};
use crate::jaas::JaasEntry;

const TOKEN_URL: &str = "sasl.oauthbearer.token.endpoint.url";
const LOGIN_HANDLER: &str = "sasl.login.callback.handler.class";
const RETRIEVER: &str = "sasl.oauthbearer.jwt.retriever.class";
/// Kafka's life of an unsecured token.
const UNSECURED_LIFETIME_S: i64 = 3600;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenSource {
    /// Read anew for each login.
    File(PathBuf),
    /// By the grant `client_credentials` (RFC 6749, section 4.4).
    Endpoint(TokenEndpoint),
    /// A token that nobody signs, with these claims.
    Unsecured(UnsecuredLogin),
}

#[derive(Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    pub url: Uri,
    pub tls: TlsOptions,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    encodes_credentials: bool,
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.url, self.client_id)
    }
}

/// The claims of an unsecured token beside its times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnsecuredLogin {
    claims: Map<String, Value>,
    lifetime_s: i64,
}

impl TokenSource {
    /// By a client's properties and its login module.
    pub fn read<'a>(get: &dyn Fn(&str) -> Option<&'a str>, module: &JaasEntry) -> Result<Self, SettingError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let option = |name: &str| module.options.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(handler) = get(LOGIN_HANDLER)
            && !["OAuthBearerLoginCallbackHandler", "OAuthBearerUnsecuredLoginCallbackHandler"]
                .contains(&class(handler))
        {
            return Err(SettingError::new(LOGIN_HANDLER, "there is no such class here"));
        }
        let retrievers = ["DefaultJwtRetriever", "FileJwtRetriever", "ClientCredentialsJwtRetriever"];
        if let Some(retriever) = get(RETRIEVER)
            && !retrievers.contains(&class(retriever))
        {
            return Err(SettingError::new(RETRIEVER, format!("only {} are there", retrievers.join(", "))));
        }
        if let Some(extension) = module.options.keys().find(|name| name.starts_with("extension_")) {
            return Err(SettingError::new(extension, "extensions of OAUTHBEARER are not sent"));
        }
        let Some(url) = get(TOKEN_URL) else {
            if has_unsecured(module) {
                return UnsecuredLogin::read(module).map(Self::Unsecured);
            }
            return Err(SettingError::new(TOKEN_URL, "OAUTHBEARER needs a file or an endpoint to get tokens from"));
        };
        let url = match Location::parse(TOKEN_URL, url)? {
            Location::File(path) => return Ok(Self::File(path)),
            Location::Web(url) => url,
        };
        let credential = |name: &str, old: &str| {
            let value = get(name).or_else(|| option(old));
            value.map(str::to_owned).ok_or_else(|| SettingError::new(name, "is missing"))
        };
        Ok(Self::Endpoint(TokenEndpoint {
            url,
            tls: TlsOptions::of(module),
            client_id: credential("sasl.oauthbearer.client.credentials.client.id", "clientId")?,
            client_secret: credential("sasl.oauthbearer.client.credentials.client.secret", "clientSecret")?,
            scope: get("sasl.oauthbearer.scope").or_else(|| option("scope")).map(str::to_owned),
            encodes_credentials: get("sasl.oauthbearer.header.urlencode") == Some("true"),
        }))
    }
}

impl TokenEndpoint {
    /// The header Authorization of the request for a token.
    pub fn authorization(&self) -> String {
        let encoded = |text: &str| if self.encodes_credentials { form_encoded(text) } else { text.to_owned() };
        let pair = format!("{}:{}", encoded(&self.client_id), encoded(&self.client_secret));
        format!("Basic {}", STANDARD.encode(pair))
    }

    /// The form that asks for a token.
    pub fn form(&self) -> String {
        let scope = self.scope.as_deref().map(|scope| format!("&scope={}", form_encoded(scope)));
        format!("grant_type=client_credentials{}", scope.unwrap_or_default())
    }

    /// The token in the provider's answer, and how many seconds it lives, where the provider says so.
    pub fn token(answer: &[u8]) -> Option<(String, Option<u64>)> {
        let answer: Map<String, Value> = serde_json::from_slice(answer).ok()?;
        let token = answer.get("access_token").or_else(|| answer.get("id_token"))?.as_str()?.trim();
        let lifetime_s = answer.get("expires_in").and_then(Value::as_u64);
        (!token.is_empty()).then(|| (token.to_owned(), lifetime_s))
    }
}

impl UnsecuredLogin {
    fn read(module: &JaasEntry) -> Result<Self, SettingError> {
        let (mut claims, mut lifetime_s) = (Map::new(), UNSECURED_LIFETIME_S);
        for (name, value) in &module.options {
            let number = || value.parse::<f64>().map_err(|_| SettingError::new(name, "is no number"));
            if let Some(claim) = name.strip_prefix("unsecuredLoginStringClaim_") {
                claims.insert(claim.to_owned(), json!(value));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginNumberClaim_") {
                claims.insert(claim.to_owned(), json!(number()?));
            } else if let Some(claim) = name.strip_prefix("unsecuredLoginListClaim_") {
                // The first character separates the items.
                let mut rest = value.chars();
                let items: Vec<&str> = rest.next().map(|at| rest.as_str().split(at).collect()).unwrap_or_default();
                claims.insert(claim.to_owned(), json!(items));
            } else if name == "unsecuredLoginLifetimeSeconds" {
                lifetime_s = value.parse().map_err(|_| SettingError::new(name, "is no number"))?;
            } else if name.starts_with("unsecuredLogin") {
                return Err(SettingError::new(name, "is not understood"));
            }
        }
        if !claims.contains_key("sub") {
            return Err(SettingError::new("unsecuredLoginStringClaim_sub", "is missing"));
        }
        Ok(Self { claims, lifetime_s })
    }

    /// A token that begins at this time (milliseconds since 1970).
    pub fn token(&self, now_ms: i64) -> String {
        let mut claims = self.claims.clone();
        let now_s = now_ms / 1000;
        claims.entry("iat").or_insert(json!(now_s));
        claims.entry("exp").or_insert(json!(now_s.saturating_add(self.lifetime_s)));
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        format!("{header}.{}.", URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string()))
    }
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
