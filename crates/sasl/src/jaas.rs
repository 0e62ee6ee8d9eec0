//! Java's login configurations, as `sasl.jaas.config` and login files hold them:
//!
//! ```text
//! KafkaServer {
//!     org.apache.kafka.common.security.plain.PlainLoginModule required
//!         username="admin" password="secret" user_admin="secret";
//! };
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use crate::mechanism::Mechanism;

/// One login module with its options.
#[derive(Clone, PartialEq, Eq)]
pub struct JaasEntry {
    /// The class with its package.
    pub module: String,
    pub options: BTreeMap<String, String>,
}

/// Options hold passwords.
impl fmt::Debug for JaasEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JaasEntry").field("module", &self.module).finish_non_exhaustive()
    }
}

/// A text that is no login configuration. The message contains no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JaasError {
    #[error("the login configuration ends too early: {0} is missing")]
    Ends(&'static str),
    #[error("line {line}: expected {expected}")]
    Expected { expected: &'static str, line: usize },
}

const PLAIN_MODULE: &str = "PlainLoginModule";
const SCRAM_MODULE: &str = "ScramLoginModule";
const BEARER_MODULE: &str = "OAuthBearerLoginModule";
/// Options of Kafka's PlainLoginModule that are users: `user_NAME="password"`.
const USER_PREFIX: &str = "user_";

impl JaasEntry {
    fn class(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or_default()
    }

    /// Whether this module is that of the mechanism.
    pub fn serves(&self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Plain => self.class() == PLAIN_MODULE,
            Mechanism::Scram(_) => self.class() == SCRAM_MODULE,
            Mechanism::OAuthBearer => self.class() == BEARER_MODULE,
        }
    }

    /// What this side logs in with.
    pub fn login(&self) -> Option<(&str, &str)> {
        Some((self.options.get("username")?, self.options.get("password")?))
    }

    /// Whether the user name of the login is the id of a delegation token.
    pub fn is_token(&self) -> bool {
        self.options.get("tokenauth").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The users of PLAIN with their passwords.
    pub fn users(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().filter_map(|(name, password)| Some((name.strip_prefix(USER_PREFIX)?, password.as_str())))
    }
}

#[derive(PartialEq, Debug)]
enum Token {
    Word(String),
    Symbol(char),
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self { chars: text.chars().peekable(), line: 1 }
    }

    fn advance(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn skip_line(&mut self) {
        while self.advance().is_some_and(|c| c != '\n') {}
    }

    /// Java's StreamTokenizer: blanks, comments of both kinds, quoted words. A backslash outside of quotes joins the
    /// lines of an environment variable that was copied from a properties file.
    fn next(&mut self) -> Result<Option<Token>, JaasError> {
        loop {
            match self.chars.peek().copied() {
                None => return Ok(None),
                Some(c) if c.is_whitespace() || c == '\\' => {
                    self.advance();
                }
                Some('#') => self.skip_line(),
                Some('/') => {
                    self.advance();
                    match self.advance() {
                        Some('/') => self.skip_line(),
                        Some('*') => self.skip_block()?,
                        _ => return Err(JaasError::Expected { expected: "a comment after `/`", line: self.line }),
                    }
                }
                Some(quote @ ('"' | '\'')) => {
                    self.advance();
                    return self.quoted(quote).map(|word| Some(Token::Word(word)));
                }
                Some(symbol @ ('{' | '}' | ';' | '=')) => {
                    self.advance();
                    return Ok(Some(Token::Symbol(symbol)));
                }
                Some(_) => return Ok(Some(Token::Word(self.word()))),
            }
        }
    }

    fn skip_block(&mut self) -> Result<(), JaasError> {
        let mut last = ' ';
        loop {
            let c = self.advance().ok_or(JaasError::Ends("the end of a comment"))?;
            if last == '*' && c == '/' {
                return Ok(());
            }
            last = c;
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, JaasError> {
        let mut word = String::new();
        loop {
            match self.advance().ok_or(JaasError::Ends("a closing quote"))? {
                c if c == quote => return Ok(word),
                '\\' => match self.advance().ok_or(JaasError::Ends("a closing quote"))? {
                    'n' => word.push('\n'),
                    't' => word.push('\t'),
                    'r' => word.push('\r'),
                    other => word.push(other),
                },
                c => word.push(c),
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&c) = self.chars.peek() {
            if c.is_whitespace() || matches!(c, '{' | '}' | ';' | '=' | '"' | '\'' | '\\') {
                break;
            }
            word.push(c);
            self.advance();
        }
        word
    }

    fn expected(&self, expected: &'static str) -> JaasError {
        JaasError::Expected { expected, line: self.line }
    }

    /// One entry, from its module (already read) to its semicolon.
    fn entry(&mut self, module: String) -> Result<JaasEntry, JaasError> {
        const CONTROL: &str = "required, requisite, sufficient or optional after the login module";
        match self.next()? {
            Some(Token::Word(control))
                if ["required", "requisite", "sufficient", "optional"]
                    .iter()
                    .any(|known| control.eq_ignore_ascii_case(known)) => {}
            Some(_) => return Err(self.expected(CONTROL)),
            None => return Err(JaasError::Ends(CONTROL)),
        }
        let mut options = BTreeMap::new();
        loop {
            match self.next()? {
                Some(Token::Symbol(';')) => return Ok(JaasEntry { module, options }),
                Some(Token::Word(name)) => {
                    if self.next()? != Some(Token::Symbol('=')) {
                        return Err(self.expected("`=` after the name of an option"));
                    }
                    match self.next()? {
                        Some(Token::Word(value)) => options.insert(name, value),
                        _ => return Err(self.expected("the value of an option")),
                    };
                }
                Some(_) => return Err(self.expected("an option or `;`")),
                None => return Err(JaasError::Ends("`;` at the end of a login module")),
            }
        }
    }
}

/// The entries of `sasl.jaas.config`.
pub fn parse(text: &str) -> Result<Vec<JaasEntry>, JaasError> {
    let mut lexer = Lexer::new(text);
    let mut entries = Vec::new();
    while let Some(token) = lexer.next()? {
        match token {
            Token::Word(module) => entries.push(lexer.entry(module)?),
            Token::Symbol(_) => return Err(lexer.expected("a login module")),
        }
    }
    Ok(entries)
}

/// The sections of a login file, by name (`KafkaServer`, `listener.KafkaServer`, `KafkaClient`).
pub fn parse_file(text: &str) -> Result<BTreeMap<String, Vec<JaasEntry>>, JaasError> {
    let mut lexer = Lexer::new(text);
    let mut sections = BTreeMap::new();
    while let Some(token) = lexer.next()? {
        let Token::Word(name) = token else { return Err(lexer.expected("the name of a section")) };
        if lexer.next()? != Some(Token::Symbol('{')) {
            return Err(lexer.expected("`{` after the name of a section"));
        }
        let mut entries = Vec::new();
        loop {
            match lexer.next()? {
                Some(Token::Symbol('}')) => break,
                Some(Token::Word(module)) => entries.push(lexer.entry(module)?),
                Some(_) => return Err(lexer.expected("a login module or `}`")),
                None => return Err(JaasError::Ends("`}` at the end of a section")),
            }
        }
        // Java wants a semicolon here; files without one are around.
        if lexer.chars.clone().find(|c| !c.is_whitespace()) == Some(';') {
            lexer.next()?;
        }
        sections.insert(name, entries);
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule";

    #[test]
    fn inline_configurations_are_read() {
        // As compose files hold it, with the backslashes of a properties file.
        let text = "org.apache.kafka.common.security.plain.PlainLoginModule required \\\n username=\"admin\" \\\n\
                    password=\"admin-pass\" \\\nuser_admin=\"admin-pass\" user_alice=\"a\\\"l;i=ce\";\n";
        let entries = parse(text).expect("readable");
        assert_eq!(entries.len(), 1);
        assert!(entries[0].serves(Mechanism::Plain) && entries[0].module == PLAIN);
        assert_eq!(entries[0].login(), Some(("admin", "admin-pass")));
        assert_eq!(entries[0].users().collect::<Vec<_>>(), [("admin", "admin-pass"), ("alice", "a\"l;i=ce")]);
        assert!(!format!("{entries:?}").contains("admin-pass"));
        let scram = parse("org.apache.kafka.common.security.scram.ScramLoginModule required;").expect("readable");
        assert!(scram[0].serves(Mechanism::from_name("SCRAM-SHA-512").expect("known")) && scram[0].login().is_none());
    }

    #[test]
    fn files_have_sections() {
        let text = "KafkaServer {\n // the users are made by kafka-configs\n  x.ScramLoginModule required;\n\
                    /* more */ x.PlainLoginModule Required user_a=b;\n};\n# end\nClient { z.DigestLoginModule required \
                    username='zk' password='zk'; };";
        let sections = parse_file(text).expect("readable");
        let shape: Vec<_> = sections.iter().map(|(name, entries)| (name.as_str(), entries.len())).collect();
        assert_eq!(shape, [("Client", 1), ("KafkaServer", 2)]);
        assert_eq!(sections["KafkaServer"][1].users().collect::<Vec<_>>(), [("a", "b")]);
    }

    #[test]
    fn what_is_none_is_named_and_shows_no_secret() {
        for text in [
            "x.PlainLoginModule required password=\"hunter2\"",
            "x.PlainLoginModule password=\"hunter2\";",
            "x.PlainLoginModule required password=\"hunter2",
            "x.PlainLoginModule required password;",
            "x.PlainLoginModule required =;",
            "{",
            "/",
            "/* x",
        ] {
            let error = parse(text).expect_err("no configuration").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for text in ["KafkaServer", "KafkaServer {", "KafkaServer { x.PlainLoginModule required; ", ";"] {
            assert!(parse_file(text).is_err(), "{text}");
        }
        assert_eq!(parse(""), Ok(Vec::new()));
    }
}
