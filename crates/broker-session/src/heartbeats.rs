//! The stream of heartbeats: when it is opened and given up, and when a beat leaves.

use ottla_model::{MonotonicMs, Revision};

use crate::config::{BEAT_DISTANCE_MIN, IMAGE_LAG_MAX, REFUSED_PAUSE, REOPEN_PAUSE, SessionConfig};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Closed { open_at: MonotonicMs },
    Opening,
    Open(OpenStream),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct OpenStream {
    last_beat: MonotonicMs,
    /// The first beat without an answer.
    unanswered_since: Option<MonotonicMs>,
    /// The image has moved since the last beat.
    has_news: bool,
}

/// When the image was first seen behind, and behind what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lag {
    committed: Revision,
    since: MonotonicMs,
}

/// What to do with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Open,
    Beat,
    /// The coordinator answers nothing.
    Close,
}

#[derive(Debug)]
pub(crate) struct Heartbeats {
    stream: Stream,
    lag: Option<Lag>,
    /// The newest that a coordinator has said.
    committed: Revision,
}

impl Heartbeats {
    pub fn new() -> Self {
        Self { stream: Stream::Closed { open_at: MonotonicMs(0) }, lag: None, committed: Revision::default() }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.stream, Stream::Closed { .. })
    }

    pub fn is_open(&self) -> bool {
        matches!(self.stream, Stream::Open(_))
    }

    /// From now on a stream is wanted.
    pub fn open_now(&mut self, now: MonotonicMs) {
        self.stream = Stream::Closed { open_at: now };
    }

    /// The first beat left with the opening.
    pub fn opened(&mut self, now: MonotonicMs) {
        if self.stream == Stream::Opening {
            let stream = OpenStream { last_beat: now, unanswered_since: Some(now), has_news: false };
            self.stream = Stream::Open(stream);
        }
    }

    /// The stream ended, or could not be opened.
    pub fn lost(&mut self, now: MonotonicMs) {
        self.close_until(now + REOPEN_PAUSE);
    }

    /// A coordinator refused to open it.
    pub fn refused(&mut self, now: MonotonicMs) {
        self.close_until(now + REFUSED_PAUSE);
    }

    fn close_until(&mut self, open_at: MonotonicMs) {
        if !self.is_closed() {
            self.stream = Stream::Closed { open_at };
        }
    }

    pub fn answered(&mut self, now: MonotonicMs, committed: Revision, image: Revision) {
        if let Stream::Open(stream) = &mut self.stream {
            stream.unanswered_since = None;
        }
        self.committed = self.committed.max(committed);
        if self.lag.is_none() && image < self.committed {
            self.lag = Some(Lag { committed: self.committed, since: now });
        }
    }

    /// The image has reached `image`; `has_news`: the broker's partitions have taken more of it than the last beat
    /// said.
    pub fn image_moved(&mut self, image: Revision, has_news: bool) {
        if let Stream::Open(stream) = &mut self.stream {
            stream.has_news |= has_news;
        }
        if self.lag.is_some_and(|lag| image >= lag.committed) {
            self.lag = None;
        }
    }

    /// Whether the watch is to be left: its coordinator lags.
    pub fn leaves_watch(&mut self, now: MonotonicMs) -> bool {
        self.lag.take_if(|lag| now >= lag.since + IMAGE_LAG_MAX).is_some()
    }

    pub fn step(&mut self, now: MonotonicMs, config: &SessionConfig) -> Option<Step> {
        match &mut self.stream {
            Stream::Closed { open_at } if now >= *open_at => {
                self.stream = Stream::Opening;
                Some(Step::Open)
            }
            Stream::Closed { .. } | Stream::Opening => None,
            Stream::Open(stream) if stream.is_silent(now, config) => {
                self.lost(now);
                Some(Step::Close)
            }
            Stream::Open(stream) => {
                if now < stream.next_beat(config) {
                    return None;
                }
                stream.last_beat = now;
                stream.unanswered_since.get_or_insert(now);
                stream.has_news = false;
                Some(Step::Beat)
            }
        }
    }

    pub fn deadline(&self, config: &SessionConfig) -> Option<MonotonicMs> {
        let of_stream = match &self.stream {
            Stream::Closed { open_at } => Some(*open_at),
            Stream::Opening => None,
            Stream::Open(stream) => {
                [stream.silent_at(config), Some(stream.next_beat(config))].into_iter().flatten().min()
            }
        };
        let of_lag = self.lag.map(|lag| lag.since + IMAGE_LAG_MAX);
        [of_stream, of_lag].into_iter().flatten().min()
    }
}

impl OpenStream {
    fn silent_at(&self, config: &SessionConfig) -> Option<MonotonicMs> {
        self.unanswered_since.map(|since| since + config.silence_max())
    }

    fn is_silent(&self, now: MonotonicMs, config: &SessionConfig) -> bool {
        self.silent_at(config).is_some_and(|at| now >= at)
    }

    fn next_beat(&self, config: &SessionConfig) -> MonotonicMs {
        let distance =
            if self.has_news { BEAT_DISTANCE_MIN.min(config.heartbeat_interval) } else { config.heartbeat_interval };
        self.last_beat + distance
    }
}
