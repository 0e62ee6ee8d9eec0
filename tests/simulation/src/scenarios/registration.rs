//! Brokers that come back with another disk, and brokers that are down.

use ottla_metadata::controller::BrokenRules as ControllerRules;
use ottla_model::{BrokerId, Offset};

use crate::invariants::Violation;
use crate::network::NodeId;
use crate::script::{Script, Step};
use crate::world::WorldConfig;

/// Long enough for a broker to register, become ready and be elected.
const SETTLES_MS: u64 = 3_000;

/// The last ISR member comes back with an empty disk, and restarts once more.
fn empty_disk_story(seed: u64, controller_rules: ControllerRules) -> Step {
    let config = WorldConfig { min_isr: 1, controller_rules, ..WorldConfig::small() };
    replaced_disk_story(seed, config, |_| Ok(None))
}

/// The last ISR member comes back with an empty disk in the place of `replaced` (none: of all), and restarts twice
/// more. It never leads, and the others keep what they hold.
pub(super) fn replaced_disk_story(
    seed: u64,
    config: WorldConfig,
    replaced: impl FnOnce(&mut Script) -> Result<Option<usize>, Violation>,
) -> Step {
    let mut script = Script::new(seed, config)?;
    script.write(10)?;
    let (leader, followers) = (script.leader()?, script.followers()?);
    let replaced = replaced(&mut script)?;
    for follower in &followers {
        script.kill(*follower);
        script.wait_fenced(*follower)?;
    }
    script.world.replace_disks(leader, replaced);
    script.wait_fenced(leader)?;
    (1..=3).for_each(|id| script.start(id));
    for life in ["with an empty disk", "after a restart", "after another"] {
        script.run_ms(SETTLES_MS)?;
        let state = script.state()?;
        if state.has_leader() {
            return Err(Violation(format!("b{} leads {life}: {state:?}", state.leader.0)));
        }
        script.kill(leader);
        script.wait_fenced(leader)?;
        script.start(leader);
    }
    script.run_ms(SETTLES_MS)?;
    for follower in followers {
        assert_eq!(script.end_of(follower)?, Offset(20), "what the others hold stays");
    }
    Ok(())
}

#[test]
fn scenario_33_an_empty_disk_after_another_restart() {
    ottla_test_support::each_seed(0..5, |seed| {
        empty_disk_story(seed, ControllerRules::default()).expect("nobody leads with an empty log");
    });
    let broken = ControllerRules { lost_log_may_lead: true, ..ControllerRules::default() };
    let Violation(what) = empty_disk_story(0, broken).expect_err("the rule is taken out");
    assert!(what.contains("leads"), "{what}");
}

/// One of three brokers is down: a topic with three replicas is made and written with min.insync.replicas 2.
fn one_is_down_story(seed: u64, controller_rules: ControllerRules) -> Step {
    let mut script = Script::new(seed, WorldConfig { controller_rules, ..WorldConfig::small() })?;
    let down = script.followers()?[0];
    script.kill(down);
    script.wait_fenced(down)?;
    script.world.delete_topic("t");
    script.world.create_topic("u");
    script.wait("the topic to be made", |world| {
        world.is_admin_done() && world.newest_image().is_some_and(|image| image.topic("u").is_some())
    })?;
    script.wait("a leader", |world| world.partitions().first().is_some_and(|one| world.leader_of(*one).is_some()))?;
    let state = script.state()?;
    assert!(state.is_replica(BrokerId(down)) && !state.in_isr(BrokerId(down)), "{state:?}");
    let leader = script.leader()?;
    script.wait_leads(leader)?;
    script.write(10)?;
    script.world.start_after(NodeId::Broker(down), 0);
    script.converge()
}

#[test]
fn a_topic_made_while_a_broker_is_down_gets_its_third_replica_when_it_is_back() {
    ottla_test_support::each_seed(0..5, |seed| {
        one_is_down_story(seed, ControllerRules::default()).expect("made, written, and whole in the end");
    });
    let broken = ControllerRules { fenced_broker_is_gone: true, ..ControllerRules::default() };
    let Violation(what) = one_is_down_story(0, broken).expect_err("the rule is taken out");
    assert!(what.contains("the topic to be made"), "{what}");
}
