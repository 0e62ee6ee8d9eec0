//! The text that is printed: collected, and written in large pieces.

use std::io::Write as _;

use crate::output;

/// Written out when it has grown beyond this.
const PIECE_BYTES: usize = 64 * 1_024;

type Sink<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// Text on its way to a sink.
pub struct Text<'a> {
    bytes: Vec<u8>,
    sink: Sink<'a>,
}

impl<'a> Text<'a> {
    pub fn to_stdout() -> Self {
        Self::to(output::bytes)
    }

    pub fn to(sink: impl FnMut(&[u8]) + 'a) -> Self {
        Self { bytes: Vec::with_capacity(2 * PIECE_BYTES), sink: Box::new(sink) }
    }

    pub fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// The text in UTF-8; what is not UTF-8 becomes U+FFFD.
    pub fn put_lossy(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.put(text),
            Err(_) => self.put(&String::from_utf8_lossy(bytes)),
        }
    }

    /// A number in decimal: several stand in each line, and the formatting machinery would take most of the time.
    pub fn put_number(&mut self, number: i64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut left = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if number < 0 {
            self.bytes.push(b'-');
        }
        self.bytes.extend_from_slice(&digits[at..]);
    }

    /// A name and a number after it.
    pub fn field(&mut self, name: &str, number: i64) {
        self.put(name);
        self.put_number(number);
    }

    pub fn end_line(&mut self) {
        self.bytes.push(b'\n');
        if self.bytes.len() >= PIECE_BYTES {
            self.flush();
        }
    }

    pub fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory does not fail.
        let _ = self.bytes.write_fmt(text);
        self.end_line();
    }

    pub fn flush(&mut self) {
        (self.sink)(&self.bytes);
        self.bytes.clear();
    }

    pub fn finish(mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        let mut written = Vec::new();
        let mut text = Text::to(|bytes| written.extend_from_slice(bytes));
        for number in [0, 7, 10, -1, i64::MAX, i64::MIN] {
            text.field(" n: ", number);
        }
        text.finish();
        let expected = format!(" n: 0 n: 7 n: 10 n: -1 n: {} n: {}", i64::MAX, i64::MIN);
        assert_eq!(String::from_utf8(written).expect("text"), expected);
    }
}
