//! `cluster.secret`, or the file that has it.

use ottla_model::ClusterSecret;

use crate::error::ConfigError;
use crate::reader::Reader;

const KEY: &str = "cluster.secret";
const FILE: &str = "cluster.secret.file";
const ACCEPTED: &str = "a readable file with a text of one line";

/// None: the processes of the cluster do not prove who they are.
pub(crate) fn read(reader: &Reader<'_>) -> Result<Option<ClusterSecret>, ConfigError> {
    let Some(property) = reader.property(FILE) else { return Ok(reader.text(KEY).map(ClusterSecret::new)) };
    let invalid = |problem: String| ConfigError::invalid(FILE, property, problem, ACCEPTED);
    if reader.property(KEY).is_some() {
        return Err(invalid(format!("{KEY} is set as well")));
    }
    let text = std::fs::read_to_string(&property.value).map_err(|error| invalid(error.to_string()))?;
    match text.trim() {
        "" => Err(invalid("it is empty".to_owned())),
        secret => Ok(Some(ClusterSecret::new(secret))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::{Origin, Properties, Property};

    fn secret(pairs: &[(&str, &str)]) -> Result<Option<Vec<u8>>, String> {
        let mut properties = Properties::default();
        for (name, value) in pairs {
            properties.insert(name, Property { value: (*value).to_owned(), origin: Origin::Flag });
        }
        let read = read(&Reader::new(&properties)).map_err(|error| error.to_string());
        read.map(|secret| secret.map(|secret| secret.as_bytes().to_vec()))
    }

    #[test]
    fn the_secret_is_a_text_or_the_line_of_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        assert_eq!(secret(&[]), Ok(None));
        assert_eq!(secret(&[(KEY, "")]), Ok(None));
        assert_eq!(secret(&[(KEY, "abc")]), Ok(Some(b"abc".to_vec())));
        let path = file("good", "from-a-file\n");
        assert_eq!(secret(&[(FILE, &path)]), Ok(Some(b"from-a-file".to_vec())));
        assert!(secret(&[(FILE, &path), (KEY, "abc")]).is_err_and(|text| !text.contains("abc")));
        assert!(secret(&[(FILE, &file("empty", " \n"))]).is_err_and(|text| text.contains("empty")));
        assert!(secret(&[(FILE, "/no/such/file")]).is_err());
    }
}
