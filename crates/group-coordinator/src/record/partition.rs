//! Which partition of `__consumer_offsets` a group belongs to.

/// The partition of a group, in a topic of `partitions` partitions (1 or more): Java's hash of the text, as every Kafka
/// broker and tool computes it.
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // The least number has no positive counterpart: it counts as 0.
    hash.checked_abs().unwrap_or(0) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values are those of `Utils.abs(group.hashCode()) % partitions` in Kafka 4.3.
    #[test]
    fn groups_go_where_kafka_looks_for_them() {
        for (group, partition) in [
            ("", 0),
            ("my-group", 12),
            ("console-consumer-12345", 6),
            ("grüße", 23),
            ("𝄞", 44),
            ("polygenelubricants", 0),
        ] {
            assert_eq!(partition_for(group, 50), partition, "{group}");
        }
        assert_eq!(partition_for("my-group", 1), 0);
    }
}
