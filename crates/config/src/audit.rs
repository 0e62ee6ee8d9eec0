//! The audit log of a broker.

use std::path::PathBuf;

use crate::error::ConfigError;
use crate::reader::Reader;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditConfig {
    /// `audit.log.path`.
    pub path: PathBuf,
    /// `audit.log.max.bytes`: of this file, and of the one before it.
    pub bytes_max: u64,
}

impl AuditConfig {
    /// None without a path: there is no audit log.
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(path) = reader.text("audit.log.path") else { return Ok(None) };
        let bytes_max = reader.number("audit.log.max.bytes", 1024..=i64::MAX.unsigned_abs())?;
        Ok(Some(Self { path: path.into(), bytes_max }))
    }
}
