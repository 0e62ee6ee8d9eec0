//! `docs/environment.md` is made from the tables of variables: run this with `OTTLA_WRITE_DOCS=1` to write it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ottla_config::{BROKER_FAMILIES, COORDINATOR_FAMILIES, Effect, Family};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/environment.md");

fn page() -> String {
    let mut page = "# Environment variables\n\n\
        Images of Ottla understand the variables of the images that they replace. This page is made from the tables\n\
        that the services read them by (`crates/config/tests/environment.rs`). `ottla config explain` prints what a\n\
        given environment comes to, and where each value came from.\n\n\
        Three rules hold for all: `NAME_FILE` names a file that holds the value of `NAME`. Of two families that set one\n\
        property, the one further down wins. An unknown variable that resembles one of these causes a\n\
        warning with the nearest name.\n"
        .to_owned();
    section(&mut page, "Brokers", BROKER_FAMILIES);
    section(&mut page, "Coordinators", COORDINATOR_FAMILIES);
    page
}

fn section(page: &mut String, title: &str, families: &[Family]) {
    write!(page, "\n## {title}\n").expect("a string takes all text");
    for family in families {
        write!(page, "\n### {}\n\n", family.name).expect("a string takes all text");
        for prefix in family.prefixes {
            write!(
                page,
                "`{prefix}FOO_BAR` is the property `foo.bar`: `_` is `.`, `__` is `_`, `___` is `-`. Besides:\n\n"
            )
            .expect("a string takes all text");
        }
        page.push_str("| variable | what it does |\n|---|---|\n");
        for row in family.rows {
            let effect = match row.effect {
                Effect::Property(property) => format!("property `{property}`"),
                Effect::Acts(how) => how.to_owned(),
                Effect::Unused(why) => format!("not used: {why}"),
                Effect::Warned(why) => format!("not used, and the log says so: {why}"),
                Effect::Refused(what) => format!("ends the start: {what}"),
            };
            writeln!(page, "| `{}` | {effect} |", row.variable.replace('*', "…")).expect("a string takes all text");
        }
    }
}

#[test]
fn the_page_is_what_the_tables_say() {
    ottla_test_support::generated(PATH, &page());
}

#[test]
fn every_variable_stands_once_in_its_family() {
    for family in BROKER_FAMILIES.iter().chain(COORDINATOR_FAMILIES) {
        let names: BTreeSet<_> = family.rows.iter().map(|row| row.variable).collect();
        assert_eq!(names.len(), family.rows.len(), "{}", family.name);
    }
}
