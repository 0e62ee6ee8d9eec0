//! `--output table|json|yaml`: a table for people, forms that programs read.

use std::fmt;
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use crate::out;

#[derive(Args, Default)]
pub struct Output {
    /// How the result is written
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Form {
    #[default]
    Table,
    Json,
    Yaml,
}

/// Rows with named columns; the names are those of the fields in JSON and YAML.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One value for each column.
    pub fn push<const N: usize>(&mut self, row: [Value; N]) {
        self.rows.push(row.to_vec());
    }

    pub fn to_json(&self) -> Value {
        let fields = |row: &Vec<Value>| -> Map<String, Value> {
            self.columns.iter().map(ToString::to_string).zip(row.iter().cloned()).collect()
        };
        Value::Array(self.rows.iter().map(|row| Value::Object(fields(row))).collect())
    }

    /// Columns of equal width, the heading in capitals; on a terminal it is bold.
    pub fn lines(&self, is_terminal: bool) -> Vec<String> {
        let heading: Vec<String> = self.columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = rows.iter().chain([&heading]).filter_map(|row| row.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let heading = line(&heading);
        let heading = if is_terminal { format!("\x1b[1m{heading}\x1b[0m") } else { heading };
        std::iter::once(heading).chain(rows.iter().map(line)).collect()
    }
}

/// `1 topic`, `2 topics`.
pub fn counted<N: Copy + TryInto<i128> + fmt::Display>(count: N, noun: &str) -> String {
    if count.try_into().is_ok_and(|count| count == 1) { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A value in a cell.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

impl Output {
    pub fn table(&self, table: &Table) {
        match self.output {
            Form::Table => table.lines(std::io::stdout().is_terminal()).iter().for_each(|line| out!("{line}")),
            _ => self.value(&table.to_json(), Vec::new),
        }
    }

    /// A value, or these lines where a person reads.
    pub fn value(&self, value: &Value, lines: impl FnOnce() -> Vec<String>) {
        match self.output {
            Form::Table => lines().iter().for_each(|line| out!("{line}")),
            Form::Json => out!("{value:#}"),
            Form::Yaml => out!("{}", yaml(value, 0).trim_start_matches('\n')),
        }
    }
}

/// Every text is quoted as in JSON, which YAML reads alike.
fn yaml(value: &Value, indent: usize) -> String {
    let pad = "  ".repeat(indent);
    match value {
        Value::Array(values) if !values.is_empty() => {
            let item = |value: &Value| {
                let text = yaml(value, indent + 1);
                format!("\n{pad}- {}", text.trim_start())
            };
            values.iter().map(item).collect()
        }
        Value::Object(fields) if !fields.is_empty() => {
            let field = |(name, value): (&String, &Value)| {
                let text = yaml(value, indent + 1);
                let space = if text.starts_with('\n') { "" } else { " " };
                format!("\n{pad}{}:{space}{text}", yaml_key(name))
            };
            fields.iter().map(field).collect()
        }
        other => other.to_string(),
    }
}

fn yaml_key(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    if is_plain { name.to_owned() } else { Value::from(name).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["group", "total_lag"]);
        table.push(["readers".into(), 12.into()]);
        table.push(["a".into(), Value::Null]);
        assert_eq!(table.lines(false), ["GROUP    TOTAL LAG", "readers  12", "a        -"]);
        assert_eq!(table.to_json(), json!([{"group": "readers", "total_lag": 12}, {"group": "a", "total_lag": null}]));
    }

    #[test]
    fn nouns_agree_with_their_numbers() {
        let told = [counted(0, "topic"), counted(1, "topic"), counted(2, "topic")];
        assert_eq!(told, ["0 topics", "1 topic", "2 topics"]);
    }

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!([{"a": "x: y", "list": [1, 2], "none": []}, {"b.c": null}]);
        let wanted = "\n- a: \"x: y\"\n  list:\n    - 1\n    - 2\n  none: []\n- \"b.c\": null";
        assert_eq!(yaml(&value, 0), wanted);
        assert_eq!(yaml(&json!("x"), 0), "\"x\"");
    }
}
