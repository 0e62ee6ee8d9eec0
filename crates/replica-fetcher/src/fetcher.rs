//! The fetches from one source broker.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicIdPartition};
use ottla_replication::{FetchAnswer, FetchPosition, FollowerStep, Following};

use crate::config::{
    ADDED_MAX, BACKOFF_MIN, FETCHES_UNDERWAY_MAX, FetcherConfig, RECONNECT_MAX, RECONNECT_MIN, REFUSED_PAUSE,
};
use crate::session::Session;
use crate::slots::{Activity, News, Question, RequestNumber, Slots};

/// The followers of this broker. `Handle` is how the caller reaches one.
pub trait Followers {
    type Handle;

    /// The next step of the follower of this leader epoch; [`FollowerStep::Stop`] if the partition has another role
    /// now.
    fn next_step(&mut self, handle: &Self::Handle, leader_epoch: LeaderEpoch) -> FollowerStep;

    /// The leader's response to `asked`.
    fn fetched(
        &mut self,
        handle: &Self::Handle,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
    ) -> FollowerStep;

    /// The leader's log start and end; none if the leader did not answer.
    fn leader_bounds(
        &mut self,
        handle: &Self::Handle,
        leader_epoch: LeaderEpoch,
        bounds: Option<(Offset, Offset)>,
    ) -> FollowerStep;

    /// Until when the follower must not fetch, because it is throttled; none: it may.
    fn held_until(&mut self, _handle: &Self::Handle, _now: MonotonicMs) -> Option<MonotonicMs> {
        None
    }
}

/// The actions that the caller must execute, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Connect to the source, and report [`Fetcher::connected`] or [`Fetcher::disconnected`].
    Connect,
    /// Close the connection; nothing of it is reported any more.
    Disconnect(Disconnect),
    AskBounds(BoundsQuestion),
    Fetch(FetchRequest),
}

/// Why a connection is closed from this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    NothingToFetch,
    /// The source registered again: it is another incarnation, or is reached elsewhere.
    SourceRegistered,
    /// No answer within the socket time-out.
    Silent,
}

/// One end of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogEnd {
    Earliest,
    Latest,
}

/// Requests one end of the leader's log of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoundsQuestion {
    pub number: RequestNumber,
    pub partition: TopicIdPartition,
    pub leader_epoch: LeaderEpoch,
    pub end: LogEnd,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchRequest {
    pub number: RequestNumber,
    pub session_id: i32,
    pub session_epoch: i32,
    pub max_wait: Duration,
    pub partitions: Vec<(TopicIdPartition, FetchPosition)>,
    pub forgotten: Vec<TopicIdPartition>,
}

/// An answer as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchResponse {
    pub error: ErrorCode,
    pub session_id: i32,
}

enum Connection {
    /// Not before `retry_at`.
    Closed {
        retry_at: MonotonicMs,
    },
    Connecting,
    Open(Link),
}

/// One connection to the source.
struct Link {
    session: Session,
    next_number: RequestNumber,
    /// Never more than [`FETCHES_UNDERWAY_MAX`].
    fetches_underway: Vec<RequestNumber>,
    questions_underway: BTreeMap<RequestNumber, (TopicIdPartition, LogEnd)>,
    /// No fetch before.
    paused_until: Option<MonotonicMs>,
    last_answer: MonotonicMs,
}

impl Link {
    fn is_waiting(&self) -> bool {
        !self.fetches_underway.is_empty() || !self.questions_underway.is_empty()
    }

    /// The number of the next request, which is sent now.
    fn begin(&mut self, now: MonotonicMs) -> RequestNumber {
        if !self.is_waiting() {
            self.last_answer = now;
        }
        self.next_number += 1;
        self.next_number - 1
    }
}

/// Fetches from one source: see the [crate]. After every input call [`Fetcher::tick`], and again at
/// [`Fetcher::deadline`].
pub struct Fetcher<H> {
    source: BrokerId,
    config: FetcherConfig,
    slots: Slots<H>,
    connection: Connection,
    /// After the next connection that fails or breaks.
    reconnect_pause: Duration,
    reconnects: bool,
}

impl<H> Fetcher<H> {
    pub fn new(source: BrokerId, config: FetcherConfig) -> Self {
        Self {
            source,
            config,
            slots: Slots::default(),
            connection: Connection::Closed { retry_at: MonotonicMs(0) },
            reconnect_pause: RECONNECT_MIN,
            reconnects: false,
        }
    }

    pub fn source(&self) -> BrokerId {
        self.source
    }

    /// Whether no partition is fetched.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// The caller's handle of a partition, while this fetcher has it.
    pub fn handle(&self, partition: &TopicIdPartition) -> Option<&H> {
        self.slots.get(partition).map(|slot| &slot.handle)
    }

    /// Whether the next fetch includes this partition: it is not paused, and no request for its bounds is pending.
    pub fn is_fetching(&self, partition: &TopicIdPartition) -> bool {
        self.slots.get(partition).is_some_and(|slot| matches!(slot.activity(), Activity::Fetching(_)))
    }

    // ---- changes of roles

    /// The role of a partition may have changed; `following` is its current one.
    pub fn role_changed(
        &mut self,
        now: MonotonicMs,
        partition: TopicIdPartition,
        handle: H,
        following: Option<Following>,
    ) {
        self.retry_now(now);
        let Some(following) = following.filter(|following| following.leader == self.source) else {
            return self.slots.remove(partition);
        };
        if self.config.rules.change_drops_waiting && !matches!(following.step, FollowerStep::Fetch(_)) {
            return self.slots.remove(partition);
        }
        let is_known = self.slots.get(&partition).is_some_and(|slot| slot.leader_epoch == following.leader_epoch);
        if !is_known {
            self.slots.insert(partition, handle, following.leader_epoch, now);
        } else if let Some(slot) = self.slots.get_mut(&partition) {
            // The same partition; its replica object may be new.
            slot.handle = handle;
        }
        self.execute(now, partition, following.step);
    }

    /// The partition is not fetched from this source any more.
    pub fn leave(&mut self, now: MonotonicMs, partition: TopicIdPartition) {
        self.retry_now(now);
        self.slots.remove(partition);
    }

    /// The source registered again.
    pub fn reconnect(&mut self, now: MonotonicMs) {
        self.retry_now(now);
        self.reconnects = true;
    }

    /// A change may mean that the source can be reached again.
    fn retry_now(&mut self, now: MonotonicMs) {
        if let Connection::Closed { retry_at } = &mut self.connection {
            *retry_at = now.min(*retry_at);
        }
    }

    // ---- the connection

    pub fn connected(&mut self, now: MonotonicMs) {
        self.reconnect_pause = RECONNECT_MIN;
        self.reconnects = false;
        self.slots.forget_sent();
        self.connection = Connection::Open(Link {
            session: Session::default(),
            next_number: 0,
            fetches_underway: Vec::with_capacity(FETCHES_UNDERWAY_MAX),
            questions_underway: BTreeMap::new(),
            paused_until: None,
            last_answer: now,
        });
    }

    /// The connection broke, or could not be made.
    pub fn disconnected(&mut self, now: MonotonicMs) {
        self.connection = Connection::Closed { retry_at: now + self.reconnect_pause };
        self.reconnect_pause = (self.reconnect_pause * 2).min(RECONNECT_MAX);
        if !self.config.rules.forget_questions_of_broken_connection {
            self.slots.ask_again();
        }
    }

    // ---- answers

    /// The response to the fetch with this number, with its result per partition.
    pub fn fetched<F: Followers<Handle = H>, R: AsRef<[u8]>>(
        &mut self,
        now: MonotonicMs,
        number: RequestNumber,
        response: FetchResponse,
        partitions: impl IntoIterator<Item = (TopicIdPartition, FetchAnswer, R)>,
        followers: &mut F,
    ) {
        let Connection::Open(link) = &mut self.connection else { return };
        let Some(place) = link.fetches_underway.iter().position(|underway| *underway == number) else { return };
        link.fetches_underway.swap_remove(place);
        link.last_answer = now;
        if !link.session.covers(number) {
            return;
        }
        if response.error != ErrorCode::None {
            link.session.restart(link.next_number);
            link.paused_until = Some(now + REFUSED_PAUSE);
            return self.slots.forget_sent();
        }
        if !link.session.answered(number, response.session_id) {
            link.session.restart(link.next_number);
            self.slots.forget_sent();
        }
        for (partition, answer, records) in partitions {
            self.partition_fetched(now, number, partition, &answer, records.as_ref(), followers);
        }
    }

    fn partition_fetched<F: Followers<Handle = H>>(
        &mut self,
        now: MonotonicMs,
        number: RequestNumber,
        partition: TopicIdPartition,
        answer: &FetchAnswer,
        records: &[u8],
        followers: &mut F,
    ) {
        let Some(slot) = self.slots.get_mut(&partition) else { return self.slots.forget(partition) };
        let Some(asked) = slot.asked(number) else { return };
        if !records.is_empty() {
            slot.served(number);
        }
        let step = followers.fetched(&slot.handle, asked, answer, records);
        if !matches!(step, FollowerStep::Fetch(_)) {
            return self.execute(now, partition, step);
        }
        let held_until = followers.held_until(&slot.handle, now);
        self.slots.recovered(partition);
        match held_until {
            Some(until) => self.slots.pause(partition, until),
            None => self.execute(now, partition, step),
        }
    }

    /// The answer to the question with this number; none if the leader answered with an error.
    pub fn bounds_answered<F: Followers<Handle = H>>(
        &mut self,
        now: MonotonicMs,
        number: RequestNumber,
        offset: Option<Offset>,
        followers: &mut F,
    ) {
        let Connection::Open(link) = &mut self.connection else { return };
        let Some((partition, log_end)) = link.questions_underway.remove(&number) else { return };
        link.last_answer = now;
        // A question of an earlier leader epoch, or of an earlier stay, is not the one that the partition waits for.
        let Some((start, end)) = self.slots.questions_mut(&partition) else { return };
        let question = match log_end {
            LogEnd::Earliest => &mut *start,
            LogEnd::Latest => &mut *end,
        };
        if *question != Question::Asked(number) {
            return;
        }
        *question = Question::Answered(offset);
        let (Question::Answered(start), Question::Answered(end)) = (*start, *end) else { return };
        let Some(slot) = self.slots.get(&partition) else { return };
        let step = followers.leader_bounds(&slot.handle, slot.leader_epoch, start.zip(end));
        // Answered: if the follower needs the bounds again, it sends a new request.
        self.slots.pause(partition, now);
        self.execute(now, partition, step);
    }

    fn execute(&mut self, now: MonotonicMs, partition: TopicIdPartition, step: FollowerStep) {
        match step {
            FollowerStep::Fetch(position) => self.slots.fetch(partition, position),
            FollowerStep::BackOff => self.back_off(now, partition),
            FollowerStep::AskLeaderBounds => {
                let activity = self.slots.get(&partition).map(|slot| slot.activity());
                // Asking already: the answer comes, or the connection breaks.
                if !matches!(activity, Some(Activity::AskingBounds { .. })) {
                    self.slots.ask_bounds(partition);
                }
            }
            FollowerStep::Stop => self.slots.remove(partition),
        }
    }

    /// Pauses a partition for longer with each failure in a row.
    fn back_off(&mut self, now: MonotonicMs, partition: TopicIdPartition) {
        let failures = self.slots.failed(partition);
        let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(self.config.backoff_max);
        self.slots.pause(partition, now + pause);
    }

    // ---- timers

    /// The actions that are due now.
    pub fn tick<F: Followers<Handle = H>>(&mut self, now: MonotonicMs, followers: &mut F) -> Vec<Effect> {
        for partition in self.slots.due(now) {
            let Some(slot) = self.slots.get(&partition) else { continue };
            let step = followers.next_step(&slot.handle, slot.leader_epoch);
            match followers.held_until(&slot.handle, now).filter(|_| matches!(step, FollowerStep::Fetch(_))) {
                Some(until) => self.slots.pause(partition, until),
                None => self.execute(now, partition, step),
            }
        }
        let mut effects = Vec::new();
        match &self.connection {
            Connection::Closed { retry_at } if !self.slots.is_empty() && now >= *retry_at => {
                self.connection = Connection::Connecting;
                effects.push(Effect::Connect);
            }
            Connection::Closed { .. } | Connection::Connecting => {}
            Connection::Open(link) => match self.reason_to_disconnect(link, now) {
                Some(Disconnect::NothingToFetch) => {
                    self.connection = Connection::Closed { retry_at: now };
                    effects.push(Effect::Disconnect(Disconnect::NothingToFetch));
                }
                Some(reason) => {
                    self.disconnected(now);
                    effects.push(Effect::Disconnect(reason));
                }
                None => self.send(now, &mut effects),
            },
        }
        effects
    }

    /// When to call [`Fetcher::tick`] at the latest; none: after the next input.
    pub fn deadline(&self) -> Option<MonotonicMs> {
        let of_connection = match &self.connection {
            Connection::Closed { retry_at } => (!self.slots.is_empty()).then_some(*retry_at),
            Connection::Connecting => None,
            Connection::Open(link) => {
                let silent_at = link.is_waiting().then(|| self.silent_at(link));
                [link.paused_until, silent_at].into_iter().flatten().min()
            }
        };
        [self.slots.next_resume(), of_connection].into_iter().flatten().min()
    }

    fn silent_at(&self, link: &Link) -> MonotonicMs {
        link.last_answer + self.config.socket_timeout + self.config.max_wait
    }

    fn reason_to_disconnect(&self, link: &Link, now: MonotonicMs) -> Option<Disconnect> {
        if self.slots.is_empty() {
            Some(Disconnect::NothingToFetch)
        } else if self.reconnects {
            Some(Disconnect::SourceRegistered)
        } else if link.is_waiting() && now >= self.silent_at(link) {
            Some(Disconnect::Silent)
        } else {
            None
        }
    }

    fn send(&mut self, now: MonotonicMs, effects: &mut Vec<Effect>) {
        let Connection::Open(link) = &mut self.connection else { return };
        // Before the next fetch: a fetch that the source parks would delay these requests.
        if self.slots.is_asking() {
            ask_bounds(link, &mut self.slots, now, effects);
        }
        if link.paused_until.is_some_and(|until| now < until) {
            return;
        }
        link.paused_until = None;
        if !self.slots.has_active() {
            return;
        }
        let may_overtake = link.session.is_established()
            && link.fetches_underway.len() < FETCHES_UNDERWAY_MAX
            && self.slots.has_news();
        if !link.fetches_underway.is_empty() && !may_overtake {
            return;
        }
        if !link.session.is_established() {
            self.slots.forget_sent();
        }
        let number = link.begin(now);
        // Without a session each request names everything.
        let added_max = if link.session.is_refused() { usize::MAX } else { ADDED_MAX };
        let News { partitions, forgotten } = self.slots.take_news(number, added_max);
        let may_wait = link.session.may_wait() && !self.slots.has_news();
        let max_wait = if may_wait { self.config.max_wait } else { Duration::ZERO };
        let (session_id, session_epoch) = link.session.next(number);
        link.fetches_underway.push(number);
        effects.push(Effect::Fetch(FetchRequest {
            number,
            session_id,
            session_epoch,
            max_wait,
            partitions,
            forgotten,
        }));
    }
}

fn ask_bounds<H>(link: &mut Link, slots: &mut Slots<H>, now: MonotonicMs, effects: &mut Vec<Effect>) {
    for partition in slots.asking() {
        let Some(leader_epoch) = slots.get(&partition).map(|slot| slot.leader_epoch) else { continue };
        let Some((start, end)) = slots.questions_mut(&partition) else { continue };
        for (question, log_end) in [(start, LogEnd::Earliest), (end, LogEnd::Latest)] {
            if *question == Question::Due {
                let number = link.begin(now);
                *question = Question::Asked(number);
                link.questions_underway.insert(number, (partition, log_end));
                effects.push(Effect::AskBounds(BoundsQuestion { number, partition, leader_epoch, end: log_end }));
            }
        }
    }
}
