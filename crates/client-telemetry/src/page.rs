//! What clients pushed, as Prometheus reads it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::client::Identity;
use crate::clients::Shown;
use crate::point::{CLIENT_LABELS, INFO, put_label, put_value};

/// A view of all clients at one time.
pub struct Page(Vec<Shown>);

/// The values of one name.
struct Family<'a> {
    is_counter: bool,
    /// Labels of the client, labels of the value, the value.
    lines: Vec<(&'a str, &'a str, f64)>,
}

impl Page {
    pub(crate) fn new(clients: Vec<Shown>) -> Self {
        Self(clients)
    }

    /// Prometheus' text form; empty if no client has pushed anything.
    pub fn render(&self) -> String {
        let labels: Vec<String> = self.0.iter().map(|client| client_labels(&client.identity)).collect();
        let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
        for (client, client_labels) in self.0.iter().zip(&labels) {
            for (series, value) in &*client.series {
                let family = match families.entry(&series.name) {
                    Entry::Vacant(vacant) => vacant.insert(Family { is_counter: series.is_counter, lines: Vec::new() }),
                    Entry::Occupied(known) => known.into_mut(),
                };
                // A name has one type, and clients choose names: the first one counts.
                if family.is_counter == series.is_counter {
                    family.lines.push((client_labels, &series.labels, *value));
                }
            }
        }
        let mut page = String::new();
        if !self.0.is_empty() {
            head(&mut page, INFO, "Who the clients are that push metrics", false);
        }
        for client in &self.0 {
            line(&mut page, INFO, &info_labels(&client.identity), "", 1.0);
        }
        for (name, family) in &families {
            head(&mut page, name, "Pushed by clients", family.is_counter);
            for (client_labels, labels, value) in &family.lines {
                line(&mut page, name, client_labels, labels, *value);
            }
        }
        page
    }
}

/// How much a page says of a client besides its series: once, and in each of their lines.
pub(crate) fn bytes_beside(identity: &Identity, series: usize) -> usize {
    if series == 0 { 0 } else { info_labels(identity).len() + series * client_labels(identity).len() }
}

fn client_labels(identity: &Identity) -> String {
    let mut labels = String::new();
    let instance_id = identity.instance_id.to_string();
    for (key, value) in CLIENT_LABELS.iter().zip([&instance_id, &identity.client_id]) {
        put_label(&mut labels, key, value);
    }
    labels
}

fn info_labels(identity: &Identity) -> String {
    let mut labels = client_labels(identity);
    put_label(&mut labels, "software_name", identity.software_name.as_deref().unwrap_or_default());
    put_label(&mut labels, "software_version", identity.software_version.as_deref().unwrap_or_default());
    put_label(&mut labels, "address", &identity.address);
    labels
}

fn head(page: &mut String, name: &str, help: &str, is_counter: bool) {
    let kind = if is_counter { "counter" } else { "gauge" };
    page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn line(page: &mut String, name: &str, client_labels: &str, labels: &str, value: f64) {
    let comma = if labels.is_empty() { "" } else { "," };
    for part in [name, "{", client_labels, comma, labels, "} "] {
        page.push_str(part);
    }
    put_value(page, value);
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::tests::identity;
    use crate::point::Series;

    fn shown(instance: u8, series: &[(&str, bool, &str, f64)]) -> Shown {
        let series = series.iter().map(|(name, is_counter, labels, value)| {
            let series = Series { name: (*name).to_owned(), is_counter: *is_counter, labels: (*labels).to_owned() };
            (series, *value)
        });
        Shown { identity: Arc::new(identity(instance, "a\"b")), series: Arc::new(series.collect()) }
    }

    #[test]
    fn each_name_has_one_type_and_the_lines_of_all_clients() {
        let page = Page::new(vec![
            shown(1, &[("ottla_client_n_total", true, "topic=\"t\"", 3.0), ("ottla_client_rate", false, "", f64::NAN)]),
            shown(2, &[("ottla_client_n_total", false, "", 9.0), ("ottla_client_rate", false, "", 0.5)]),
        ]);
        let own = |instance: u8| {
            format!("client_instance_id=\"{}\",client_id=\"a\\\"b\"", identity(instance, "").instance_id)
        };
        let about = "software_name=\"apache-kafka-java\",software_version=\"4.3.0\",address=\"10.0.0.1\"";
        let (one, two) = (own(1), own(2));
        let expected = [
            "# HELP ottla_client_info Who the clients are that push metrics".to_owned(),
            "# TYPE ottla_client_info gauge".to_owned(),
            format!("ottla_client_info{{{one},{about}}} 1"),
            format!("ottla_client_info{{{two},{about}}} 1"),
            "# HELP ottla_client_n_total Pushed by clients".to_owned(),
            "# TYPE ottla_client_n_total counter".to_owned(),
            format!("ottla_client_n_total{{{one},topic=\"t\"}} 3"),
            "# HELP ottla_client_rate Pushed by clients".to_owned(),
            "# TYPE ottla_client_rate gauge".to_owned(),
            format!("ottla_client_rate{{{one}}} NaN"),
            format!("ottla_client_rate{{{two}}} 0.5"),
        ];
        assert_eq!(page.render().lines().collect::<Vec<_>>(), expected);
        assert_eq!(Page::new(Vec::new()).render(), "");
    }
}
