//! Tokens to text as they come: characters that span tokens wait for their end, and so does what may become a stop string.

use crate::error::Result;
use crate::text::tokenizer::Tokenizer;

/// Text of tokens that come one by one.
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    stop: Vec<String>,
    tokens: Vec<i32>,
    /// Decoding starts here, and `tokens[start..read]` was decoded before: what a token adds may depend on its neighbour.
    start: usize,
    read: usize,
    /// Decoded, not given out.
    held: String,
    stopped: bool,
}

impl<'t> Detokenizer<'t> {
    pub fn new(tokenizer: &'t Tokenizer, stop: &[String]) -> Detokenizer<'t> {
        let (tokens, held) = (Vec::new(), String::new());
        Detokenizer { tokenizer, stop: stop.to_vec(), tokens, start: 0, read: 0, held, stopped: false }
    }

    /// A stop string was written; nothing more is given out.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; the text that is certain now.
    ///
    /// # Errors
    /// The tokenizer cannot decode.
    pub fn push(&mut self, token: i32) -> Result<String> {
        self.tokens.push(token);
        let before = self.tokenizer.decode_plain(&self.tokens[self.start..self.read])?;
        let now = self.tokenizer.decode_plain(&self.tokens[self.start..])?;
        if now.ends_with('\u{fffd}') || !now.starts_with(&before) {
            return Ok(String::new());
        }
        self.held.push_str(&now[before.len()..]);
        self.start = self.read;
        self.read = self.tokens.len();
        Ok(self.give(false))
    }

    /// The rest, at the end.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn finish(&mut self) -> Result<String> {
        if !self.stopped {
            let before = self.tokenizer.decode_plain(&self.tokens[self.start..self.read])?;
            let now = self.tokenizer.decode_plain(&self.tokens[self.start..])?;
            self.held.push_str(now.strip_prefix(before.as_str()).unwrap_or(""));
            self.read = self.tokens.len();
        }
        Ok(self.give(true))
    }

    fn give(&mut self, all: bool) -> String {
        if self.stopped {
            return String::new();
        }
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = if all { 0 } else { self.stop.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Bytes at the end of `text` that `stop` may begin with.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = stop.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|n| text.is_char_boundary(text.len() - n) && stop.starts_with(&text[text.len() - n..]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let root = std::env::var_os("GRAMOPHONE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Tokenizer::open(&std::path::Path::new(&root).join("tests/golden/qwen3")).unwrap()
    });

    fn all(ids: &[i32], stop: &[&str]) -> String {
        let stop: Vec<String> = stop.iter().map(|s| s.to_string()).collect();
        let mut d = Detokenizer::new(&TOKENIZER, &stop);
        let mut text = String::new();
        for id in ids {
            text.push_str(&d.push(*id).unwrap());
            if d.stopped() {
                return text;
            }
        }
        text + &d.finish().unwrap()
    }

    #[test]
    fn stop_strings_end_the_text_also_across_tokens() {
        let ids = TOKENIZER.encode("one </answer> two").unwrap();
        assert_eq!(all(&ids, &["</answer>"]), "one ");
        assert_eq!(all(&ids, &["</answer!"]), "one </answer> two");
        assert_eq!(all(&ids, &["two", "</a"]), "one ");
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_the_whole_text(text in "[a-z é字🎯 ]{0,40}") {
            let ids = TOKENIZER.encode(&text).unwrap();
            prop_assert_eq!(all(&ids, &["\u{1}"]), TOKENIZER.decode_plain(&ids).unwrap());
        }

        #[test]
        fn any_tokens_are_read(ids in prop::collection::vec(0i32..300, 0..40)) {
            all(&ids, &["ab"]);
        }
    }
}
