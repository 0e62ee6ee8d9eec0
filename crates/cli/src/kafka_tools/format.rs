//! Records as `kafka-console-consumer` prints them, and lines as `kafka-console-producer` reads them: the properties of
//! Kafka's default formatter and reader.

use std::io::Write as _;

use bytes::Bytes;
use ottla_protocol::record_batch::{Header, TimestampType};

use crate::consumer::Incoming;
use crate::kafka_tools::deserializer::{DeserializeError, Deserializer, UnknownDeserializer};
use crate::producer::Outgoing;

/// `print.key=true` and its like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Formatter {
    pub print_timestamp: bool,
    pub print_key: bool,
    pub print_offset: bool,
    pub print_delivery: bool,
    pub print_epoch: bool,
    pub print_partition: bool,
    pub print_headers: bool,
    pub print_value: bool,
    pub key_separator: Vec<u8>,
    pub line_separator: Vec<u8>,
    pub headers_separator: Vec<u8>,
    pub null_literal: Vec<u8>,
    pub key: Deserializer,
    pub value: Deserializer,
    pub header: Deserializer,
}

impl Default for Formatter {
    fn default() -> Self {
        Self {
            print_timestamp: false,
            print_key: false,
            print_offset: false,
            print_delivery: false,
            print_epoch: false,
            print_partition: false,
            print_headers: false,
            print_value: true,
            key_separator: b"\t".to_vec(),
            line_separator: b"\n".to_vec(),
            headers_separator: b",".to_vec(),
            null_literal: b"null".to_vec(),
            key: Deserializer::default(),
            value: Deserializer::default(),
            header: Deserializer::default(),
        }
    }
}

fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

impl Formatter {
    /// Unknown properties are passed over, as Kafka's formatter does.
    pub fn of(properties: &[(String, String)]) -> Result<Self, UnknownDeserializer> {
        let mut formatter = Self::default();
        for (name, value) in properties {
            let bytes = || value.clone().into_bytes();
            match name.as_str() {
                "print.timestamp" => formatter.print_timestamp = is_true(value),
                "print.key" => formatter.print_key = is_true(value),
                "print.offset" => formatter.print_offset = is_true(value),
                "print.delivery" => formatter.print_delivery = is_true(value),
                "print.epoch" => formatter.print_epoch = is_true(value),
                "print.partition" => formatter.print_partition = is_true(value),
                "print.headers" => formatter.print_headers = is_true(value),
                "print.value" => formatter.print_value = is_true(value),
                "key.separator" => formatter.key_separator = bytes(),
                "line.separator" => formatter.line_separator = bytes(),
                "headers.separator" => formatter.headers_separator = bytes(),
                "null.literal" => formatter.null_literal = bytes(),
                "key.deserializer" => formatter.key = Deserializer::of_class(value)?,
                "value.deserializer" => formatter.value = Deserializer::of_class(value)?,
                "headers.deserializer" => formatter.header = Deserializer::of_class(value)?,
                _ => {}
            }
        }
        Ok(formatter)
    }

    /// Appends the record's line; nothing where it cannot be read.
    pub fn write(&self, incoming: &Incoming, out: &mut Vec<u8>) -> Result<(), DeserializeError> {
        let began = out.len();
        let written = self.write_fields(incoming, out);
        match written {
            Ok(true) => out.extend_from_slice(&self.line_separator),
            Ok(false) => {}
            Err(_) => out.truncate(began),
        }
        written.map(drop)
    }

    /// Whether there was any field.
    fn write_fields(&self, incoming: &Incoming, out: &mut Vec<u8>) -> Result<bool, DeserializeError> {
        let mut is_first = true;
        let mut begin = |out: &mut Vec<u8>| {
            if !std::mem::take(&mut is_first) {
                out.extend_from_slice(&self.key_separator);
            }
        };
        if self.print_timestamp {
            begin(out);
            out.extend_from_slice(match incoming.timestamp_type {
                TimestampType::CreateTime => &b"CreateTime:"[..],
                TimestampType::LogAppendTime => &b"LogAppendTime:"[..],
            });
            put(out, incoming.record.timestamp);
        }
        if self.print_partition {
            begin(out);
            out.extend_from_slice(b"Partition:");
            put(out, incoming.partition);
        }
        if self.print_offset {
            begin(out);
            out.extend_from_slice(b"Offset:");
            put(out, incoming.record.offset);
        }
        // Kafka's console consumer gives its formatter records without either.
        for (is_printed, name) in [(self.print_delivery, &b"Delivery:"[..]), (self.print_epoch, &b"Epoch:"[..])] {
            if is_printed {
                begin(out);
                out.extend_from_slice(name);
                out.extend_from_slice(b"NOT_PRESENT");
            }
        }
        if self.print_headers {
            begin(out);
            self.headers(&incoming.record.headers, out)?;
        }
        if self.print_key {
            begin(out);
            self.field(self.key, incoming.record.key.as_ref(), out)?;
        }
        if self.print_value {
            begin(out);
            self.field(self.value, incoming.record.value.as_ref(), out)?;
        }
        Ok(!is_first)
    }

    fn field(
        &self,
        deserializer: Deserializer,
        field: Option<&Bytes>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeserializeError> {
        match field {
            None => out.extend_from_slice(&self.null_literal),
            Some(bytes) => deserializer.write(bytes, out)?,
        }
        Ok(())
    }

    fn headers(&self, headers: &[Header], out: &mut Vec<u8>) -> Result<(), DeserializeError> {
        if headers.is_empty() {
            out.extend_from_slice(b"NO_HEADERS");
        }
        for (at, header) in headers.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(&self.headers_separator);
            }
            out.extend_from_slice(header.key.as_bytes());
            out.push(b':');
            self.field(self.header, header.value.as_ref(), out)?;
        }
        Ok(())
    }
}

/// Numbers, as they are shown.
fn put(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    // Writing to a vector does not fail.
    let _ = write!(out, "{number}");
}

/// A line that does not have the form that was asked for. The texts are Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LineError {
    #[error("No key separator found on line number {0}: '{1}'")]
    KeySeparator(u64, String),
    #[error("No headers delimiter found on line number {0}: '{1}'")]
    HeadersDelimiter(u64, String),
    #[error("No header key separator found in pair '{1}' on line number {0}")]
    HeaderKeySeparator(u64, String),
    #[error("standard input cannot be read: {0}")]
    Input(String),
    /// Before any line.
    #[error("{0} and {1} may not be equal")]
    Equal(&'static str, &'static str),
    #[error("headers.separator is no regular expression that is read here: {0}")]
    Separator(String),
    #[error("Header keys should not be equal to the null marker '{0}' as they can't be null")]
    NullHeaderKey(String),
}

/// What stands between headers: for Kafka's reader a regular expression.
#[derive(Clone, Debug)]
enum Separator {
    Text(String),
    Expression(regex::Regex),
}

impl Separator {
    fn new(text: &str) -> Result<Self, LineError> {
        if regex::escape(text) == text && !text.is_empty() {
            return Ok(Self::Text(text.to_owned()));
        }
        regex::Regex::new(text).map(Self::Expression).map_err(|_| LineError::Separator(text.to_owned()))
    }

    fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        match self {
            Self::Text(separator) => text.split(separator.as_str()).collect(),
            Self::Expression(separator) => {
                let parts = separator.split(text);
                // As Java: a match of no characters at the beginning gives no first part.
                let is_empty_match = separator.find(text).is_some_and(|found| found.range() == (0..0));
                parts.skip(usize::from(is_empty_match)).collect()
            }
        }
    }
}

/// `parse.key=true` and its like.
#[derive(Clone, Debug)]
pub struct LineReader {
    pub parse_key: bool,
    pub parse_headers: bool,
    pub ignore_error: bool,
    pub key_separator: String,
    pub headers_delimiter: String,
    headers_separator: Separator,
    pub headers_key_separator: String,
    pub null_marker: Option<String>,
    line: u64,
}

impl Default for LineReader {
    fn default() -> Self {
        Self {
            parse_key: false,
            parse_headers: false,
            ignore_error: false,
            key_separator: "\t".to_owned(),
            headers_delimiter: "\t".to_owned(),
            headers_separator: Separator::Text(",".to_owned()),
            headers_key_separator: ":".to_owned(),
            null_marker: None,
            line: 0,
        }
    }
}

impl LineReader {
    /// Unknown properties are passed over, as Kafka's reader does.
    pub fn of(properties: &[(String, String)]) -> Result<Self, LineError> {
        let mut reader = Self::default();
        let mut separator = ",";
        for (name, value) in properties {
            match name.as_str() {
                "parse.key" => reader.parse_key = is_true(value),
                "parse.headers" => reader.parse_headers = is_true(value),
                "ignore.error" => reader.ignore_error = is_true(value),
                "key.separator" => reader.key_separator.clone_from(value),
                "headers.delimiter" => reader.headers_delimiter.clone_from(value),
                "headers.separator" => separator = value,
                "headers.key.separator" => reader.headers_key_separator.clone_from(value),
                "null.marker" => reader.null_marker = Some(value.clone()),
                _ => {}
            }
        }
        let (delimiter, key) = (reader.headers_delimiter.as_str(), reader.headers_key_separator.as_str());
        let marker = reader.null_marker.as_deref();
        let pairs = [
            ("headers.delimiter", "headers.separator", delimiter == separator),
            ("headers.delimiter", "headers.key.separator", delimiter == key),
            ("headers.separator", "headers.key.separator", separator == key),
            ("null.marker", "key.separator", marker == Some(&reader.key_separator)),
            ("null.marker", "headers.separator", marker == Some(separator)),
            ("null.marker", "headers.delimiter", marker == Some(delimiter)),
            ("null.marker", "headers.key.separator", marker == Some(key)),
        ];
        if let Some((one, other, _)) = pairs.into_iter().find(|(_, _, are_equal)| *are_equal) {
            return Err(LineError::Equal(one, other));
        }
        reader.headers_separator = Separator::new(separator)?;
        Ok(reader)
    }

    /// The record of the next line, without its line break.
    pub fn read(&mut self, line: &[u8]) -> Result<Outgoing, LineError> {
        self.line += 1;
        let shown = || String::from_utf8_lossy(line).into_owned();
        let mut rest = line;
        let mut record = Outgoing::default();
        if self.parse_headers {
            match split(rest, self.headers_delimiter.as_bytes()) {
                Some((headers, after)) => {
                    record.headers = self.headers(headers)?;
                    rest = after;
                }
                None if self.ignore_error => {}
                None => return Err(LineError::HeadersDelimiter(self.line, shown())),
            }
        }
        if self.parse_key {
            match split(rest, self.key_separator.as_bytes()) {
                Some((key, after)) => {
                    record.key = self.field(key);
                    rest = after;
                }
                None if self.ignore_error => {}
                None => return Err(LineError::KeySeparator(self.line, shown())),
            }
        }
        record.value = self.field(rest);
        Ok(record)
    }

    fn field(&self, bytes: &[u8]) -> Option<Bytes> {
        let is_null = self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == bytes);
        (!is_null).then(|| Bytes::copy_from_slice(bytes))
    }

    fn headers(&self, text: &[u8]) -> Result<Vec<Header>, LineError> {
        if self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == text) {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(text);
        let mut pairs = self.headers_separator.split(&text);
        // Java's split drops what is empty at the end, unless there is nothing else.
        while pairs.len() > 1 && pairs.last().is_some_and(|pair| pair.is_empty()) {
            pairs.pop();
        }
        pairs.into_iter().map(|pair| self.header(pair)).collect()
    }

    fn header(&self, pair: &str) -> Result<Header, LineError> {
        let (key, value) = match pair.split_once(self.headers_key_separator.as_str()) {
            Some((key, value)) => (key, self.field(value.as_bytes())),
            None if self.ignore_error => (pair, None),
            None => return Err(LineError::HeaderKeySeparator(self.line, pair.to_owned())),
        };
        match &self.null_marker {
            Some(marker) if marker == key => Err(LineError::NullHeaderKey(marker.clone())),
            _ => Ok(Header { key: key.to_owned(), value }),
        }
    }
}

fn split<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    if separator.is_empty() {
        // As Java finds an empty text: at the beginning.
        return Some((&[], text));
    }
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_records::incoming;

    fn properties(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn printed(list: &[(&str, &str)], key: Option<&str>, headers: Vec<Header>) -> String {
        let incoming = incoming(key.map(str::as_bytes), Some(b"hello"), headers);
        let mut out = Vec::new();
        Formatter::of(&properties(list)).expect("known classes").write(&incoming, &mut out).expect("readable");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn records_are_printed_as_kafkas_formatter_does() {
        assert_eq!(printed(&[], Some("k"), vec![]), "hello\n");
        assert_eq!(printed(&[("print.key", "true")], None, vec![]), "null\thello\n");
        let all = [
            ("print.key", "true"),
            ("print.timestamp", "true"),
            ("print.offset", "true"),
            ("print.partition", "TRUE"),
            ("print.headers", "true"),
            ("print.delivery", "true"),
            ("print.epoch", "true"),
            ("key.separator", "|"),
        ];
        assert_eq!(
            printed(&all, Some("k"), vec![]),
            "CreateTime:1700000000000|Partition:2|Offset:7|Delivery:NOT_PRESENT|Epoch:NOT_PRESENT|NO_HEADERS|k|hello\n"
        );
        let headers = vec![
            Header { key: "a".into(), value: Some(Bytes::from_static(b"1")) },
            Header { key: "b".into(), value: None },
        ];
        assert_eq!(printed(&[("print.headers", "true"), ("print.value", "false")], None, headers), "a:1,b:null\n");
    }

    fn read(list: &[(&str, &str)]) -> LineReader {
        LineReader::of(&properties(list)).expect("separators that differ")
    }

    #[test]
    fn separators_differ() {
        let text =
            |list: &[(&str, &str)]| LineReader::of(&properties(list)).map(drop).map_err(|error| error.to_string());
        let equal = text(&[("headers.separator", ":")]);
        assert_eq!(equal, Err("headers.separator and headers.key.separator may not be equal".to_owned()));
        let marker = text(&[("null.marker", "\t")]);
        assert_eq!(marker, Err("null.marker and key.separator may not be equal".to_owned()));
        assert!(text(&[("headers.separator", "(")]).is_err_and(|text| text.contains("headers.separator")));
    }

    #[test]
    fn headers_are_separated_by_an_expression() {
        let mut reader = read(&[("parse.headers", "true"), ("headers.separator", r"\s*;\s*")]);
        let record = reader.read(b"a:1 ; b:2;c:3;\tv").expect("a record");
        assert_eq!(record.headers.iter().map(|header| header.key.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        // As Kafka's reader: an expression that matches nothing splits every character off.
        let mut reader = read(&[("parse.headers", "true"), ("headers.separator", "|")]);
        let error = reader.read(b"a:1|b:2\tv").expect_err("pairs").to_string();
        assert_eq!(error, "No header key separator found in pair 'a' on line number 1");
    }

    #[test]
    fn nothing_is_printed_of_nothing() {
        assert_eq!(printed(&[("print.value", "false")], Some("k"), vec![]), "");
        assert_eq!(printed(&[("print.value", "false"), ("print.offset", "true")], Some("k"), vec![]), "Offset:7\n");
    }

    #[test]
    fn lines_are_read_as_kafkas_reader_does() {
        let mut reader = read(&[("parse.key", "true"), ("key.separator", ":")]);
        let record = reader.read(b"k1:v1:v2").expect("a record");
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"k1"[..]), Some(&b"v1:v2"[..])));
        reader.read(b"k2:v2").expect("a record");
        let error = reader.read(b"nokey").expect_err("no key").to_string();
        assert_eq!(error, "No key separator found on line number 3: 'nokey'");

        let mut lenient = read(&[("parse.key", "true"), ("ignore.error", "true")]);
        assert_eq!(lenient.read(b"nokey").expect("a record").key, None);

        let mut headers = read(&[("parse.headers", "true"), ("null.marker", "NULL")]);
        let record = headers.read(b"a:1,b:NULL\tNULL").expect("a record");
        assert_eq!((record.headers.len(), record.value), (2, None));
        assert!(headers.read(b"a\tv").is_err() && headers.read(b"v").is_err());
        let null_key = headers.read(b"NULL:x\tv").expect_err("a null key").to_string();
        assert_eq!(null_key, "Header keys should not be equal to the null marker 'NULL' as they can't be null");
        let trailing = headers.read(b"a:1,\tv").expect("a record");
        assert_eq!(trailing.headers.len(), 1);
        let mut lenient = read(&[("parse.headers", "true"), ("ignore.error", "true")]);
        let record = lenient.read(b"h1:v1,broken\tv").expect("a record");
        let shown: Vec<_> =
            record.headers.iter().map(|header| (header.key.to_string(), header.value.is_some())).collect();
        assert_eq!(shown, [("h1".to_owned(), true), ("broken".to_owned(), false)]);
        // Case 23: the marker in the place of everything.
        let all = [("parse.headers", "true"), ("parse.key", "true"), ("null.marker", "NULL")];
        let record = read(&all).read(b"NULL\tNULL\tNULL").expect("a record");
        assert_eq!((record.headers.len(), record.key, record.value), (0, None, None));
        let plain = LineReader::default().read(b"").expect("a record");
        assert_eq!(plain.value.as_deref(), Some(&b""[..]));
    }
}
