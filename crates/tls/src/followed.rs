//! A configuration of rustls that follows its files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::TlsError;
use crate::settings::TlsSettings;

/// What tells one content of a file from another without reading it.
type Stamp = Vec<(PathBuf, Option<(u64, SystemTime)>)>;

pub(crate) struct Followed<C> {
    build: fn(&TlsSettings) -> Result<C, TlsError>,
    settings: ArcSwap<TlsSettings>,
    config: ArcSwap<C>,
    stamp: ArcSwap<Stamp>,
}

impl<C> Followed<C> {
    pub fn new(settings: TlsSettings, build: fn(&TlsSettings) -> Result<C, TlsError>) -> Result<Self, TlsError> {
        // Before the files are read: a change meanwhile is seen by the next look.
        let stamp = stamp(&settings);
        let config = ArcSwap::from_pointee(build(&settings)?);
        Ok(Self { build, settings: ArcSwap::from_pointee(settings), config, stamp: ArcSwap::from_pointee(stamp) })
    }

    pub fn settings(&self) -> Arc<TlsSettings> {
        self.settings.load_full()
    }

    pub fn current(&self) -> Arc<C> {
        self.config.load_full()
    }

    /// Builds the configuration again if the settings differ from those in use, or a file of theirs has changed.
    pub fn follow(&self, settings: &TlsSettings) -> Result<bool, TlsError> {
        let stamp = stamp(settings);
        if **self.stamp.load() == stamp && **self.settings.load() == *settings {
            return Ok(false);
        }
        self.stamp.store(Arc::new(stamp));
        self.settings.store(Arc::new(settings.clone()));
        self.config.store(Arc::new((self.build)(settings)?));
        Ok(true)
    }
}

fn stamp(settings: &TlsSettings) -> Stamp {
    let of = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    settings.files().map(|path| (path.clone(), of(path))).collect()
}
