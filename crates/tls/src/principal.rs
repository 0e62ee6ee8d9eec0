//! `ssl.principal.mapping.rules`: a certificate's subject to the name of a principal (KIP-371).

use regex_lite::Regex;
use rustls::pki_types::CertificateDer;

use crate::names;

#[derive(Clone, Debug)]
enum Rule {
    /// The subject as it is.
    Default,
    Pattern {
        pattern: Regex,
        replacement: String,
        case: Case,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    AsIs,
    Lower,
    Upper,
}

/// `DEFAULT`, or `RULE:pattern/replacement/[LU]`, separated by commas. The first that matches the whole name counts.
#[derive(Clone, Debug)]
pub struct PrincipalRules {
    text: String,
    rules: Vec<Rule>,
}

impl PartialEq for PrincipalRules {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl PrincipalRules {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.trim_start();
        let mut rules = Vec::new();
        while !rest.is_empty() {
            let (rule, after) = parse_rule(rest)?;
            rules.push(rule);
            let after = after.trim_start_matches([' ', '\t', '\r']);
            rest = match after.strip_prefix([',', '\n']) {
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return Err(format!("`{after}` follows a rule; accepted: {ACCEPTED}")),
            };
        }
        if rules.is_empty() {
            return Err(format!("names no rule; accepted: {ACCEPTED}"));
        }
        Ok(Self { text: text.to_owned(), rules })
    }

    /// The name for a subject; none if no rule matches it.
    pub fn apply(&self, subject: &str) -> Option<String> {
        self.rules.iter().find_map(|rule| rule.apply(subject))
    }

    /// The name of a certificate's owner; none if no rule matches, or if it has no subject that can be read.
    pub fn name_of(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        self.apply(&names::subject(certificate)?)
    }
}

const ACCEPTED: &str = "DEFAULT, RULE:pattern/replacement/, RULE:pattern/replacement/L, RULE:pattern/replacement/U";

fn parse_rule(text: &str) -> Result<(Rule, &str), String> {
    if let Some(rest) = text.strip_prefix("DEFAULT") {
        return Ok((Rule::Default, rest));
    }
    let body = text.strip_prefix("RULE:").ok_or_else(|| format!("`{text}` is no rule; accepted: {ACCEPTED}"))?;
    let unfinished = || format!("`{text}` has no end; accepted: {ACCEPTED}");
    let (pattern, rest) = until_slash(body).ok_or_else(unfinished)?;
    let (replacement, rest) = until_slash(rest).ok_or_else(unfinished)?;
    let (case, rest) = match rest.as_bytes().first() {
        Some(b'L') => (Case::Lower, &rest[1..]),
        Some(b'U') => (Case::Upper, &rest[1..]),
        _ => (Case::AsIs, rest),
    };
    let pattern = Regex::new(&format!("^(?:{})$", pattern.replace("\\/", "/")))
        .map_err(|error| format!("`{pattern}`: {error}"))?;
    Ok((Rule::Pattern { pattern, replacement: replacement.to_owned(), case }, rest))
}

/// What stands before the next slash that is not escaped, and what comes after it.
fn until_slash(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if c == '/' && !is_escaped {
            return Some((&text[..at], &text[at + 1..]));
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    None
}

impl Rule {
    fn apply(&self, subject: &str) -> Option<String> {
        match self {
            Self::Default => Some(subject.to_owned()),
            Self::Pattern { pattern, replacement, case } => {
                let groups = pattern.captures(subject)?;
                let name = expand(replacement, |group| groups.get(group).map_or("", |found| found.as_str()));
                Some(match case {
                    Case::AsIs => name,
                    Case::Lower => name.to_lowercase(),
                    Case::Upper => name.to_uppercase(),
                })
            }
        }
    }
}

/// `$1` is a group, a backslash takes the next character as it is.
fn expand<'a>(replacement: &str, group: impl Fn(usize) -> &'a str) -> String {
    let mut name = String::new();
    let mut chars = replacement.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\\', Some(_)) => name.extend(chars.next()),
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                chars.next();
                name.push_str(group(digit.to_digit(10).map_or(0, |digit| digit as usize)));
            }
            _ => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_kip() {
        let rules = "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/,RULE:^CN=(.*?),OU=(.*?),O=(.*?)$/$1@$2/L,DEFAULT";
        let rules = PrincipalRules::parse(rules).expect("rules");
        for (subject, name) in [
            ("CN=kafka-server1,OU=ServiceUsers,O=Unknown", "kafka-server1"),
            ("CN=Admin,OU=Ops,O=Ours", "admin@ops"),
            ("CN=other", "CN=other"),
        ] {
            assert_eq!(rules.apply(subject).as_deref(), Some(name));
        }
        let rules = PrincipalRules::parse("RULE:^CN=(.*)$/\\$$1x/U").expect("a rule");
        assert_eq!(rules.apply("CN=a").as_deref(), Some("$AX"));
        assert_eq!(rules.apply("OU=a"), None);
        let slash = PrincipalRules::parse("RULE:CN=a\\/(.*)/$1/").expect("a rule");
        assert_eq!(slash.apply("CN=a/b").as_deref(), Some("b"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", "RULE", "RULE:a", "RULE:a/b", "RULE:(/b/", "DEFAULT x", "default", "RULE:a/b/X"] {
            assert!(PrincipalRules::parse(text).is_err(), "{text}");
        }
    }
}
