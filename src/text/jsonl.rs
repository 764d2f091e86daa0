//! JSON rows from a stream of text: one object a line, or one array whose elements are taken one at a time, so that
//! neither form is ever in memory as a whole.

use std::io::{self, BufRead, Read};

use serde_json::Value;

use super::source::Step;

/// The rows of a JSON text. Numbers are those of the lines on which rows begin.
pub(super) struct JsonRows {
    text: Box<dyn BufRead>,
    array: bool,
    /// Lines begun.
    line: u64,
    done: bool,
}

impl JsonRows {
    /// Looks at the first character to learn which form the text has.
    pub fn new(text: Box<dyn BufRead>) -> Result<JsonRows, String> {
        let mut rows =
            JsonRows { text: without_mark(text).map_err(|e| damaged(&e))?, array: false, line: 1, done: false };
        // A line that is blank up to here is never looked at again, so it can be consumed.
        match rows.skip_blank().map_err(|e| damaged(&e))? {
            None => return Err("the file is empty".into()),
            Some(b'[') => {
                rows.array = true;
                rows.text.consume(1);
            }
            Some(_) => {}
        }
        Ok(rows)
    }

    /// The next byte that is not white space, still to be read.
    fn skip_blank(&mut self) -> io::Result<Option<u8>> {
        loop {
            let Some(&byte) = self.text.fill_buf()?.first() else { return Ok(None) };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.line += u64::from(byte == b'\n');
            self.text.consume(1);
        }
    }

    fn next_line(&mut self) -> Option<Step> {
        match self.skip_blank() {
            Ok(None) => return None,
            Err(e) => return Some(Step::Broken(self.line, damaged(&e))),
            Ok(Some(_)) => {}
        }
        let (mut bytes, line) = (Vec::new(), self.line);
        if let Err(e) = self.text.read_until(b'\n', &mut bytes) {
            return Some(Step::Broken(line, damaged(&e)));
        }
        self.line += u64::from(bytes.ends_with(b"\n"));
        Some(match parse(&bytes) {
            Ok(value) => Step::Value(line, value),
            Err(problem) => Step::Bad(line, format!("{problem}; a row is one JSON object on one line")),
        })
    }

    fn next_element(&mut self) -> Option<Step> {
        match self.skip_blank() {
            Ok(Some(b']')) => {
                self.text.consume(1);
                return match self.skip_blank() {
                    Ok(None) => None,
                    Ok(Some(_)) => {
                        Some(Step::Broken(self.line, "there is text after the closing ] of the array".into()))
                    }
                    Err(e) => Some(Step::Broken(self.line, damaged(&e))),
                };
            }
            Ok(_) => {}
            Err(e) => return Some(Step::Broken(self.line, damaged(&e))),
        }
        let line = self.line;
        match self.element() {
            Err(e) => Some(Step::Broken(line, damaged(&e))),
            Ok(None) => Some(Step::Broken(line, "the array has no closing ]; the file is cut off".into())),
            Ok(Some(bytes)) => Some(match parse(&bytes) {
                Ok(value) => Step::Value(line, value),
                Err(problem) => Step::Bad(line, problem),
            }),
        }
    }

    /// The bytes up to the next comma or closing bracket of the outer array; a comma is consumed, the bracket is not.
    fn element(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut bytes, mut depth, mut quoted, mut escaped) = (Vec::new(), 0u32, false, false);
        loop {
            let buffer = self.text.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let mut end = None;
            for (i, &byte) in buffer.iter().enumerate() {
                match byte {
                    b'\n' => self.line += 1,
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ if quoted => {}
                    b',' | b']' if depth == 0 => {
                        end = Some((i, byte));
                        break;
                    }
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            let taken = end.map_or(buffer.len(), |(i, _)| i);
            bytes.extend_from_slice(&buffer[..taken]);
            let comma = matches!(end, Some((_, b',')));
            self.text.consume(taken + usize::from(comma));
            if end.is_some() {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Iterator for JsonRows {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.done {
            return None;
        }
        let step = if self.array { self.next_element() } else { self.next_line() };
        self.done = matches!(step, None | Some(Step::Broken(..)));
        step
    }
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "this row is not UTF-8 text".to_string())?;
    serde_json::from_str(text).map_err(|e| {
        // Lines are ours to count; the parser's "at line 1" would mislead.
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("not JSON: {what} (column {})", e.column())
    })
}

fn damaged(error: &io::Error) -> String {
    format!("the data is damaged or cut off: {error}")
}

/// Drops the byte-order mark that some editors put in front.
fn without_mark(mut text: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    let mut head = Vec::new();
    text.by_ref().take(3).read_to_end(&mut head)?;
    if head == b"\xef\xbb\xbf" {
        head.clear();
    }
    Ok(Box::new(io::Cursor::new(head).chain(text)))
}
