//! Scenario 27: the coordinator moves with commits in flight.

use ottla_group_coordinator::GroupAnswer;
use ottla_model::ErrorCode;

use super::stage::Stage;
use crate::coordinator_log::{LogWorld as _, Weather};
use crate::groups::client::error_of;

/// Followers hear of nothing for a while.
const SLOW: Weather = Weather { replication_us: (300_000, 300_000), ..Weather::CALM };

/// Commits everything in one request and sees it answered; returns what is committed now.
fn committed(stage: &mut Stage) -> Vec<i64> {
    let all = stage.all();
    let call = stage.commit(&all);
    let answer = stage.answered(call);
    assert_eq!(error_of(&answer), ErrorCode::None, "{answer:?}");
    stage.fetch()
}

#[test]
fn scenario_27_an_answered_commit_is_in_the_next_coordinators_state() {
    let mut stage = Stage::new(27);
    for _ in 0..5 {
        let before = committed(&mut stage);
        let leader = stage.leader();
        stage.world.kill_broker(leader);
        stage.world.start_broker_after_ms(leader, 50);
        assert_ne!(stage.leader(), leader);
        assert_eq!(stage.fetch(), before);
    }
}

#[test]
fn scenario_27_a_commit_that_nobody_else_had_is_not_answered_and_goes_whole() {
    let mut stage = Stage::new(27);
    let before = committed(&mut stage);
    stage.world.weather = SLOW;
    let (all, leader) = (stage.all(), stage.leader());
    let call = stage.commit(&all);
    stage.run_ms(50);
    assert!(stage.answer(call).is_none(), "{:?}", stage.answer(call));
    assert_eq!(stage.fetch(), before, "what may go is not told");
    stage.world.kill_broker(leader);
    stage.world.weather = Weather::CALM;
    assert_eq!(stage.fetch(), before);
    assert!(stage.answer(call).is_none());
}

#[test]
fn scenario_27_a_commit_whose_answer_was_lost_is_there_whole() {
    let mut stage = Stage::new(27);
    let before = committed(&mut stage);
    let (all, leader) = (stage.all(), stage.leader());
    stage.world.weather = Weather { replication_us: (20_000, 20_000), ..Weather::CALM };
    let call = stage.commit(&all);
    // It has arrived; its answer will not.
    stage.run_ms(2);
    stage.world.weather = Weather { lost_ppm: 1_000_000, ..Weather::CALM };
    stage.run_ms(100);
    stage.world.weather = Weather::CALM;
    stage.world.kill_broker(leader);
    let after = stage.fetch();
    assert!(stage.answer(call).is_none());
    assert_ne!(after, before);
    assert!(after.iter().all(|offset| *offset == after[0]), "{after:?}");
}

#[test]
fn scenario_27_a_coordinator_that_was_replaced_answers_no_commit() {
    let mut stage = Stage::new(27);
    let before = committed(&mut stage);
    let (all, leader) = (stage.all(), stage.leader());
    stage.world.weather = SLOW;
    let call = stage.commit(&all);
    stage.run_ms(2);
    // It stands still, another takes over, it goes on and does not know yet.
    stage.world.pause_broker(leader, 200);
    stage.world.elect(0, Some(leader));
    stage.run_ms(400);
    stage.world.weather = Weather::CALM;
    let answer = stage.answer(call).cloned();
    assert!(matches!(answer, None | Some(GroupAnswer::Failed(ErrorCode::NotCoordinator))), "{answer:?}");
    assert_eq!(stage.fetch(), before);
}
