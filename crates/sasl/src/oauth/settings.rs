//! Kafka's `sasl.oauthbearer.*` settings of a server, and the options of its login module.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::BearerRules;
use crate::jaas::JaasEntry;

pub(super) const UNSECURED_VALIDATOR: &str = "OAuthBearerUnsecuredValidatorCallbackHandler";
pub(super) const VALIDATOR: &str = "OAuthBearerValidatorCallbackHandler";
/// Options of the login module that ask for unsecured tokens begin with this.
pub(super) const UNSECURED: &str = "unsecured";
const VALIDATOR_CLASS: &str = "sasl.oauthbearer.jwt.validator.class";
const JWKS_URL: &str = "sasl.oauthbearer.jwks.endpoint.url";

/// A setting that cannot be used. The text holds no value that may be secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct SettingError {
    pub name: String,
    pub problem: String,
}

impl SettingError {
    pub(super) fn new(name: &str, problem: impl Into<String>) -> Self {
        Self { name: name.to_owned(), problem: problem.into() }
    }
}

/// Where something of an identity provider is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    File(PathBuf),
    /// `https`, or `http`.
    Web(Uri),
}

impl Location {
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, SettingError> {
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(SettingError::new(name, "a file is named with its whole path: file:///PATH"));
            }
            return Ok(Self::File(path.into()));
        }
        let uri: Uri = text.parse().map_err(|_| SettingError::new(name, "is no URL"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(SettingError::new(name, "an URL holds no user and password: it is shown in logs"));
        }
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some() => Ok(Self::Web(uri)),
            _ => Err(SettingError::new(name, "is no URL of the kinds https, http and file")),
        }
    }
}

/// `ssl.*` of a login module: how an identity provider is spoken to. Some are passwords.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsOptions(BTreeMap<String, String>);

impl TlsOptions {
    pub(super) fn of(module: &JaasEntry) -> Self {
        let own = module.options.iter().filter(|(name, _)| name.starts_with("ssl."));
        Self(own.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a server checks bearer tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BearerSettings {
    pub rules: BearerRules,
    /// None: tokens are unsecured.
    pub keys: Option<KeysSettings>,
}

/// Where the keys of the provider are, and how often they are looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeysSettings {
    pub location: Location,
    pub tls: TlsOptions,
    pub refresh: Duration,
    pub retry: Duration,
    pub retry_max: Duration,
}

impl BearerSettings {
    /// `handler`: `sasl.server.callback.handler.class`, if it is set.
    pub fn read<'a>(
        get: &dyn Fn(&str) -> Option<&'a str>,
        handler: Option<&str>,
        module: Option<&JaasEntry>,
    ) -> Result<Self, SettingError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        if let Some(validator) = get(VALIDATOR_CLASS)
            && !["DefaultJwtValidator", "BrokerJwtValidator"].contains(&class(validator))
        {
            return Err(SettingError::new(VALIDATOR_CLASS, "there is no such class here"));
        }
        let asks_for_unsecured = module.is_some_and(has_unsecured);
        match (handler.map(class), get(JWKS_URL)) {
            (Some(UNSECURED_VALIDATOR), _) => Ok(Self { rules: unsecured(module)?, keys: None }),
            (None, None) if asks_for_unsecured => Ok(Self { rules: unsecured(module)?, keys: None }),
            (None | Some(VALIDATOR), None) => Err(SettingError::new(JWKS_URL, "OAUTHBEARER needs the provider's keys")),
            (None | Some(VALIDATOR), Some(url)) => {
                let tls = module.map(TlsOptions::of).unwrap_or_default();
                let ms =
                    |name: &str| number(&get, name, 0..=i64::MAX).map(|ms| Duration::from_millis(ms.unsigned_abs()));
                let keys = KeysSettings {
                    location: Location::parse(JWKS_URL, url)?,
                    tls,
                    refresh: ms("sasl.oauthbearer.jwks.endpoint.refresh.ms")?,
                    retry: ms("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms")?,
                    retry_max: ms("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms")?,
                };
                Ok(Self { rules: signed(&get)?, keys: Some(keys) })
            }
            (Some(_), _) => Err(SettingError::new("sasl.server.callback.handler.class", "there is no such class here")),
        }
    }
}

/// The class without its package.
pub(super) fn class(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

pub(super) fn has_unsecured(module: &JaasEntry) -> bool {
    module.options.keys().any(|name| name.starts_with(UNSECURED))
}

fn number<'a>(
    get: &dyn Fn(&str) -> Option<&'a str>,
    name: &str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, SettingError> {
    let parsed = get(name).and_then(|text| text.trim().parse().ok()).filter(|number| range.contains(number));
    parsed.ok_or_else(|| SettingError::new(name, format!("is no number from {} to {}", range.start(), range.end())))
}

fn signed<'a>(get: &dyn Fn(&str) -> Option<&'a str>) -> Result<BearerRules, SettingError> {
    let skew_s = number(get, "sasl.oauthbearer.clock.skew.seconds", 0..=i32::MAX.into())?;
    let audiences = get("sasl.oauthbearer.expected.audience").unwrap_or_default().split(',').map(str::trim);
    let claim = |name: &str, usual: &str| get(name).unwrap_or(usual).to_owned();
    Ok(BearerRules {
        is_signed: true,
        audiences: audiences.filter(|audience| !audience.is_empty()).map(str::to_owned).collect(),
        issuer: get("sasl.oauthbearer.expected.issuer").map(str::to_owned),
        clock_skew_ms: skew_s.saturating_mul(1000),
        scope_claim: claim("sasl.oauthbearer.scope.claim.name", "scope"),
        sub_claim: claim("sasl.oauthbearer.sub.claim.name", "sub"),
        required_scope: BTreeSet::new(),
    })
}

/// By the options of the login module, as Kafka's handler of unsecured tokens reads them.
fn unsecured(module: Option<&JaasEntry>) -> Result<BearerRules, SettingError> {
    let option = |name: &str| module.and_then(|module| module.options.get(name)).map(String::as_str);
    let skew = option("unsecuredValidatorAllowableClockSkewMs").unwrap_or("0");
    let clock_skew_ms = skew.parse().ok().filter(|skew: &i64| *skew >= 0);
    let required = option("unsecuredValidatorRequiredScope").unwrap_or_default();
    Ok(BearerRules {
        is_signed: false,
        audiences: BTreeSet::new(),
        issuer: None,
        clock_skew_ms: clock_skew_ms
            .ok_or_else(|| SettingError::new("unsecuredValidatorAllowableClockSkewMs", "is no number from 0 on"))?,
        scope_claim: option("unsecuredValidatorScopeClaimName").unwrap_or("scope").to_owned(),
        sub_claim: option("unsecuredValidatorPrincipalClaimName").unwrap_or("sub").to_owned(),
        required_scope: required.split_whitespace().map(str::to_owned).collect(),
    })
}
