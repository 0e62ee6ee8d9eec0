//! The small files beside the logs. Each has a layout, an encoder and a strict decoder, and is replaced atomically.

pub mod clean_shutdown;
pub mod leader_epochs;
pub mod meta_properties;
pub mod offsets;
pub mod partition_metadata;
pub mod registration;

use crate::error::Malformed;

/// The lines of Kafka's checkpoint form: a version, the number of entries, then one line for each. An empty file has no
/// entries (Kafka creates it so).
fn checkpoint_lines<'t>(what: &str, text: &'t str) -> Result<Vec<&'t str>, Malformed> {
    let mut lines = text.lines();
    let Some(version) = lines.next() else { return Ok(Vec::new()) };
    if version.trim() != "0" {
        return Err(Malformed::new(what, format!("version {version:?} is not known, only 0")));
    }
    let Some(count) = lines.next() else { return Ok(Vec::new()) };
    let entries: Vec<&str> = lines.collect();
    if count.trim().parse() != Ok(entries.len()) {
        return Err(Malformed::new(what, format!("{count:?} entries are announced, {} are there", entries.len())));
    }
    Ok(entries)
}

fn utf8<'b>(what: &str, bytes: &'b [u8]) -> Result<&'b str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::new(what, "not UTF-8"))
}
