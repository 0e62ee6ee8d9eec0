//! `host:port`, as people write it.

use std::fmt;

/// A host (name or address literal; IPv6 without its brackets) and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host:port`, `host` (with `default_port`), `[v6]:port` or `[v6]`. Host names may hold underscores, as
    /// container names do.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        let text = text.trim();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| format!("`{text}` has no closing bracket"))?;
                (host, after.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                // An IPv6 literal without brackets has more colons than one: it cannot carry a port.
                Some((host, _)) if host.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(format!("`{text}` names no host"));
        }
        if host.contains(|c: char| c.is_whitespace() || c == '/' || c == ',') {
            return Err(format!("`{host}` is no host name"));
        }
        let port = match (port, default_port) {
            (Some(port), _) => port.parse().map_err(|_| format!("`{port}` is no port from 0 to 65535"))?,
            (None, Some(port)) => port,
            (None, None) => return Err(format!("`{text}` names no port")),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let parse = |text| HostPort::parse(text, Some(2181)).map(|address| address.to_string());
        assert_eq!(parse("zookeeper-1:2181"), Ok("zookeeper-1:2181".into()));
        assert_eq!(parse(" a_b-kafka-1-1 "), Ok("a_b-kafka-1-1:2181".into()));
        assert_eq!(parse("[::1]:9092"), Ok("[::1]:9092".into()));
        assert_eq!(parse("::1"), Ok("[::1]:2181".into()));
        for bad in ["", ":9092", "host:port", "host:65536", "[::1:9092", "a b:1", "h/x:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(HostPort::parse("host", None).is_err());
    }
}
