//! Showing the logs of members.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::Result;

use super::layout::{Layout, Member};
use super::process;
use crate::{out, output};

const POLL: Duration = Duration::from_millis(200);

pub async fn logs(layout: &Layout, names: &[String], lines: usize, follow: bool) -> Result<()> {
    let chosen = layout.select(names)?;
    let several = chosen.len() > 1;
    let mut seen = Vec::new();
    for &member in &chosen {
        // Output that is added between these two lines is shown twice rather than never.
        seen.push(length(layout, member));
        let text = process::last_log_lines(layout, member, lines);
        if several {
            out!("== {member}");
        }
        if !text.is_empty() {
            out!("{text}");
        }
    }
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(POLL).await;
        for (member, seen) in chosen.iter().zip(&mut seen) {
            let added = added_since(layout, *member, seen);
            if !added.is_empty() {
                if several {
                    out!("== {member}");
                }
                output::bytes(&added);
                output::flush();
            }
        }
    }
}

fn length(layout: &Layout, member: Member) -> u64 {
    std::fs::metadata(layout.folder(member).join("log")).map_or(0, |metadata| metadata.len())
}

fn added_since(layout: &Layout, member: Member, seen: &mut u64) -> Vec<u8> {
    let mut added = Vec::new();
    let Ok(mut file) = File::open(layout.folder(member).join("log")) else { return added };
    // A log that became shorter was replaced: show it from its start.
    if length(layout, member) < *seen {
        *seen = 0;
    }
    if file.seek(SeekFrom::Start(*seen)).is_ok() && file.read_to_end(&mut added).is_ok() {
        *seen += added.len() as u64;
    }
    added
}
