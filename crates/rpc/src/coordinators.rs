//! The coordinators of a client's configuration, and how a call reaches the one that leads.
//!
//! Invariants: channels connect with the first call and reconnect by themselves, so an absent coordinator costs a
//! back-off and ends nothing; a call ends at its deadline; a refusal that names another leader is followed at once;
//! after each round over the list a call waits for a bounded back-off.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use ottla_metadata::leader_search::{ATTEMPT_TIMEOUT, BACKOFF_MAX, BACKOFF_MIN, Repeat};
use ottla_metadata::leader_search::{Attempted, Attempts, LeaderSearch};
use ottla_model::{Chroot, CoordinatorId, rounded};
use ottla_tls::handshake;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::channel::{ChannelSecurity, HandshakeError, is_refused_handshake};
use crate::cluster_metadata::{ClusterChannel, ClusterMetadata};
use crate::leader_hint::NotLeader;

/// After a round in which every coordinator's certificate, or this process's, was refused: signatures cost both sides
/// more than a refused connection, and files are replaced in seconds.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Begins what is told of a coordinator that did not answer.
const SILENT: &str = "silent";

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// An address that cannot be one.
    #[error("{address}: not a coordinator's address, host:port is: {reason}")]
    Address { address: String, reason: String },
    /// The list is empty.
    #[error("no coordinator is configured")]
    NoCoordinator,
    /// No leader answered in time. Where `maybe_done`, one of the attempts may have taken effect all the same.
    #[error("{operation}: no answer from the quorum within {} (last: {last})", rounded(*.timeout))]
    Deadline { operation: &'static str, timeout: Duration, last: String, maybe_done: bool },
    /// The quorum answered and said no; asking again would not help.
    #[error("{operation}: refused by {address}: {}", status.message())]
    Refused { operation: &'static str, address: String, status: Box<Status> },
    /// A stream ended, or never began.
    #[error("{operation}: the stream from {address} ended: {reason}")]
    StreamEnded { operation: &'static str, address: String, reason: String },
    /// The peer does not keep to the protocol.
    #[error("{operation}: {address} sent what cannot be read: {reason}")]
    Malformed { operation: &'static str, address: String, reason: String },
}

impl CallError {
    /// Why there was no answer, without who was asked last and for how long: the same text as long as it is the same
    /// reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { status, .. } => status.message(),
            Self::Deadline { last, .. } => match last.split_once(": ") {
                Some((_, why)) if !why.starts_with(SILENT) => why,
                _ => "no answer",
            },
            Self::Address { reason, .. } | Self::StreamEnded { reason, .. } | Self::Malformed { reason, .. } => reason,
            Self::NoCoordinator => "no coordinator is configured",
        }
    }

    /// The coordinator that answered has nothing at the path, or of the name, that was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::NotFound)
    }
}

/// One coordinator to ask.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub channel: ClusterChannel,
}

impl Target {
    fn new(address: &str, dial: &Dial) -> Result<Self, CallError> {
        Ok(Self { address: address.to_owned(), channel: dial.metadata.to(dial.security.channel(address)?) })
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// How each coordinator is reached.
#[derive(Debug)]
struct Dial {
    security: ChannelSecurity,
    metadata: ClusterMetadata,
}

/// Cheap to clone; all clones share what they learn.
#[derive(Clone, Debug)]
pub struct Coordinators {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dial: Dial,
    configured: Vec<Target>,
    /// Members that joined since: they come after the configured ones.
    joined: Mutex<Vec<Target>>,
    search: Mutex<LeaderSearch<Target>>,
}

impl Coordinators {
    /// `addresses` are host:port, or host:port/chroot with the same chroot each. Dials nobody yet.
    pub fn new<A: AsRef<str>>(addresses: &[A]) -> Result<Self, CallError> {
        Self::secured(addresses, &ChannelSecurity::default())
    }

    /// As [`Coordinators::new`], by TLS and with a secret where there are some.
    pub fn secured<A: AsRef<str>>(addresses: &[A], security: &ChannelSecurity) -> Result<Self, CallError> {
        let mut chroots = Vec::new();
        let mut hosts = Vec::new();
        for address in addresses {
            let address = address.as_ref().trim();
            let (host, path) = address.split_once('/').unwrap_or((address, ""));
            let chroot = Chroot::parse(path)
                .map_err(|error| CallError::Address { address: address.to_owned(), reason: error.to_string() })?;
            hosts.push(host);
            chroots.push(chroot);
        }
        chroots.dedup();
        if let [one, other, ..] = chroots.as_slice() {
            let shown = |chroot: &Option<Chroot>| chroot.as_ref().map_or("/".to_owned(), Chroot::to_string);
            let reason = format!("one call is for one chroot, not for {} and {}", shown(one), shown(other));
            return Err(CallError::Address { address: hosts.join(","), reason });
        }
        let metadata = security.metadata(chroots.first().and_then(Option::as_ref));
        let dial = Dial { security: security.clone(), metadata };
        let listed = hosts.iter().map(|host| Target::new(host, &dial)).collect::<Result<Vec<_>, CallError>>()?;
        let search = Mutex::new(LeaderSearch::new(listed.clone()).ok_or(CallError::NoCoordinator)?);
        let joined = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { dial, configured: listed, joined, search }) })
    }

    /// Members that joined the quorum while it ran, by the tree. The configured addresses stay: the tree may have
    /// others for the same coordinators, which need not lead there from here. An address that cannot be one is left
    /// out.
    pub fn follow(&self, joined: &[String]) {
        let configured = &self.shared.configured;
        let others = joined.iter().filter(|address| configured.iter().all(|target| target.address != **address));
        let joined: Vec<Target> = others.filter_map(|address| Target::new(address, &self.shared.dial).ok()).collect();
        let mut known = self.joined();
        if *known == joined {
            return;
        }
        let listed = configured.iter().chain(&joined).cloned().collect();
        *known = joined;
        drop(known);
        self.search().set_listed(listed);
    }

    fn joined(&self) -> MutexGuard<'_, Vec<Target>> {
        self.shared.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configured addresses, in order.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.configured.iter().map(|target| target.address.clone()).collect()
    }

    /// The configured coordinators and those that joined since.
    pub fn listed(&self) -> Vec<Target> {
        self.shared.configured.iter().chain(&*self.joined()).cloned().collect()
    }

    /// The coordinator that the next call tries first.
    pub fn leader_guess(&self) -> Target {
        self.search().guess().clone()
    }

    /// A mutex here only guards plain values, which a panic elsewhere cannot leave half-written.
    fn search(&self) -> MutexGuard<'_, LeaderSearch<Target>> {
        self.shared.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `from` answers nothing: the next call asks another one first.
    pub(crate) fn move_on(&self, from: &Target) {
        self.search().move_on(from);
    }

    /// Notes what `from` said about the leader. True if another coordinator can be called at once.
    pub(crate) fn note(&self, from: &Target, said: &NotLeader) -> bool {
        self.search().does_not_lead(from, said.answered_by, self.leader_of(said))
    }

    fn leader_of(&self, said: &NotLeader) -> Option<(CoordinatorId, Option<Target>)> {
        said.leader.as_ref().map(|hint| (hint.id, self.target_of(&hint.address)))
    }

    fn not_leader(&self, said: &NotLeader) -> Attempted<Target> {
        Attempted::NotLeader { answered_by: said.answered_by, leader: self.leader_of(said) }
    }

    fn target_of(&self, address: &str) -> Option<Target> {
        let listed = self.listed().into_iter().find(|target| target.address == address);
        listed.or_else(|| Target::new(address, &self.shared.dial).ok())
    }

    /// Calls the quorum leader by `attempt`, following hints, until it answers, refuses, or `timeout` has passed.
    pub async fn call<R, F, Fut>(
        &self,
        operation: &'static str,
        timeout: Duration,
        repeat: Repeat,
        attempt: F,
    ) -> Result<(R, Target), CallError>
    where
        F: Fn(ClusterChannel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let began = Instant::now();
        let mut attempts = Attempts::new(timeout, repeat);
        let mut maybe_done = false;
        let mut last = "no coordinator was asked".to_owned();
        // Of all that were asked since the last pause.
        let mut is_refused_by_all = true;
        loop {
            let Some(patience) = attempts.next(began.elapsed()) else {
                return Err(CallError::Deadline { operation, timeout, last, maybe_done });
            };
            let target = self.leader_guess();
            let mut is_refused = false;
            let result = match tokio::time::timeout(patience, attempt(target.channel.clone())).await {
                Ok(Ok(response)) => {
                    self.search().attempted(&mut attempts, began.elapsed(), &target, Attempted::Answered);
                    return Ok((response.into_inner(), target));
                }
                Ok(Err(status)) => {
                    last = format!("{}: {}", target.address, describe(&status));
                    match NotLeader::from_status(&status) {
                        Some(said) => self.not_leader(&said),
                        None if is_final(status.code()) => {
                            let address = target.address;
                            return Err(CallError::Refused { operation, address, status: Box::new(status) });
                        }
                        None => {
                            maybe_done |= !is_connect_error(&status);
                            is_refused = is_refused_handshake(&status);
                            Attempted::Nothing
                        }
                    }
                }
                Err(_elapsed) => {
                    last = format!("{}: {SILENT} for {}", target.address, rounded(patience));
                    maybe_done = true;
                    Attempted::Nothing
                }
            };
            let pause = self.search().attempted(&mut attempts, began.elapsed(), &target, result);
            is_refused_by_all &= is_refused;
            if !pause.is_zero() {
                let pause = if is_refused_by_all { REFUSED_PAUSE } else { pause };
                tokio::time::sleep(pause.min(timeout.saturating_sub(began.elapsed()))).await;
                is_refused_by_all = true;
            }
        }
    }
}

/// The text of a status, with the cause that tonic keeps beside it ("connection refused"); of a refused certificate
/// what it means, which is the same text each time.
pub fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(source) = std::error::Error::source(status)
        && let Some(reason) = handshake::explain(source)
    {
        return format!("TLS: {}", with_subject(source).unwrap_or_else(|| reason.to_owned()));
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !next.is_empty() && !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The text of a handshake's error, which names the certificate.
fn with_subject(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(HandshakeError(shaken)) = error.downcast_ref() {
            return Some(shaken.to_string());
        }
        cause = error.source();
    }
    None
}

/// Answers that the same question would bring again, from every coordinator. RESOURCE_EXHAUSTED is none: a coordinator
/// sends it when its own memory for arriving messages, its watches or its calls of brokers are used up, and the next
/// one may have room, or this one in a moment.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::DataLoss
    )
}

/// Whether the request certainly never left: nobody accepted the connection, or there was no TLS.
fn is_connect_error(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<HandshakeError>() {
            return true;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader_hint::LeaderHint;

    fn three() -> Coordinators {
        Coordinators::new(&["one:2181", "two:2181", " three:2181"]).expect("addresses")
    }

    #[test]
    fn spans_of_time_are_told_in_words() {
        let (timeout, last) = (Duration::from_micros(2_499_999), "one:2181: silent for 1 s".to_owned());
        let error = CallError::Deadline { operation: "Describe", timeout, last, maybe_done: false };
        let told = "Describe: no answer from the quorum within 2.5 s (last: one:2181: silent for 1 s)";
        assert_eq!(error.to_string(), told);
    }

    #[tokio::test]
    async fn refuses_what_is_no_address() {
        assert!(matches!(Coordinators::new::<&str>(&[]), Err(CallError::NoCoordinator)));
        assert!(matches!(Coordinators::new(&["no-port"]), Err(CallError::Address { .. })));
        assert!(matches!(Coordinators::new(&["a b:1"]), Err(CallError::Address { .. })));
        assert!(Coordinators::new(&["kafka_zk_1:2181", "[::1]:2181"]).is_ok());
        assert!(matches!(Coordinators::new(&["one:2181/a", "two:2181/b"]), Err(CallError::Address { .. })));
        assert!(matches!(Coordinators::new(&["one:2181/a b"]), Err(CallError::Address { .. })));
        let chrooted = Coordinators::new(&["one:2181/a", "two:2181/a/"]).expect("one chroot");
        assert_eq!(chrooted.addresses(), ["one:2181", "two:2181"]);
    }

    #[tokio::test]
    async fn follows_hints_by_an_address_that_is_known_to_work() {
        let coordinators = three();
        let one = coordinators.leader_guess();
        assert_eq!(one.address, "one:2181");
        let nobody = |id| NotLeader { answered_by: CoordinatorId(id), leader: None };
        // Number 3 answers at the address `two`.
        assert!(!coordinators.note(&one, &nobody(1)));
        let two = coordinators.leader_guess();
        assert_eq!(two.address, "two:2181");
        assert!(!coordinators.note(&two, &nobody(3)));
        let hint = |id, address: &str| NotLeader {
            answered_by: CoordinatorId(1),
            leader: Some(LeaderHint { id: CoordinatorId(id), address: address.to_owned() }),
        };
        assert!(coordinators.note(&one, &hint(3, "inside:2888")));
        assert_eq!(coordinators.leader_guess().address, "two:2181");
        assert!(coordinators.note(&one, &hint(9, "elsewhere:2888")));
        assert_eq!(coordinators.leader_guess().address, "elsewhere:2888");
        // From an address outside the list, rotation comes back to the list.
        coordinators.move_on(&coordinators.leader_guess());
        assert_eq!(coordinators.leader_guess().address, "one:2181");
    }

    #[tokio::test]
    async fn members_that_joined_are_asked_after_the_configured_ones() {
        let coordinators = three();
        coordinators.follow(&["four:2181".to_owned(), "two:2181".to_owned(), "no port".to_owned()]);
        let listed: Vec<_> = coordinators.listed().into_iter().map(|target| target.address).collect();
        assert_eq!(listed, ["one:2181", "two:2181", "three:2181", "four:2181"]);
        for next in ["two:2181", "three:2181", "four:2181", "one:2181"] {
            coordinators.move_on(&coordinators.leader_guess());
            assert_eq!(coordinators.leader_guess().address, next);
        }
        coordinators.follow(&[]);
        assert_eq!(coordinators.listed().len(), 3);
        assert_eq!(coordinators.addresses().len(), 3, "what a broker hands over with its registration");
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline() {
        let coordinators = three();
        let asked = std::sync::atomic::AtomicU32::new(0);
        let result = coordinators
            .call::<(), _, _>("test", Duration::from_millis(60), Repeat::Freely, |_| async {
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Err(Status::unavailable("no"))
            })
            .await;
        assert!(matches!(result, Err(CallError::Deadline { .. })));
        let asked = asked.into_inner();
        assert!((3..=12).contains(&asked), "a round, a pause, a round, …: {asked}");
    }

    #[test]
    fn a_reason_is_the_same_whoever_was_asked() {
        let late = |last: &str| CallError::Deadline {
            operation: "test",
            timeout: Duration::from_secs(1),
            last: last.to_owned(),
            maybe_done: false,
        };
        assert_eq!(
            late("one:2181: TLS: the certificate of CN=a: it has expired").reason(),
            late("two:2181: TLS: the certificate of CN=a: it has expired").reason()
        );
        assert_eq!(late("one:2181: silent for 1s").reason(), late("two:2181: silent for 20ms").reason());
        let refused = Status::permission_denied("broker-1 is not broker-2");
        let refused =
            CallError::Refused { operation: "test", address: "one:2181".to_owned(), status: Box::new(refused) };
        assert_eq!(refused.reason(), "broker-1 is not broker-2");
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let result = three()
            .call::<(), _, _>("test", Duration::from_secs(60), Repeat::Freely, |_| async {
                Err(Status::invalid_argument("no"))
            })
            .await;
        assert!(matches!(result, Err(CallError::Refused { .. })));
    }

    /// A coordinator without room for another call or watch says nothing about the others.
    #[tokio::test(start_paused = true)]
    async fn a_coordinator_without_room_is_not_the_last_that_is_asked() {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let result = three()
            .call("test", Duration::from_secs(60), Repeat::WhenAnswered, |_| async {
                match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                    0 => Err(Status::resource_exhausted("no more watches may be open here: ask another coordinator")),
                    _ => Ok(tonic::Response::new(())),
                }
            })
            .await;
        let ((), answered_by) = result.expect("the next one has room");
        assert_eq!((answered_by.address.as_str(), asked.into_inner()), ("two:2181", 2));
    }
}
