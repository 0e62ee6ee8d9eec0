//! How a client finds the leader of the quorum: which coordinator it asks next, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::CoordinatorId;

/// The first pause after a round in which no coordinator led.
pub const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// The longest such pause: an election takes several hundred milliseconds, and its end should be noticed soon.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// How long one coordinator may hold a call that can be repeated without harm before the next one is asked.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a call may be repeated while its first attempt might still take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// Yes: the quorum recognises what is already done. An attempt is given up after [`ATTEMPT_TIMEOUT`].
    Freely,
    /// Only when the attempt before certainly did nothing, or its connection broke; an attempt has the whole deadline.
    WhenAnswered,
}

/// Which coordinator all calls of a client ask first. `A`: the address of one.
#[derive(Clone, Debug)]
pub struct LeaderSearch<A> {
    /// As configured, and as the cluster's members changed since.
    listed: Vec<A>,
    guess: A,
    /// Which coordinator answered at which listed address: a hint's id then leads to an address that is known to work
    /// from here.
    ids: BTreeMap<CoordinatorId, usize>,
}

impl<A: Clone + PartialEq> LeaderSearch<A> {
    /// None where no coordinator is listed.
    pub fn new(listed: Vec<A>) -> Option<Self> {
        let guess = listed.first()?.clone();
        Some(Self { listed, guess, ids: BTreeMap::new() })
    }

    /// Lists other coordinators from now on, unless there are none. The guess stays: it may lead.
    pub fn set_listed(&mut self, listed: Vec<A>) {
        if !listed.is_empty() && listed != self.listed {
            self.listed = listed;
            self.ids.clear();
        }
    }

    pub fn guess(&self) -> &A {
        &self.guess
    }

    /// This one answered as the leader.
    pub fn leads(&mut self, leader: &A) {
        if self.guess != *leader {
            self.guess = leader.clone();
        }
    }

    /// Nothing came from `from`: the next listed one is the guess, unless another call has already moved on.
    pub fn move_on(&mut self, from: &A) {
        if self.guess != *from {
            return;
        }
        let next = self.position(from).map_or(0, |at| at + 1) % self.listed.len().max(1);
        if let Some(next) = self.listed.get(next) {
            self.guess = next.clone();
        }
    }

    /// `from`, which is the coordinator `answered_by`, does not lead. `leader`: whom it takes for the leader, and the
    /// address by which the coordinators know that one, if it is an address. True where that is another coordinator, to
    /// be asked at once.
    pub fn does_not_lead(
        &mut self,
        from: &A,
        answered_by: CoordinatorId,
        leader: Option<(CoordinatorId, Option<A>)>,
    ) -> bool {
        if let Some(at) = self.position(from) {
            self.ids.insert(answered_by, at);
        }
        let known = leader.and_then(|(id, address)| self.address_of(id).or(address));
        match known.filter(|leader| leader != from) {
            Some(leader) => {
                self.guess = leader;
                true
            }
            None => {
                self.move_on(from);
                false
            }
        }
    }

    /// Takes in the result of an attempt at `asked`. Returns the pause before the next attempt, if another one follows.
    pub fn attempted(
        &mut self,
        attempts: &mut Attempts,
        elapsed: Duration,
        asked: &A,
        result: Attempted<A>,
    ) -> Duration {
        let ask_at_once = match result {
            Attempted::Answered => {
                self.leads(asked);
                return Duration::ZERO;
            }
            Attempted::NotLeader { answered_by, leader } => self.does_not_lead(asked, answered_by, leader),
            Attempted::Nothing => {
                self.move_on(asked);
                false
            }
        };
        attempts.failed(elapsed, ask_at_once, self.listed.len())
    }

    fn address_of(&self, id: CoordinatorId) -> Option<A> {
        self.ids.get(&id).and_then(|at| self.listed.get(*at)).cloned()
    }

    fn position(&self, address: &A) -> Option<usize> {
        self.listed.iter().position(|listed| listed == address)
    }
}

/// The result of one attempt of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attempted<A> {
    /// The leader answered.
    Answered,
    /// The coordinator `answered_by` does not lead; `leader`: see [`LeaderSearch::does_not_lead`].
    NotLeader { answered_by: CoordinatorId, leader: Option<(CoordinatorId, Option<A>)> },
    /// No answer came.
    Nothing,
}

/// The attempts of one call.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    timeout: Duration,
    repeat: Repeat,
    pause: Duration,
    since_pause: usize,
}

impl Attempts {
    /// A call that has `timeout` for all its attempts.
    pub fn new(timeout: Duration, repeat: Repeat) -> Self {
        Self { timeout, repeat, pause: BACKOFF_MIN, since_pause: 0 }
    }

    /// How long the next attempt may take; none: the call's time is over. `elapsed`: since the call began.
    pub fn next(&self, elapsed: Duration) -> Option<Duration> {
        let remaining = self.timeout.saturating_sub(elapsed);
        let patience = match self.repeat {
            Repeat::Freely => remaining.min(ATTEMPT_TIMEOUT),
            Repeat::WhenAnswered => remaining,
        };
        (!remaining.is_zero()).then_some(patience)
    }

    /// How long to wait after an attempt that brought no answer of the leader's, of a client that lists so many
    /// coordinators.
    ///
    /// A hint is followed at once, but a hint to a dead leader is heard again and again until the election is over: one
    /// round over the list, and one hop, then a pause.
    pub fn failed(&mut self, elapsed: Duration, ask_at_once: bool, listed: usize) -> Duration {
        self.since_pause += 1;
        if self.since_pause < listed || (ask_at_once && self.since_pause == listed) {
            return Duration::ZERO;
        }
        let pause = self.pause.min(self.timeout.saturating_sub(elapsed));
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        self.since_pause = 0;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> LeaderSearch<&'static str> {
        LeaderSearch::new(vec!["one", "two", "three"]).expect("three are listed")
    }

    #[test]
    fn follows_hints_to_an_address_that_is_known_to_work() {
        let mut search = three();
        let id = CoordinatorId;
        assert!(!search.does_not_lead(&"one", id(1), None));
        assert_eq!(*search.guess(), "two");
        // Number 3 answers at the address `two`.
        assert!(!search.does_not_lead(&"two", id(3), None));
        assert!(search.does_not_lead(&"one", id(1), Some((id(3), Some("inside")))));
        assert_eq!(*search.guess(), "two");
        assert!(search.does_not_lead(&"one", id(1), Some((id(9), Some("elsewhere")))));
        assert_eq!(*search.guess(), "elsewhere");
        // From an address outside the list, the search comes back to the list.
        search.move_on(&"elsewhere");
        assert_eq!(*search.guess(), "one");
    }

    #[test]
    fn a_hint_to_itself_or_to_no_address_is_no_hint() {
        let mut search = three();
        assert!(!search.does_not_lead(&"one", CoordinatorId(1), Some((CoordinatorId(1), Some("inside")))));
        assert_eq!(*search.guess(), "two");
        assert!(!search.does_not_lead(&"two", CoordinatorId(2), Some((CoordinatorId(9), None))));
        assert_eq!(*search.guess(), "three");
    }

    #[test]
    fn moves_on_around_the_list_unless_another_call_has() {
        let mut search = three();
        search.move_on(&"two");
        assert_eq!(*search.guess(), "one");
        for next in ["two", "three", "one"] {
            let from = *search.guess();
            search.move_on(&from);
            assert_eq!(*search.guess(), next);
        }
        search.leads(&"three");
        assert_eq!(*search.guess(), "three");
        assert!(LeaderSearch::<u8>::new(Vec::new()).is_none());
    }

    #[test]
    fn another_list_is_gone_around_from_its_beginning() {
        let mut search = three();
        search.leads(&"three");
        search.set_listed(vec!["two", "four"]);
        assert_eq!(*search.guess(), "three", "it may lead still");
        search.move_on(&"three");
        assert_eq!(*search.guess(), "two");
        search.set_listed(Vec::new());
        search.move_on(&"two");
        assert_eq!(*search.guess(), "four");
    }

    #[test]
    fn pauses_after_each_round_for_longer_and_longer() {
        let mut attempts = Attempts::new(Duration::from_secs(60), Repeat::Freely);
        let mut pauses = Vec::new();
        for attempt in 1..=15 {
            let pause = attempts.failed(Duration::ZERO, false, 3);
            assert_eq!(pause.is_zero(), attempt % 3 != 0);
            pauses.push(pause.as_millis());
        }
        pauses.retain(|pause| *pause > 0);
        assert_eq!(pauses, [25, 50, 100, 200, 250]);
        // One hop more for a hint.
        let hops: Vec<_> = (0..4).map(|_| attempts.failed(Duration::ZERO, true, 3).is_zero()).collect();
        assert_eq!(hops, [true, true, true, false]);
        assert_eq!(attempts.failed(Duration::ZERO, false, 1), Duration::from_millis(250));
        assert_eq!(attempts.failed(Duration::from_millis(59_990), false, 1), Duration::from_millis(10));
    }

    #[test]
    fn a_call_asks_the_named_leader_at_once_and_pauses_after_a_round() {
        let (mut search, mut attempts) = (three(), Attempts::new(Duration::from_secs(60), Repeat::Freely));
        let mut attempt = |asked: &'static str, result| {
            let pause = search.attempted(&mut attempts, Duration::ZERO, &asked, result);
            (*search.guess(), pause.as_millis())
        };
        let leader = Some((CoordinatorId(3), Some("three")));
        let named = Attempted::NotLeader { answered_by: CoordinatorId(1), leader };
        assert_eq!(attempt("one", named), ("three", 0));
        assert_eq!(attempt("three", Attempted::Nothing), ("one", 0));
        assert_eq!(attempt("one", Attempted::Nothing), ("two", 25), "a round is over");
        assert_eq!(attempt("two", Attempted::Answered), ("two", 0));
    }

    #[test]
    fn an_attempt_has_what_is_left_or_a_second() {
        let timeout = Duration::from_millis(2_500);
        let freely = Attempts::new(timeout, Repeat::Freely);
        assert_eq!(freely.next(Duration::ZERO), Some(ATTEMPT_TIMEOUT));
        assert_eq!(freely.next(Duration::from_millis(2_400)), Some(Duration::from_millis(100)));
        assert_eq!(freely.next(timeout), None);
        let once = Attempts::new(timeout, Repeat::WhenAnswered);
        assert_eq!(once.next(Duration::ZERO), Some(timeout));
    }
}
