//! wurstmeister's variables that hold a command: what it prints is the value.

use std::process::{Command, Stdio};

use crate::error::ConfigError;

/// A command, and the variable that its output is where nothing names its placeholder. The advertised two give way to
/// whatever else is advertised.
const COMMANDS: &[(&str, &str)] = &[
    ("HOSTNAME_COMMAND", "KAFKA_ADVERTISED_HOST_NAME"),
    ("PORT_COMMAND", "KAFKA_ADVERTISED_PORT"),
    ("BROKER_ID_COMMAND", "KAFKA_BROKER_ID"),
    ("RACK_COMMAND", "KAFKA_BROKER_RACK"),
];

/// The variables, with the commands' words filled in. A command that prints nothing is added to `warnings`.
pub(super) fn resolve(
    mut variables: Vec<(String, String)>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    for (command, target) in COMMANDS {
        let Some((_, line)) = variables.iter().find(|(name, value)| name == command && !value.is_empty()) else {
            continue;
        };
        let output = run(command, line)?;
        if output.is_empty() {
            warnings.push(format!("{command}: `{line}` prints nothing: _{{{command}}} and {target} stay empty"));
        }
        let placeholder = format!("_{{{command}}}");
        let mut is_used = variables.iter().any(|(name, _)| name == target);
        for (_, value) in variables.iter_mut().filter(|(name, _)| name.starts_with("KAFKA_")) {
            if value.contains(&placeholder) {
                *value = value.replace(&placeholder, &output);
                is_used = true;
            }
        }
        let is_advertised = target.starts_with("KAFKA_ADVERTISED")
            && variables.iter().any(|(name, _)| name == "KAFKA_ADVERTISED_LISTENERS");
        if !is_used && !is_advertised {
            variables.push(((*target).to_owned(), output));
        }
    }
    Ok(variables)
}

fn run(variable: &str, line: &str) -> Result<String, ConfigError> {
    let failed = |problem: String| ConfigError::Variable {
        variable: variable.to_owned(),
        problem,
        accepted: "a command that prints one value and ends with 0".to_owned(),
    };
    let output = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("sh: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("`{line}` ended with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
