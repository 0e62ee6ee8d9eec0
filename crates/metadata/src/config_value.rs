//! How a configuration's text becomes a value, and in which words it is refused (Kafka's `ConfigDef`): shared by the
//! configurations of topics, brokers and groups.

/// The type of a configuration, with its range.
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
    /// 16 bits.
    Short,
    /// One of these texts.
    Text(&'static [&'static str]),
    /// Any text; the code that uses it checks the value, if at all.
    AnyText,
    /// A comma-separated list of any texts.
    AnyList,
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

impl std::fmt::Display for Value {
    /// As Kafka shows a parsed value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Long(value) => value.fmt(f),
            // 2.0, not 2.
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(value) => f.write_str(value),
            Self::List(entries) => f.write_str(&entries.join(",")),
        }
    }
}

/// A text that is not a valid value of its configuration; the error text is Kafka's and names the accepted values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Invalid value {value} for configuration {name}: {reason}")]
pub struct InvalidValue {
    pub name: String,
    pub value: String,
    pub reason: String,
}

impl ValueKind {
    /// Whether APPEND and SUBTRACT have a meaning.
    pub fn is_list(self) -> bool {
        matches!(self, Self::List(_) | Self::AnyList | Self::ThrottledReplicas)
    }

    /// The value of a text of the configuration `name`; surrounding white space does not count.
    pub fn parse(self, name: &str, text: &str) -> Result<Value, InvalidValue> {
        let refused = |value: String, reason: String| InvalidValue { name: name.to_owned(), value, reason };
        let no_number = |kind: &str| refused(text.to_owned(), format!("Not a number of type {kind}"));
        let trimmed = text.trim();
        match self {
            Self::Bool if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
            Self::Bool if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
            Self::Bool => Err(refused(text.to_owned(), "Expected value to be either true or false".to_owned())),
            Self::Int { min, max } => {
                let value: i32 = trimmed.parse().map_err(|_| no_number("INT"))?;
                in_range(value.into(), min, max).map_err(|reason| refused(value.to_string(), reason))?;
                Ok(Value::Int(value))
            }
            Self::GzipLevel => {
                let value: i32 = trimmed.parse().map_err(|_| no_number("INT"))?;
                if value != -1 && !(1..=9).contains(&value) {
                    let reason = "Value must be between 1 and 9 or equal to -1".to_owned();
                    return Err(refused(value.to_string(), reason));
                }
                Ok(Value::Int(value))
            }
            Self::Long { min } => {
                let value: i64 = trimmed.parse().map_err(|_| no_number("LONG"))?;
                in_range(value, min, i64::MAX).map_err(|reason| refused(value.to_string(), reason))?;
                Ok(Value::Long(value))
            }
            Self::Short => {
                let value: i16 = trimmed.parse().map_err(|_| no_number("SHORT"))?;
                Ok(Value::Int(value.into()))
            }
            Self::Double { min, max } => {
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
            Self::Text(accepted) => {
                one_of(trimmed, accepted).map_err(|reason| refused(trimmed.to_owned(), reason))?;
                Ok(Value::Text(trimmed.to_owned()))
            }
            Self::AnyText => Ok(Value::Text(trimmed.to_owned())),
            Self::AnyList => Ok(Value::List(split(trimmed))),
            Self::List(accepted) => {
                let entries = split(trimmed);
                if entries.iter().any(String::is_empty) {
                    return Err(refused(trimmed.to_owned(), "values must not be empty".to_owned()));
                }
                for entry in &entries {
                    one_of(entry, accepted).map_err(|reason| refused(entry.clone(), reason))?;
                }
                Ok(Value::List(entries))
            }
            Self::ThrottledReplicas => {
                let entries = split(trimmed);
                let is_replica = |entry: &String| match entry.split_once(':') {
                    Some((partition, broker)) => is_number(partition) && is_number(broker),
                    None => entry.is_empty(),
                };
                if entries.iter().all(is_replica) || entries.concat() == "*" {
                    return Ok(Value::List(entries));
                }
                let reason = format!(
                    "{name} must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
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

/// The list `current` with the entries of `added` that it does not hold yet (IncrementalAlterConfigs' APPEND).
pub fn append(current: Option<&str>, added: &str) -> String {
    let mut entries = list_of(current);
    for entry in added.split(',') {
        if !entries.iter().any(|known| known == entry) {
            entries.push(entry.to_owned());
        }
    }
    entries.join(",")
}

/// The list `current` without the entries of `removed` (IncrementalAlterConfigs' SUBTRACT).
pub fn subtract(current: Option<&str>, removed: &str) -> String {
    let mut entries = list_of(current);
    entries.retain(|entry| !removed.split(',').any(|gone| gone == entry));
    entries.join(",")
}

fn list_of(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default().split(',').filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_shrink() {
        assert_eq!(append(Some("delete"), "compact,delete"), "delete,compact");
        assert_eq!(append(None, "compact"), "compact");
        assert_eq!(subtract(Some("delete,compact"), "delete"), "compact");
        assert_eq!(subtract(None, "delete"), "");
    }

    #[test]
    fn values_are_shown_parsed() {
        let shown = |kind: ValueKind, text: &str| kind.parse("x", text).expect("valid").to_string();
        assert_eq!(shown(ValueKind::Bool, " TRUE"), "true");
        assert_eq!(shown(ValueKind::List(&["compact", "delete"]), "compact, delete"), "compact,delete");
        assert_eq!(shown(ValueKind::Long { min: 0 }, "007"), "7");
        assert_eq!(shown(ValueKind::Double { min: 0.0, max: 1.0 }, "1"), "1.0");
    }

    #[test]
    fn numbers_know_their_width() {
        assert!(ValueKind::Short.parse("x", "32768").is_err_and(|e| e.reason == "Not a number of type SHORT"));
        assert_eq!(ValueKind::Short.parse("x", " 7 "), Ok(Value::Int(7)));
        assert!(ValueKind::List(&["compact", "delete"]).parse("x", "compact,").is_err());
    }
}
