//! What every topic configuration does, as DescribeConfigs and tools show it.

/// Whether setting it changes nothing; [`of`] says why.
pub fn has_no_effect(name: &str) -> bool {
    of(name).contains("No effect:")
}

/// Empty for a name that is not known.
pub fn of(name: &str) -> &'static str {
    match name {
        "cleanup.policy" => {
            "How old records leave the log: \"delete\" drops segments beyond the retention time or size, \"compact\" \
             keeps the last record of each key. Both may be given, separated by a comma."
        }
        "compression.gzip.level" => "The level of gzip, if compression.type is gzip.",
        "compression.lz4.level" => "Kafka's level of lz4. No effect: the encoder has one level.",
        "compression.type" => {
            "How batches are kept: uncompressed, gzip, snappy, lz4, zstd, or as the producer sent them (producer)."
        }
        "compression.zstd.level" => "The level of zstd, if compression.type is zstd.",
        "delete.retention.ms" => {
            "How long a compacted topic keeps the tombstone of a deleted key. A consumer that starts at offset 0 must \
             reach the end of the log within this time to see every deletion."
        }
        "file.delete.delay.ms" => "How long the files of a dropped segment stay on the disk.",
        "flush.messages" => "The number of records after which the log is synced to the disk.",
        "flush.ms" => "The time after which the log is synced to the disk.",
        "follower.replication.throttled.replicas" => {
            "The replicas whose fetching as followers is throttled while they are not in sync: partition:broker, \
             separated by commas, or * for all."
        }
        "index.interval.bytes" => "About how many bytes of records lie between two entries of the offset index.",
        "leader.replication.throttled.replicas" => {
            "The leaders that throttle replication to followers that are not in sync: partition:broker, separated by \
             commas, or * for all."
        }
        "local.retention.bytes" => {
            "The size of the log on the broker's disk, if older segments are in remote storage; -2 for \
             retention.bytes. No effect: there is no remote storage."
        }
        "local.retention.ms" => {
            "How long segments stay on the broker's disk, if they are in remote storage as well; -2 for retention.ms. \
             No effect: there is no remote storage."
        }
        "max.compaction.lag.ms" => "The longest time for which a record stays out of compaction.",
        "max.message.bytes" => "The largest batch that the topic takes, header included, as it was sent.",
        "message.timestamp.after.max.ms" => {
            "How far a record's timestamp may be ahead of the broker's clock. Not used with LogAppendTime."
        }
        "message.timestamp.before.max.ms" => {
            "How far a record's timestamp may be behind the broker's clock. Not used with LogAppendTime."
        }
        "message.timestamp.type" => {
            "Whose time a record has: that of the producer (CreateTime) or that of the append (LogAppendTime)."
        }
        "min.cleanable.dirty.ratio" => {
            "The share of the log, in bytes, that must be uncompacted before the cleaner takes it."
        }
        "min.compaction.lag.ms" => "The shortest time for which a record stays out of compaction.",
        "min.insync.replicas" => {
            "The smallest number of replicas in sync with which a write with acks=all is accepted; with fewer, \
             producers get NOT_ENOUGH_REPLICAS."
        }
        "preallocate" => {
            "Whether the file of a new segment gets its full size at once. No effect: segments grow as records arrive."
        }
        "remote.log.copy.disable" => {
            "Whether the topic's segments are no longer copied to remote storage. No effect: there is none."
        }
        "remote.log.delete.on.disable" => {
            "Whether the topic's data in remote storage is deleted when remote storage is switched off for it. \
             No effect: there is none."
        }
        "remote.storage.enable" => "Whether the topic uses remote storage.",
        "retention.bytes" => {
            "The size of a partition above which its oldest segments are dropped, with the policy \"delete\"; -1: no \
             limit."
        }
        "retention.ms" => {
            "How long records are kept, with the policy \"delete\"; -1: for ever. Whole segments are dropped, when \
             their \
             newest record is too old."
        }
        "segment.bytes" => "The size at which a new segment begins.",
        "segment.index.bytes" => "The size at which the index of a segment is full and a new segment begins.",
        "segment.jitter.ms" => {
            "The most that is subtracted at random from segment.ms, so that not all partitions roll at once."
        }
        "segment.ms" => "The age at which a new segment begins even if the old one is not full.",
        "unclean.leader.election.enable" => {
            "Whether a replica that is not in sync may become the leader if no other is left, at the cost of records."
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_config::TOPIC_CONFIGS;

    #[test]
    fn every_configuration_is_documented() {
        for key in TOPIC_CONFIGS {
            assert!(of(key.name).ends_with('.'), "{}", key.name);
        }
        assert_eq!(of("no.such.config"), "");
    }

    /// The typed view has every key that is read; a field of it that no code uses is a key without effect.
    #[test]
    fn every_configuration_has_an_effect_or_says_why_it_has_none() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |file: &str| std::fs::read_to_string(sources.join(file)).expect(file);
        let uses = read("replica-manager/src/topic_settings.rs") + &read("metadata/src/topic_config/mod.rs");
        // The quorum reads it where it decides who may lead.
        let elections = read("metadata/src/controller/electorate.rs") + &read("metadata/src/image/mod.rs");
        let resolved = read("metadata/src/topic_config/typed.rs");
        let mut fields = 0;
        for line in resolved.lines().map(str::trim) {
            let Some((field, rest)) = line.split_once(": layers.") else { continue };
            let name = rest.split('"').nth(1).expect(line);
            fields += 1;
            let is_used = uses.contains(&format!("config.{field}")) || elections.contains(&format!("\"{name}\""));
            assert_eq!(is_used, !has_no_effect(name), "{name}: used, or documented with \"No effect:\", not both");
        }
        assert!(fields + 3 >= TOPIC_CONFIGS.len(), "{fields}");
    }
}
