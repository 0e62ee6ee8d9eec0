//! Command lines as Kafka's tools read them: `--name value`, `--name=value`, unambiguous prefixes of names.

use std::collections::BTreeMap;

/// Whether an option takes a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    Nothing,
    Value,
    /// A value that may be left out (`--compression-codec`).
    MaybeValue,
}

/// One option of a tool.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    pub takes: Takes,
    /// What the usage says after the name.
    pub value: &'static str,
    pub help: &'static str,
    /// Kafka's tool has the option and this one does not, for the reason that `help` gives.
    pub is_refused: bool,
}

pub const fn flag(name: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, takes: Takes::Nothing, value: "", help, is_refused: false }
}

pub const fn value(name: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, takes: Takes::Value, value, help, is_refused: false }
}

/// An option whose value may be left out.
pub const fn maybe_value(name: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, takes: Takes::MaybeValue, value, help, is_refused: false }
}

/// An option that is known and refused, with the reason.
pub const fn refused(name: &'static str, takes: Takes, reason: &'static str) -> OptionSpec {
    OptionSpec { name, takes, value: "refused", help: reason, is_refused: true }
}

/// A command line that a tool cannot use. The texts are those of Kafka's tools.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("{0} is not a recognized option")]
    Unrecognized(String),
    #[error("{0} is an ambiguous option: it may be {1}")]
    Ambiguous(String, String),
    #[error("Option {0} requires an argument")]
    NoValue(String),
    #[error("Option {0} does not take an argument")]
    Value(String),
    #[error("Missing required argument \"[{0}]\"")]
    Missing(&'static str),
    #[error("Cannot parse argument '{1}' of option {0}")]
    Unparsable(&'static str, String),
    #[error("Option \"[{0}]\" can't be used with option \"[{1}]\"")]
    Conflict(&'static str, &'static str),
    /// Kafka's tool has it.
    #[error("Option {0} is not supported: {1}")]
    Refused(&'static str, &'static str),
}

/// What a command line says.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Options {
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Options {
    pub fn parse(specs: &'static [OptionSpec], arguments: &[String]) -> Result<Self, OptionsError> {
        let mut given: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            if !argument.starts_with('-') {
                // Kafka's parser passes over words that belong to no option: health checks in exec form end with `||
                // exit 1`.
                continue;
            }
            let Some(text) = argument.strip_prefix("--").filter(|text| !text.is_empty()) else {
                return Err(OptionsError::Unrecognized(argument.trim_start_matches('-').to_owned()));
            };
            let (name, inline) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let spec = find(specs, name)?;
            if spec.is_refused {
                return Err(OptionsError::Refused(spec.name, spec.help));
            }
            let values = given.entry(spec.name).or_default();
            match (spec.takes, inline) {
                (Takes::Nothing, None) => {}
                (Takes::Nothing, Some(_)) => return Err(OptionsError::Value(spec.name.to_owned())),
                (_, Some(value)) => values.push(value),
                (Takes::Value, None) => match rest.next() {
                    Some(value) => values.push(value.clone()),
                    None => return Err(OptionsError::NoValue(spec.name.to_owned())),
                },
                (Takes::MaybeValue, None) => {
                    if let Some(value) = rest.next_if(|next| !next.starts_with("--")) {
                        values.push(value.clone());
                    }
                }
            }
        }
        Ok(Self { given })
    }

    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The option's own name, if it was given.
    pub fn given(&self, name: &str) -> Option<&'static str> {
        self.given.get_key_value(name).map(|(name, _)| *name)
    }

    /// The last value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.given.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn required(&self, name: &'static str) -> Result<&str, OptionsError> {
        self.get(name).ok_or(OptionsError::Missing(name))
    }

    /// Checks that each option of the table that was given stands beside one of its actions. `actions` are all that the
    /// tool has.
    pub fn check_actions(
        &self,
        actions: &[&'static str],
        table: &[(&'static str, &[&'static str])],
    ) -> Result<(), OptionsError> {
        for (option, wanted) in table.iter().filter(|(option, _)| self.has(option)) {
            let action = actions.iter().copied().find(|action| self.has(action) && !wanted.contains(action));
            if let Some(action) = action {
                return Err(OptionsError::Conflict(option, action));
            }
        }
        Ok(())
    }

    /// A number, if the option is there.
    pub fn number<N: std::str::FromStr>(&self, name: &'static str) -> Result<Option<N>, OptionsError> {
        self.get(name).map(|text| text.parse().map_err(|_| OptionsError::Unparsable(name, text.to_owned()))).transpose()
    }

    /// `key=value` pairs of a repeated option, in order; commas separate further ones where `commas`.
    pub fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, OptionsError> {
        self.all(name)
            .iter()
            .map(|text| match text.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
                None => Err(OptionsError::Unparsable(name, text.clone())),
            })
            .collect()
    }

    /// As `pairs`; an entry without `=` has an empty value, as readers and formatters of Kafka take it.
    pub fn pairs_or_empty(&self, name: &str) -> Vec<(String, String)> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.trim().to_owned(), value.to_owned())
        };
        self.all(name).iter().map(pair).collect()
    }
}

fn find(specs: &'static [OptionSpec], name: &str) -> Result<&'static OptionSpec, OptionsError> {
    if let Some(exact) = specs.iter().find(|spec| spec.name == name) {
        return Ok(exact);
    }
    let candidates: Vec<_> = specs.iter().filter(|spec| spec.name.starts_with(name)).collect();
    match candidates.as_slice() {
        [] => Err(OptionsError::Unrecognized(name.to_owned())),
        [only] => Ok(only),
        // A singular stands for its plural, as in the documents that say `--partition 2`.
        several if several.iter().any(|spec| spec.name.strip_suffix('s') == Some(name)) => {
            find(specs, &format!("{name}s"))
        }
        several => {
            let names = several.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
            Err(OptionsError::Ambiguous(name.to_owned(), names))
        }
    }
}

/// The table that a tool shows when its command line is wrong, in the shape that Kafka's tools have.
pub fn usage(specs: &[OptionSpec]) -> String {
    const NAME_COLUMNS: usize = 41;
    const HELP_COLUMNS: usize = 39;
    let row = |left: &str, right: &str| format!("{left:<NAME_COLUMNS$}{right:<HELP_COLUMNS$}\n");
    let mut text = row("Option", "Description") + &row("------", "-----------");
    let mut sorted: Vec<_> = specs.iter().collect();
    sorted.sort_by_key(|spec| spec.name);
    for spec in sorted {
        let help = if spec.is_refused { format!("Not supported: {}.", spec.help) } else { spec.help.to_owned() };
        let left = match spec.takes {
            Takes::Nothing => format!("--{}", spec.name),
            Takes::Value => format!("--{} <{}>", spec.name, spec.value),
            Takes::MaybeValue => format!("--{} [{}]", spec.name, spec.value),
        };
        let (left, right) = (wrap(&left, NAME_COLUMNS - 1), wrap(&help, HELP_COLUMNS));
        for at in 0..left.len().max(right.len()) {
            text += &row(left.get(at).map_or("", String::as_str), right.get(at).map_or("", String::as_str));
        }
    }
    text
}

/// Words in lines of at most `columns`; lines after the first are indented by two.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    static SPECS: &[OptionSpec] = &[
        flag("create", "Create."),
        value("topic", "String: topic", "The topic."),
        value("topic-id", "String: id", "The id."),
        value("partitions", "Integer: # of partitions", "How many."),
        value("config", "String: name=value", "A configuration."),
        maybe_value("codec", "String", ""),
        refused("warp", Takes::Value, "there is no drive"),
    ];

    fn parse(line: &str) -> Result<Options, OptionsError> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(SPECS, &arguments)
    }

    #[test]
    fn lines_are_read_as_kafkas_tools_do() {
        let options = parse("--create --topic a --partition 2 --config a=1 --config=b=2,3 --codec --topic-id x")
            .expect("readable");
        assert!(options.has("create") && !options.has("list"));
        assert_eq!(options.get("topic"), Some("a"));
        assert_eq!(options.number::<i32>("partitions"), Ok(Some(2)));
        let pairs = options.pairs("config").expect("pairs");
        assert_eq!(pairs, [("a".into(), "1".into()), ("b".into(), "2,3".into())]);
        assert!(options.has("codec") && options.get("codec").is_none());
    }

    #[test]
    fn words_of_no_option_are_passed_over() {
        let options = parse("--create --topic t || exit 1").expect("readable");
        assert!(options.has("create") && options.get("topic") == Some("t"));
    }

    #[test]
    fn wrong_lines_are_named() {
        let text = |line| parse(line).expect_err("wrong").to_string();
        assert_eq!(text("--frobnicate"), "frobnicate is not a recognized option");
        assert_eq!(text("--warp 9"), "Option warp is not supported: there is no drive");
        assert_eq!(text("--wa=9"), "Option warp is not supported: there is no drive");
        assert_eq!(text("--create --topic"), "Option topic requires an argument");
        assert_eq!(text("--c"), "c is an ambiguous option: it may be create, config, codec");
        assert_eq!(text("--create=x"), "Option create does not take an argument");
        assert_eq!(text("-loose"), "loose is not a recognized option");
        let missing = parse("--create").expect("readable").required("topic").expect_err("missing").to_string();
        assert_eq!(missing, "Missing required argument \"[topic]\"");
        let bad = parse("--partitions x").expect("readable").number::<i32>("partitions").expect_err("no number");
        assert_eq!(bad.to_string(), "Cannot parse argument 'x' of option partitions");
    }

    #[test]
    fn the_usage_is_a_table() {
        let table = usage(SPECS);
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        assert!(table.contains("--partitions <Integer: # of partitions>"), "{table}");
    }
}
