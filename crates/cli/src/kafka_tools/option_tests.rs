//! Every option that a tool of Kafka 4.3 has is known here: it has an effect, or it is refused by its name.

use std::collections::{BTreeMap, BTreeSet};

use super::options::{OptionSpec, Options, OptionsError, Takes, usage};
use super::*;

const FRAME: &str = include_str!("mod.rs");
const RECORDED: &str = include_str!("test_data/options-of-kafka-4.3.txt");

/// A tool, its options, and the sources in which they are read.
const TOOLS: &[(&str, &[OptionSpec], &[&str])] = &[
    ("kafka-acls", acls::SPECS, &[include_str!("acls/mod.rs"), include_str!("acls/plan.rs")]),
    ("kafka-topics", topics::SPECS, &[include_str!("topics.rs"), include_str!("zookeeper/mod.rs")]),
    (
        "kafka-configs",
        configs::SPECS,
        &[include_str!("configs.rs"), include_str!("client_quotas.rs"), include_str!("zookeeper/mod.rs")],
    ),
    ("kafka-console-producer", console_producer::SPECS, &[include_str!("console_producer.rs")]),
    ("kafka-console-consumer", console_consumer::SPECS, &[include_str!("console_consumer.rs")]),
    (
        "kafka-consumer-groups",
        consumer_groups::SPECS,
        &[
            include_str!("consumer_groups/mod.rs"),
            include_str!("consumer_groups/delete.rs"),
            include_str!("consumer_groups/describe.rs"),
            include_str!("consumer_groups/list.rs"),
            include_str!("consumer_groups/reset.rs"),
        ],
    ),
    ("kafka-delegation-tokens", delegation_tokens::SPECS, &[include_str!("delegation_tokens.rs")]),
    ("kafka-delete-records", delete_records::SPECS, &[include_str!("delete_records.rs")]),
    ("kafka-leader-election", leader_election::SPECS, &[include_str!("leader_election.rs")]),
    ("kafka-reassign-partitions", reassign_partitions::SPECS, &[include_str!("reassign_partitions/mod.rs")]),
    ("kafka-log-dirs", log_dirs::SPECS, &[include_str!("log_dirs.rs")]),
    ("kafka-get-offsets", get_offsets::SPECS, &[include_str!("get_offsets.rs")]),
    ("kafka-broker-api-versions", broker_api_versions::SPECS, &[include_str!("broker_api_versions.rs")]),
    ("kafka-cluster", cluster::SPECS, &[include_str!("cluster.rs")]),
    ("kafka-metadata-quorum", metadata_quorum::SPECS, &[include_str!("metadata_quorum.rs")]),
    ("kafka-metadata-shell", metadata_shell::SPECS, &[include_str!("metadata_shell.rs")]),
    ("kafka-dump-log", dump_log::SPECS, &[include_str!("dump_log/mod.rs")]),
    ("kafka-client-metrics", client_metrics::SPECS, &[include_str!("client_metrics.rs")]),
    ("kafka-replica-verification", replica_verification::SPECS, &[include_str!("replica_verification.rs")]),
    ("kafka-groups", groups::SPECS, &[include_str!("groups.rs")]),
    ("kafka-features", features::SPECS, &[include_str!("features.rs")]),
    ("kafka-producer-perf-test", perf::producer::SPECS, &[include_str!("perf/producer.rs")]),
    ("kafka-consumer-perf-test", perf::consumer::SPECS, &[include_str!("perf/consumer.rs")]),
    ("kafka-e2e-latency", perf::latency::SPECS, &[include_str!("perf/latency.rs")]),
    ("kafka-verifiable-consumer", verifiable::consumer::SPECS, &[include_str!("verifiable/consumer.rs")]),
    ("kafka-verifiable-producer", verifiable::producer::SPECS, &[include_str!("verifiable/producer.rs")]),
    ("kafka-streams-application-reset", streams_reset::SPECS, &[include_str!("streams_reset.rs")]),
    ("kafka-transactions", transactions::SPECS, &[include_str!("transactions/mod.rs")]),
];

/// The recorded options of each tool, with what they take.
fn recorded() -> BTreeMap<&'static str, Vec<(&'static str, Takes)>> {
    let mut tools = BTreeMap::new();
    let mut tool = "";
    for line in RECORDED.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_suffix(':') {
            tool = name;
            continue;
        }
        let option = match (line.strip_suffix('='), line.strip_suffix('?')) {
            (Some(name), _) => (name, Takes::Value),
            (None, Some(name)) => (name, Takes::MaybeValue),
            (None, None) => (line, Takes::Nothing),
        };
        tools.entry(tool).or_insert_with(Vec::new).push(option);
    }
    tools
}

/// Both tables are made by hand: a tool that is in neither would be compared with nothing.
#[test]
fn every_tool_is_compared() {
    let names = FRAME.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => Some("));
    let run: BTreeSet<&str> = names.map(|(name, _)| name).collect();
    let compared: BTreeSet<&str> = TOOLS.iter().map(|(tool, ..)| *tool).collect();
    assert_eq!(run, compared);
}

#[test]
fn every_option_of_kafkas_tools_is_known() {
    let recorded = recorded();
    assert_eq!(recorded.len(), TOOLS.len());
    let mut wrong = Vec::new();
    for (tool, specs, _) in TOOLS {
        let options = recorded.get(tool).expect("a recorded tool");
        assert!(options.len() >= 3, "{tool}");
        for (name, takes) in options {
            match specs.iter().find(|spec| spec.name == *name) {
                None => wrong.push(format!("{tool} --{name} is not known")),
                Some(spec) if spec.takes != *takes => wrong.push(format!("{tool} --{name} takes {takes:?}")),
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An option that is taken and then read nowhere would be ignored without a word. The first mention of a name is its
/// declaration.
#[test]
fn every_option_is_read_or_refused() {
    let mut unused = Vec::new();
    for (tool, specs, sources) in TOOLS {
        for spec in specs.iter().filter(|spec| !spec.is_refused) {
            let quoted = format!("\"{}\"", spec.name);
            let code = |source: &&str| source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            let mentions: usize = sources.iter().map(|source| code(source).matches(&quoted).count()).sum();
            if mentions < 2 && !FRAME.contains(&quoted) {
                unused.push(format!("{tool} --{}", spec.name));
            }
        }
    }
    assert!(unused.is_empty(), "accepted and not used: {unused:#?}");
}

#[test]
fn refusals_name_the_option_and_the_reason() {
    for (tool, specs, _) in TOOLS {
        for spec in specs.iter().filter(|spec| spec.is_refused) {
            let line = [format!("--{}", spec.name), "x".to_owned()];
            let error = Options::parse(specs, &line).expect_err(tool);
            assert_eq!(error, OptionsError::Refused(spec.name, spec.help));
            let text = error.to_string();
            assert!(text.contains(spec.name) && text.lines().count() == 1 && !spec.help.is_empty(), "{tool}: {text}");
            assert!(usage(specs).contains("Not supported"), "{tool}");
        }
    }
}

/// As joptsimple: any beginning that only one option has.
#[test]
fn names_may_be_abbreviated() {
    for (tool, specs, _) in TOOLS {
        let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), specs.len(), "{tool}");
        for spec in specs.iter().filter(|spec| !spec.is_refused && spec.takes == Takes::Value) {
            for end in 1..spec.name.len() {
                let short = &spec.name[..end];
                let sharing = names.iter().filter(|name| name.starts_with(short)).count();
                let parsed = Options::parse(specs, &[format!("--{short}"), "v".to_owned()]);
                if sharing == 1 {
                    assert_eq!(parsed.as_ref().map(|options| options.get(spec.name)), Ok(Some("v")), "{tool} {short}");
                } else if !names.contains(short) && !names.contains(format!("{short}s").as_str()) {
                    assert!(matches!(parsed, Err(OptionsError::Ambiguous(..))), "{tool} --{short}: {parsed:?}");
                }
            }
        }
    }
}
