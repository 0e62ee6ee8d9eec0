//! Log lines: human on a terminal, JSON on request.

use std::io::IsTerminal as _;

use ottla_config::{LoggingConfig, LoggingFormat};
use tracing_subscriber::EnvFilter;

/// Installs the process' log. `RUST_LOG` wins over the configured level. A second call does nothing: `ottla dev` hosts two services.
pub fn install(config: &LoggingConfig) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&config.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match config.format {
        LoggingFormat::Json => builder.json().flatten_event(true).try_init(),
        LoggingFormat::Human | LoggingFormat::Auto => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
    let _ = result;
}
