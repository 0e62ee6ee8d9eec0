//! `meta.properties`: which cluster and which broker a log directory belongs to. Version 0, as Kafka with ZooKeeper
//! writes it; version 1 (`node.id`) is understood.
//!
//! ```text
//! #
//! broker.id=1
//! cluster.id=5L6g3nShT-eMCtK--X86sw
//! version=0
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ottla_model::{BrokerId, ClusterId};

use super::utf8;
use crate::error::Malformed;

pub const FILE_NAME: &str = "meta.properties";

/// How many log directories the broker has, where it has several.
const DIRECTORIES_KEY: &str = "ottla.log.dirs";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaProperties {
    pub broker_id: BrokerId,
    /// None in files of very old Kafka releases.
    pub cluster_id: Option<ClusterId>,
    /// Further entries of the file (`directory.id`), kept unchanged.
    pub others: BTreeMap<String, String>,
}

impl MetaProperties {
    pub fn new(broker_id: BrokerId, cluster_id: ClusterId) -> Self {
        Self { broker_id, cluster_id: Some(cluster_id), others: BTreeMap::new() }
    }

    /// How many log directories the broker had when it claimed this one last. 1 also where that is not known.
    pub fn directories(&self) -> usize {
        self.others.get(DIRECTORIES_KEY).and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    pub fn set_directories(&mut self, directories: usize) {
        self.others.remove(DIRECTORIES_KEY);
        if directories > 1 {
            self.others.insert(DIRECTORIES_KEY.to_owned(), directories.to_string());
        }
    }
}

pub fn encode(meta: &MetaProperties) -> Vec<u8> {
    let mut properties = meta.others.clone();
    properties.insert("version".to_owned(), "0".to_owned());
    properties.insert("broker.id".to_owned(), meta.broker_id.to_string());
    if let Some(cluster_id) = &meta.cluster_id {
        properties.insert("cluster.id".to_owned(), cluster_id.to_string());
    }
    let mut text = String::from("#\n");
    for (key, value) in properties {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}={value}");
    }
    text.into_bytes()
}

pub fn decode(bytes: &[u8]) -> Result<MetaProperties, Malformed> {
    let mut properties = BTreeMap::new();
    for line in utf8(FILE_NAME, bytes)?.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let (key, value) =
            line.split_once(['=', ':']).ok_or_else(|| Malformed::new(FILE_NAME, format!("line {line:?}")))?;
        properties.insert(key.trim().to_owned(), value.trim().replace('\\', ""));
    }
    let id_key = match properties.remove("version").as_deref() {
        Some("0") => "broker.id",
        Some("1") => "node.id",
        Some(other) => return Err(Malformed::new(FILE_NAME, format!("version {other} is not known, only 0 and 1"))),
        None => return Err(Malformed::new(FILE_NAME, "no version")),
    };
    let broker_id = properties
        .remove(id_key)
        .and_then(|text| text.parse().ok())
        .filter(|id: &BrokerId| id.0 >= 0)
        .ok_or_else(|| Malformed::new(FILE_NAME, format!("no valid {id_key}")))?;
    let cluster_id = properties.remove("cluster.id").map(ClusterId::new);
    Ok(MetaProperties { broker_id, cluster_id, others: properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_kafkas() {
        let text = b"#\n#Sat Nov 21 10:48:09 UTC 2026\nbroker.id=1\nversion=0\ncluster.id=5L6g3nShT-eMCtK--X86sw\n";
        let meta = decode(text).expect("valid");
        assert_eq!(meta, MetaProperties::new(BrokerId(1), ClusterId::new("5L6g3nShT-eMCtK--X86sw")));
        assert_eq!(encode(&meta), b"#\nbroker.id=1\ncluster.id=5L6g3nShT-eMCtK--X86sw\nversion=0\n");
    }

    #[test]
    fn other_properties_survive() {
        let meta = decode(b"version=1\nnode.id=3\ncluster.id=a\\=b\ndirectory.id=xyz\n").expect("valid");
        assert_eq!((meta.broker_id, meta.others.len()), (BrokerId(3), 1));
        assert_eq!(meta.cluster_id, Some(ClusterId::new("a=b")));
        assert!(String::from_utf8_lossy(&encode(&meta)).contains("directory.id=xyz\n"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [&b""[..], b"broker.id=1", b"version=2\nbroker.id=1", b"version=0", b"version=0\nbroker.id=-1", b"x"]
        {
            assert!(decode(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
