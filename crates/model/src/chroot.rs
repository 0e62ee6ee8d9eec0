//! The path at the end of a ZooKeeper connect string (`zk:2181/kafka`): clusters with different paths share
//! coordinators and nothing else.

use std::fmt;
use std::sync::Arc;

/// Longer paths make no valid names of directories.
const BYTES_MAX: usize = 200;

/// A path of one or more names, without the slash that begins it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Chroot(Arc<str>);

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`/{0}` is no chroot: names of letters, digits, `.`, `_` and `-` with a slash between them, up to {BYTES_MAX} bytes"
)]
pub struct InvalidChroot(String);

impl Chroot {
    /// Reads what follows the first slash of a connect string; none: the root.
    pub fn parse(path: &str) -> Result<Option<Self>, InvalidChroot> {
        let names = path.trim().trim_matches('/');
        if names.is_empty() {
            return Ok(None);
        }
        let is_valid = |name: &str| {
            let characters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !name.is_empty() && !matches!(name, "." | "..") && name.chars().all(characters)
        };
        if names.len() > BYTES_MAX || !names.split('/').all(is_valid) {
            return Err(InvalidChroot(names.to_owned()));
        }
        Ok(Some(Self(names.into())))
    }

    /// `a/b`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As one name of a directory.
    pub fn to_file_name(&self) -> String {
        self.0.replace('/', "+")
    }

    /// The reverse of [`Chroot::to_file_name`]; none for other names.
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::parse(&name.replace('+', "/")).ok().flatten().filter(|chroot| chroot.to_file_name() == name)
    }
}

impl fmt::Display for Chroot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_people_write_them() {
        let parse = |path| Chroot::parse(path).map(|chroot| chroot.map(|chroot| chroot.to_string()));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("/"), Ok(None));
        assert_eq!(parse("kafka"), Ok(Some("/kafka".to_owned())));
        assert_eq!(parse("/a/b-1_c.d/"), Ok(Some("/a/b-1_c.d".to_owned())));
        // As it reads if each address of a list ends with a chroot.
        for bad in ["kafka,zk-2:2181/kafka", "a//b", "a/../b", ".", "a b", &"x".repeat(201)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_names_one_chroot() {
        let chroot = Chroot::parse("/a/b").expect("valid").expect("not the root");
        assert_eq!(chroot.to_file_name(), "a+b");
        assert_eq!(Chroot::from_file_name("a+b"), Some(chroot));
        assert_eq!(Chroot::from_file_name("+a"), None);
        assert_eq!(Chroot::from_file_name("a b"), None);
    }
}
