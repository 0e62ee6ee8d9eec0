//! Registering: what a broker says of itself, which refusals pass, and when it asks again.

use std::time::Duration;

use ottla_metadata::Endpoint;
use ottla_metadata::controller::{Refusal, Register, Registered};
use ottla_metadata::image::LeaderSettings;
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, FeatureLevels, IncarnationId, ListenerName, MonotonicMs,
};

use crate::config::{DUPLICATE_MARGIN, REGISTER_RETRY, REGISTER_RETRY_MAX, SessionConfig};
use crate::give_up::GiveUp;

/// What a broker says of itself when it registers.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The id to register with; [`BrokerId::NONE`]: the quorum gives one.
    pub id: BrokerId,
    /// Of this process.
    pub incarnation: IncarnationId,
    /// Of `meta.properties`: none tells the quorum that this disk is new.
    pub stored_cluster_id: Option<ClusterId>,
    /// `cluster.id`: the only cluster that this broker may join.
    pub wanted_cluster_id: Option<ClusterId>,
    pub endpoints: Vec<Endpoint>,
    pub inter_broker_listener: ListenerName,
    pub rack: Option<String>,
    /// The epoch up to which this broker's logs are known to be whole, as its last process left them.
    pub whole_since: BrokerEpoch,
    pub min_insync_replicas: i32,
    pub leaders: LeaderSettings,
    /// The levels of `ottla.version` that this release works at.
    pub levels: FeatureLevels,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A broker on a new disk that was told which cluster it belongs to must not show up in another one, not even for a
    /// moment.
    ClusterUnknown {
        ask_at: MonotonicMs,
    },
    AskingCluster,
    Unregistered {
        register_at: MonotonicMs,
    },
    Registering,
    Registered {
        epoch: BrokerEpoch,
    },
}

/// What to ask of the quorum.
pub(crate) enum Question {
    ClusterId,
    Register(Register),
}

#[derive(Debug)]
pub(crate) struct Registration {
    applicant: Applicant,
    phase: Phase,
    /// Since when a living broker is said to hold the id.
    duplicate_since: Option<MonotonicMs>,
    /// After the next refusal.
    refused_pause: Duration,
}

impl Registration {
    pub fn new(applicant: Applicant, now: MonotonicMs) -> Self {
        let must_ask = applicant.stored_cluster_id.is_none() && applicant.wanted_cluster_id.is_some();
        let phase =
            if must_ask { Phase::ClusterUnknown { ask_at: now } } else { Phase::Unregistered { register_at: now } };
        Self { applicant, phase, duplicate_since: None, refused_pause: REGISTER_RETRY }
    }

    pub fn id(&self) -> BrokerId {
        self.applicant.id
    }

    pub fn incarnation(&self) -> IncarnationId {
        self.applicant.incarnation
    }

    /// None while this broker is not registered, or was fenced.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        match self.phase {
            Phase::Registered { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// The last epoch up to which nothing was lost: a broker that was fenced has lost nothing.
    pub fn whole_since(&self) -> BrokerEpoch {
        self.epoch().unwrap_or(self.applicant.whole_since)
    }

    pub fn question(&mut self, now: MonotonicMs) -> Option<Question> {
        match self.phase {
            Phase::ClusterUnknown { ask_at } if now >= ask_at => {
                self.phase = Phase::AskingCluster;
                Some(Question::ClusterId)
            }
            Phase::Unregistered { register_at } if now >= register_at => {
                self.phase = Phase::Registering;
                Some(Question::Register(self.request()))
            }
            _ => None,
        }
    }

    pub fn deadline(&self) -> Option<MonotonicMs> {
        match self.phase {
            Phase::ClusterUnknown { ask_at: at } | Phase::Unregistered { register_at: at } => Some(at),
            Phase::AskingCluster | Phase::Registering | Phase::Registered { .. } => None,
        }
    }

    fn request(&self) -> Register {
        let applicant = &self.applicant;
        Register {
            broker: applicant.id,
            incarnation: applicant.incarnation,
            cluster_id: applicant.stored_cluster_id.clone(),
            endpoints: applicant.endpoints.clone(),
            inter_broker_listener: applicant.inter_broker_listener.clone(),
            rack: applicant.rack.clone(),
            clean_shutdown_epoch: applicant.whole_since,
            min_insync_replicas: applicant.min_insync_replicas,
            leaders: applicant.leaders,
            levels: applicant.levels,
        }
    }

    /// The coordinators belong to this cluster; none where they have no id yet: they answer the registration with the
    /// one they take.
    pub fn cluster_id_answered(&mut self, now: MonotonicMs, found: Option<&ClusterId>) -> Result<(), GiveUp> {
        if self.phase != Phase::AskingCluster {
            return Ok(());
        }
        if let Some(found) = found {
            self.check_cluster(found)?;
        }
        self.phase = Phase::Unregistered { register_at: now };
        Ok(())
    }

    /// No coordinator answered in time. The call has taken that time: another one follows soon.
    pub fn unanswered(&mut self, now: MonotonicMs) {
        self.ask_again(now + REGISTER_RETRY);
    }

    /// A coordinator refused the call: this broker has not proved that it belongs to the cluster.
    pub fn turned_away(&mut self, now: MonotonicMs) {
        let pause = self.next_refused_pause();
        self.ask_again(now + pause);
    }

    fn ask_again(&mut self, at: MonotonicMs) {
        match self.phase {
            Phase::AskingCluster => self.phase = Phase::ClusterUnknown { ask_at: at },
            Phase::Registering => self.register_at(at),
            Phase::ClusterUnknown { .. } | Phase::Unregistered { .. } | Phase::Registered { .. } => {}
        }
    }

    fn next_refused_pause(&mut self) -> Duration {
        let next = (self.refused_pause * 2).min(REGISTER_RETRY_MAX);
        std::mem::replace(&mut self.refused_pause, next)
    }

    /// Whether this broker is registered now.
    pub fn answered(
        &mut self,
        now: MonotonicMs,
        config: &SessionConfig,
        result: Result<&Registered, Refusal>,
    ) -> Result<bool, GiveUp> {
        if self.phase != Phase::Registering {
            return Ok(false);
        }
        match result {
            Ok(registered) => {
                self.check_cluster(&registered.cluster_id)?;
                self.applicant.id = registered.broker;
                self.applicant.stored_cluster_id = Some(registered.cluster_id.clone());
                self.duplicate_since = None;
                self.refused_pause = REGISTER_RETRY;
                self.phase = Phase::Registered { epoch: registered.epoch };
                Ok(true)
            }
            Err(refusal) => {
                self.refused(now, config, refusal)?;
                Ok(false)
            }
        }
    }

    fn refused(&mut self, now: MonotonicMs, config: &SessionConfig, refusal: Refusal) -> Result<(), GiveUp> {
        let pause = match refusal.error {
            ErrorCode::DuplicateBrokerRegistration => {
                let since = *self.duplicate_since.get_or_insert(now);
                if now.since(since) >= config.session_timeout + DUPLICATE_MARGIN {
                    return Err(GiveUp::DuplicateId { id: self.applicant.id, refusal });
                }
                // The holder may be fenced any moment, and this state has an end.
                REGISTER_RETRY
            }
            ErrorCode::InconsistentClusterId => return Err(GiveUp::ClusterRefused(refusal)),
            error if error.is_retriable() => self.next_refused_pause(),
            _ => return Err(GiveUp::Refused(refusal)),
        };
        self.register_at(now + pause);
        Ok(())
    }

    fn check_cluster(&self, found: &ClusterId) -> Result<(), GiveUp> {
        let known = [&self.applicant.stored_cluster_id, &self.applicant.wanted_cluster_id];
        match known.into_iter().flatten().find(|known| *known != found) {
            Some(expected) => Err(GiveUp::OtherCluster { found: found.clone(), expected: expected.clone() }),
            None => Ok(()),
        }
    }

    fn register_at(&mut self, register_at: MonotonicMs) {
        self.phase = Phase::Unregistered { register_at };
    }

    /// The quorum took this broker for dead. The process lives on and has lost nothing: the epoch up to which its logs
    /// are whole is the one that it had.
    pub fn fenced(&mut self, now: MonotonicMs) {
        if let Some(epoch) = self.epoch() {
            self.applicant.whole_since = epoch;
            self.register_at(now);
        }
    }
}
