//! Names, values and numbers of requests: ordinary ones, ones at a limit, and absurd ones.

use ottla_fuzz::mutation::Random;

pub fn pick<T: Copy>(random: &mut Random, items: &[T]) -> T {
    items[random.below(items.len())]
}

/// Nothing that a cluster of two brokers would take minutes to carry out.
pub fn number(random: &mut Random) -> i32 {
    pick(random, &[1, 1, 2, 3, 4, 0, -1, -2, 7, 10_000_000, i32::MAX, i32::MIN])
}

pub fn broker(random: &mut Random) -> i32 {
    pick(random, &[1, 2, 1, 2, 3, 900, 0, -1, i32::MAX])
}

pub fn text(random: &mut Random) -> String {
    match random.below(5) {
        0 => String::new(),
        1 => "x".repeat(1 + random.below(300)),
        2 => "g".repeat(1_000 + random.below(30_000)),
        3 => pick(random, &["..", "a/b", "é漢", "\0", "<default>", "a b", "%2F", "-", "1", "true"]).to_owned(),
        _ => (0..random.below(40)).map(|_| char::from(32 + random.below(95) as u8)).collect(),
    }
}

pub fn topic(random: &mut Random) -> String {
    match random.below(4) {
        0 => text(random),
        1 => pick(random, &["__consumer_offsets", "t".repeat(249).as_str(), "t".repeat(250).as_str()]).to_owned(),
        _ => format!("topic-{}", random.below(6)),
    }
}

pub fn config(random: &mut Random) -> (String, String) {
    const KNOWN: [&str; 10] = [
        "retention.ms",
        "min.insync.replicas",
        "cleanup.policy",
        "max.message.bytes",
        "consumer.session.timeout.ms",
        "log.retention.ms",
        "log.cleaner.threads",
        "follower.replication.throttled.replicas",
        "unclean.leader.election.enable",
        "segment.bytes",
    ];
    let name = if random.below(4) == 0 { text(random) } else { pick(random, &KNOWN).to_owned() };
    let value = match random.below(4) {
        0 => text(random),
        1 => number(random).to_string(),
        2 => pick(random, &["delete", "compact", "compact,delete", "*", "0:1,1:2", "TRUE"]).to_owned(),
        _ => "60000".to_owned(),
    };
    (name, value)
}
