//! The text of a `.properties` file, in Java's form: `key=value`, `key: value`, `key value`, `#` and `!` comments,
//! a backslash at the end of a line, `\t \n \r \f \uXXXX` and escaped separators.

/// Every entry in order; a later one of the same key wins where they are merged.
pub fn parse(text: &str) -> Vec<(String, String)> {
    logical_lines(text).iter().filter_map(|line| entry(line)).collect()
}

/// Lines as Java joins them: one that ends with an odd number of backslashes goes on in the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending: Option<String> = None;
    for raw in text.lines() {
        let line = raw.trim_start();
        if pending.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let mut whole = pending.take().unwrap_or_default();
        whole.push_str(line);
        let trailing = whole.bytes().rev().take_while(|&b| b == b'\\').count();
        if trailing % 2 == 1 {
            whole.pop();
            pending = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(pending);
    lines
}

fn entry(line: &str) -> Option<(String, String)> {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|&(_, c)| {
            let ends = !escaped && (c == '=' || c == ':' || c.is_whitespace());
            escaped = c == '\\' && !escaped;
            ends
        })
        .map_or(line.len(), |(at, _)| at);
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim();
    let key = unescape(key);
    if key.is_empty() { None } else { Some((key, unescape(value))) }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_java_reads() {
        let text = "# comment\n! another\n\nbroker.id=1\nlog.dirs : /a,\\\n   /b\nnum.partitions 3\nempty=\n\
                    odd\\ key\\==a\\u0041\\tb\nlisteners = PLAINTEXT://:9092  \nbroker.id=2\nlast=x\\";
        let pairs = parse(text);
        let expect = [
            ("broker.id", "1"),
            ("log.dirs", "/a,/b"),
            ("num.partitions", "3"),
            ("empty", ""),
            ("odd key=", "aA\tb"),
            ("listeners", "PLAINTEXT://:9092"),
            ("broker.id", "2"),
            ("last", "x"),
        ];
        assert_eq!(pairs, expect.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn nothing_that_a_file_holds_can_break_it() {
        for text in ["\\", "\\u12", "=x", ":", "\\u", "a\\", "\u{feff}a=b", "a=\\ud800"] {
            let _ = parse(text);
        }
    }
}
