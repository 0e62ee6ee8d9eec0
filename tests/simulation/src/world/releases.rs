//! Processes of two releases side by side, as far as the levels of `ottla.version` tell them apart.

use ottla_metadata::controller::{AlterDelegationToken, FeatureChange, FeatureUpdate, TokenChange, UpdateFeatures};
use ottla_model::{KafkaPrincipal, OTTLA_VERSION};

use super::*;

/// What the older release works at.
pub const OLDER: FeatureLevels = FeatureLevels { min: FeatureLevel::FIRST, max: FeatureLevel::FIRST };
/// What the newer release works at.
pub const NEWER: FeatureLevels = FeatureLevels::OF_THIS_RELEASE;

const TOKEN: &str = "token";
/// Longer than any run.
const TOKEN_LIFETIME_MS: i64 = 3_600_000;

impl World {
    /// Of the release of a process, or of the one that is started next.
    pub(super) fn levels(&self, node: NodeId) -> FeatureLevels {
        let levels = match node {
            NodeId::Coordinator(id) => self.coordinators.get(&id).map(|node| node.settings.levels),
            NodeId::Broker(id) => self.brokers.get(&id).map(|node| node.levels),
            NodeId::Client(_) => None,
        };
        levels.unwrap_or(NEWER)
    }

    pub(super) fn set_levels(&mut self, node: NodeId, levels: FeatureLevels) {
        match node {
            NodeId::Coordinator(id) => {
                if let Some(node) = self.coordinators.get_mut(&id) {
                    node.settings.levels = levels;
                }
            }
            NodeId::Broker(id) => {
                if let Some(node) = self.brokers.get_mut(&id) {
                    node.levels = levels;
                }
            }
            NodeId::Client(_) => {}
        }
    }

    /// People stop a process, and start the other release later.
    pub fn change_release(&mut self, node: NodeId) {
        let levels = if self.levels(node) == OLDER { NEWER } else { OLDER };
        self.kill(node);
        self.trace.line(self.now, format_args!("{node} is to work at {levels}"));
        self.set_levels(node, levels);
    }

    /// Whether the process that is to start was refused, or would be: it does not work at the newest level.
    pub(super) fn lacks_level(&self, node: NodeId) -> bool {
        self.config.releases && !self.levels(node).includes(self.image.finalized().level)
    }

    /// People read why a process ended, or what the other release is needed for; not always at once.
    pub(super) fn maybe_upgrade(&mut self, node: NodeId) {
        if self.random.percent(60) {
            self.trace.line(self.now, format_args!("{node} gets the newer release"));
            self.set_levels(node, NEWER);
        }
    }

    pub fn change_level(&mut self, level: FeatureLevel) {
        if self.is_admin_done() {
            self.trace.line(self.now, format_args!("admin: {OTTLA_VERSION} is to be {level}"));
            self.admin.push(AdminTask::ChangeLevel(level));
        }
    }

    pub fn change_token(&mut self) {
        if self.is_admin_done() {
            let is_made = self.image.delegation_token(TOKEN).is_none();
            self.admin.push(AdminTask::ChangeToken { is_made });
        }
    }

    pub(super) fn level_request(&self, level: FeatureLevel) -> Request {
        let is_raised = level > self.image.finalized().level;
        let change = if is_raised { FeatureChange::Upgrade } else { FeatureChange::SafeDowngrade };
        let updates = vec![FeatureUpdate { name: OTTLA_VERSION.to_owned(), level: level.0, change }];
        Request::UpdateFeatures(UpdateFeatures { updates, validate_only: false })
    }

    /// A coordinator that runs works at the level of its tree, and a broker at that of its image.
    pub(super) fn check_own_level(&mut self, node: NodeId) -> Result<(), Violation> {
        if !self.config.releases || !self.is_running(node) {
            return Ok(());
        }
        let level = match node {
            NodeId::Coordinator(id) => {
                self.coordinators.get(&id).and_then(CoordinatorNode::image).map(|image| image.finalized().level)
            }
            NodeId::Broker(_) | NodeId::Client(_) => None,
        };
        self.invariants.checks += 1;
        match level.filter(|level| !self.levels(node).includes(*level)) {
            Some(level) => {
                Err(Violation(format!("{node} goes on with a tree of level {level}, which it does not know")))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn token_request(is_made: bool) -> Request {
    let user = || KafkaPrincipal::user("alice");
    let change = match is_made {
        true => TokenChange::Create {
            owner: user(),
            requester: user(),
            renewers: Vec::new(),
            lifetime_ms: TOKEN_LIFETIME_MS,
            renewal_ms: TOKEN_LIFETIME_MS,
        },
        false => TokenChange::Expire { by: user(), period_ms: None },
    };
    Request::AlterDelegationToken(AlterDelegationToken { token_id: TOKEN.to_owned(), change })
}

/// Every registered broker works at the finalized level, and the tree has nothing of a higher one (scenario 60).
pub(super) fn check_levels(now: &Image) -> Result<(), Violation> {
    let finalized = now.finalized().level;
    let live = now.brokers().map(|broker| (broker.id, broker.levels));
    let fenced = now.fenced_brokers().map(|broker| (broker.id, broker.levels));
    if let Some((id, levels)) = live.chain(fenced).find(|(_, levels)| !levels.includes(finalized)) {
        return Err(Violation(format!("b{id} is registered and works at {levels}, the cluster at {finalized}")));
    }
    if finalized < FeatureLevel::TOKENS_AND_CLIENT_METRICS && now.delegation_tokens().next().is_some() {
        return Err(Violation(format!("there is a delegation token at level {finalized}")));
    }
    Ok(())
}
