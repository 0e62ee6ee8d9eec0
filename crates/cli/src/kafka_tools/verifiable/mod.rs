//! The tools that tell each step as a line of JSON, for tests: `kafka-verifiable-producer` and
//! `kafka-verifiable-consumer`.

pub mod consumer;
pub mod producer;

use super::json::Json;
use super::now_ms;
use super::options::{Options, OptionsError};
use crate::out;

/// An event with its time and its name, and further fields.
fn event(name: &str, fields: Vec<(&'static str, Json)>) -> Json {
    let mut all = vec![("timestamp", Json::Number(now_ms())), ("name", name.into())];
    all.extend(fields);
    Json::Object(all)
}

/// `--command-config` has an older name, of which Kafka's tools tell; both together are refused.
fn tell_of_older_name(options: &Options, older: &'static str) -> Result<(), OptionsError> {
    if !options.has(older) {
        return Ok(());
    }
    if options.has("command-config") {
        return Err(OptionsError::Conflict(older, "command-config"));
    }
    out!("Option --{older} has been deprecated and will be removed in a future version. Use --command-config instead.");
    Ok(())
}
