//! The level of `ottla.version`: when it may change, and what waits for it.
//!
//! A level is finalized when every registered broker and every member of the quorum works at it, and from then on those
//! that do not are refused. Kafka's own features have one level in a release: an update to that level changes nothing.

use ottla_model::{CoordinatorId, ErrorCode, FeatureLevel, FeatureLevels, KAFKAS_FEATURES, OTTLA_VERSION, Revision};

use super::draft::Draft;
use super::{Answer, Controller, FeatureChange, FeatureUpdate, Refusal, RequestId, UpdateFeatures, UpdatedFeatures};
use crate::image::Image;
use crate::limits;
use crate::nodes;

/// What may be written only from a level on, because processes of lower ones do not know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gated {
    /// A broker that does not know them refuses the logins of clients that have one.
    DelegationTokens,
    /// A broker that does not know them asks clients for nothing, and answers for no subscription.
    ClientMetrics,
}

impl Gated {
    pub fn from(self) -> FeatureLevel {
        match self {
            Self::DelegationTokens | Self::ClientMetrics => FeatureLevel::TOKENS_AND_CLIENT_METRICS,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::DelegationTokens => "Delegation tokens need",
            Self::ClientMetrics => "Subscriptions to metrics of clients need",
        }
    }

    /// Whether the cluster may have it.
    pub fn check(self, image: &Image) -> Result<(), Refusal> {
        let (needed, finalized) = (self.from(), image.finalized().level);
        if finalized >= needed {
            return Ok(());
        }
        let text = format!(
            "{} {OTTLA_VERSION} {needed}, and the cluster is at {finalized}: when all its processes are of this \
             release, kafka-features upgrade --feature {OTTLA_VERSION}={needed}",
            self.what()
        );
        Err(Refusal::new(ErrorCode::UnsupportedVersion, text))
    }
}

impl Controller {
    pub(super) fn check_finalized(&self, gated: Gated) -> Result<(), Refusal> {
        match self.config.rules.levels_gate_nothing {
            true => Ok(()),
            false => gated.check(self.ledger.ahead()),
        }
    }

    pub(super) fn update_features(&mut self, id: RequestId, request: &UpdateFeatures) {
        let answer = self.plan_features(request).map(|level| {
            if let Some(level) = level.filter(|_| !request.validate_only) {
                let mut draft = Draft::default();
                draft.put(self.ledger.ahead_tree(), nodes::feature::path(), nodes::feature::encode(level));
                self.propose(draft);
                self.note(format!("{OTTLA_VERSION} is finalized at level {level}"));
            }
            UpdatedFeatures { revision: Revision(0) }
        });
        self.answer(id, Answer::UpdateFeatures(answer));
    }

    /// The new level of `ottla.version`; none if it stays.
    fn plan_features(&self, request: &UpdateFeatures) -> Result<Option<FeatureLevel>, Refusal> {
        if request.updates.len() > limits::MAX_ITEMS_PER_REQUEST {
            return Err(Refusal::new(ErrorCode::PolicyViolation, String::new()));
        }
        let mut planned = None;
        for update in &request.updates {
            if update.name != OTTLA_VERSION {
                self.check_fixed(update)?;
                continue;
            }
            if planned.is_some() {
                return Err(refusal(update, "It is named more than once."));
            }
            planned = Some(self.plan_level(update)?);
        }
        let current = self.ledger.ahead().finalized().level;
        Ok(planned.filter(|level| *level != current))
    }

    fn check_fixed(&self, update: &FeatureUpdate) -> Result<(), Refusal> {
        let Some((_, level)) = KAFKAS_FEATURES.iter().find(|(name, _)| *name == update.name) else {
            return Err(refusal(update, "The controller does not support this feature."));
        };
        match *level == update.level {
            true => Ok(()),
            false => Err(refusal(update, &format!("The controller only supports versions {level}-{level}"))),
        }
    }

    fn plan_level(&self, update: &FeatureUpdate) -> Result<FeatureLevel, Refusal> {
        let (level, current) = (FeatureLevel(update.level), self.ledger.ahead().finalized().level);
        if level < FeatureLevel(0) {
            return Err(refusal(update, "A feature version cannot be less than 0."));
        }
        if !self.config.rules.levels_are_not_asked
            && let Some(reason) = self.reason_not_supported(level)
        {
            return Err(refusal(update, &reason));
        }
        match update.change {
            FeatureChange::Upgrade if level < current => Err(refusal(
                update,
                "Can't downgrade the version of this feature without setting the upgrade type to either safe or \
                 unsafe downgrade.",
            )),
            FeatureChange::SafeDowngrade | FeatureChange::UnsafeDowngrade if level > current => {
                Err(refusal(update, "Can't downgrade to a newer version."))
            }
            FeatureChange::SafeDowngrade => match self.lost_below(level) {
                Some(lost) => Err(refusal(update, &lost)),
                None => Ok(level),
            },
            FeatureChange::Upgrade | FeatureChange::UnsafeDowngrade => Ok(level),
        }
    }

    /// Who does not work at a level; none if every process of the cluster does.
    fn reason_not_supported(&self, level: FeatureLevel) -> Option<String> {
        let does_not = |who: String, levels: FeatureLevels| {
            (!levels.includes(level)).then(|| format!("{who} only supports versions {levels}"))
        };
        let members = self.quorum_levels.iter().map(|(id, levels)| match levels {
            Some(levels) => does_not(coordinator(*id), *levels),
            None => Some(format!("{} has not told which versions it supports", coordinator(*id))),
        });
        let ahead = self.ledger.ahead();
        let live = ahead.brokers().map(|broker| does_not(format!("Broker {}", broker.id), broker.levels));
        let fenced = ahead.fenced_brokers().map(|broker| does_not(format!("Broker {}", broker.id), broker.levels));
        let of_this_one = does_not("The controller".to_owned(), self.config.levels);
        [of_this_one].into_iter().chain(members).chain(live).chain(fenced).flatten().next()
    }

    /// What the tree has that processes of a lower level do not know.
    fn lost_below(&self, level: FeatureLevel) -> Option<String> {
        let ahead = self.ledger.ahead();
        if level >= FeatureLevel::TOKENS_AND_CLIENT_METRICS {
            return None;
        }
        let (tokens, subscriptions) = (ahead.delegation_tokens().count(), ahead.client_metrics().count());
        let has = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let kept = [has(tokens, "delegation tokens"), has(subscriptions, "subscriptions to metrics of clients")];
        let kept: Vec<_> = kept.into_iter().flatten().collect();
        (!kept.is_empty()).then(|| {
            format!(
                "Refusing to perform the requested downgrade because it might delete metadata information: the \
                 cluster has {}. Retry using UNSAFE_DOWNGRADE if you want to force the downgrade to proceed.",
                kept.join(" and ")
            )
        })
    }

    /// A broker that does not work at the finalized level would not understand what is written.
    pub(super) fn check_levels_of_registration(&self, levels: FeatureLevels) -> Result<(), Refusal> {
        let finalized = self.ledger.ahead().finalized().level;
        if levels.includes(finalized) || self.config.rules.unknown_levels_register {
            return Ok(());
        }
        let FeatureLevels { min, max } = levels;
        let text = format!(
            "Unable to register because the broker does not support finalized version {finalized} of \
             {OTTLA_VERSION}. The broker wants a version between {min} and {max}, inclusive."
        );
        Err(Refusal::new(ErrorCode::UnsupportedVersion, text))
    }
}

fn coordinator(id: CoordinatorId) -> String {
    format!("Coordinator {id}")
}

fn refusal(update: &FeatureUpdate, reason: &str) -> Refusal {
    let FeatureUpdate { name, level, .. } = update;
    Refusal::new(
        ErrorCode::InvalidUpdateVersion,
        format!("Invalid update version {level} for feature {name}. {reason}"),
    )
}
