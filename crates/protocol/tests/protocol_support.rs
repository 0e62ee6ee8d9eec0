//! `docs/protocol-support.md` is generated from the table of APIs: run this with `OTTLA_WRITE_DOCS=1` to regenerate it.

use std::fmt::Write as _;

use ottla_protocol::Api;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol-support.md");

/// Remarks on an API beside its versions.
fn remark(api: Api) -> &'static str {
    match api {
        Api::Produce => {
            "versions 0 to 2 are advertised for librdkafka's sake and refused; acks 0, 1 and all; idempotent producers"
        }
        Api::Fetch => "incremental fetch sessions; records by sendfile",
        Api::FindCoordinator => "of groups and transactional ids; no share groups yet",
        Api::ConsumerGroupHeartbeat => {
            "the `uniform` and `range` assignors; regular expressions; migration from and to the classic protocol"
        }
        Api::Metadata => "creates topics where `auto.create.topics.enable` allows it",
        Api::AlterConfigs | Api::IncrementalAlterConfigs => "of topics, brokers, groups and client metrics",
        _ => "",
    }
}

fn page() -> String {
    let mut page = "# What is served of Kafka's protocol\n\n\
        `crates/protocol/tests/protocol_support.rs` generates this page from the table in `crates/protocol/src/api.rs`.\n\
        Versions are those of Kafka 4.3.\n\n\
        | key | API | versions | |\n|---|---|---|---|\n"
        .to_owned();
    for &api in Api::ALL {
        let (key, versions) = (api.key(), api.served());
        writeln!(page, "| {key} | {api} | {versions} | {} |", remark(api)).expect("a string takes all text");
    }
    page
}

#[test]
fn the_page_says_what_is_served() {
    ottla_test_support::generated(PATH, &page());
}
