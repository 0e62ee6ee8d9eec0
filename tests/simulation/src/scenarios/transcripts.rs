//! Conversations to read: what processes do, step by step, each in a file of `transcripts/`. A change of what they do
//! changes a file, which a reviewer sees. `OTTLA_WRITE_DOCS=1` writes the files anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use ottla_model::BrokerId;

use crate::clock::SimTime;
use crate::network::NodeId;
use crate::outbox::Members;
use crate::script::{Script, Step};
use crate::world::{World, WorldConfig};

/// What is told on the way, and how the partition stands after each step.
struct Transcript {
    script: Script,
    text: String,
}

impl Transcript {
    /// Begins with a cluster whose ISR is full and that holds ten records.
    fn begin(title: &str, config: WorldConfig) -> Step<Self> {
        let mut script = Script::new(1, config)?;
        script.write(5)?;
        script.world.trace.take_recorded();
        let mut transcript = Self { script, text: format!("# {title}\n\n") };
        transcript.tell_state();
        Ok(transcript)
    }

    /// Does something, and lets the cluster answer until it is as `wait` says.
    fn step(&mut self, title: &str, act: impl FnOnce(&mut Script) -> Step) -> Step {
        let began = self.script.world.now;
        act(&mut self.script)?;
        let _ = write!(self.text, "\n## {title}\n\n");
        for (at, line) in self.script.world.trace.take_recorded() {
            self.tell(began, at, &line);
        }
        self.tell_state();
        Ok(())
    }

    fn tell(&mut self, began: SimTime, at: SimTime, line: &str) {
        // Every coordinator dials a broker that registers; one line of three tells nothing more.
        if !line.contains(" dialled ") {
            let _ = writeln!(self.text, "{:>7} ms  {line}", at.as_ms() - began.as_ms());
        }
    }

    fn tell_state(&mut self) {
        let world = &self.script.world;
        let Some(partition) = world.partitions().first().copied() else { return };
        let Some(state) = world.newest_image().and_then(|image| image.partition(partition)) else { return };
        let leader = if state.has_leader() { format!("b{}", state.leader) } else { "nobody".to_owned() };
        let _ = writeln!(
            self.text,
            "        => leader {leader}, epoch {}, replicas {:?}, ISR {}",
            state.leader_epoch,
            state.replicas.iter().map(|broker| broker.0).collect::<Vec<_>>(),
            Members(&state.isr)
        );
        for (id, broker) in &world.brokers {
            let Some(replica) = broker.replica(partition) else { continue };
            let _ =
                writeln!(self.text, "           b{id}: ends at {}, HW {}", replica.log_end(), replica.high_watermark());
        }
    }

    /// Compares it with the file of that name.
    fn end(self, name: &str) -> Step {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(format!("{name}.txt"));
        ottla_test_support::generated(path, &self.text);
        Ok(())
    }
}

fn wait_isr(script: &mut Script, members: usize) -> Step {
    script.wait("the ISR", move |world| isr_size(world) == members)
}

fn isr_size(world: &World) -> usize {
    let state = world.partitions().first().and_then(|partition| world.newest_image()?.partition(*partition));
    state.map_or(0, |state| state.isr.len())
}

#[test]
fn election() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A leader is killed and comes back", WorldConfig::small())?;
        let leader = transcript.script.leader()?;
        transcript.step("the leader is killed", |script| {
            script.kill(leader);
            script.wait_other_leader(leader).map(|_| ())
        })?;
        transcript.step("its log is written on", |script| script.write(2))?;
        transcript.step("it is started again", |script| {
            script.start(leader);
            script.converge()
        })?;
        transcript.end("election")
    };
    story().expect("the conversation ends");
}

#[test]
fn controlled_shutdown() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A leader is asked to shut down", WorldConfig::small())?;
        let leader = transcript.script.leader()?;
        transcript.step("SIGTERM", |script| {
            script.world.shut_down(leader);
            script.wait("its end", move |world| !world.is_running(NodeId::Broker(leader)))
        })?;
        transcript.step("it is started again", |script| {
            script.start(leader);
            script.converge()
        })?;
        transcript.end("controlled-shutdown")
    };
    story().expect("the conversation ends");
}

#[test]
fn isr_shrinks_and_expands() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A follower falls behind and catches up", WorldConfig::small())?;
        let (leader, follower) = (transcript.script.leader()?, transcript.script.followers()?[0]);
        transcript.step("the link between follower and leader is cut", |script| {
            script.cut_brokers(leader, follower);
            let batch = script.batch(2)?;
            script.send(leader, -1, batch)?;
            wait_isr(script, 2)
        })?;
        transcript.step("the link is whole again", |script| {
            script.heal();
            script.converge()
        })?;
        transcript.end("isr")
    };
    story().expect("the conversation ends");
}

#[test]
fn fenced_and_back() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A broker loses the quorum, and finds it again", WorldConfig::small())?;
        let leader = transcript.script.leader()?;
        transcript.step("the leader's links to the coordinators are cut", |script| {
            script.cut_from_quorum(leader);
            script.wait_other_leader(leader).map(|_| ())
        })?;
        transcript.step("the links are whole again", |script| {
            script.heal();
            script.converge()
        })?;
        transcript.end("fenced")
    };
    story().expect("the conversation ends");
}

#[test]
fn truncation() {
    let story = || -> Step {
        let mut transcript =
            Transcript::begin("A former leader holds records that nobody else has", WorldConfig::small())?;
        let leader = transcript.script.leader()?;
        transcript.step("the leader is cut off, and takes records with acks=1", |script| {
            script.isolate(leader);
            script.write_hastily(leader, 2)
        })?;
        transcript.step("another one leads, and takes others", |script| {
            script.wait_other_leader(leader)?;
            script.write(1)
        })?;
        transcript.step("the links are whole again", |script| {
            script.heal();
            script.converge()
        })?;
        transcript.end("truncation")
    };
    story().expect("the conversation ends");
}

#[test]
fn an_empty_disk() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A follower comes back with an empty disk", WorldConfig::small())?;
        let follower = transcript.script.followers()?[0];
        transcript.step("the follower is killed, and its disk is replaced", |script| {
            script.kill(follower);
            script.world.replace_disks(follower, None);
            script.wait_fenced(follower)
        })?;
        transcript.step("it is started again", |script| {
            script.start(follower);
            script.converge()
        })?;
        transcript.end("empty-disk")
    };
    story().expect("the conversation ends");
}

#[test]
fn reassignment() {
    let story = || -> Step {
        let config = WorldConfig { brokers: 4, ..WorldConfig::small() };
        let mut transcript = Transcript::begin("A partition moves to another broker", config)?;
        let partition = transcript.script.partition()?;
        let replicas = transcript.script.state()?.replicas;
        let spare = (1..=4).map(BrokerId).find(|broker| !replicas.contains(broker)).expect("three of four");
        // Its leader goes: who leads then has to follow from the assignment.
        let target = vec![spare, replicas[1], replicas[2]];
        transcript.step("the first replica is replaced", |script| {
            script.world.reassign(partition, Some(target.clone()));
            script.wait("the move", |world| {
                let state = world.newest_image().and_then(|image| image.partition(partition));
                state.is_some_and(|state| state.replicas == target && !state.is_reassigning())
            })?;
            script.converge()
        })?;
        transcript.step("the preferred replica is elected", |script| {
            script.world.elect_preferred();
            script.wait_leads(spare.0)
        })?;
        transcript.end("reassignment")
    };
    story().expect("the conversation ends");
}

#[test]
fn last_member() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("The last member of an ISR dies", WorldConfig::small())?;
        let (leader, followers) = (transcript.script.leader()?, transcript.script.followers()?);
        transcript.step("both followers are killed", |script| {
            followers.iter().for_each(|follower| script.kill(*follower));
            wait_isr(script, 1)
        })?;
        transcript.step("the leader is killed", |script| {
            script.kill(leader);
            script.wait_fenced(leader)
        })?;
        transcript.step("the followers are started: they may lack records", |script| {
            followers.iter().for_each(|follower| script.start(*follower));
            script.run_ms(2_000)
        })?;
        transcript.step("the last member is started", |script| {
            script.start(leader);
            script.converge()
        })?;
        transcript.end("last-member")
    };
    story().expect("the conversation ends");
}

#[test]
fn quorum_leader() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("The leader of the quorum is killed", WorldConfig::small())?;
        let leader = transcript.script.quorum_leader()?;
        transcript.step("the leader is killed", |script| {
            script.world.kill(NodeId::Coordinator(leader));
            script.wait("another one", |world| world.coordinators.values().any(|node| node.is_leading()))
        })?;
        transcript.step("it is started again", |script| {
            script.world.start_after(NodeId::Coordinator(leader), 0);
            script.converge()
        })?;
        transcript.end("quorum-leader")
    };
    story().expect("the conversation ends");
}

#[test]
fn quorum_grows() {
    let story = || -> Step {
        let mut transcript = Transcript::begin("A fourth coordinator joins", WorldConfig::small())?;
        transcript.step("it is started and added", |script| {
            script.world.grow_quorum();
            script.wait("its vote", |world| {
                world.newest_image().is_some_and(|image| image.coordinators().count() == 4)
            })?;
            script.converge()
        })?;
        transcript.end("quorum-grows")
    };
    story().expect("the conversation ends");
}
