//! Times in a pattern of Java's `SimpleDateFormat`, in UTC: years to milliseconds.

use crate::calendar::civil;

/// The letters that are known, and their longest run.
const LETTERS: &[(char, usize)] = &[('y', 4), ('M', 2), ('d', 2), ('H', 2), ('m', 2), ('s', 2), ('S', 3)];

/// A pattern that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DateFormat(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    /// A letter, and how often it stands.
    Field(char, usize),
}

impl DateFormat {
    /// The error is the text for the user.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(letter) = rest.next() {
            if !letter.is_ascii_alphabetic() {
                parts.push(Part::Literal(letter.to_string()));
                continue;
            }
            let mut count = 1;
            while rest.next_if_eq(&letter).is_some() {
                count += 1;
            }
            match LETTERS.iter().find(|(known, _)| *known == letter) {
                Some((_, most)) if count <= *most => parts.push(Part::Field(letter, count)),
                _ => {
                    return Err(format!(
                        "--date-format {pattern}: {} is not supported: y, M, d, H, m, s and S in digits are",
                        letter.to_string().repeat(count)
                    ));
                }
            }
        }
        match pattern.contains('\'') {
            true => Err(format!("--date-format {pattern}: quoted text is not supported")),
            false => Ok(Self(parts)),
        }
    }

    /// A time in milliseconds since 1970.
    pub fn format(&self, time_ms: i64) -> String {
        let time_ms = u64::try_from(time_ms).unwrap_or(0);
        let (seconds, millis) = (time_ms / 1_000, time_ms % 1_000);
        let (year, month, day) = civil(seconds / 86_400);
        let field = |letter: char, count: usize| {
            let number = match letter {
                'y' if count == 2 => year % 100,
                'y' => year,
                'M' => month,
                'd' => day,
                'H' => (seconds / 3_600 % 24).cast_signed(),
                'm' => (seconds / 60 % 60).cast_signed(),
                's' => (seconds % 60).cast_signed(),
                _ => millis.cast_signed(),
            };
            format!("{number:0count$}")
        };
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Field(letter, count) => field(*letter, *count),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_the_pattern() {
        let format = |pattern: &str| DateFormat::parse(pattern).map(|format| format.format(1_795_252_618_056));
        assert_eq!(format("yyyy-MM-dd HH:mm:ss:SSS"), Ok("2026-11-21 09:16:58:056".to_owned()));
        assert_eq!(format("yy/M/d H"), Ok("26/11/21 9".to_owned()));
        for refused in ["EEE", "MMM", "yyyy-MM-dd'T'HH", "z"] {
            assert!(format(refused).is_err_and(|text| text.contains("not supported")), "{refused}");
        }
    }
}
