//! `docs/metrics.md` is generated from the registries of both services: run these tests with `OTTLA_WRITE_DOCS=1` to
//! regenerate it. They are no integration tests of this package: for those cargo would compile all of it once more.

use std::fmt::Write as _;

use ottla_broker::telemetry::Telemetry;
use ottla_coordinator::telemetry::Metrics;
use ottla_metrics::Description;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");

/// Metrics that Kafka has too: its MBean and attribute, and the name of ours.
const KAFKA_NAMES: &[(&str, &str)] = &[
    ("kafka.server:type=BrokerTopicMetrics,name=BytesInPerSec", "ottla_broker_records_bytes_in_total"),
    ("kafka.server:type=BrokerTopicMetrics,name=BytesOutPerSec", "ottla_broker_records_bytes_out_total"),
    ("kafka.network:type=RequestMetrics,name=RequestsPerSec,request=…", "ottla_broker_requests_total"),
    ("kafka.network:type=RequestMetrics,name=TotalTimeMs,request=…", "ottla_broker_request_seconds"),
    ("kafka.server:type=ReplicaManager,name=PartitionCount", "ottla_broker_partitions"),
    ("kafka.server:type=ReplicaManager,name=LeaderCount", "ottla_broker_leader_partitions"),
    ("kafka.server:type=ReplicaManager,name=UnderReplicatedPartitions", "ottla_broker_under_replicated_partitions"),
    ("kafka.server:type=ReplicaManager,name=AtMinIsrPartitionCount", "ottla_broker_at_min_isr_partitions"),
    ("kafka.server:type=ReplicaManager,name=UnderMinIsrPartitionCount", "ottla_broker_under_min_isr_partitions"),
    ("kafka.log:type=Log,name=LogEndOffset,topic=…,partition=…", "ottla_broker_log_end_offset"),
    ("kafka.log:type=Log,name=Size,topic=…,partition=…", "ottla_broker_log_size_bytes"),
    ("kafka.controller:type=KafkaController,name=ActiveControllerCount", "ottla_quorum_is_leader"),
    ("kafka.controller:type=KafkaController,name=OfflinePartitionsCount", "ottla_quorum_offline_partitions"),
    ("kafka.controller:type=KafkaController,name=GlobalTopicCount", "ottla_quorum_topics"),
    ("kafka.controller:type=KafkaController,name=GlobalPartitionCount", "ottla_quorum_partitions"),
    ("kafka.controller:type=KafkaController,name=ActiveBrokerCount", "ottla_quorum_brokers"),
    ("kafka.controller:type=KafkaController,name=FencedBrokerCount", "ottla_quorum_fenced_brokers"),
    ("kafka.server:type=ReplicaManager,name=IsrShrinksPerSec", "ottla_broker_isr_shrinks_total"),
    ("kafka.server:type=ReplicaManager,name=IsrExpandsPerSec", "ottla_broker_isr_expansions_total"),
    ("kafka.server:type=LeaderReplication,name=byte-rate", "ottla_broker_replication_throttled_sent_bytes_total"),
    ("kafka.server:type=FollowerReplication,name=byte-rate", "ottla_broker_replication_throttled_fetched_bytes_total"),
    ("kafka.log:type=LogManager,name=OfflineLogDirectoryCount", "ottla_broker_log_directories_offline"),
    (
        "kafka.log:type=LogCleanerManager,name=uncleanable-partitions-count",
        "ottla_broker_cleaner_uncleanable_partitions",
    ),
    ("kafka.server:type=socket-server-metrics,name=connection-count", "ottla_broker_connections_open"),
    ("kafka.server:type=raft-metrics,name=current-leader", "ottla_quorum_leader_id"),
    ("kafka.server:type=raft-metrics,name=current-epoch", "ottla_quorum_term"),
    ("kafka.server:type=raft-metrics,name=high-watermark", "ottla_quorum_committed_revision"),
];

fn all() -> (Vec<Description>, Vec<Description>) {
    (Telemetry::default().descriptions(), Metrics::descriptions())
}

fn table(page: &mut String, title: &str, metrics: &[Description]) {
    write!(page, "\n## {title}\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n")
        .expect("a string takes all text");
    for Description { name, kind, labels, help } in metrics {
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("a string takes all text");
    }
}

fn page() -> String {
    let mut page = "# Metrics\n\n\
        Each process serves Prometheus' text format at `/metrics` on its HTTP port. `crates/cli/src/metrics_page.rs`\n\
        generates this page from the registries of the services. A histogram has the series `_bucket` (label `le`,\n\
        in seconds), `_sum` and `_count`.\n"
        .to_owned();
    let (broker, coordinator) = all();
    table(&mut page, "Broker", &broker);
    table(&mut page, "Coordinator", &coordinator);
    page.push_str("\n## Kafka's names\n\n| Kafka's MBean | metric |\n|---|---|\n");
    for (kafka, ours) in KAFKA_NAMES {
        writeln!(page, "| `{kafka}` | `{ours}` |").expect("a string takes all text");
    }
    page
}

#[test]
fn the_page_lists_every_metric() {
    ottla_test_support::generated(PATH, &page());
}

#[test]
fn names_are_unique_and_follow_prometheus() {
    let (broker, coordinator) = all();
    let names: Vec<&str> = broker.iter().chain(&coordinator).map(|metric| metric.name.as_str()).collect();
    for metric in broker.iter().chain(&coordinator) {
        assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{}", metric.name);
        assert_eq!(metric.kind == "histogram", metric.name.ends_with("_seconds"), "{}", metric.name);
    }
    for (kafka, ours) in KAFKA_NAMES {
        assert!(names.contains(ours), "{kafka} is mapped to {ours}, which no process has");
    }
}

/// A query of a metric that no process has shows nothing, and an alert on it never fires.
#[test]
fn dashboard_alerts_and_documents_name_metrics_that_exist() {
    let (broker, coordinator) = all();
    let names: Vec<String> = broker
        .into_iter()
        .chain(coordinator)
        .flat_map(|metric| {
            let series = if metric.kind == "histogram" { ["_bucket", "_sum", "_count"].as_slice() } else { &[] };
            let series: Vec<_> = series.iter().map(|suffix| format!("{}{suffix}", metric.name)).collect();
            series.into_iter().chain([metric.name])
        })
        .collect();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for file in ["deploy/monitoring/alerts.yml", "deploy/monitoring/grafana-dashboard.json", "docs/operations.md"] {
        let text = std::fs::read_to_string(format!("{root}/{file}")).expect("a file of the project");
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let used: Vec<&str> =
            words.filter(|word| word.starts_with("ottla_broker_") || word.starts_with("ottla_quorum_")).collect();
        assert!(!used.is_empty(), "{file} names no metric");
        for name in used {
            assert!(names.iter().any(|known| known == name), "{file}: {name} is no metric");
        }
    }
}
