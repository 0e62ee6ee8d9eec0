//! One client connection: frames in, answers out, in order, by one task that owns the socket.
//!
//! Invariants:
//! - Requests are handled in the order of their arrival, each before the next is looked at: an append is done when
//!   [`Service::handle`] returns, or when a request that is [held](Reply::Held) has been carried out. Answers leave in
//!   the same order; later requests are read while earlier answers wait, except where an earlier write is not done: a
//!   request sees what its own connection wrote before.
//! - What one connection can hold is bounded: requests without an answer by [`PENDING_MAX`], and with the responses in
//!   memory by [`RESPONSE_BYTES_MAX`]; a frame under way by what has arrived of it and by a frame budget. At a bound
//!   the task stops reading, nothing is dropped; only a slow frame ends where others wait for its room.
//! - Strangers share a small budget, which counts their frames from the first byte on: clients that have to log in
//!   until they have, all others until their first request has been handled. On a listener without a login that is
//!   their probation only: what a frame has beyond [`PROBATION_BYTES`] is counted with other large frames, so that the
//!   first request may be a large Produce.
//! - A connection holds its worker for [`TURN_MAX`] and one request at most; then the other connections have their
//!   turn.
//! - Before the gate has opened (the broker has registered) only what [`Service::handle_early`] takes is answered;
//!   everything else waits.

mod muting;
mod pending;
mod shared;
#[cfg(test)]
pub(crate) mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use ottla_protocol::{Api, FrameError};
use ottla_resources::unauthenticated::UnauthenticatedPermit;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Interval, MissedTickBehavior, Sleep};

use crate::authentication::{self, Authentication};
use crate::context::RequestContext;
use crate::frame_budget::FramePermit;
use crate::frame_reader::{FrameReader, PROBATION_BYTES};
use crate::response::Reply;
use crate::response_memory::ResponsePermit;
use crate::response_writer::ResponseWriter;
use crate::security::SaslListener;
use crate::service::Service;
use crate::transport::Transport;

use muting::Muting;
use pending::{Answered, PendingRequests, api_of};
pub use shared::{ConnectionShared, Gate};

/// Requests of one connection that have no answer yet. Kafka's producers keep 5 under way, librdkafka up to 1,000,000;
/// beyond this many the answers are what a client should wait for.
const PENDING_MAX: usize = 1024;
/// Response bytes in memory beyond which a connection reads no further request: its client does not read what it asked
/// for.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;
/// How often a connection is checked for silence. A frame that has begun must have moved on by the second check, so
/// that one byte a second ends after 30 to 60 s, and a timer fires twice a minute per connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Checks after which a client must have logged in: it had 30 s at least.
const CHECKS_WITHOUT_LOGIN_MAX: u32 = 1;
/// Minimum bytes of a frame between two checks; slower clients are disconnected. A frame that holds a part of the
/// budget owes more, because others wait for it.
const FRAME_BYTES_PER_CHECK_MIN: usize = 16 * 1024;
const GRANTED_BYTES_PER_CHECK_MIN: usize = 1024 * 1024;
/// From the first byte of a frame to its last, before the client has logged in: as long as a TLS handshake.
const LOGIN_FRAME_MAX: Duration = Duration::from_secs(10);
/// As [`RESPONSE_BYTES_MAX`], before the client has logged in: some responses to ApiVersions, of which strangers could
/// otherwise ask for a megabyte each and read nothing.
const LOGIN_RESPONSE_BYTES_MAX: usize = 4 * 1024;
/// A connection whose requests have come in numbers handles them for so long at a time. Some hundred small requests,
/// and far less than what a client notices.
pub(crate) const TURN_MAX: Duration = Duration::from_millis(2);

/// Waiting responses of one connection up to here are not counted against the broker's memory, so that a
/// client that reads its responses is served even while others use up the memory for responses.
const UNCOUNTED_BYTES: usize = 64 * 1024;
const NO_ROOM: &str = "the broker's memory for responses that wait to be read is used up";
const NO_LOGIN: &str = "the client did not log in";
const NOT_READ: &str = "responses are not read";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("closed by the client")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    BadFrame(#[from] FrameError),
    #[error("{0}")]
    Refused(String),
    #[error("idle")]
    Idle,
    #[error("a frame that does not arrive")]
    HalfFrame,
    #[error("a frame that arrives slowly, while others wait for its room")]
    SlowFrame,
    #[error("others connected, and the client did not go on with its login")]
    ClosedForOthers,
    #[error("a failed login: {0}")]
    Login(String),
    #[error("the broker stops")]
    Draining,
}

impl End {
    /// Whether what came in was to blame.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::BadFrame(_) | Self::Refused(_) | Self::HalfFrame | Self::SlowFrame => true,
            Self::ClosedForOthers | Self::Login(_) => true,
            Self::Closed | Self::Io(_) | Self::Idle | Self::Draining => false,
        }
    }
}

/// Which budget the frame under way counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Stranger,
    Large,
}

type Wait<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// A request that has to be carried out before the next one is handled.
struct HeldRequest {
    api: Option<Api>,
    arrived: Instant,
    frame_bytes: u32,
    future: Pin<Box<dyn Future<Output = Reply> + Send>>,
}

pub struct Connection<S: Service> {
    stream: Transport,
    context: RequestContext,
    /// Of a listener with SASL.
    authentication: Option<Authentication>,
    /// Until the client has logged in.
    unauthenticated: Option<UnauthenticatedPermit>,
    /// Checks since the client should have logged in.
    checks_without_login: u32,
    shared: Arc<ConnectionShared<S>>,
    service: Option<Arc<S>>,
    reader: FrameReader,
    /// The place in the budget of strangers of the frame under way.
    stranger_permit: Option<FramePermit>,
    /// The place in the budget of the large frame under way.
    permit: Option<FramePermit>,
    /// That of the frame that is held, or whose request is.
    held_permit: Option<FramePermit>,
    /// Whether a request has been handled.
    has_asked: bool,
    /// Runs while the frame waits for room.
    patience: Option<Pin<Box<Sleep>>>,
    /// When the frame under way must be whole, before the client has logged in.
    frame_deadline: Option<Pin<Box<Sleep>>>,
    gate_wait: Wait<()>,
    /// A frame that came before the gate opened, or that waits for earlier writes of this connection.
    held: Option<BytesMut>,
    held_request: Option<HeldRequest>,
    pending: PendingRequests,
    writer: ResponseWriter,
    /// What the waiting responses take of the memory for responses.
    response_permit: Option<ResponsePermit>,
    close_after_write: bool,
    muting: Muting,
    checks: Interval,
    silent_checks: u32,
    /// When this turn of the worker began, and the last request that it has handled.
    turn_began: Instant,
    handled_in_turn: Option<Api>,
    turn_is_over: bool,
    /// Whether anything came or left since the last check, and what had arrived then of the frame under way.
    active: bool,
    /// Whether anything left since the last check.
    has_read: bool,
    arrived_at_check: usize,
}

impl<S: Service> Connection<S> {
    /// `unauthenticated`: its place among those that have not logged in; none: it counts nowhere.
    pub fn new(
        stream: Transport,
        context: RequestContext,
        sasl: Option<Arc<SaslListener>>,
        shared: Arc<ConnectionShared<S>>,
        unauthenticated: Option<UnauthenticatedPermit>,
    ) -> Self {
        let authentication = sasl.map(Authentication::new);
        let served = shared.frame_bytes_max;
        let frame_bytes_max = authentication.as_ref().map_or(served, |login| login.frame_bytes_max(served));
        let mut reader = FrameReader::new(frame_bytes_max);
        reader.set_stage(frame_bytes_max, authentication.is_some());
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.reset();
        Self {
            stream,
            context,
            authentication,
            unauthenticated,
            checks_without_login: 0,
            service: shared.gate.service(),
            reader,
            shared,
            stranger_permit: None,
            permit: None,
            held_permit: None,
            has_asked: false,
            patience: None,
            frame_deadline: None,
            gate_wait: None,
            held: None,
            held_request: None,
            pending: PendingRequests::default(),
            writer: ResponseWriter::default(),
            response_permit: None,
            close_after_write: false,
            muting: Muting::default(),
            checks,
            silent_checks: 0,
            turn_began: Instant::now(),
            handled_in_turn: None,
            turn_is_over: false,
            active: false,
            has_read: false,
            arrived_at_check: 0,
        }
    }

    /// Serves until the connection ends. In a box: a task would have room for it twice, as what it is given and as what
    /// it works with.
    pub async fn run(mut self: Box<Self>) -> End {
        let end = poll_fn(|context| {
            self.turn_began = Instant::now();
            self.handled_in_turn = None;
            let polled = self.poll_drive(context);
            self.watch_turn();
            polled
        })
        .await;
        poll_fn(|context| {
            self.stream.close(context);
            Poll::Ready(())
        })
        .await;
        match (end, self.authentication.as_mut().and_then(|login| login.failure.take())) {
            (End::Closed | End::Refused(_), Some(reason)) => End::Login(reason),
            (end, _) => end,
        }
    }

    /// Tells of a turn that kept the worker from everything else.
    fn watch_turn(&self) {
        let is_slow = self.shared.slow_turns.check(self.turn_began, |took, more| {
            let (api, peer) = (self.handled_in_turn, self.context.peer);
            tracing::warn!(?api, %peer, ?took, more, "one turn of a connection held its worker");
        });
        if is_slow {
            self.shared.metrics.slow_turns.add(1);
        }
    }

    fn poll_drive(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Err(end) = self.poll_held_request(context) {
                return Poll::Ready(end);
            }
            self.resolve(context);
            let flushed = match self.writer.poll_flush(&mut self.stream, &self.shared.cold_reads, context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(End::Io(error)),
                Poll::Pending => false,
            };
            let sent = self.writer.take_sent_bytes();
            if sent > 0 {
                self.active = true;
                self.has_read = true;
                self.shared.metrics.bytes_sent.add(sent);
            }
            if !self.account(sent > 0, context) {
                return Poll::Ready(End::Refused(NO_ROOM.to_owned()));
            }
            if self.unauthenticated.as_mut().is_some_and(|permit| permit.poll_has_to_close(context).is_ready()) {
                return Poll::Ready(End::ClosedForOthers);
            }
            if std::mem::take(&mut self.turn_is_over) {
                // A client that never lets the task wait is checked like others: it may not have logged in.
                if let Some(end) = self.poll_check(context) {
                    return Poll::Ready(end);
                }
                // To the end of the worker's queue.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let permits = [&self.stranger_permit, &self.permit, &self.held_permit];
            if permits.into_iter().flatten().any(FramePermit::is_evicted) {
                return Poll::Ready(End::SlowFrame);
            }
            let answered = flushed && self.pending.is_empty() && self.held_request.is_none();
            if answered && self.close_after_write {
                return Poll::Ready(End::Closed);
            }
            if self.shared.is_draining() {
                if answered {
                    return Poll::Ready(End::Draining);
                }
                return Poll::Pending;
            }
            match self.poll_requests(context) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => {
                    if let Some(end) = self.poll_check(context) {
                        return Poll::Ready(end);
                    }
                    return Poll::Pending;
                }
                Err(end) => {
                    // What was asked before is still answered where the answers are there.
                    self.resolve(context);
                    let _ = self.writer.poll_flush(&mut self.stream, &self.shared.cold_reads, context);
                    return Poll::Ready(end);
                }
            }
        }
    }

    /// Hands the answers that are complete, in order, to the writer.
    fn resolve(&mut self, context: &mut Context<'_>) {
        while let Some(Answered { api, arrived, response }) = self.pending.poll_next(context) {
            if let Some(api) = api {
                self.shared.metrics.answered(api, arrived.elapsed());
            }
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
            self.close_after_write |= response.close_after;
            self.muting.mute(response.mute);
            self.writer.push(response);
        }
    }

    fn may_read(&self) -> bool {
        !self.close_after_write
            && !self.muting.is_muted()
            && self.held_request.is_none()
            && self.pending.len() < PENDING_MAX
            && self.writer.memory_bytes() + self.pending.memory_bytes() < self.response_bytes_max()
    }

    fn response_bytes_max(&self) -> usize {
        if self.is_before_login() { LOGIN_RESPONSE_BYTES_MAX } else { RESPONSE_BYTES_MAX }
    }

    /// Whether the client has to log in, or is about to do so again.
    fn is_before_login(&self) -> bool {
        self.authentication.as_ref().is_some_and(|login| !login.is_done())
    }

    /// Which budget a frame counts in that needs this much room; none: it does not count.
    fn stage_of(&self, wanted_bytes: usize) -> Option<Stage> {
        match (self.is_before_login(), wanted_bytes > PROBATION_BYTES) {
            (true, _) => Some(Stage::Stranger),
            (false, true) => Some(Stage::Large),
            (false, false) => (!self.has_asked).then_some(Stage::Stranger),
        }
    }

    /// Handles the frames that have arrived, or reads once. Ready: something was done, look at the answers, then come
    /// again.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        if self.muting.poll(context).is_pending() || !self.may_read() {
            return Ok(Poll::Pending);
        }
        if let Some(wait) = &mut self.gate_wait {
            if wait.as_mut().poll(context).is_pending() {
                return Ok(Poll::Pending);
            }
            self.gate_wait = None;
        }
        if let Some(frame) = self.held.take() {
            if self.pending.holds_up(api_of(&frame)) {
                // `resolve` has polled what it waits for.
                self.held = Some(frame);
                return Ok(Poll::Pending);
            }
            self.handle(frame)?;
            self.release_permit();
            return Ok(Poll::Ready(()));
        }
        let mut handled = false;
        while self.held.is_none() && self.may_read() {
            let Some(frame) = self.reader.next_frame()? else { break };
            let stranger_permit = self.stranger_permit.take();
            self.held_permit = self.permit.take().or(stranger_permit);
            self.frame_deadline = None;
            self.arrived_at_check = 0;
            handled = true;
            if self.turn_is_used_up() {
                self.held = Some(frame);
                self.turn_is_over = true;
                break;
            }
            if self.pending.holds_up(api_of(&frame)) {
                self.held = Some(frame);
                break;
            }
            self.handle(frame)?;
            self.release_permit();
        }
        if handled {
            return Ok(Poll::Ready(()));
        }
        self.poll_read(context)
    }

    /// A frame gives back its room once it is handled; while it is held it keeps it.
    fn release_permit(&mut self) {
        if self.held.is_none() && self.held_request.is_none() {
            self.held_permit = None;
        }
    }

    /// Whether others should have the worker before the next request is handled.
    fn turn_is_used_up(&self) -> bool {
        self.handled_in_turn.is_some() && self.turn_began.elapsed() >= TURN_MAX
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        // Without a readable socket there is no need for room.
        if self.stream.poll_read_ready(context)?.is_pending() {
            return self.rest(context);
        }
        if self.poll_permit(context).is_pending() {
            return Ok(Poll::Pending);
        }
        let (buffer, limit) = self.reader.prepare();
        let mut room = buffer.limit(limit);
        let read = std::pin::pin!(self.stream.read_buf(&mut room)).poll(context);
        match read {
            Poll::Pending => self.rest(context),
            Poll::Ready(Ok(0)) => Err(End::Closed),
            Poll::Ready(Ok(count)) => {
                self.active = true;
                self.shared.metrics.bytes_received.add(count as u64);
                for permit in [&self.stranger_permit, &self.permit].into_iter().flatten() {
                    permit.arrived(self.reader.arrived_bytes());
                }
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(End::Io(error)),
        }
    }

    /// Nothing comes at the moment.
    fn rest(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        self.reader.rest();
        let is_before_login = self.is_before_login();
        let of_tls = if is_before_login { self.stream.held_bytes() } else { 0 };
        match self.reader.held_bytes() + of_tls {
            0 => self.stranger_permit = None,
            held_bytes if is_before_login || self.stranger_permit.is_some() => {
                let open = || self.shared.strangers.open(self.context.peer.ip(), context.waker());
                self.stranger_permit.get_or_insert_with(open).set_held(held_bytes);
            }
            _ => {}
        }
        if of_tls == 0 && !(is_before_login && self.reader.is_in_frame()) {
            self.frame_deadline = None;
            return Ok(Poll::Pending);
        }
        let deadline = self.frame_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOGIN_FRAME_MAX)));
        if deadline.as_mut().poll(context).is_ready() { Err(End::HalfFrame) } else { Ok(Poll::Pending) }
    }

    /// Ready when the budget has room for what the frame under way needs next.
    fn poll_permit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut wanted = self.reader.wanted_bytes();
        let (budget, permit) = match self.stage_of(wanted) {
            Some(Stage::Stranger) => {
                wanted += self.stream.held_bytes();
                (&self.shared.strangers, &mut self.stranger_permit)
            }
            Some(Stage::Large) => (&self.shared.budget, &mut self.permit),
            None => {
                self.stranger_permit = None;
                return Poll::Ready(());
            }
        };
        let is_large = Arc::ptr_eq(budget, &self.shared.budget);
        let permit = permit.get_or_insert_with(|| budget.open(self.context.peer.ip(), context.waker()));
        loop {
            if permit.poll_grow(wanted, Instant::now(), context).is_ready() {
                self.patience = None;
                if is_large {
                    // Not before: what a stranger's frame has while it waits for more is counted.
                    self.stranger_permit = None;
                }
                return Poll::Ready(());
            }
            let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(budget.patience())));
            if patience.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            permit.relieve(Instant::now());
            self.patience = None;
        }
    }

    fn handle(&mut self, frame: BytesMut) -> Result<(), End> {
        if self.service.is_none() {
            self.service = self.shared.gate.service();
        }
        // The first one came with this turn.
        let arrived = if self.handled_in_turn.is_none() { self.turn_began } else { Instant::now() };
        let api = api_of(&frame);
        let frame_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.handled_in_turn = api;
        // Users are known once the broker's image is: before, a good password would count as a wrong one.
        if self.service.is_none() && self.authentication.is_some() && api != Some(Api::ApiVersions) {
            self.held = Some(frame);
            self.gate_wait = Some(Box::pin(self.shared.gate.opened()));
            return Ok(());
        }
        if let Some(answer) = self.before_login(&frame, arrived) {
            return self.take_answer(api, arrived, frame_bytes, answer);
        }
        let answer = match &self.service {
            Some(service) => service.handle(&self.context, frame),
            None => match S::handle_early(&self.shared.gate.identity, &self.context, &frame) {
                Some(answer) => answer,
                None => {
                    self.held = Some(frame);
                    self.gate_wait = Some(Box::pin(self.shared.gate.opened()));
                    return Ok(());
                }
            },
        };
        self.take_answer(api, arrived, frame_bytes, answer)
    }

    /// The answer to a frame of a client that has not logged in, or that logs in again; none: the service handles it.
    fn before_login(&mut self, frame: &BytesMut, now: Instant) -> Option<Reply> {
        let login = self.authentication.as_mut()?;
        let answer = match login.take(frame, now, rand::random, &mut self.context.principal) {
            authentication::Outcome::Serve => return None,
            authentication::Outcome::Early => S::handle_early(&self.shared.gate.identity, &self.context, frame)
                .unwrap_or_else(|| Reply::close("a request before the login")),
            authentication::Outcome::Reply(answer) => answer,
        };
        match &mut self.unauthenticated {
            Some(permit) if !login.is_done() => permit.stepped(now),
            permit => *permit = None,
        }
        self.context.is_by_token = login.is_by_token();
        login.tell(&self.context);
        self.reader.set_stage(login.frame_bytes_max(self.shared.frame_bytes_max), !login.is_done());
        Some(answer)
    }

    /// Carries out the request that holds up the others, if that is possible by now.
    fn poll_held_request(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        while let Some(held) = &mut self.held_request {
            let Poll::Ready(answer) = held.future.as_mut().poll(context) else { return Ok(()) };
            let (api, arrived, frame_bytes) = (held.api, held.arrived, held.frame_bytes);
            self.held_request = None;
            // It has had its turn: others come before the next request.
            self.handled_in_turn = api;
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
            self.take_answer(api, arrived, frame_bytes, answer)?;
            self.release_permit();
        }
        Ok(())
    }

    fn take_answer(&mut self, api: Option<Api>, arrived: Instant, frame_bytes: u32, answer: Reply) -> Result<(), End> {
        self.has_asked = true;
        match answer {
            Reply::Ready(response) => {
                // Now: what has arrived with this request is not handled either.
                self.muting.mute(response.mute);
                self.pending.push_ready(api, arrived, response);
            }
            Reply::Later(future) => self.pending.push_waiting(api, arrived, frame_bytes, future),
            Reply::Held(future) => {
                self.shared.pending.fetch_add(1, Ordering::AcqRel);
                self.held_request = Some(HeldRequest { api, arrived, frame_bytes, future });
                return Ok(());
            }
            Reply::None => return Ok(()),
            Reply::Close(reason) => return Err(End::Refused(reason)),
        }
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Counts the responses that wait for the client against the broker's memory. False: the connection gives way.
    fn account(&mut self, has_sent: bool, context: &Context<'_>) -> bool {
        let waiting = self.writer.memory_bytes() + self.pending.memory_bytes();
        if waiting <= UNCOUNTED_BYTES {
            self.response_permit = None;
            return true;
        }
        let now = Instant::now();
        let open = || self.shared.responses.open(now, context.waker());
        let permit = self.response_permit.get_or_insert_with(open);
        if has_sent {
            permit.sent(now);
        }
        !permit.has_to_go() && permit.resize(waiting as u64, now)
    }

    /// The client has read nothing since the last check, whatever it has asked for, while responses use up the memory:
    /// it gives way.
    fn is_stalled(&self) -> bool {
        self.response_permit.is_some() && !self.has_read && self.shared.responses.is_scarce()
    }

    /// Ends a connection that is silent, or stuck in a frame.
    fn poll_check(&mut self, context: &mut Context<'_>) -> Option<End> {
        while self.checks.poll_tick(context).is_ready() {
            let arrived = self.reader.arrived_bytes();
            let waits_for_us = !self.may_read() || self.held.is_some() || self.patience.is_some();
            if self.reader.is_in_frame() && !waits_for_us {
                // The first look only notes where the frame stands.
                let owed = if self.permit.is_some() { GRANTED_BYTES_PER_CHECK_MIN } else { FRAME_BYTES_PER_CHECK_MIN };
                if self.arrived_at_check > 0 && arrived < self.arrived_at_check + owed {
                    return Some(End::HalfFrame);
                }
                self.arrived_at_check = arrived;
            }
            self.checks_without_login = if self.is_before_login() { self.checks_without_login + 1 } else { 0 };
            if self.checks_without_login > CHECKS_WITHOUT_LOGIN_MAX {
                return Some(End::Refused(NO_LOGIN.to_owned()));
            }
            if self.is_stalled() {
                return Some(End::Refused(NOT_READ.to_owned()));
            }
            let is_idle = self.pending.is_empty() && self.held.is_none() && self.held_request.is_none();
            let quiet = !self.active && is_idle;
            (self.active, self.has_read) = (false, false);
            self.silent_checks = if quiet { self.silent_checks.saturating_add(1) } else { 0 };
            if self.shared.idle_timeout.is_some_and(|timeout| CHECK_INTERVAL * self.silent_checks >= timeout) {
                return Some(End::Idle);
            }
        }
        None
    }
}

impl<S: Service> Drop for Connection<S> {
    fn drop(&mut self) {
        let waiting = self.pending.len() + usize::from(self.held_request.is_some());
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.shared.pending.fetch_sub(waiting, Ordering::AcqRel);
    }
}
