//! Consumers that read from the replica near them (KIP-392), while brokers die.

use ottla_model::BrokerId;

use crate::message::Rack;
use crate::script::{Script, Step};
use crate::world::WorldConfig;

const CONSUMER: u32 = 101;

/// A cluster with one consumer, in the rack of a follower. Returns the follower.
fn with_consumer_near_a_follower(seed: u64) -> Step<(Script, i32)> {
    let mut script = Script::new(seed, WorldConfig { consumers: 1, ..WorldConfig::small() })?;
    let near = script.followers()?[0];
    if let Some(consumer) = script.world.consumers.get_mut(&CONSUMER) {
        consumer.rack = Some(Rack::of(BrokerId(near)));
    }
    Ok((script, near))
}

/// Writes, and waits until the consumer has read everything. Returns how many records followers have given it so far.
fn write_and_read(script: &mut Script, batches: usize) -> Step<u64> {
    script.write(batches)?;
    let (partition, end) = (script.partition()?, script.end_of(script.leader()?)?);
    script.wait("the consumer", |world| {
        world.consumers.get(&CONSUMER).and_then(|consumer| consumer.position(partition)) == Some(end)
    })?;
    Ok(script.world.consumers.get(&CONSUMER).map_or(0, |consumer| consumer.read_at_followers))
}

/// The leader sends the consumer to the follower near it. That follower dies, then the leader: the consumer reads
/// elsewhere, then near it again, and misses nothing.
#[test]
fn scenario_57_a_consumer_reads_near_it_while_that_follower_and_then_the_leader_die() {
    let story = |seed| -> Step<[u64; 4]> {
        let (mut script, near) = with_consumer_near_a_follower(seed)?;
        let first = write_and_read(&mut script, 10)?;
        // Where it asks first is chance; by now the leader has sent it, or it has asked the follower itself.
        script.run_ms(4_000)?;
        let before = write_and_read(&mut script, 10)?;
        script.kill(near);
        script.wait_fenced(near)?;
        script.run_ms(300)?;
        let without = write_and_read(&mut script, 10)?;
        script.start(near);
        script.converge()?;
        let leader = script.leader()?;
        script.kill(leader);
        script.wait_other_leader(leader)?;
        script.run_ms(300)?;
        write_and_read(&mut script, 10)?;
        script.start(leader);
        script.converge()?;
        let after = write_and_read(&mut script, 10)?;
        Ok([first, before, without, after])
    };
    let mut near = 0;
    for seed in 0..20 {
        let [_, before, without, after] = story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(before <= without && without <= after);
        near += before;
    }
    assert!(near > 20 * 10, "followers gave it {near} records");
}

/// A quiet partition: a record that is committed reaches the consumer at a follower at once, not when the follower's
/// fetch has waited for its time, 500 ms.
#[test]
fn a_follower_that_is_read_from_learns_of_the_high_watermark_at_once() {
    let story = |seed| -> Step<u64> {
        let (mut script, _) = with_consumer_near_a_follower(seed)?;
        let (mut slowest_ms, mut rounds) = (0, 0);
        let mut read = write_and_read(&mut script, 1)?;
        for _ in 0..20 {
            script.run_ms(700)?;
            script.write(1)?;
            let committed = script.world.now;
            let before = std::mem::replace(&mut read, write_and_read(&mut script, 0)?);
            if read > before {
                rounds += 1;
                slowest_ms = slowest_ms.max(script.world.now.as_ms() - committed.as_ms());
            }
        }
        assert!(rounds > 5, "seed {seed}: it read {rounds} times at a follower");
        Ok(slowest_ms)
    };
    for seed in 0..5 {
        let slowest_ms = story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(slowest_ms < 300, "seed {seed}: {slowest_ms} ms");
    }
}
