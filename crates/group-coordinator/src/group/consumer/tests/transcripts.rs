//! Conversations to read, each in a file of `transcripts/`: what members say, what they are told, and what the log
//! takes. `OTTLA_WRITE_DOCS=1` writes the files anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;

struct Transcript {
    world: World,
    text: String,
}

impl Transcript {
    fn begin(title: &str, topics: &[(&str, i32)]) -> Self {
        let mut text = format!("# {title}\n\n");
        for (name, partitions) in topics {
            let _ = writeln!(text, "topic {name} has {partitions} partitions");
        }
        Self { world: World::new(topics), text }
    }

    fn step(&mut self, title: &str) {
        let _ = write!(self.text, "\n## {title}\n\n");
    }

    fn beat(&mut self, request: ConsumerGroupHeartbeat) {
        let _ = write!(self.text, "{} beats, epoch {}", request.member.as_str(), request.member_epoch);
        if let Some(topics) = &request.subscribed_topics {
            let _ = write!(self.text, ", subscribes {topics:?}");
        }
        if let Some(owned) = &request.owned {
            let _ = write!(self.text, ", owns {}", self.named(owned));
        }
        let from = self.world.host.log.len();
        let answer = self.world.beat(request);
        let _ = match answer.error {
            ErrorCode::None => write!(self.text, "\n  -> epoch {}", answer.member_epoch),
            error => write!(self.text, "\n  -> {error:?}"),
        };
        if let Some(assignment) = &answer.assignment {
            let _ = write!(self.text, ", is to have {}", self.named(assignment));
        }
        let written = self.world.kinds(from);
        if !written.is_empty() {
            let _ = write!(self.text, "\n  log: {}", written.join(", "));
        }
        self.text.push('\n');
    }

    /// Partitions by the names of their topics.
    fn named(&self, partitions: &[(TopicId, Vec<PartitionId>)]) -> String {
        let name =
            |id: &TopicId| self.world.cluster.by_id(*id).map_or_else(String::new, |topic| topic.name.to_string());
        let one = |(id, numbers): &(TopicId, Vec<PartitionId>)| {
            format!("{} {:?}", name(id), numbers.iter().map(|number| number.0).collect::<Vec<_>>())
        };
        match partitions {
            [] => "nothing".to_owned(),
            some => some.iter().map(one).collect::<Vec<_>>().join(", "),
        }
    }

    fn pass(&mut self, ms: u64) {
        let from = self.world.host.log.len();
        self.world.host.pass(ms);
        let _ = writeln!(self.text, "{ms} ms pass");
        let written = self.world.kinds(from);
        if !written.is_empty() {
            let _ = writeln!(self.text, "  log: {}", written.join(", "));
        }
    }

    fn end(mut self, name: &str) {
        let state = self.world.state();
        let _ = write!(self.text, "\nthe group is {state}\n");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(format!("{name}.txt"));
        ottla_test_support::generated(path, &self.text);
    }
}

#[test]
fn reconciliation() {
    let mut transcript = Transcript::begin("Two members share a topic (KIP-848)", &[("t", 4)]);
    let t = transcript.world.cluster.id("t");
    transcript.step("the first member gets everything");
    transcript.beat(join("a", &["t"]));
    transcript.beat(owns("a", 1, &[(t, &[0, 1, 2, 3])]));
    transcript.step("the second one waits until the first has let go");
    transcript.beat(join("b", &["t"]));
    transcript.beat(beat("b", 2));
    transcript.beat(beat("a", 1));
    transcript.beat(beat("b", 2));
    transcript.beat(owns("a", 1, &[(t, &[0, 1])]));
    transcript.beat(beat("b", 2));
    transcript.step("the first one leaves");
    transcript.beat(beat("a", -1));
    transcript.beat(beat("b", 2));
    transcript.end("reconciliation");
}

#[test]
fn a_silent_member() {
    let mut transcript = Transcript::begin("A member falls silent (KIP-848)", &[("t", 2)]);
    transcript.step("two members share the topic");
    let t = transcript.world.cluster.id("t");
    transcript.beat(join("a", &["t"]));
    transcript.beat(join("b", &["t"]));
    transcript.beat(beat("a", 1));
    transcript.beat(owns("a", 1, &[(t, &[0])]));
    transcript.beat(beat("b", 2));
    transcript.step("one of them says nothing for its session");
    transcript.pass(SESSION_MS / 2);
    transcript.beat(beat("b", 2));
    transcript.pass(SESSION_MS / 2);
    transcript.beat(beat("b", 2));
    transcript.step("it comes back as who it was");
    transcript.beat(beat("a", 2));
    transcript.end("silence");
}
