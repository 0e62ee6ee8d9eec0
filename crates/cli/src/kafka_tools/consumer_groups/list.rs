//! `--list`, with states and types.

use ottla_client::ListedGroup;

use super::super::ToolError;
use super::super::options::Options;
use crate::kafka::KafkaError;
use crate::out;

const STATES: [&str; 7] =
    ["PreparingRebalance", "Assigning", "Empty", "Dead", "Stable", "CompletingRebalance", "Reconciling"];
const STATE: (&str, &str) = ("state", "states");
const TYPE: (&str, &str) = ("types", "types");
const TYPES: [&str; 2] = ["Consumer", "Classic"];

/// Groups of consumers, and those that only ever committed offsets; Connect's workers have groups as well.
pub fn is_of_consumers(group: &ListedGroup) -> bool {
    group.protocol_type.is_empty() || group.protocol_type == "consumer"
}

/// The name as Kafka spells it; the text itself where Kafka has none.
fn spelled(names: &[&str], text: &str) -> String {
    let known = names.iter().find(|name| name.eq_ignore_ascii_case(text));
    known.map_or_else(|| text.to_owned(), |name| (*name).to_owned())
}

/// A list of names, in any case; as Kafka spells them. `what` is what Kafka calls the list and its entries.
fn wanted(what: (&str, &str), names: &[&str], list: Option<&str>) -> Result<Vec<String>, ToolError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let wanted: Vec<String> = list.split(',').map(|text| spelled(names, text.trim())).collect();
    if wanted.iter().all(|name| names.contains(&name.as_str())) {
        return Ok(wanted);
    }
    let valid = names.join(", ");
    Err(ToolError::Usage(format!("Invalid {} list '{list}'. Valid {} are: {valid}", what.0, what.1)))
}

pub async fn run(options: &Options) -> Result<(), ToolError> {
    let states = wanted(STATE, &STATES, options.get("state"))?;
    let types = wanted(TYPE, &TYPES, options.get("type"))?;
    let kafka = super::connect(options).await?;
    let groups = kafka.client().list_groups(&states, &types).await.map_err(KafkaError::from)?;
    let groups: Vec<ListedGroup> = groups.into_iter().filter(is_of_consumers).collect();
    let (with_type, with_state) = (options.has("type"), options.has("state"));
    if !with_type && !with_state {
        for group in groups {
            out!("{}", group.group);
        }
        return Ok(());
    }
    let width = groups.iter().map(|group| group.group.len()).max().unwrap_or(0).max(15) + 10;
    let row = |group: &str, kind: &str, state: &str| {
        let mut line = format!("{group:<width$}");
        if with_type {
            line += &format!(" {kind:<20}");
        }
        if with_state {
            line += &format!(" {state:<20}");
        }
        out!("{line}");
    };
    row("GROUP", "TYPE", "STATE");
    for group in &groups {
        let unknown = |text: String| if text.is_empty() { "Unknown".to_owned() } else { text };
        row(&group.group, &unknown(spelled(&TYPES, &group.kind)), &unknown(spelled(&STATES, &group.state)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_any_case() {
        assert_eq!(wanted(STATE, &STATES, Some("stable, EMPTY")).expect("known"), ["Stable", "Empty"]);
        assert!(wanted(STATE, &STATES, None).expect("all").is_empty());
        let text = |what, names: &[&str]| wanted(what, names, Some("nonsense")).expect_err("unknown").to_string();
        assert_eq!(
            text(STATE, &STATES),
            "Invalid state list 'nonsense'. Valid states are: PreparingRebalance, Assigning, Empty, Dead, Stable, CompletingRebalance, Reconciling"
        );
        assert_eq!(text(TYPE, &TYPES), "Invalid types list 'nonsense'. Valid types are: Consumer, Classic");
    }
}
