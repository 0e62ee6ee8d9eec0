//! `/brokers/seqid`: empty; its version counts the ids that were given to brokers which came without one.

use crate::tree::Path;

pub fn path() -> Path {
    Path::built("/brokers/seqid".to_owned())
}
