//! Which characters of a rendered prompt came out of messages, and not out of the template.
//!
//! A template is a program: it trims contents, splits them, takes pieces. So the only sound way to learn where a piece of
//! a message ended up is to run the program again on marked messages and to check that the marks changed nothing else.
//! [`Mask`] replaces, character for character, every stretch of a message that spells a control token (or the start of
//! one at the message's end, or the end of one at its start, which could complete a token together with the template's
//! text) by private-use characters that do not occur in the plain rendering. If putting the characters back gives exactly the
//! plain rendering, the places of the private characters are the places of those stretches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

/// A one-to-one exchange of characters for private-use ones.
#[derive(Clone, Debug)]
pub struct Mask {
    hide: BTreeMap<char, char>,
    show: BTreeMap<char, char>,
}

impl Mask {
    /// A mask for the characters of `tokens`, with private characters that `rendering` does not hold. `None` if there are
    /// not enough of those.
    pub fn new<'a>(tokens: impl Iterator<Item = &'a String>, rendering: &str) -> Option<Mask> {
        let letters: BTreeSet<char> = tokens.flat_map(|t| t.chars()).filter(|c| !c.is_whitespace()).collect();
        let taken: BTreeSet<char> =
            rendering.chars().filter(|&c| c >= '\u{e000}').chain(letters.iter().copied()).collect();
        let private = ('\u{e000}'..='\u{f8ff}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}');
        let mut free = private.filter(|c| !taken.contains(c));
        let hide: BTreeMap<char, char> = letters.iter().map_while(|&c| Some((c, free.next()?))).collect();
        let show = hide.iter().map(|(&c, &p)| (p, c)).collect();
        (hide.len() == letters.len()).then_some(Mask { hide, show })
    }

    /// `value` with the suspicious stretches of all its strings (not of its keys) replaced.
    pub fn apply(&self, value: &Value, tokens: &[String]) -> Value {
        match value {
            Value::String(s) => Value::String(self.apply_text(s, tokens)),
            Value::Array(values) => values.iter().map(|v| self.apply(v, tokens)).collect(),
            Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), self.apply(v, tokens))).collect()),
            other => other.clone(),
        }
    }

    fn apply_text(&self, text: &str, tokens: &[String]) -> String {
        let suspicious = stretches(text, tokens);
        let mut next = suspicious.iter().peekable();
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            while next.next_if(|range| range.end <= at).is_some() {}
            let inside = next.peek().is_some_and(|range| range.start <= at);
            out.push(if inside { *self.hide.get(&c).unwrap_or(&c) } else { c });
        }
        out
    }

    /// If `masked` is `plain` but for the exchange: the byte ranges of `plain` that were exchanged. Otherwise `None`.
    pub fn compare(&self, masked: &str, plain: &str) -> Option<Vec<Range<usize>>> {
        let mut hidden: Vec<Range<usize>> = Vec::new();
        let mut rest = masked.chars();
        for (at, c) in plain.char_indices() {
            let m = rest.next()?;
            match self.show.get(&m) {
                Some(&shown) if shown == c => {
                    let end = at + c.len_utf8();
                    match hidden.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => hidden.push(at..end),
                    }
                }
                None if m == c => {}
                _ => return None,
            }
        }
        rest.next().is_none().then_some(hidden)
    }
}

/// True if any string inside `value` has a suspicious stretch.
pub fn is_suspicious(value: &Value, tokens: &[String]) -> bool {
    match value {
        Value::String(s) => !stretches(s, tokens).is_empty(),
        Value::Array(values) => values.iter().any(|v| is_suspicious(v, tokens)),
        Value::Object(map) => map.values().any(|v| is_suspicious(v, tokens)),
        _ => false,
    }
}

/// The byte ranges of `text`, sorted and disjoint, that spell one of `tokens`, or that could be the first part of one at
/// the text's end or the last part of one at its start (white space around the text aside, since templates trim).
pub fn stretches(text: &str, tokens: &[String]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut by_byte: BTreeMap<u8, Vec<&String>> = BTreeMap::new();
    for token in tokens.iter().filter(|t| !t.trim().is_empty()) {
        by_byte.entry(token.as_bytes()[0]).or_default().push(token);
    }
    for (at, byte) in text.bytes().enumerate() {
        for token in by_byte.get(&byte).into_iter().flatten() {
            if text.as_bytes()[at..].starts_with(token.as_bytes()) {
                found.push(at..at + token.len());
            }
        }
    }
    let (start, end) = (text.len() - text.trim_start().len(), text.trim_end().len());
    let body = if start < end { &text[start..end] } else { "" };
    for token in by_byte.values().flatten() {
        for (cut, _) in token.char_indices().skip(1) {
            let (head, tail) = token.split_at(cut);
            if body.starts_with(tail) {
                found.push(start..start + tail.len());
            }
            if body.ends_with(head) {
                found.push(end - head.len()..end);
            }
        }
    }
    found.sort_by_key(|r| (r.start, r.end));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in found {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tokens() -> Vec<String> {
        ["<|end|>", "<s>", "<|e"].map(String::from).to_vec()
    }

    #[test]
    fn stretches_cover_whole_tokens_and_ends_of_tokens() {
        assert_eq!(stretches("a<|end|>b<s><s>", &tokens()), [1..8, 9..15]);
        assert_eq!(stretches(" d|> x <|en\n", &tokens()), [1..4, 7..11]);
        assert_eq!(stretches("plain > text <", &tokens()), std::slice::from_ref(&(13..14)));
        assert!(stretches("", &tokens()).is_empty() && stretches(" \n", &tokens()).is_empty());
    }

    proptest! {
        /// Masking is undone by comparing, wherever the suspicious stretches are.
        #[test]
        fn a_masked_text_compares_equal_to_its_origin(parts in prop::collection::vec("(<\\|end\\|>|<s>|[<|>enda-e \u{e000}é]{0,3})", 0..8)) {
            let text = parts.concat();
            let mask = Mask::new(tokens().iter(), &text).unwrap();
            let masked = mask.apply(&json!([{"content": text}]), &tokens());
            let masked = masked[0]["content"].as_str().unwrap();
            prop_assert!(tokens().iter().all(|t| !masked.contains(t.as_str())));
            prop_assert_eq!(mask.compare(masked, &text), Some(stretches(&text, &tokens())));
        }
    }

    #[test]
    fn any_other_difference_is_noticed() {
        let mask = Mask::new(tokens().iter(), "abc").unwrap();
        assert_eq!(mask.compare("abc", "abc"), Some(vec![]));
        for other in ["ab", "abcd", "abd", "ab\u{e000}"] {
            assert_eq!(mask.compare(other, "abc"), None, "{other}");
        }
    }
}
