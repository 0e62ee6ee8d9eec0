//! Checks a leader's request to change an ISR: a compare-and-set on leader epoch and partition epoch, with Kafka's
//! error codes, and a check of every requested member (KIP-841, KIP-903).

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};

use crate::controller::{AlterPartition, AlteredPartition};
use crate::election::PartitionChange;
use crate::image::{Image, IsrMember, PartitionState};

/// The decision on the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IsrDecision {
    /// The ISR becomes this, each member in the epoch that it is registered with.
    Change(Vec<IsrMember>),
    /// The ISR is as requested: a retry whose first answer was lost (scenario 8).
    AlreadySo,
    Refused(ErrorCode),
}

/// The answer to one partition of a request of `leader`, and the state that the partition gets, if it changes. `build`
/// completes the change: it may elect another leader.
pub fn alter(
    image: &Image,
    state: &PartitionState,
    leader: BrokerId,
    request: &AlterPartition,
    any_epoch_joins: bool,
    build: impl FnOnce(PartitionChange<'_>) -> Option<PartitionState>,
) -> (AlteredPartition, Option<PartitionState>) {
    let next = match check(image, state, leader, request, any_epoch_joins) {
        IsrDecision::Refused(error) => return (outcome(request, error, Some(state)), None),
        IsrDecision::AlreadySo => None,
        IsrDecision::Change(isr) => build(PartitionChange::new(state).with_isr(isr)),
    };
    let becomes = next.as_ref().unwrap_or(state);
    // A leader in controlled shutdown hands over in the same change that adds a member.
    let error = if becomes.leader == leader { ErrorCode::None } else { ErrorCode::NewLeaderElected };
    (outcome(request, error, Some(becomes)), next)
}

/// The result for one partition, with the state as it is (or will be).
pub(crate) fn outcome(change: &AlterPartition, error: ErrorCode, state: Option<&PartitionState>) -> AlteredPartition {
    AlteredPartition {
        partition: change.partition,
        error,
        leader: state.map_or(BrokerId::NONE, |state| state.leader),
        leader_epoch: state.map_or(LeaderEpoch(0), |state| state.leader_epoch),
        partition_epoch: state.map_or(PartitionEpoch(0), |state| state.partition_epoch),
        isr: state.map(|state| state.isr_ids().collect()).unwrap_or_default(),
    }
}

/// Checks one partition of a request of `leader`, whose broker epoch was checked before.
///
/// `any_epoch_joins` takes the rule of KIP-903 out, for simulations that must notice.
pub fn check(
    image: &Image,
    state: &PartitionState,
    leader: BrokerId,
    request: &AlterPartition,
    any_epoch_joins: bool,
) -> IsrDecision {
    use IsrDecision::Refused;

    // The leader has seen a later state than this controller: another controller must have been elected.
    if request.leader_epoch > state.leader_epoch || request.partition_epoch > state.partition_epoch {
        return Refused(ErrorCode::NotController);
    }
    if request.leader_epoch < state.leader_epoch {
        return Refused(ErrorCode::FencedLeaderEpoch);
    }
    if leader != state.leader {
        return Refused(ErrorCode::InvalidRequest);
    }
    if request.partition_epoch < state.partition_epoch {
        return if is_target(state, request) {
            IsrDecision::AlreadySo
        } else {
            Refused(ErrorCode::InvalidUpdateVersion)
        };
    }
    let wanted = &request.isr;
    let is_repeated = |at: usize, member: &IsrMember| wanted.iter().skip(at + 1).any(|m| m.broker == member.broker);
    if wanted.iter().enumerate().any(|(at, member)| !state.is_replica(member.broker) || is_repeated(at, member)) {
        return Refused(ErrorCode::InvalidRequest);
    }
    // The leader is a member of every ISR that it requests.
    if !wanted.iter().any(|member| member.broker == leader) {
        return Refused(ErrorCode::InvalidRequest);
    }
    let eligible = |member: &IsrMember| eligible_epoch(image, state, leader, member, any_epoch_joins);
    match wanted.iter().map(|m| eligible(m).map(|epoch| IsrMember { broker: m.broker, epoch })).collect() {
        Some(isr) => IsrDecision::Change(isr),
        None => Refused(ErrorCode::IneligibleReplica),
    }
}

/// Whether the ISR already equals the requested one, with the same incarnations.
fn is_target(state: &PartitionState, request: &AlterPartition) -> bool {
    let is_member = |wanted: &IsrMember| {
        state.isr_member(wanted.broker).is_some_and(|m| !wanted.epoch.is_known() || m.epoch == wanted.epoch)
    };
    state.isr.len() == request.isr.len() && request.isr.iter().all(is_member)
}

/// The epoch in which a broker may be a member; none if it may not: fenced, not ready, shutting down (except the
/// leader, which stays until another replica takes over), or another incarnation than the one that the leader saw.
fn eligible_epoch(
    image: &Image,
    state: &PartitionState,
    leader: BrokerId,
    wanted: &IsrMember,
    any_epoch_joins: bool,
) -> Option<BrokerEpoch> {
    let registration = image.broker(wanted.broker)?;
    let may_be = registration.ready && (!registration.shutting_down || wanted.broker == leader);
    // Kafka accepts any replica if the leader does not know its epoch. Here only a current member is accepted: a new
    // one without an epoch may be a former incarnation (scenario 4).
    let is_meant = match wanted.epoch.is_known() {
        true => wanted.epoch == registration.epoch,
        false => state.isr_member(wanted.broker).is_some_and(|member| member.epoch == registration.epoch),
    };
    (may_be && (is_meant || any_epoch_joins)).then_some(registration.epoch)
}
