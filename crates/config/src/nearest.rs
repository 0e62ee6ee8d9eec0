//! The known name that a misspelt one probably meant.

/// Names that people took from other tables or older documents: too far from the right one for an edit distance.
const MISTAKEN: &[(&str, &str)] = &[
    ("log.segment.ms", "log.roll.ms"),
    ("segment.ms", "log.roll.ms"),
    ("segment.bytes", "log.segment.bytes"),
    ("retention.ms", "log.retention.ms"),
    ("retention.bytes", "log.retention.bytes"),
    ("cleanup.policy", "log.cleanup.policy"),
    ("max.message.bytes", "message.max.bytes"),
    ("replica.log.time.max.ms", "replica.lag.time.max.ms"),
    ("replica.lag.time.max", "replica.lag.time.max.ms"),
    ("bootstrap.servers", "coordinator.connect"),
    ("data.dir", "log.dirs"),
    ("data.dirs", "log.dirs"),
];

/// The most edits that still make a suggestion rather than a guess: a third of the name, at least 2.
fn most_edits(name: &str) -> usize {
    (name.chars().count() / 3).max(2)
}

/// The nearest of `known` to `name`, if one is near enough.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if let Some((_, meant)) = MISTAKEN.iter().find(|(mistaken, _)| *mistaken == name) {
        return known.into_iter().find(|candidate| candidate == meant);
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(edits, _)| *edits <= most_edits(name))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::broker_config_names;

    #[test]
    fn the_misspellings_of_real_deployments() {
        let meant = |name| nearest(name, broker_config_names());
        assert_eq!(meant("log.segment.ms"), Some("log.roll.ms"));
        assert_eq!(meant("replica.lag.time.max"), Some("replica.lag.time.max.ms"));
        assert_eq!(meant("replica.log.time.max.ms"), Some("replica.lag.time.max.ms"));
        assert_eq!(meant("num.partition"), Some("num.partitions"));
        assert_eq!(meant("min.insync.replica"), Some("min.insync.replicas"));
        assert_eq!(meant("completely.something.else"), None);
        assert_eq!(nearest("zesty", ["gzip", "snappy", "lz4", "zstd", "uncompressed", "producer"]), Some("zstd"));
    }
}
