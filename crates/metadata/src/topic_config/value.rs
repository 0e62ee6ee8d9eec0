//! How a configuration's text becomes a value, and in which words it is refused (Kafka's `ConfigDef`).

use super::InvalidTopicConfig;
use super::table::TopicConfigKey;

/// The type of a configuration, with what it accepts beyond the type.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueKind {
    Bool,
    /// 32 bits.
    Int {
        min: i64,
        max: i64,
    },
    /// `1…9`, or −1 for the library's default.
    GzipLevel,
    /// 64 bits.
    Long {
        min: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    /// One of these texts.
    Text(&'static [&'static str]),
    /// A comma-separated list of these texts.
    List(&'static [&'static str]),
    /// `*`, or a comma-separated list of `partition:broker`.
    ThrottledReplicas,
}

/// A configuration's value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(String),
    List(Vec<String>),
}

impl TopicConfigKey {
    /// The value of a text; surrounding white space does not count.
    pub fn parse(&self, text: &str) -> Result<Value, InvalidTopicConfig> {
        let refused =
            |value: String, reason: String| InvalidTopicConfig::Value { name: self.name.to_owned(), value, reason };
        let no_number = |kind: &str| refused(text.to_owned(), format!("Not a number of type {kind}"));
        let trimmed = text.trim();
        match self.kind {
            ValueKind::Bool if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
            ValueKind::Bool if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
            ValueKind::Bool => Err(refused(text.to_owned(), "Expected value to be either true or false".to_owned())),
            ValueKind::Int { min, max } => {
                let value: i32 = trimmed.parse().map_err(|_| no_number("INT"))?;
                in_range(value.into(), min, max).map_err(|reason| refused(value.to_string(), reason))?;
                Ok(Value::Int(value))
            }
            ValueKind::GzipLevel => {
                let value: i32 = trimmed.parse().map_err(|_| no_number("INT"))?;
                if value != -1 && !(1..=9).contains(&value) {
                    let reason = "Value must be between 1 and 9 or equal to -1".to_owned();
                    return Err(refused(value.to_string(), reason));
                }
                Ok(Value::Int(value))
            }
            ValueKind::Long { min } => {
                let value: i64 = trimmed.parse().map_err(|_| no_number("LONG"))?;
                in_range(value, min, i64::MAX).map_err(|reason| refused(value.to_string(), reason))?;
                Ok(Value::Long(value))
            }
            ValueKind::Double { min, max } => {
                let value: f64 = trimmed.parse().map_err(|_| no_number("DOUBLE"))?;
                // As Java prints it: 2.0, not 2.
                let shown = format!("{value:?}");
                if value < min {
                    return Err(refused(shown, format!("Value must be at least {min}")));
                }
                if value > max || value.is_nan() {
                    return Err(refused(shown, format!("Value must be no more than {max}")));
                }
                Ok(Value::Double(value))
            }
            ValueKind::Text(accepted) => {
                one_of(trimmed, accepted).map_err(|reason| refused(trimmed.to_owned(), reason))?;
                Ok(Value::Text(trimmed.to_owned()))
            }
            ValueKind::List(accepted) => {
                let entries = split(trimmed);
                for entry in &entries {
                    one_of(entry, accepted).map_err(|reason| refused(entry.clone(), reason))?;
                }
                Ok(Value::List(entries))
            }
            ValueKind::ThrottledReplicas => {
                let entries = split(trimmed);
                let is_replica = |entry: &String| match entry.split_once(':') {
                    Some((partition, broker)) => is_number(partition) && is_number(broker),
                    None => entry.is_empty(),
                };
                if entries.iter().all(is_replica) || entries.concat() == "*" {
                    return Ok(Value::List(entries));
                }
                let reason = format!(
                    "{} must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                    self.name
                );
                Err(refused(format!("[{}]", entries.join(", ")), reason))
            }
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn split(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(|entry| entry.trim().to_owned()).collect() }
}

fn in_range(value: i64, min: i64, max: i64) -> Result<(), String> {
    if value < min {
        return Err(format!("Value must be at least {min}"));
    }
    if value > max {
        return Err(format!("Value must be no more than {max}"));
    }
    Ok(())
}

fn one_of(text: &str, accepted: &[&str]) -> Result<(), String> {
    match accepted.contains(&text) {
        true => Ok(()),
        false => Err(format!("String must be one of: {}", accepted.join(", "))),
    }
}
