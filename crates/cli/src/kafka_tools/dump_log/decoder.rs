//! Keys and values as text.

use ottla_protocol::record_batch::Record;

use super::findings::DumpError;
use super::group_records::Protocols;
use super::text::Text;
use super::{group_records, transaction_records};
use crate::kafka_tools::json::Json;

/// Kafka's own classes of `org.apache.kafka.tools.api`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoder {
    Text,
    Integer,
    Long,
}

impl Decoder {
    /// None is the default.
    pub fn of_class(class: Option<&str>) -> Result<Self, String> {
        let Some(class) = class else { return Ok(Self::Text) };
        let package = ["org.apache.kafka.tools.api.", "kafka.serializer."];
        match package.iter().find_map(|package| class.strip_prefix(package)) {
            Some("StringDecoder") => Ok(Self::Text),
            Some("IntegerDecoder") => Ok(Self::Integer),
            Some("LongDecoder") => Ok(Self::Long),
            _ => Err(format!(
                "the decoder {class} cannot be loaded: \
                 StringDecoder, IntegerDecoder and LongDecoder of org.apache.kafka.tools.api are there"
            )),
        }
    }

    fn put(self, out: &mut Text<'_>, bytes: &[u8], offset: i64) -> Result<(), DumpError> {
        let too_short = |class| DumpError::TooShort { offset, bytes: bytes.len(), class };
        match self {
            Self::Text => out.put_lossy(bytes),
            Self::Integer => {
                let number = bytes.first_chunk().ok_or_else(|| too_short("IntegerDecoder"))?;
                out.put_number(i64::from(i32::from_be_bytes(*number)));
            }
            Self::Long => {
                let number = bytes.first_chunk().ok_or_else(|| too_short("LongDecoder"))?;
                out.put_number(i64::from_be_bytes(*number));
            }
        }
        Ok(())
    }
}

/// How a record is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parser {
    Plain {
        key: Decoder,
        value: Decoder,
    },
    /// As records of `__consumer_offsets`.
    Offsets,
    /// As records of `__transaction_state`.
    Transactions,
}

/// A record of a coordinator's topic.
pub enum Decoded {
    /// Key and value with the numbers of their forms; a value of none is a tombstone.
    Known { key: (i16, Json), value: Option<(i16, Json)> },
    /// A type that is not known here.
    Unknown(i16),
}

/// Of a record's key and value.
type Decode = fn(&[u8], Option<&[u8]>) -> Result<Decoded, String>;

impl Parser {
    /// Writes the key and the value of a record, `prefix` before the first of them.
    pub fn put(&self, out: &mut Text<'_>, record: &Record, prefix: &str) -> Result<(), DumpError> {
        let decode: Decode = match self {
            Self::Plain { key, value } => {
                let mut prefix = prefix;
                if let Some(bytes) = &record.key {
                    out.put(prefix);
                    out.put("key: ");
                    key.put(out, bytes, record.offset.0)?;
                    prefix = " ";
                }
                if let Some(bytes) = &record.value {
                    out.put(prefix);
                    out.put("payload: ");
                    value.put(out, bytes, record.offset.0)?;
                }
                return Ok(());
            }
            Self::Offsets => |key: &[u8], value: Option<&[u8]>| group_records::decode(key, value, Protocols::Read),
            Self::Transactions => transaction_records::decode,
        };
        let key = record.key.as_deref().ok_or(DumpError::NoKey(record.offset.0))?;
        out.put(prefix);
        out.put("key: ");
        match decode(key, record.value.as_deref()) {
            Ok(Decoded::Known { key, value }) => {
                out.put(&tagged("type", key).to_string());
                out.put(" payload: ");
                let value = value.map(|value| tagged("version", value).to_string());
                out.put(&value.unwrap_or_else(|| "<DELETE>".to_owned()));
            }
            Ok(Decoded::Unknown(kind)) => {
                out.put(&format!("Unknown record type {kind} at offset {}, skipping.", record.offset));
            }
            Err(reason) => out.put(&format!("Error at offset {}, skipping. {reason}", record.offset)),
        }
        Ok(())
    }
}

/// A key with its type, or a value with its version.
fn tagged(name: &'static str, (number, data): (i16, Json)) -> Json {
    Json::Object(vec![(name, Json::Text(number.to_string())), ("data", data)])
}

/// The two bytes that a key or a value begins with.
pub fn number(bytes: &[u8]) -> i16 {
    bytes.first_chunk().map_or(-1, |bytes| i16::from_be_bytes(*bytes))
}
