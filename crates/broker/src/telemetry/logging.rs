//! Log lines: human on a terminal, JSON on request.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use ottla_config::{LoggingConfig, LoggingFormat};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use super::loggers::{Loggers, Seen};

static LOGGERS: OnceLock<Loggers> = OnceLock::new();

/// Installs the process' log. `RUST_LOG` wins over the configured level. A second call does nothing: `ottla dev` hosts
/// two services.
pub fn install(config: &LoggingConfig) {
    let configured = [std::env::var(EnvFilter::DEFAULT_ENV).ok(), Some(config.level.clone())];
    let valid = configured.into_iter().flatten().find(|text| !text.is_empty() && EnvFilter::try_new(text).is_ok());
    let base = valid.unwrap_or_else(|| "info".to_owned());
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&base));
    let seen: &'static Seen = Box::leak(Box::default());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LoggingFormat::Json => lines.json().flatten_event(true).boxed(),
        LoggingFormat::Human | LoggingFormat::Auto => {
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
        }
    };
    // The outermost layer sees every callsite, also those that the filter suppresses.
    let installed = tracing_subscriber::registry().with(lines).with(filter).with(seen).try_init();
    if installed.is_ok() {
        let apply = move |filter: &str| {
            let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
            handle.reload(filter).map_err(|error| error.to_string())
        };
        let _ = LOGGERS.set(Loggers::new(base, seen, apply));
    }
}

/// The loggers of this process; none before [`install`].
pub fn loggers() -> Option<&'static Loggers> {
    LOGGERS.get()
}
