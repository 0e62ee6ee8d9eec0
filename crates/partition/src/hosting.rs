//! Decides what to do with a log that was found at the start, and with a replica that has none.
//!
//! A new, empty log must never replace one that the quorum counts on: as the last ISR member or from the ELR it would
//! be elected, and the other replicas would truncate to it. Therefore a log that cannot be read, or was lost with its
//! directory, is first resigned to the quorum ([`crate::resignation`]). When the tree no longer counts on this replica,
//! it starts with an empty log. So does the only replica of a partition whose log is lost: there is no other log.

use ottla_metadata::PartitionState;
use ottla_model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId};
use ottla_storage::{Env, LogDirs};

use crate::rules::BrokenRules;

/// The facts about a log of the partition's name that was found at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFacts {
    /// None in directories that Kafka wrote before 2.8, and where the host's power ended before the id was durable:
    /// then no record is.
    pub topic_id: Option<TopicId>,
    /// Its last leader epoch and its end; none if it cannot be opened.
    pub reach: Option<(LeaderEpoch, Offset)>,
    /// Where it starts; 0 if it cannot be opened.
    pub log_start: Offset,
    pub has_records: bool,
    /// The log cannot be opened because of its content: damaged records, or a missing topic id.
    pub is_damaged: bool,
}

/// Of several logs with one name, the index of the one that belongs to the partition; all others are renamed to
/// `-stray`. Topic ids decide first: a log of a deleted topic of the same name may be longer (scenario 35). Then the
/// later leader epoch decides, then the length: the log with the later epoch has the most recent committed records, as
/// in an election. Of logs that reach equally far it is the one that starts later: what was deleted of it must not come
/// back with one that a disk did not let rename when its replica had moved. A log without an id and without records is
/// no reason to believe that the partition's log is here: if a directory is missing or new, the log may be, or have
/// been, in that one.
pub fn choose_log(found: &[LogFacts], topic_id: TopicId, absent: AbsentLog, rules: BrokenRules) -> Option<usize> {
    let is_of_topic = |log: &LogFacts| match log.topic_id {
        Some(id) => id == topic_id,
        None => log.has_records || log.reach.is_none() || absent == AbsentLog::NeverMade,
    };
    let rank = |log: &LogFacts| (log.topic_id.is_some(), log.reach, log.log_start);
    let mut chosen: Option<(usize, &LogFacts)> = None;
    for (place, log) in found.iter().enumerate().filter(|(_, log)| rules.longest_log_wins || is_of_topic(log)) {
        if chosen.is_none_or(|(_, known)| rank(log) > rank(known) && !rules.first_found_wins) {
            chosen = Some((place, log));
        }
    }
    chosen.map(|(place, _)| place).filter(|place| found.get(*place).is_some_and(is_of_topic))
}

/// Of several logs of one partition, the index of one that cannot be opened now, though nothing says that it is damaged
/// (its disk is full, or refused): it may reach further than the others, so that it cannot be said yet which is the
/// partition's (scenario 51).
pub fn undecided(found: &[LogFacts], topic_id: TopicId, rules: BrokenRules) -> Option<usize> {
    let is_of_topic = |log: &&LogFacts| log.topic_id == Some(topic_id);
    if rules.unreadable_log_gives_way || found.iter().filter(is_of_topic).count() < 2 {
        return None;
    }
    found.iter().position(|log| is_of_topic(&log) && log.reach.is_none() && !log.is_damaged)
}

/// Why there may be no log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbsentLog {
    /// Every directory is the one that it was: the log was never made, or its end, back to its beginning, was lost with
    /// the host's power.
    NeverMade,
    /// A directory could not be opened: the log may be there.
    DirectoryMissing,
    /// A directory is new, though the broker is not, or `log.dirs` leaves one out: the log may have been in that, or in
    /// the predecessor of the new one.
    DirectoryReplaced,
}

impl AbsentLog {
    /// Why a replica may have no log in these directories when the image is loaded.
    pub fn of<E: Env>(directories: &LogDirs<E>) -> Self {
        if directories.missing().is_some() {
            Self::DirectoryMissing
        } else if directories.has_replaced() {
            Self::DirectoryReplaced
        } else {
            Self::NeverMade
        }
    }
}

/// The action for a replica that has no open log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hosting {
    /// Open the log that was found.
    Take,
    /// Rename the log that was found, if any, to `-stray`, and create a new one.
    StartOver,
    /// Serve nothing, and resign to the quorum. Decided again with each new state.
    StayOffline,
}

/// The log that was found (see [`choose_log`]) and the tree's state decide.
pub fn host(
    local: BrokerId,
    local_epoch: BrokerEpoch,
    state: &PartitionState,
    found: Option<LogFacts>,
    absent: AbsentLog,
    rules: BrokenRules,
) -> Hosting {
    match found {
        Some(log) if log.reach.is_some() => Hosting::Take,
        // Its disk may answer again after a restart.
        Some(log) if !log.is_damaged => Hosting::StayOffline,
        Some(_) => match may_start_over(local, state, rules.damaged_log_starts_over) {
            true => Hosting::StartOver,
            false => Hosting::StayOffline,
        },
        None => match absent {
            AbsentLog::NeverMade => Hosting::StartOver,
            AbsentLog::DirectoryMissing if counts_on(local, state) || !state.has_leader() => Hosting::StayOffline,
            // Nobody else may lead, and nobody has records that an empty log could replace: the quorum keeps it as the
            // leader.
            AbsentLog::DirectoryReplaced if state.replicas == [local] => Hosting::StartOver,
            AbsentLog::DirectoryReplaced if counts_on_former_life(local, local_epoch, state, rules) => {
                Hosting::StayOffline
            }
            AbsentLog::DirectoryMissing | AbsentLog::DirectoryReplaced => Hosting::StartOver,
        },
    }
}

/// Whether the quorum may elect this replica because of its log.
fn counts_on(local: BrokerId, state: &PartitionState) -> bool {
    state.isr_member(local).is_some_and(|member| !member.is_lost()) || state.elr.contains(&local)
}

/// A damaged log is replaced only if a copy of the leader's can take its place. Without a leader it stays: an operator
/// may repair it.
fn may_start_over(local: BrokerId, state: &PartitionState, elr_may: bool) -> bool {
    let is_in_elr = state.elr.contains(&local) && !elr_may;
    state.has_leader() && state.leader != local && !state.in_isr(local) && !is_in_elr
}

/// Whether the tree counts on a log that this broker had in an earlier registration. An entry that joined under the
/// current registration has its log here.
fn counts_on_former_life(
    local: BrokerId,
    local_epoch: BrokerEpoch,
    state: &PartitionState,
    rules: BrokenRules,
) -> bool {
    let in_isr = state.isr_member(local).is_some_and(|member| !member.is_lost() && member.epoch != local_epoch);
    (in_isr || state.elr.contains(&local)) && !rules.lost_log_starts_over
}

#[cfg(test)]
mod tests {
    use ottla_metadata::IsrMember;
    use ottla_metadata::image::LeaderRecoveryState;
    use ottla_model::{ControllerEpoch, PartitionEpoch};

    use super::*;

    const LOCAL: BrokerId = BrokerId(3);
    const EPOCH: BrokerEpoch = BrokerEpoch(30);

    fn state(leader: i32, isr: &[(i32, i64)], elr: &[i32]) -> PartitionState {
        PartitionState {
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            controller_epoch: ControllerEpoch(1),
            replicas: [1, 2, 3].map(BrokerId).to_vec(),
            reassignment: None,
            isr: isr
                .iter()
                .map(|(id, epoch)| IsrMember { broker: BrokerId(*id), epoch: BrokerEpoch(*epoch) })
                .collect(),
            elr: elr.iter().copied().map(BrokerId).collect(),
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId::NONE,
            leader_recovery_state: LeaderRecoveryState::Recovered,
        }
    }

    fn log(topic: u8, reach: Option<(i32, i64)>) -> LogFacts {
        LogFacts {
            topic_id: Some(TopicId([topic; 16])),
            reach: reach.map(|(epoch, end)| (LeaderEpoch(epoch), Offset(end))),
            log_start: Offset::ZERO,
            has_records: reach.is_some_and(|(_, end)| end > 0),
            is_damaged: reach.is_none(),
        }
    }

    fn decide(state: &PartitionState, found: Option<LogFacts>, absent: AbsentLog) -> Hosting {
        host(LOCAL, EPOCH, state, found, absent, BrokenRules::default())
    }

    #[test]
    fn scenario_33_a_log_that_was_lost_with_its_directory_is_given_up_first() {
        let of_former_life = state(-1, &[(3, 20)], &[]);
        assert_eq!(decide(&of_former_life, None, AbsentLog::DirectoryReplaced), Hosting::StayOffline);
        assert_eq!(decide(&state(1, &[(1, 10)], &[3]), None, AbsentLog::DirectoryReplaced), Hosting::StayOffline);
        // The quorum knows.
        let mut marked = of_former_life.clone();
        marked.isr = vec![IsrMember::lost(LOCAL)];
        assert_eq!(decide(&marked, None, AbsentLog::DirectoryReplaced), Hosting::StartOver);
        // It was created in this incarnation.
        assert_eq!(decide(&state(3, &[(3, 30)], &[]), None, AbsentLog::DirectoryReplaced), Hosting::StartOver);
        let broken = BrokenRules { lost_log_starts_over: true, ..BrokenRules::default() };
        let decision = host(LOCAL, EPOCH, &of_former_life, None, AbsentLog::DirectoryReplaced, broken);
        assert_eq!(decision, Hosting::StartOver);
    }

    /// Seeds 11606 and 12810: the quorum does not let the only replica resign, so it stayed offline for ever.
    #[test]
    fn scenario_33_the_only_replica_starts_over_when_its_log_is_lost() {
        let mut alone = state(3, &[(3, 20)], &[]);
        alone.replicas = vec![LOCAL];
        assert_eq!(decide(&alone, None, AbsentLog::DirectoryReplaced), Hosting::StartOver);
        alone.leader = BrokerId::NONE;
        assert_eq!(decide(&alone, None, AbsentLog::DirectoryReplaced), Hosting::StartOver);
        // It may come back with the directory, or be repaired.
        assert_eq!(decide(&alone, None, AbsentLog::DirectoryMissing), Hosting::StayOffline);
        assert_eq!(decide(&alone, Some(log(7, None)), AbsentLog::NeverMade), Hosting::StayOffline);
        // A replica that is being added may have records.
        alone.replicas = vec![LOCAL, BrokerId(1)];
        assert_eq!(decide(&alone, None, AbsentLog::DirectoryReplaced), Hosting::StayOffline);
    }

    #[test]
    fn scenario_34_a_damaged_log_leaves_the_elr_before_a_new_one_is_made() {
        let damaged = Some(log(7, None));
        let eligible = state(1, &[(1, 10)], &[3]);
        assert_eq!(decide(&eligible, damaged, AbsentLog::NeverMade), Hosting::StayOffline);
        assert_eq!(decide(&state(1, &[(1, 10)], &[]), damaged, AbsentLog::NeverMade), Hosting::StartOver);
        let broken = BrokenRules { damaged_log_starts_over: true, ..BrokenRules::default() };
        assert_eq!(host(LOCAL, EPOCH, &eligible, damaged, AbsentLog::NeverMade, broken), Hosting::StartOver);
    }

    #[test]
    fn scenario_35_topic_ids_come_before_epoch_and_length() {
        let twins = [log(1, Some((9, 1_000))), log(2, Some((0, 5)))];
        assert_eq!(choose_log(&twins, TopicId([2; 16]), AbsentLog::NeverMade, BrokenRules::default()), Some(1));
        let broken = BrokenRules { longest_log_wins: true, ..BrokenRules::default() };
        assert_eq!(choose_log(&twins, TopicId([2; 16]), AbsentLog::NeverMade, broken), None);
        let copies = [log(2, Some((3, 50))), log(2, Some((4, 40))), log(2, None)];
        assert_eq!(choose_log(&copies, TopicId([2; 16]), AbsentLog::NeverMade, BrokenRules::default()), Some(1));
    }

    /// An old copy was taken, and led, while the disk of the newer log was full.
    #[test]
    fn scenario_51_a_log_that_cannot_be_opened_now_may_reach_further_than_its_copy() {
        let (topic, rules) = (TopicId([2; 16]), BrokenRules::default());
        let unreadable = LogFacts { is_damaged: false, ..log(2, None) };
        assert_eq!(undecided(&[log(2, Some((3, 50))), unreadable], topic, rules), Some(1));
        assert_eq!(undecided(&[unreadable, unreadable], topic, rules), Some(0));
        assert_eq!(undecided(&[unreadable], topic, rules), None, "there is no other");
        assert_eq!(undecided(&[unreadable, log(1, Some((3, 50)))], topic, rules), None, "of another topic");
        assert_eq!(undecided(&[log(2, None), log(2, Some((3, 50)))], topic, rules), None, "it is damaged");
    }

    /// Which of two equal copies it is matters little; that it is the same one at each start does.
    #[test]
    fn of_equal_copies_the_first_is_taken() {
        let copies = [log(2, Some((4, 40))), log(2, Some((4, 40)))];
        assert_eq!(choose_log(&copies, TopicId([2; 16]), AbsentLog::NeverMade, BrokenRules::default()), Some(0));
    }

    /// A replica had moved, and its former disk did not let the old log be renamed. Nothing was written afterwards, but
    /// records were deleted: the next start took the old log, which was the first one, and showed them again.
    #[test]
    fn of_copies_that_reach_equally_far_the_one_with_more_deleted_is_taken() {
        let left_behind = log(2, Some((4, 40)));
        let moved = LogFacts { log_start: Offset(30), ..left_behind };
        for (copies, taken) in [([left_behind, moved], 1), ([moved, left_behind], 0)] {
            let chosen = choose_log(&copies, TopicId([2; 16]), AbsentLog::NeverMade, BrokenRules::default());
            assert_eq!(chosen, Some(taken));
        }
        let further = log(2, Some((4, 41)));
        let chosen = choose_log(&[moved, further], TopicId([2; 16]), AbsentLog::NeverMade, BrokenRules::default());
        assert_eq!(chosen, Some(1));
    }

    #[test]
    fn an_empty_log_without_a_topic_id_does_not_stand_in_for_one_that_is_lost() {
        let torn = LogFacts { topic_id: None, ..log(0, Some((-1, 0))) };
        let choose = |absent| choose_log(&[torn], TopicId([2; 16]), absent, BrokenRules::default());
        assert_eq!(choose(AbsentLog::NeverMade), Some(0));
        assert_eq!(choose(AbsentLog::DirectoryReplaced), None);
        assert_eq!(choose(AbsentLog::DirectoryMissing), None);
        // Kafka wrote it before 2.8.
        let old = LogFacts { topic_id: None, ..log(0, Some((3, 50))) };
        assert_eq!(choose_log(&[old], TopicId([2; 16]), AbsentLog::DirectoryMissing, BrokenRules::default()), Some(0));
    }

    #[test]
    fn scenario_36_a_last_member_with_a_damaged_log_waits_for_another_leader() {
        let damaged = Some(log(7, None));
        for still_counted in [state(3, &[(3, 30)], &[1]), state(-1, &[(3, 20)], &[]), state(-1, &[(1, 10)], &[])] {
            assert_eq!(decide(&still_counted, damaged, AbsentLog::NeverMade), Hosting::StayOffline);
        }
        assert_eq!(decide(&state(1, &[(1, 10)], &[]), damaged, AbsentLog::NeverMade), Hosting::StartOver);
    }

    #[test]
    fn a_log_may_be_in_a_directory_that_is_missing() {
        let missing = AbsentLog::DirectoryMissing;
        assert_eq!(decide(&state(1, &[(1, 10)], &[3]), None, missing), Hosting::StayOffline);
        assert_eq!(decide(&state(-1, &[(1, 10)], &[]), None, missing), Hosting::StayOffline);
        assert_eq!(decide(&state(1, &[(1, 10)], &[]), None, missing), Hosting::StartOver);
        assert_eq!(decide(&state(1, &[(1, 10), (3, 20)], &[]), None, missing), Hosting::StayOffline);
        let mut marked = state(1, &[(1, 10)], &[]);
        marked.isr.push(IsrMember::lost(LOCAL));
        assert_eq!(decide(&marked, None, missing), Hosting::StartOver, "the quorum knows that it is lost");
        let unreadable = LogFacts { is_damaged: false, ..log(7, None) };
        assert_eq!(decide(&state(1, &[(1, 10)], &[]), Some(unreadable), AbsentLog::NeverMade), Hosting::StayOffline);
    }
}
