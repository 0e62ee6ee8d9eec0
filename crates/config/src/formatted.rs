//! What `kafka-storage format` leaves in a log directory for the first start: the cluster's id, and the first users of
//! SCRAM.

use std::path::Path;

use ottla_sasl::{ScramCredential, ScramHash};

use crate::file;

/// The file's name in a log directory.
pub const FORMATTED_FILE: &str = "formatted.properties";
const CLUSTER_ID: &str = "cluster.id";
const USER: &str = "scram.user.";

/// A user to create if it is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormattedUser {
    pub name: String,
    pub hash: ScramHash,
    pub credential: ScramCredential,
}

/// The content of the file. A user's name is the rest of its line.
pub fn formatted_text(cluster_id: &str, users: &[FormattedUser]) -> String {
    let mut text = format!("{CLUSTER_ID}={cluster_id}\n");
    for (at, user) in users.iter().enumerate() {
        let name = user.name.replace('\\', "\\\\");
        text += &format!("{USER}{at}={} {} {name}\n", user.hash.mechanism_name(), user.credential.to_text());
    }
    text
}

/// The cluster's id in the file of this directory.
pub(crate) fn formatted_cluster_id(directory: &Path) -> Option<String> {
    entries(directory).into_iter().find(|(key, _)| key == CLUSTER_ID).map(|(_, id)| id)
}

/// The users in the file of this directory.
pub fn formatted_users(directory: &Path) -> Vec<FormattedUser> {
    let user = |(key, value): (String, String)| {
        key.strip_prefix(USER)?;
        let mut words = value.splitn(3, ' ');
        let hash = ScramHash::from_name(words.next()?)?;
        let credential = ScramCredential::from_text(hash, words.next()?)?;
        Some(FormattedUser { name: words.next()?.to_owned(), hash, credential })
    };
    entries(directory).into_iter().filter_map(user).collect()
}

fn entries(directory: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(directory.join(FORMATTED_FILE)).unwrap_or_default();
    file::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let user = |name: &str, hash| FormattedUser {
            name: name.to_owned(),
            hash,
            credential: ScramCredential::of_password(hash, "secret", b"salt".to_vec(), 4096),
        };
        let users = [user("alice", ScramHash::Sha256), user("b\\ o=b, c", ScramHash::Sha512)];
        let directory = tempfile::tempdir().expect("a directory");
        let text = formatted_text("abc", &users);
        assert!(!text.contains("secret"));
        std::fs::write(directory.path().join(FORMATTED_FILE), text).expect("written");
        assert_eq!(formatted_users(directory.path()), users);
        assert_eq!(formatted_cluster_id(directory.path()).as_deref(), Some("abc"));
        assert_eq!(formatted_users(Path::new("/no/such")), []);
    }
}
