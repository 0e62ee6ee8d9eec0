//! Who may call what, decided by a call's path and headers before any of its messages is read, and how many bytes the
//! messages that are still arriving may hold.
//!
//! tonic decodes the message of a unary call before the service sees the call: a check in the service comes too late.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::middleware::{self, Next};
use futures::Stream;
use ottla_resources::{Ledger, ResourceTable, Share};
use tokio::time::Sleep;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::ADMIN_REQUEST_BYTES_MAX;
use crate::access::{self, Access, ClientInfo, Role};

const ADMIN: &str = "/ottla.admin.v1.Admin/";
const DECIDE: &str = "/ottla.cluster.v1.Cluster/Decide";
const WATCH: &str = "/ottla.cluster.v1.Cluster/Watch";
/// Calls whose messages have no end: they last as long as the connection.
const STREAMS: [&str; 2] = ["/ottla.cluster.v1.Cluster/Heartbeat", "/ottla.quorum.v1.Quorum/Raft"];

/// A call that anybody may make, or that brokers make of the same size: a path, a revision, a name.
const OPEN_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Messages that are arriving from brokers and members: some of the largest at a time.
const MEMBER_BYTES_MAX: u64 = 128 << 20;
/// Messages that are arriving in calls that anybody may make.
const STRANGER_BYTES_MAX: u64 = 32 << 20;
/// What a call costs before its message arrives.
const CALL_BYTES: u64 = 2 * 1024;
/// A message that has begun must be complete after this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// gRPC's prefix of a message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// The ledgers of one coordinator, for all of its ports and clusters.
#[derive(Clone)]
pub struct Admission {
    access: Arc<Access>,
    members: Arc<Ledger>,
    strangers: Arc<Ledger>,
}

impl Admission {
    pub fn new(access: Arc<Access>) -> Self {
        let (members, strangers) = (Ledger::new(MEMBER_BYTES_MAX), Ledger::new(STRANGER_BYTES_MAX));
        Self { access, members, strangers }
    }

    /// Shows what the messages that are arriving hold.
    pub fn show(&self, resources: &ResourceTable) {
        resources.add_ledger("member_message_bytes", &self.members);
        resources.add_ledger("stranger_message_bytes", &self.strangers);
    }

    /// The routes, behind the checks.
    pub fn guard(&self, router: Router) -> Router {
        let admission = self.clone();
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let admitted = admission.admit(request);
            async move {
                match admitted {
                    Ok(request) => next.run(request).await,
                    Err(status) => status.into_http(),
                }
            }
        }))
    }

    /// The call with its caller's name and a bounded body; the status with which it is refused.
    fn admit(&self, mut request: Request) -> Result<Request, Status> {
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let client = request.extensions().get::<ClientInfo>().and_then(|ClientInfo(client)| client.clone());
        let path = request.uri().path();
        let caller = self.access.admit(path, &metadata, client)?;
        // Without a secret and without roles whoever calls as a member is taken for one.
        let is_members_call = caller.has(Role::Member) && !access::is_open(path);
        let (ledger, message_bytes_max) = match is_members_call {
            _ if path.starts_with(ADMIN) => (&self.strangers, ADMIN_REQUEST_BYTES_MAX),
            true if path == WATCH => (&self.members, OPEN_REQUEST_BYTES_MAX),
            true => (&self.members, usize::MAX),
            // Changes of tools.
            false if path == DECIDE => (&self.strangers, ADMIN_REQUEST_BYTES_MAX),
            false => (&self.strangers, OPEN_REQUEST_BYTES_MAX),
        };
        let share = ledger.take(CALL_BYTES).ok_or_else(no_room)?;
        let lasts = STREAMS.contains(&path);
        request.extensions_mut().insert(caller);
        Ok(request.map(|body| {
            Body::from_stream(Arriving {
                body: body.into_data_stream(),
                share,
                message_bytes_max,
                lasts,
                message: Message::default(),
                // Two followers have nothing to say to each other: their stream may wait for its first message.
                timeout: (!lasts).then(|| Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT))),
            })
        }))
    }
}

fn no_room() -> Status {
    Status::resource_exhausted("the coordinator's memory for requests that are arriving is used up")
}

/// Where a body stands in its messages.
#[derive(Default)]
struct Message {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Of the message under way: what has come, and what will come.
    arrived: usize,
    length: usize,
}

impl Message {
    /// The bytes of the message that the piece leaves incomplete, 0 where it ends with a message; none if a message is
    /// longer than `max`.
    fn push(&mut self, mut piece: &[u8], max: usize) -> Option<usize> {
        while !piece.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let count = piece.len().min(PREFIX_BYTES - self.prefix_bytes);
                let (prefix, rest) = piece.split_at(count);
                if let Some(place) = self.prefix.get_mut(self.prefix_bytes..self.prefix_bytes + count) {
                    place.copy_from_slice(prefix);
                }
                (self.prefix_bytes, piece) = (self.prefix_bytes + count, rest);
                let [_, length @ ..] = self.prefix;
                self.length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            } else {
                let count = piece.len().min(self.length - self.arrived);
                (self.arrived, piece) = (self.arrived + count, piece.get(count..).unwrap_or_default());
            }
            let is_begun = self.prefix_bytes == PREFIX_BYTES;
            if is_begun && self.length > max {
                return None;
            }
            if is_begun && self.arrived == self.length {
                *self = Self::default();
            }
        }
        Some(self.prefix_bytes + self.arrived)
    }
}

/// A body whose incomplete message is counted. Dropped, with what it counts, when the call's last message is decoded.
struct Arriving {
    body: BodyDataStream,
    share: Share,
    message_bytes_max: usize,
    /// The body goes on after a message.
    lasts: bool,
    message: Message,
    /// Runs while a message is incomplete; in a call with one message, until the body has ended.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    fn count(&mut self, piece: &[u8]) -> Result<(), Status> {
        let max = self.message_bytes_max;
        let too_long = || Status::out_of_range(format!("a message may have {max} bytes at most"));
        let incomplete = self.message.push(piece, max).ok_or_else(too_long)?;
        if !self.share.resize(CALL_BYTES + incomplete as u64) {
            return Err(no_room());
        }
        if self.lasts {
            if incomplete == 0 {
                self.timeout = None;
            } else {
                self.timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)));
            }
        }
        Ok(())
    }
}

impl Stream for Arriving {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match Pin::new(&mut self.body).poll_next(context) {
            Poll::Ready(Some(Ok(piece))) => {
                let counted = self.count(&piece);
                Poll::Ready(Some(counted.map(|()| piece)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::cancelled(error.to_string())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let is_late = self.timeout.as_mut().is_some_and(|timeout| timeout.as_mut().poll(context).is_ready());
                match is_late {
                    true => Poll::Ready(Some(Err(Status::deadline_exceeded("a message that does not arrive")))),
                    false => Poll::Pending,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::response::Response;
    use futures::StreamExt as _;
    use ottla_model::ClusterSecret;
    use ottla_rpc::cluster_metadata::ClusterMetadata;
    use tonic::codegen::Service as _;
    use tonic::service::Interceptor as _;
    use tonic::{Code, Request as GrpcRequest};

    use super::*;

    fn admission() -> Admission {
        Admission::new(Access::new(Some(ClusterSecret::new("s3cret")), None, false))
    }

    /// As tonic does: reads the message, then calls the service.
    fn reader() -> Router {
        Router::new().fallback(|body: Body| async move {
            match axum::body::to_bytes(body, usize::MAX).await {
                Ok(_) => Status::ok("read").into_http::<Body>(),
                Err(error) => Status::from_error(Box::new(error)).into_http(),
            }
        })
    }

    fn message(length: usize, sent: usize) -> Bytes {
        let mut bytes = vec![0; PREFIX_BYTES + sent];
        bytes[1..PREFIX_BYTES].copy_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
        bytes.into()
    }

    fn request(path: &str, secret: Option<&str>, body: Body) -> Request {
        let secret = secret.map(ClusterSecret::new);
        let attached = ClusterMetadata::new(secret.as_ref(), None).call(GrpcRequest::new(())).expect("attached");
        let mut request = Request::builder().uri(path).body(body).expect("a request");
        *request.headers_mut() = attached.metadata().clone().into_headers();
        request
    }

    async fn call(admission: &Admission, request: Request) -> Code {
        let response: Response = admission.guard(reader()).call(request).await.expect("infallible");
        Status::from_header_map(response.headers()).expect("a status").code()
    }

    /// G1, G12: the body of a call was buffered, up to 16 MiB, before the secret was looked at.
    #[tokio::test]
    async fn g12_nothing_of_a_strangers_message_is_read() {
        let admission = admission();
        let polls = Arc::new(AtomicUsize::new(0));
        for (path, secret, expected) in [
            (DECIDE, None, Code::Unauthenticated),
            (DECIDE, Some("wrong"), Code::Unauthenticated),
            ("/ottla.quorum.v1.Quorum/Identify", None, Code::Unauthenticated),
            ("/ottla.cluster.v1.Cluster/Later", None, Code::Unauthenticated),
            (DECIDE, Some("s3cret"), Code::Ok),
            ("/ottla.cluster.v1.Cluster/Watch", None, Code::Unauthenticated),
            ("/ottla.cluster.v1.Cluster/Watch", Some("s3cret"), Code::Ok),
            ("/ottla.cluster.v1.Cluster/DescribeQuorum", None, Code::Ok),
            ("/ottla.admin.v1.Admin/ListTopics", None, Code::Ok),
            ("/ottla.admin.v1.Admin/DeleteTopic", None, Code::Unauthenticated),
            ("/ottla.admin.v1.Admin/CreateTopic", Some("wrong"), Code::Unauthenticated),
            ("/ottla.admin.v1.Admin/CreateTopic", Some("s3cret"), Code::Ok),
            ("/ottla.admin.v1.Admin/Later", None, Code::Unauthenticated),
        ] {
            let counted = polls.clone();
            let pieces = futures::stream::once(async move {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Status>(message(100, 100))
            });
            let before = polls.load(Ordering::Relaxed);
            let code = call(&admission, request(path, secret, Body::from_stream(pieces))).await;
            assert_eq!(code, expected, "{path} {secret:?}");
            assert_eq!(polls.load(Ordering::Relaxed) - before, usize::from(expected == Code::Ok), "{path} {secret:?}");
        }
        assert_eq!((admission.members.used(), admission.strangers.used()), (0, 0));
    }

    #[tokio::test]
    async fn g12_calls_of_anybody_have_small_messages() {
        let admission = admission();
        for (path, length, expected) in [
            ("/ottla.cluster.v1.Cluster/DescribeQuorum", OPEN_REQUEST_BYTES_MAX, Code::Ok),
            ("/ottla.cluster.v1.Cluster/DescribeQuorum", OPEN_REQUEST_BYTES_MAX + 1, Code::OutOfRange),
            ("/ottla.admin.v1.Admin/GetNode", ADMIN_REQUEST_BYTES_MAX, Code::Ok),
            ("/ottla.admin.v1.Admin/GetNode", ADMIN_REQUEST_BYTES_MAX + 1, Code::OutOfRange),
        ] {
            assert_eq!(call(&admission, request(path, None, message(length, length).into())).await, expected, "{path}");
        }
    }

    /// G12: messages that never end, on as many streams as the attacker likes.
    #[tokio::test(start_paused = true)]
    async fn g12_messages_under_way_have_a_ceiling_and_a_time() {
        let admission = admission();
        let endless = || {
            let begun = message(ADMIN_REQUEST_BYTES_MAX, ADMIN_REQUEST_BYTES_MAX - 1);
            let pieces = futures::stream::once(async move { Ok::<_, Status>(begun) });
            request("/ottla.admin.v1.Admin/GetNode", None, Body::from_stream(pieces.chain(futures::stream::pending())))
        };
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let (admission, request) = (admission.clone(), endless());
                tokio::spawn(async move { call(&admission, request).await })
            })
            .collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let (used, ceiling) = (admission.strangers.used(), admission.strangers.ceiling());
        assert!(used > ceiling / 2 && used <= ceiling, "{used} of {ceiling}");
        assert_eq!(call(&admission, request(DECIDE, Some("s3cret"), message(9, 9).into())).await, Code::Ok);
        let mut ended = BTreeMap::new();
        for call in calls {
            *ended.entry(call.await.expect("no panic") as i32).or_insert(0) += 1;
        }
        let late = ended.get(&(Code::DeadlineExceeded as i32)).copied().unwrap_or(0);
        let refused = ended.get(&(Code::ResourceExhausted as i32)).copied().unwrap_or(0);
        assert!(late > 16 && late + refused == 100, "{ended:?}");
        assert_eq!(admission.strangers.used(), 0);
    }

    #[test]
    fn messages_are_followed_whatever_their_pieces() {
        let mut whole = message(300, 300).to_vec();
        whole.extend(message(0, 0));
        whole.extend(message(7, 7));
        for size in [1, 2, 3, 5, 299, 400] {
            let mut message = Message::default();
            let left: Vec<usize> = whole.chunks(size).map(|piece| message.push(piece, 300).expect("short")).collect();
            assert_eq!(left.last(), Some(&0), "{size}");
            assert!(left.iter().all(|left| *left < 305));
        }
        assert_eq!(Message::default().push(&message(1_000, 20), 1_000), Some(25));
        assert_eq!(Message::default().push(&message(1_000, 1_000), 999), None);
    }
}
