//! OTLP messages as clients push them, for the tests.

use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsData {
    #[prost(message, repeated, tag = "1")]
    pub resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeMetrics {
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "5")]
    pub gauge: Option<Gauge>,
    #[prost(message, optional, tag = "7")]
    pub sum: Option<Sum>,
    #[prost(bytes = "vec", tag = "9")]
    pub histogram: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Gauge {
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<NumberDataPoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sum {
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<NumberDataPoint>,
    #[prost(int32, tag = "2")]
    pub aggregation_temporality: i32,
    #[prost(bool, tag = "3")]
    pub is_monotonic: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NumberDataPoint {
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    #[prost(double, optional, tag = "4")]
    pub as_double: Option<f64>,
    #[prost(sfixed64, optional, tag = "6")]
    pub as_int: Option<i64>,
    #[prost(message, repeated, tag = "7")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    #[prost(string, optional, tag = "1")]
    pub string_value: Option<String>,
}

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { string_value: Some((*value).to_owned()) }),
    };
    pairs.iter().map(pair).collect()
}

pub fn gauge(name: &str, value: f64, pairs: &[(&str, &str)]) -> Metric {
    let point = NumberDataPoint {
        time_unix_nano: 1,
        as_double: Some(value),
        attributes: attributes(pairs),
        ..NumberDataPoint::default()
    };
    Metric { name: name.to_owned(), gauge: Some(Gauge { data_points: vec![point] }), ..Metric::default() }
}

pub fn counter(name: &str, value: i64, is_delta: bool, pairs: &[(&str, &str)]) -> Metric {
    let point = NumberDataPoint { as_int: Some(value), attributes: attributes(pairs), ..NumberDataPoint::default() };
    let aggregation_temporality = if is_delta { 1 } else { 2 };
    let sum = Sum { data_points: vec![point], aggregation_temporality, is_monotonic: true };
    Metric { name: name.to_owned(), sum: Some(sum), ..Metric::default() }
}

/// One message of one client.
pub fn payload(resource: &[(&str, &str)], metrics: &[Metric]) -> Vec<u8> {
    let scope_metrics = vec![ScopeMetrics { metrics: metrics.to_vec() }];
    let resource = Some(Resource { attributes: attributes(resource) });
    MetricsData { resource_metrics: vec![ResourceMetrics { resource, scope_metrics }] }.encode_to_vec()
}
