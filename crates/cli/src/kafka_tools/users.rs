//! Users in `kafka-configs`: SCRAM credentials, `SCRAM-SHA-256=[iterations=8192,password=secret]`.

use ottla_client::{ConfigChange, ScramChange};
use ottla_model::ErrorCode;
use ottla_sasl::ScramHash;
use ottla_sasl::scram::{ITERATIONS_MAX, ITERATIONS_MIN};

use super::ToolError;
use crate::kafka::{Kafka, KafkaError};
use crate::out;

/// The changes of a user's credentials; the plain password ends here.
pub fn changes(changes: &[ConfigChange]) -> Result<Vec<ScramChange>, ToolError> {
    changes.iter().map(change).collect()
}

fn change(change: &ConfigChange) -> Result<ScramChange, ToolError> {
    let name = match change {
        ConfigChange::Set { name, .. } | ConfigChange::Delete { name } => name,
    };
    let hash = ScramHash::from_name(name).ok_or_else(|| {
        ToolError::Argument(format!("Only SCRAM-SHA-256 and SCRAM-SHA-512 are configs of users: not {name}"))
    })?;
    let ConfigChange::Set { value, .. } = change else { return Ok(ScramChange::Delete { mechanism: hash.code() }) };
    credential(hash, value)
}

/// `[iterations=N,]password=TEXT`.
fn credential(hash: ScramHash, text: &str) -> Result<ScramChange, ToolError> {
    let argument = |text: String| ToolError::Argument(text);
    let mechanism = hash.mechanism_name();
    let (mut iterations, mut password) = (ITERATIONS_MIN, None);
    for field in text.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("password", value)) if !value.is_empty() => password = Some(value),
            Some(("iterations", value)) => {
                let parsed = value.parse().ok().filter(|number| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(number));
                iterations = parsed.ok_or_else(|| {
                    argument(format!("Iterations of {mechanism} must be {ITERATIONS_MIN} to {ITERATIONS_MAX}: {value}"))
                })?;
            }
            _ => {
                return Err(argument(format!("A credential of {mechanism} has the form [iterations=N,password=TEXT]")));
            }
        }
    }
    let password = password.ok_or_else(|| argument(format!("No password is given for {mechanism}")))?;
    let salt: [u8; ottla_sasl::SALT_BYTES] = rand::random();
    let salted_password = hash.salted_password(password.as_bytes(), &salt, iterations);
    Ok(ScramChange::Set { mechanism: hash.code(), iterations, salt: salt.to_vec(), salted_password })
}

pub async fn describe(kafka: &Kafka, user: Option<&str>) -> Result<(), ToolError> {
    let users: Vec<&str> = user.into_iter().collect();
    let described = kafka.client().describe_user_scram_credentials(&users).await.map_err(KafkaError::from)?;
    for user in described {
        if user.error == ErrorCode::ResourceNotFound {
            continue;
        }
        if !user.error.is_ok() {
            let message = user.message.unwrap_or_default();
            return Err(KafkaError::refused(user.error, &message).into());
        }
        let name = |code: i8| ScramHash::from_code(code).map_or("UNKNOWN", ScramHash::mechanism_name);
        let credentials: Vec<String> = user
            .credentials
            .iter()
            .map(|(code, iterations)| format!("{}=iterations={iterations}", name(*code)))
            .collect();
        out!("SCRAM credential configs for user-principal '{}' are {}", user.name, credentials.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<ScramChange, String> {
        change(&ConfigChange::Set { name: name.to_owned(), value: value.to_owned() }).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_read_and_salted() {
        for (text, expected) in [("password=secret", 4096), ("iterations=8192,password=a=b", 8192)] {
            let Ok(ScramChange::Set { mechanism: 2, iterations, salt, salted_password }) = set("SCRAM-SHA-512", text)
            else {
                panic!("{text}");
            };
            let password = text.split_once("password=").expect("one").1;
            assert_eq!(iterations, expected);
            let hash = ScramHash::Sha512;
            assert_eq!(salted_password, hash.salted_password(password.as_bytes(), &salt, iterations));
        }
        for (name, text) in [
            ("SCRAM-SHA-1", "password=x"),
            ("SCRAM-SHA-256", "iterations=4096"),
            ("SCRAM-SHA-256", "iterations=1,password=hunter2"),
            ("SCRAM-SHA-256", "hunter2"),
        ] {
            let error = set(name, text).err().expect("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
