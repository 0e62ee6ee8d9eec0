//! The data points of an OTLP `MetricsData` message (opentelemetry-proto, `metrics/v1/metrics.proto`).
//!
//! The message is walked where it lies. A decoder that makes a tree of it would take a hundred bytes of memory for an
//! empty metric, which takes two on the wire.

use std::fmt;

/// Attributes of a client that are read: more than are shown. They are those of each of its values, so that a message
/// with many of both would take the worker for their product.
const RESOURCE_ATTRIBUTES_MAX: usize = 64;

/// What is no OTLP message of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("a field ends behind its message")]
    Truncated,
    #[error("a number has more than 64 bits")]
    Number,
    #[error("a field has no type that is known")]
    Type,
    #[error("a text is not UTF-8")]
    Text,
}

/// How a value relates to the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It is what it is.
    Gauge,
    /// The sum of everything that was counted.
    Sum { is_monotonic: bool },
    /// What was counted since the last push.
    Delta { is_monotonic: bool },
}

/// One value of a metric.
#[derive(Clone, Copy, Debug)]
pub struct DataPoint<'a> {
    pub metric: &'a str,
    pub kind: Kind,
    pub value: f64,
    /// What describes the client: `Resource.attributes`.
    resource: &'a [(&'a str, Attribute<'a>)],
    /// `NumberDataPoint.attributes` among its other fields.
    point: &'a [u8],
}

/// The value of an attribute.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Attribute<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
}

impl fmt::Display for Attribute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Double(value) => value.fmt(f),
        }
    }
}

impl<'a> DataPoint<'a> {
    /// The attributes of the client, then those of the value. Lists and maps are left out: no client sends them.
    pub fn attributes(&self, mut each: impl FnMut(&'a str, Attribute<'a>)) -> Result<(), OtlpError> {
        const ATTRIBUTES: u32 = 7;
        for &(key, value) in self.resource {
            each(key, value);
        }
        for pair in pairs(self.point, ATTRIBUTES) {
            let (key, value) = pair?;
            each(key, value);
        }
        Ok(())
    }
}

/// Calls `each` with every gauge and sum of the message. Returns how many other metrics (histograms, summaries) it has.
pub fn for_each_point(
    message: &[u8],
    mut each: impl FnMut(DataPoint<'_>) -> Result<(), OtlpError>,
) -> Result<usize, OtlpError> {
    const RESOURCE_METRICS: u32 = 1;
    const RESOURCE: u32 = 1;
    const ATTRIBUTES: u32 = 1;
    const SCOPE_METRICS: u32 = 2;
    const METRICS: u32 = 2;
    let mut others = 0;
    for of_resource in messages(message, RESOURCE_METRICS) {
        let of_resource = of_resource?;
        let resource = pairs(last(of_resource, RESOURCE)?, ATTRIBUTES).take(RESOURCE_ATTRIBUTES_MAX);
        let resource = resource.collect::<Result<Vec<_>, OtlpError>>()?;
        for of_scope in messages(of_resource, SCOPE_METRICS) {
            for metric in messages(of_scope?, METRICS) {
                others += usize::from(!metric_points(metric?, &resource, &mut each)?);
            }
        }
    }
    Ok(others)
}

/// False: it is none of the types that are understood.
fn metric_points(
    metric: &[u8],
    resource: &[(&str, Attribute<'_>)],
    each: &mut impl FnMut(DataPoint<'_>) -> Result<(), OtlpError>,
) -> Result<bool, OtlpError> {
    const NAME: u32 = 1;
    const GAUGE: u32 = 5;
    const SUM: u32 = 7;
    const DATA_POINTS: u32 = 1;
    let name = text(last(metric, NAME)?)?;
    let mut is_understood = false;
    for field in Fields(metric) {
        let (number, Value::Bytes(data)) = field? else { continue };
        let kind = match number {
            GAUGE => Kind::Gauge,
            SUM => kind_of_sum(data)?,
            _ => continue,
        };
        is_understood = true;
        for point in messages(data, DATA_POINTS) {
            let point = point?;
            if let Some(value) = value_of(point)? {
                each(DataPoint { metric: name, kind, value, resource, point })?;
            }
        }
    }
    Ok(is_understood)
}

fn kind_of_sum(sum: &[u8]) -> Result<Kind, OtlpError> {
    const TEMPORALITY: u32 = 2;
    const IS_MONOTONIC: u32 = 3;
    const DELTA: u64 = 1;
    let (mut is_delta, mut is_monotonic) = (false, false);
    for field in Fields(sum) {
        match field? {
            (TEMPORALITY, Value::Varint(temporality)) => is_delta = temporality == DELTA,
            (IS_MONOTONIC, Value::Varint(value)) => is_monotonic = value != 0,
            _ => {}
        }
    }
    Ok(if is_delta { Kind::Delta { is_monotonic } } else { Kind::Sum { is_monotonic } })
}

/// None: the point says that it has no value.
fn value_of(point: &[u8]) -> Result<Option<f64>, OtlpError> {
    const AS_DOUBLE: u32 = 4;
    const AS_INT: u32 = 6;
    let mut value = None;
    for field in Fields(point) {
        match field? {
            (AS_DOUBLE, Value::Fixed64(bits)) => value = Some(f64::from_bits(bits)),
            (AS_INT, Value::Fixed64(bits)) => value = Some(bits.cast_signed() as f64),
            _ => {}
        }
    }
    Ok(value)
}

/// The attributes in a repeated field. Lists and maps are left out.
fn pairs(message: &[u8], field: u32) -> impl Iterator<Item = Result<(&str, Attribute<'_>), OtlpError>> {
    messages(message, field).filter_map(|pair| pair.and_then(key_value).transpose())
}

fn key_value(pair: &[u8]) -> Result<Option<(&str, Attribute<'_>)>, OtlpError> {
    const KEY: u32 = 1;
    const VALUE: u32 = 2;
    const STRING: u32 = 1;
    const BOOL: u32 = 2;
    const INT: u32 = 3;
    const DOUBLE: u32 = 4;
    let key = text(last(pair, KEY)?)?;
    let mut value = None;
    for field in Fields(last(pair, VALUE)?) {
        value = match field? {
            (STRING, Value::Bytes(bytes)) => Some(Attribute::Text(text(bytes)?)),
            (BOOL, Value::Varint(number)) => Some(Attribute::Bool(number != 0)),
            (INT, Value::Varint(number)) => Some(Attribute::Int(number.cast_signed())),
            (DOUBLE, Value::Fixed64(bits)) => Some(Attribute::Double(f64::from_bits(bits))),
            _ => value,
        };
    }
    Ok(value.map(|value| (key, value)))
}

fn text(bytes: &[u8]) -> Result<&str, OtlpError> {
    std::str::from_utf8(bytes).map_err(|_| OtlpError::Text)
}

/// The messages in a repeated field.
fn messages(message: &[u8], field: u32) -> impl Iterator<Item = Result<&[u8], OtlpError>> {
    Fields(message).filter_map(move |found| match found {
        Ok((number, Value::Bytes(bytes))) if number == field => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The bytes of a field that is there once; empty where it is not there.
fn last(message: &[u8], field: u32) -> Result<&[u8], OtlpError> {
    messages(message, field).last().unwrap_or(Ok(&[]))
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a protobuf message; it ends with the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, OtlpError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(OtlpError::Truncated)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(OtlpError::Number)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], OtlpError> {
        let count = usize::try_from(count).map_err(|_| OtlpError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(OtlpError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), OtlpError> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| OtlpError::Number)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(OtlpError::Type),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), OtlpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use ottla_test_support::each_seed;

    use super::*;
    use crate::testing::{Metric, counter, gauge, payload};

    fn points(message: &[u8]) -> Result<(Vec<String>, usize), OtlpError> {
        let mut found = Vec::new();
        let others = for_each_point(message, |point| {
            let mut line = format!("{} {:?} {}", point.metric, point.kind, point.value);
            point.attributes(|key, value| line.push_str(&format!(" {key}={value}")))?;
            found.push(line);
            Ok(())
        })?;
        Ok((found, others))
    }

    #[test]
    fn gauges_and_sums_are_read_with_their_attributes() {
        let message = payload(
            &[("client.rack", "a")],
            &[
                gauge("rate", 0.5, &[("topic", "t")]),
                counter("requests", 7, true, &[]),
                counter("connections", -2, false, &[]),
                Metric { name: "latency".to_owned(), histogram: vec![1, 2, 3], ..Metric::default() },
            ],
        );
        let (found, others) = points(&message).expect("a message");
        assert_eq!(
            found,
            [
                "rate Gauge 0.5 client.rack=a topic=t",
                "requests Delta { is_monotonic: true } 7 client.rack=a",
                "connections Sum { is_monotonic: true } -2 client.rack=a",
            ]
        );
        assert_eq!(others, 1);
        assert_eq!(points(&[]), Ok((Vec::new(), 0)));
    }

    /// A push of a few kilobytes unpacks to a million attributes and a million values, and took a worker for hours.
    #[test]
    fn the_attributes_of_a_client_are_not_all_read_for_each_of_its_values() {
        let names: Vec<String> = (0..10 * RESOURCE_ATTRIBUTES_MAX).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let message = payload(&many, &[gauge("rate", 0.5, &[("topic", "t")])]);
        let mut read = Vec::new();
        let others = for_each_point(&message, |point| point.attributes(|key, _| read.push(key.to_owned())));
        assert_eq!(others, Ok(0));
        assert_eq!(read.len(), RESOURCE_ATTRIBUTES_MAX + 1);
        assert_eq!((read.first().map(String::as_str), read.last().map(String::as_str)), (Some("0"), Some("topic")));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(points(&[0x0a, 5, 1]), Err(OtlpError::Truncated));
        assert_eq!(points(&[0x0b]), Err(OtlpError::Type));
        assert_eq!(points(&[0x80; 11]), Err(OtlpError::Number));
        let mut not_utf8 = payload(&[], &[gauge("name", 1.0, &[])]);
        let at = not_utf8.windows(4).position(|bytes| bytes == b"name").expect("the name");
        not_utf8[at] = 0xff;
        assert_eq!(points(&not_utf8), Err(OtlpError::Text));
    }

    #[test]
    fn hostile_bytes_end_the_walk() {
        let message = payload(&[("k", "v")], &[gauge("rate", 0.5, &[("topic", "t")]), counter("n", 7, true, &[])]);
        each_seed(0..500, |seed| {
            let mut state = seed | 1;
            let mut below = |bound: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % bound
            };
            let mut bytes = message.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            bytes.truncate(below(bytes.len() + 1));
            // Any answer but a panic.
            let _ = points(&bytes);
        });
    }
}
