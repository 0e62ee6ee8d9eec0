//! One client: which of its requests come in time (Kafka's `ClientMetricsInstance`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::client_metrics_config::Attribute;
use ottla_model::{ClientInstanceId, ErrorCode, MonotonicMs};

use crate::otlp::OtlpError;
use crate::point::Series;
use crate::subscriptions::Asked;

/// A longer text of a client is cut. Client ids, and names and versions of software, are much shorter.
const TEXT_BYTES_MAX: usize = 256;
/// A client that has been silent for so long, or for three of its intervals, is forgotten with its metrics.
const SILENCE_MIN: Duration = Duration::from_secs(60);

/// Who a client says that it is, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub instance_id: ClientInstanceId,
    pub client_id: String,
    pub software_name: Option<String>,
    pub software_version: Option<String>,
    pub address: String,
    pub port: String,
}

impl Identity {
    pub fn new(
        instance_id: ClientInstanceId,
        client_id: &str,
        software: Option<(&str, &str)>,
        address: IpAddr,
        port: u16,
    ) -> Self {
        let cut = |text: &str| ottla_metadata::limits::cut(text.to_owned(), TEXT_BYTES_MAX);
        Self {
            instance_id,
            client_id: cut(client_id),
            software_name: software.map(|(name, _)| cut(name)),
            software_version: software.map(|(_, version)| cut(version)),
            address: address.to_string(),
            port: port.to_string(),
        }
    }

    pub(crate) fn attribute<'a>(&'a self, attribute: Attribute, instance_id: &'a str) -> Option<&'a str> {
        match attribute {
            Attribute::ClientInstanceId => Some(instance_id),
            Attribute::ClientId => Some(&self.client_id),
            Attribute::SoftwareName => self.software_name.as_deref(),
            Attribute::SoftwareVersion => self.software_version.as_deref(),
            Attribute::SourceAddress => Some(&self.address),
            Attribute::SourcePort => Some(&self.port),
        }
    }
}

/// Why a request of a client is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("it has no client instance id")]
    NoInstance,
    #[error("it came before the push interval was over")]
    Early,
    #[error("too many others are unpacked before it")]
    Crowded,
    #[error("it follows a terminating push")]
    Terminated,
    #[error("its subscription id is not the client's")]
    UnknownSubscription,
    #[error("its compression is not known")]
    UnknownCompression,
    #[error("it is larger than telemetry.max.bytes")]
    TooLarge,
    #[error("its metrics do not unpack")]
    Packed,
    #[error("its metrics are no OTLP message: {0}")]
    Invalid(#[from] OtlpError),
}

impl Refused {
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NoInstance | Self::Terminated => ErrorCode::InvalidRequest,
            Self::Early | Self::Crowded => ErrorCode::ThrottlingQuotaExceeded,
            Self::UnknownSubscription => ErrorCode::UnknownSubscriptionId,
            Self::UnknownCompression => ErrorCode::UnsupportedCompressionType,
            Self::TooLarge => ErrorCode::TelemetryTooLarge,
            Self::Packed | Self::Invalid(_) => ErrorCode::InvalidRecord,
        }
    }
}

/// What a broker remembers of a client.
#[derive(Debug)]
pub(crate) struct Client {
    pub identity: Arc<Identity>,
    /// A request on another connection begins anew.
    pub connection_id: u64,
    pub asked: Asked,
    pub heard_at: MonotonicMs,
    /// The subscriptions that `asked` is from.
    pub subscriptions_version: u64,
    got_at: Option<MonotonicMs>,
    pushed_at: Option<MonotonicMs>,
    is_terminated: bool,
    /// The client was told that it must ask for its subscription again: it may do so at once.
    must_ask: bool,
    /// The last push, with the sums of what was pushed before.
    pub series: Arc<BTreeMap<Series, f64>>,
    pub series_bytes: usize,
}

impl Client {
    pub fn new(identity: Identity, connection_id: u64, asked: Asked, subscriptions_version: u64) -> Self {
        Self {
            identity: Arc::new(identity),
            connection_id,
            heard_at: MonotonicMs::default(),
            asked,
            subscriptions_version,
            got_at: None,
            pushed_at: None,
            is_terminated: false,
            must_ask: false,
            series: Arc::default(),
            series_bytes: 0,
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.asked.interval_ms.unsigned_abs().into())
    }

    /// How long it may be silent.
    pub fn silence_max(&self) -> Duration {
        (self.interval() * 3).max(SILENCE_MIN)
    }

    /// A request for its subscription: one in each interval, pushes included.
    pub fn get(&mut self, now: MonotonicMs) -> Result<(), Refused> {
        let last = self.got_at.max(self.pushed_at);
        let is_early = last.is_some_and(|last| now.since(last) < self.interval());
        if is_early && !self.must_ask {
            return Err(Refused::Early);
        }
        (self.got_at, self.must_ask) = (Some(now), false);
        Ok(())
    }

    /// A push: one in each interval, and one at once after a subscription was got, because clients spread their first
    /// pushes over the interval. The last push comes when it comes.
    pub fn push(&mut self, now: MonotonicMs, push: &Push) -> Result<(), Refused> {
        if self.is_terminated {
            return Err(Refused::Terminated);
        }
        self.is_terminated = push.is_terminating;
        let follows_get = self.got_at.is_some() && self.got_at > self.pushed_at;
        let is_late = self.pushed_at.is_none_or(|last| now.since(last) >= self.interval());
        let is_in_time = follows_get || is_late;
        if is_in_time {
            self.pushed_at = Some(now);
        } else if !push.is_terminating {
            return Err(Refused::Early);
        }
        let checked = if push.subscription_id != self.asked.subscription_id {
            Err(Refused::UnknownSubscription)
        } else if !push.is_compression_known {
            Err(Refused::UnknownCompression)
        } else if push.bytes > push.bytes_max {
            Err(Refused::TooLarge)
        } else {
            Ok(())
        };
        self.must_ask = matches!(checked, Err(Refused::UnknownSubscription | Refused::UnknownCompression));
        checked
    }
}

/// A push, as far as it is checked.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    pub subscription_id: i32,
    pub is_terminating: bool,
    pub is_compression_known: bool,
    pub bytes: usize,
    pub bytes_max: usize,
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn identity(instance: u8, client_id: &str) -> Identity {
        let software = Some(("apache-kafka-java", "4.3.0"));
        Identity::new(ClientInstanceId([instance; 16]), client_id, software, [10, 0, 0, 1].into(), 4242)
    }

    fn client() -> Client {
        let asked = Asked { subscription_id: 7, metrics: Arc::from(["*".to_owned()]), interval_ms: 1000 };
        Client::new(identity(1, "app"), 1, asked, 1)
    }

    fn push() -> Push {
        Push { subscription_id: 7, is_terminating: false, is_compression_known: true, bytes: 10, bytes_max: 10 }
    }

    #[test]
    fn requests_come_once_in_an_interval() {
        let mut client = client();
        let at = MonotonicMs;
        assert_eq!(client.get(at(0)), Ok(()));
        assert_eq!(client.get(at(999)), Err(Refused::Early));
        assert_eq!(client.push(at(999), &push()), Ok(()), "a push follows the subscription at once");
        assert_eq!(client.push(at(1998), &push()), Err(Refused::Early));
        assert_eq!(client.get(at(1998)), Err(Refused::Early));
        assert_eq!(client.push(at(1999), &push()), Ok(()));
        assert_eq!(client.get(at(2999)), Ok(()));
        assert_eq!(client.push(at(3000), &push()), Ok(()));
    }

    #[test]
    fn a_terminating_push_comes_early_and_is_the_last() {
        let mut client = client();
        let last = Push { is_terminating: true, ..push() };
        assert_eq!(client.push(MonotonicMs(0), &push()), Ok(()));
        assert_eq!(client.push(MonotonicMs(1), &last), Ok(()));
        assert_eq!(client.push(MonotonicMs(9000), &push()), Err(Refused::Terminated));
        assert_eq!(client.push(MonotonicMs(9000), &last), Err(Refused::Terminated));
    }

    #[test]
    fn what_is_refused_for_its_subscription_may_be_asked_for_at_once() {
        let cases = [
            (Push { subscription_id: 8, ..push() }, Refused::UnknownSubscription, true),
            (Push { is_compression_known: false, ..push() }, Refused::UnknownCompression, true),
            (Push { bytes: 11, ..push() }, Refused::TooLarge, false),
        ];
        for (push, refused, may_ask) in cases {
            let mut client = client();
            assert_eq!(client.get(MonotonicMs(0)), Ok(()));
            assert_eq!(client.push(MonotonicMs(1), &push), Err(refused));
            assert_eq!(client.get(MonotonicMs(2)).is_ok(), may_ask, "{refused}");
        }
    }

    #[test]
    fn errors_have_kafkas_codes() {
        let codes = [
            (Refused::NoInstance, 42),
            (Refused::Early, 89),
            (Refused::Terminated, 42),
            (Refused::UnknownSubscription, 117),
            (Refused::UnknownCompression, 76),
            (Refused::TooLarge, 118),
            (Refused::Packed, 87),
            (Refused::Invalid(OtlpError::Type), 87),
        ];
        for (refused, code) in codes {
            assert_eq!(refused.code().code(), code, "{refused}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let long = identity(1, &"ü".repeat(1000));
        assert!(long.client_id.len() <= TEXT_BYTES_MAX);
    }
}
