//! Bytes as Kafka's deserializers turn them into text: `--value-deserializer` and `--property value.deserializer=…`.

use uuid::Uuid;

/// Kafka's own classes, by the last part of their names.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Deserializer {
    /// Bytes, as they are.
    #[default]
    Bytes,
    String,
    Boolean,
    Short,
    Integer,
    Long,
    Float,
    Double,
    Uuid,
    Void,
}

/// A class that is not one of Kafka's own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the deserializer {0} cannot be loaded: accepted are the String, ByteArray, Bytes, ByteBuffer, Boolean, Short, Integer, Long, Float, Double, UUID and Void deserializers of org.apache.kafka.common.serialization"
)]
pub struct UnknownDeserializer(pub String);

/// Data that does not have the form that was asked for. The text is Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Size of data received by {class} is not {expected}")]
pub struct DeserializeError {
    class: &'static str,
    expected: usize,
}

impl Deserializer {
    pub fn of_class(class: &str) -> Result<Self, UnknownDeserializer> {
        let name = class.strip_prefix("org.apache.kafka.common.serialization.");
        Ok(match name {
            Some("ByteArrayDeserializer" | "BytesDeserializer" | "ByteBufferDeserializer") => Self::Bytes,
            Some("StringDeserializer") => Self::String,
            Some("BooleanDeserializer") => Self::Boolean,
            Some("ShortDeserializer") => Self::Short,
            Some("IntegerDeserializer") => Self::Integer,
            Some("LongDeserializer") => Self::Long,
            Some("FloatDeserializer") => Self::Float,
            Some("DoubleDeserializer") => Self::Double,
            Some("UUIDDeserializer") => Self::Uuid,
            Some("VoidDeserializer") => Self::Void,
            _ => return Err(UnknownDeserializer(class.to_owned())),
        })
    }

    /// Appends the text of what was read, in UTF-8; bytes stay as they are.
    pub fn write(self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DeserializeError> {
        let text = match self {
            Self::Bytes => {
                out.extend_from_slice(bytes);
                return Ok(());
            }
            Self::String => String::from_utf8_lossy(bytes).into_owned(),
            Self::Boolean => (fixed::<1>(bytes, "BooleanDeserializer")? != [0]).to_string(),
            Self::Short => i16::from_be_bytes(fixed(bytes, "ShortDeserializer")?).to_string(),
            Self::Integer => i32::from_be_bytes(fixed(bytes, "IntegerDeserializer")?).to_string(),
            Self::Long => i64::from_be_bytes(fixed(bytes, "LongDeserializer")?).to_string(),
            Self::Float => java_text(&format!("{:e}", f32::from_be_bytes(fixed(bytes, "FloatDeserializer")?))),
            Self::Double => java_text(&format!("{:e}", f64::from_be_bytes(fixed(bytes, "DoubleDeserializer")?))),
            Self::Uuid => match std::str::from_utf8(bytes).ok().and_then(|text| Uuid::parse_str(text).ok()) {
                Some(uuid) => uuid.to_string(),
                None => return Err(DeserializeError { class: "UUIDDeserializer", expected: 36 }),
            },
            Self::Void => "null".to_owned(),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn fixed<const N: usize>(bytes: &[u8], class: &'static str) -> Result<[u8; N], DeserializeError> {
    bytes.try_into().map_err(|_| DeserializeError { class, expected: N })
}

/// A `double` as Java prints it.
pub fn java_double(number: f64) -> String {
    java_text(&format!("{number:e}"))
}

/// A number as Java prints it, from Rust's shortest `{:e}`: plain from 0.001 to below ten million, else `1.5E10`;
/// always with a fraction.
fn java_text(scientific: &str) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        // NaN and the infinities.
        return scientific.replace("inf", "Infinity");
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let or_zero = |text: &str| if text.is_empty() { "0".to_owned() } else { text.to_owned() };
    match exponent {
        0..7 => {
            let whole = usize::try_from(exponent + 1).unwrap_or(1);
            let padded = format!("{digits:0<whole$}");
            format!("{sign}{}.{}", &padded[..whole], or_zero(&padded[whole..]))
        }
        -3..0 => {
            let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
            format!("{sign}0.{}{digits}", "0".repeat(zeros))
        }
        _ => format!("{sign}{}.{}E{exponent}", &digits[..1], or_zero(&digits[1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(class: &str, bytes: &[u8]) -> Result<String, String> {
        let class = Deserializer::of_class(&format!("org.apache.kafka.common.serialization.{class}"));
        let mut out = Vec::new();
        class.map_err(|error| error.to_string())?.write(bytes, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn numbers_are_shown_as_java_shows_them() {
        assert_eq!(text("IntegerDeserializer", &7_i32.to_be_bytes()), Ok("7".into()));
        assert_eq!(text("LongDeserializer", &42_i64.to_be_bytes()), Ok("42".into()));
        assert_eq!(text("BooleanDeserializer", &[1]), Ok("true".into()));
        for (number, shown) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (123.456, "123.456"),
            (0.001, "0.001"),
            (0.000_1, "1.0E-4"),
            (9_999_999.0, "9999999.0"),
            (12_345_678.0, "1.2345678E7"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(text("DoubleDeserializer", &f64::to_be_bytes(number)), Ok(shown.into()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = "Size of data received by LongDeserializer is not 8".to_owned();
        assert_eq!(text("LongDeserializer", &[1]), Err(error));
        assert!(text("ListDeserializer", &[1]).expect_err("unknown").contains("ListDeserializer"));
    }
}
