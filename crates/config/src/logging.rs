//! How a process speaks: its format and level.

use crate::error::ConfigError;
use crate::reader::Reader;

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoggingFormat {
    /// Human, with colours on a terminal only.
    #[default]
    Auto,
    Human,
    Json,
}

/// Logging of one process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggingConfig {
    pub format: LoggingFormat,
    /// A filter in `tracing_subscriber::EnvFilter`'s syntax.
    pub level: String,
}

impl LoggingConfig {
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let format = match reader.choice("logging.format", &["auto", "human", "json"])? {
            "json" => LoggingFormat::Json,
            "human" => LoggingFormat::Human,
            _ => LoggingFormat::Auto,
        };
        Ok(Self { format, level: reader.text("logging.level").unwrap_or("info").to_owned() })
    }
}
