//! Whether clients are served, and else what is missing: what `/readyz` tells.

use std::time::{Duration, Instant};

use ottla_broker_session::Standing;
use ottla_replica_manager::log_dirs::opening::OpeningProgress;
use parking_lot::Mutex;

/// How far a broker has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    OpeningLogs,
    /// Its logs are open; the rest is between it and the quorum.
    InSession(Standing),
    Stopping,
}

#[derive(Debug)]
pub struct Readiness {
    stage: Mutex<Stage>,
    /// When the quorum answered last.
    heard: Mutex<Instant>,
    /// A quorum that is silent for so long has fenced this broker, or is gone: this broker cannot know.
    silence_max: Duration,
    pub opening: OpeningProgress,
}

impl Readiness {
    pub fn new(silence_max: Duration) -> Self {
        Self {
            stage: Mutex::new(Stage::OpeningLogs),
            heard: Mutex::new(Instant::now()),
            silence_max,
            opening: OpeningProgress::default(),
        }
    }

    pub fn enter(&self, stage: Stage) {
        *self.stage.lock() = stage;
    }

    /// The quorum has answered.
    pub fn heard(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// What keeps clients away, if anything does.
    pub fn missing(&self) -> Option<String> {
        let standing = match *self.stage.lock() {
            Stage::OpeningLogs => return Some(self.opening.to_string()),
            Stage::Stopping => return Some("stopping".to_owned()),
            Stage::InSession(standing) => standing,
        };
        let missing = match standing {
            Standing::Unregistered => "waiting for the quorum to register this broker",
            Standing::Fenced => "fenced: registering again",
            Standing::CatchingUp => "registered, and fenced until the quorum knows that this broker has its image",
            Standing::Live => {
                let silence = self.heard.lock().elapsed();
                let is_lost = silence > self.silence_max;
                return is_lost.then(|| format!("the quorum has not answered for {} s", silence.as_secs()));
            }
        };
        Some(missing.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_says_what_is_missing() {
        let readiness = Readiness::new(Duration::from_secs(3600));
        let missing = |stage: Stage| {
            readiness.enter(stage);
            readiness.missing().unwrap_or_default()
        };
        assert_eq!(missing(Stage::OpeningLogs), "0 of 0 logs opened");
        assert!(missing(Stage::InSession(Standing::Unregistered)).contains("waiting for the quorum"));
        assert!(missing(Stage::InSession(Standing::CatchingUp)).contains("its image"));
        assert_eq!(missing(Stage::InSession(Standing::Live)), "");
        assert!(missing(Stage::InSession(Standing::Fenced)).starts_with("fenced"));
        assert_eq!(missing(Stage::Stopping), "stopping");
    }

    #[test]
    fn a_silent_quorum_is_missing_until_it_answers() {
        let mut readiness = Readiness::new(Duration::ZERO);
        readiness.enter(Stage::InSession(Standing::Live));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(readiness.missing().as_deref(), Some("the quorum has not answered for 0 s"));
        readiness.silence_max = Duration::from_secs(3600);
        readiness.heard();
        assert_eq!(readiness.missing(), None);
    }
}
