//! The tools that tell each step as a line of JSON, for tests: `kafka-verifiable-producer` and
//! `kafka-verifiable-consumer`.

pub mod consumer;
pub mod producer;

use super::json::Json;
use super::now_ms;

/// An event with its time and its name, and further fields.
fn event(name: &str, fields: Vec<(&'static str, Json)>) -> Json {
    let mut all = vec![("timestamp", Json::Number(now_ms())), ("name", name.into())];
    all.extend(fields);
    Json::Object(all)
}

/// The line about an option that has a newer name.
fn deprecated(option: &str) -> String {
    format!(
        "Option --{option} has been deprecated and will be removed in a future version. Use --command-config instead."
    )
}
