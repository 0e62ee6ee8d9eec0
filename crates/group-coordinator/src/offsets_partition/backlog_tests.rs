//! What waits while a step holds a partition of groups.

use ottla_coordinator_partition::backlog::QUEUED_REQUESTS_MAX;
use ottla_coordinator_partition::{Backlog, BrokenRules, Job};

use ottla_model::GroupId;

use super::*;

type GroupBacklog = Backlog<Shard, u32, ()>;

fn push(backlog: &mut GroupBacklog, is_stalled: bool, waiter: u32) -> Vec<(u32, ErrorCode)> {
    backlog.push_request(is_stalled, Request::DescribeGroup(GroupId::new("g")), None, waiter)
}

/// The waiter of the turn's request; none for a notice.
fn waiter(job: Option<Job<Shard, u32, ()>>) -> Option<u32> {
    match job {
        Some(Job::Request { waiter, .. }) => Some(waiter),
        Some(Job::Notice(_)) | None => None,
    }
}

#[test]
fn a_turn_has_the_role_first_and_one_request_and_the_time_comes_last() {
    let mut backlog = GroupBacklog::new(BrokenRules::default());
    assert!(backlog.is_in_turn() && backlog.take().is_none());
    assert!(push(&mut backlog, false, 1).is_empty() && push(&mut backlog, false, 2).is_empty());
    backlog.push_tick();
    backlog.push_poll();
    assert!(!backlog.is_in_turn(), "two came before");
    let first = backlog.take().expect("work");
    assert!(first.polls && !first.ticks && first.has_more);
    assert_eq!(waiter(first.job), Some(1));
    backlog.push_notice(Notice::TopicsDeleted(Arc::new([])));
    let second = backlog.take().expect("work");
    assert!(!second.polls && !second.ticks && second.has_more);
    assert_eq!(waiter(second.job), Some(2));
    let notice = backlog.take().expect("the notice");
    assert!(matches!(notice.job, Some(Job::Notice(_))) && !notice.ticks && notice.has_more);
    let last = backlog.take().expect("the time");
    assert!(last.ticks && last.job.is_none() && !last.has_more && backlog.is_in_turn());
}

/// Nobody knows when the disk answers; what the cluster has told is not repeated, and stays.
#[test]
fn requests_are_refused_while_the_disk_is_known_not_to_answer_and_notices_stay() {
    let mut backlog = GroupBacklog::new(BrokenRules::default());
    assert!(push(&mut backlog, false, 1).is_empty());
    backlog.push_notice(Notice::TopicsDeleted(Arc::new([])));
    let refused = push(&mut backlog, true, 2);
    assert_eq!(refused, [(1, ErrorCode::NotCoordinator), (2, ErrorCode::NotCoordinator)]);
    let left = backlog.take().expect("the notice");
    assert!(matches!(left.job, Some(Job::Notice(_))) && !left.has_more);
}

#[test]
fn no_more_requests_wait_than_the_bound() {
    let mut backlog = GroupBacklog::new(BrokenRules::default());
    let waiting = (0..).take_while(|waiter| push(&mut backlog, false, *waiter).is_empty()).count();
    assert_eq!(waiting, QUEUED_REQUESTS_MAX);
    assert_eq!(push(&mut backlog, false, 9), [(9, ErrorCode::CoordinatorLoadInProgress)]);
    assert_eq!(backlog.take().and_then(|turn| waiter(turn.job)), Some(0));
    assert!(push(&mut backlog, false, 10).is_empty(), "there is room again");
}
