//! Finding added tokens (`<|im_end|>`, `<think>`, ...) in a text, where they may be found. Matching is that of the `tokenizers`
//! crate: leftmost, then longest, with its rules for whole words and for white space around a token.

use std::collections::BTreeMap;
use std::ops::Range;

use tokenizers::Token;
use tokenizers::tokenizer::normalizer::{NormalizedString, Range as Referential};

/// Where in a text the added tokens of a tokenizer count as tokens.
#[derive(Clone, Copy, Debug)]
pub enum Parse<'a> {
    /// Text of a person: tokens marked special are never recognised; other added tokens are vocabulary and stay so.
    Off,
    /// Text of a program, such as a prompt that was rendered elsewhere: every added token counts.
    All,
    /// Every added token counts, unless it touches one of these byte ranges (sorted, disjoint).
    Except(&'a [Range<usize>]),
}

/// An added token, and how it is matched.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    /// What is looked for: the content, or its normalized form when the match runs on normalized text.
    pub pattern: String,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Added tokens by first byte, longest first: the candidates at a position.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    by_byte: BTreeMap<u8, Vec<Added>>,
}

impl Matcher {
    pub fn new(tokens: Vec<Added>) -> Matcher {
        let mut by_byte: BTreeMap<u8, Vec<Added>> = BTreeMap::new();
        for token in tokens {
            if let Some(&first) = token.pattern.as_bytes().first() {
                by_byte.entry(first).or_default().push(token);
            }
        }
        for bucket in by_byte.values_mut() {
            bucket.sort_by(|a, b| b.pattern.len().cmp(&a.pattern.len()).then(a.id.cmp(&b.id)));
        }
        Matcher { by_byte }
    }

    /// Splits off the added tokens found in `s`, leftmost and longest first.
    pub fn split(&self, s: NormalizedString, parse: Parse) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let found = self.find(&s, parse);
        if found.is_empty() {
            return vec![(s, None)];
        }
        let mut parts = Vec::with_capacity(2 * found.len() + 1);
        let slice = |range: Range<usize>| s.slice(Referential::Normalized(range)).expect("ranges of this string");
        let mut done = 0;
        for (range, id) in found {
            if done < range.start {
                parts.push((slice(done..range.start), None));
            }
            let part = slice(range.clone());
            let token = Token::new(id, part.get().to_string(), (0, part.get().len()));
            parts.push((part, Some(vec![token])));
            done = range.end;
        }
        if done < s.get().len() {
            parts.push((slice(done..s.get().len()), None));
        }
        parts
    }

    fn find(&self, s: &NormalizedString, parse: Parse) -> Vec<(Range<usize>, u32)> {
        let text = s.get();
        let (mut found, mut at, mut done) = (Vec::new(), 0, 0);
        while at < text.len() {
            let candidates = self.by_byte.get(&text.as_bytes()[at]).map_or(&[][..], Vec::as_slice);
            let hit = candidates.iter().find(|token| {
                text.as_bytes()[at..].starts_with(token.pattern.as_bytes())
                    && token.stands_alone(text, at)
                    && token.allowed(s, at, parse)
            });
            let Some(token) = hit else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + token.pattern.len());
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            found.push((start..end, token.id));
            (at, done) = (end, end);
        }
        found
    }
}

impl Added {
    fn allowed(&self, s: &NormalizedString, at: usize, parse: Parse) -> bool {
        match parse {
            Parse::All => true,
            Parse::Off => !self.special,
            Parse::Except(hidden) => {
                let range = at..at + self.pattern.len();
                let Some(local) = s.convert_offsets(Referential::Normalized(range)) else { return false };
                let shift = s.offsets_original().0;
                let (start, end) = (local.start + shift, local.end + shift);
                let next = hidden.partition_point(|h| h.end <= start);
                hidden.get(next).is_none_or(|h| h.start >= end)
            }
        }
    }

    fn stands_alone(&self, text: &str, at: usize) -> bool {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        !self.single_word
            || !(text[..at].chars().next_back().is_some_and(word)
                || text[at + self.pattern.len()..].chars().next().is_some_and(word))
    }
}
