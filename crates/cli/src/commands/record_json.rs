//! Records as JSON, one object a line: `ottla consume --json`.
//!
//! Written field by field: the order is the same for every record, and a map for each would cost more than the rest.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::consumer::Incoming;

/// Appends the record's line.
pub fn write(incoming: &Incoming, out: &mut Vec<u8>) {
    let record = &incoming.record;
    out.extend_from_slice(b"{\"topic\":");
    text(incoming.topic.as_str(), out);
    // Writing to a vector does not fail.
    let _ = write!(
        out,
        ",\"partition\":{},\"offset\":{},\"timestamp_ms\":{},",
        incoming.partition.0, record.offset.0, record.timestamp.0
    );
    field("key", record.key.as_ref(), out);
    out.push(b',');
    field("value", record.value.as_ref(), out);
    out.extend_from_slice(b",\"headers\":[");
    for (at, header) in record.headers.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":");
        text(header.key.as_str(), out);
        out.push(b',');
        field("value", header.value.as_ref(), out);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
}

/// `"name":"text"`; of other bytes than UTF-8 `"name":"base64","name_encoding":"base64"`.
fn field(name: &str, bytes: Option<&Bytes>, out: &mut Vec<u8>) {
    let _ = write!(out, "\"{name}\":");
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| STANDARD.encode(bytes))) {
        None => out.extend_from_slice(b"null"),
        Some(Ok(readable)) => text(readable, out),
        Some(Err(encoded)) => {
            let _ = write!(out, "\"{encoded}\",\"{name}_encoding\":\"base64\"");
        }
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    // A text can be written as JSON, and a vector takes it.
    let _ = serde_json::to_writer(&mut *out, text);
}

#[cfg(test)]
mod tests {
    use ottla_protocol::record_batch::Header;

    use super::*;
    use crate::sample_records::incoming;

    fn line(key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<Header>) -> String {
        let mut out = Vec::new();
        write(&incoming(key, value, headers), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_record_is_an_object_on_a_line() {
        let at = r#"{"topic":"t","partition":2,"offset":7,"timestamp_ms":1700000000000"#;
        let plain = line(None, Some(b"a \"b\"\n"), vec![]);
        assert_eq!(plain, format!("{at},\"key\":null,\"value\":\"a \\\"b\\\"\\n\",\"headers\":[]}}\n"));
        let headers = vec![
            Header { key: "h".into(), value: Some(Bytes::from_static(b"1")) },
            Header { key: "none".into(), value: None },
            Header { key: "raw".into(), value: Some(Bytes::from_static(b"\xff")) },
        ];
        let full = line(Some(b"\xff\xfe"), None, headers);
        let told = r#""key":"//4=","key_encoding":"base64","value":null"#;
        let named = r#"{"key":"h","value":"1"},{"key":"none","value":null}"#;
        let raw = r#"{"key":"raw","value":"/w==","value_encoding":"base64"}"#;
        assert_eq!(full, format!("{at},{told},\"headers\":[{named},{raw}]}}\n"));
        for line in [plain, full] {
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        }
    }
}
