//! Judge prompts: plain-text files with places for the user's prompt and the two responses.
//!
//! The places are `{prompt}`, `{response_a}` and `{response_b}` (also `{input}`, `{user_input}`, `{response_1}` and
//! `{response_2}`, as published templates call them). All are filled in one pass, so that braces inside a response are never looked at;
//! braces that are not a place are text. One line end at the end of the file is the editor's, not the template's.
//!
//! A released checkpoint needs the template it was trained with, to the byte, so the published ones are recognised by
//! their SHA-256.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::text::message::Message;

/// A parsed judge prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeTemplate {
    name: String,
    sha256: String,
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Prompt,
    A,
    B,
    Label,
}

pub(super) const PLACES: [(&str, Place); 7] = [
    ("{prompt}", Place::Prompt),
    ("{input}", Place::Prompt),
    ("{user_input}", Place::Prompt),
    ("{response_a}", Place::A),
    ("{response_1}", Place::A),
    ("{response_b}", Place::B),
    ("{response_2}", Place::B),
];

/// Templates that checkpoints were released with, by the SHA-256 of their bytes.
const PUBLISHED: [(&str, &str); 3] = [
    ("20b91bdd55012bcc358d0061946ad1abffa0caa4c36c5dbba4e65d291304c9fd", "GRAM, published (evaluation)"),
    (
        "81bf3f081b744783a84b3d38deaf2aca82951f7babd0f00725bd1b62473ba8c3",
        "GRAM, published (demonstration, no #Preferred:)",
    ),
    ("3bbed89b057f078e352e480b964a22bd19357bcadf294edbaaf9d9f6bf5c2820", "GRAM-R2, published"),
];

impl JudgeTemplate {
    /// Our wording for models that answer with the label alone.
    pub fn verdict() -> JudgeTemplate {
        Self::parse("gramophone judge", include_str!("templates/judge.txt")).expect("the shipped template parses")
    }

    /// Our wording for models that write a rationale before the label.
    pub fn rationale() -> JudgeTemplate {
        Self::parse("gramophone rationale", include_str!("templates/rationale.txt"))
            .expect("the shipped template parses")
    }

    /// Reads a template file. Its name is the file's, unless it is a published one.
    pub fn open(path: &Path) -> Result<JudgeTemplate> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::usage(format!("{}: a judge template is UTF-8 text; this file is not", path.display()))
        })?;
        Self::parse(&path.display().to_string(), &text).map_err(|e| e.at(path.display()))
    }

    /// Parses a template's text.
    pub fn parse(name: &str, text: &str) -> Result<JudgeTemplate> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let trimmed = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
        // A file that lost the blank at the end of the published evaluation template, as its own manual shows it.
        let blank = format!("{trimmed} ");
        let candidates = [text, trimmed, text.trim(), &blank];
        let known = candidates.into_iter().find_map(|c| published(&digest(c)).map(|name| (name, c)));
        let (name, source) = match known {
            Some((known, source)) if source == blank => (format!("{known}, without its last blank"), trimmed),
            Some((known, source)) => (known.to_string(), source),
            None => (name.to_string(), trimmed),
        };
        let parts = parts(source, &PLACES);
        for (place, field) in [(Place::Prompt, "{prompt}"), (Place::A, "{response_a}"), (Place::B, "{response_b}")] {
            if !parts.contains(&Part::Place(place)) {
                return Err(Error::usage(format!(
                    "the judge template has no field {field}; write it where that text goes"
                )));
            }
        }
        Ok(JudgeTemplate { name, sha256: digest(source), source: source.to_string(), parts })
    }

    /// What to call the template in output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the template as used, in lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The template's text as used.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if it asks for a rationale with the label inside `<answer>` tags at its end.
    pub fn asks_for_rationale(&self) -> bool {
        self.source.contains("<answer>")
    }

    /// The template with its places filled.
    pub fn fill(&self, prompt: &str, a: &str, b: &str) -> String {
        fill(&self.parts, |place| match place {
            Place::Prompt => prompt,
            Place::A => a,
            Place::B => b,
            Place::Label => unreachable!("a judge template has no place for the label"),
        })
    }

    /// The filled template as the one user turn that a judge gets.
    pub fn messages(&self, prompt: &str, a: &str, b: &str) -> Vec<Message> {
        vec![Message::user(self.fill(prompt, a, b))]
    }
}

/// The parts with each place filled.
pub(super) fn fill<'t>(parts: &'t [Part], text: impl Fn(Place) -> &'t str) -> String {
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => text,
        Part::Place(place) => text(*place),
    });
    texts.collect()
}

/// Splits a template at its places.
pub(super) fn parts(source: &str, places: &[(&str, Place)]) -> Vec<Part> {
    let (mut parts, mut text, mut at) = (Vec::new(), 0, 0);
    while let Some(brace) = source[at..].find('{').map(|i| at + i) {
        let Some((field, place)) = places.iter().find(|(field, _)| source[brace..].starts_with(field)) else {
            at = brace + 1;
            continue;
        };
        if text < brace {
            parts.push(Part::Text(source[text..brace].to_string()));
        }
        parts.push(Part::Place(*place));
        (text, at) = (brace + field.len(), brace + field.len());
    }
    if text < source.len() {
        parts.push(Part::Text(source[text..].to_string()));
    }
    parts
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn published(sha256: &str) -> Option<&'static str> {
    PUBLISHED.iter().find(|(known, _)| *known == sha256).map(|(_, name)| *name)
}

/// The two turns of GRAM's pre-training: the user asks, the assistant writes both responses.
pub fn pretraining_turns(prompt: &str, a: &str, b: &str) -> (String, String) {
    let block = |side: char, text: &str| {
        format!("[The Start of Assistant {side}'s Answer]\n{text}\n[The End of Assistant {side}'s Answer]")
    };
    (format!("[User Question]\n{prompt}\n\n"), format!("{}\n\n{}", block('A', a), block('B', b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shipped_templates_have_the_published_structure() {
        let verdict = JudgeTemplate::verdict();
        let text = verdict.fill("Q", "X", "Y");
        let body = "[User Question]\nQ\n\n[The Start of Assistant A's Answer]\nX\n[The End of Assistant A's Answer]\n\n\
                    [The Start of Assistant B's Answer]\nY\n[The End of Assistant B's Answer]\n\n#Preferred:";
        let (head, tail) = text.split_once("\n\n").unwrap();
        assert_eq!(head.lines().count(), 3);
        assert_eq!(tail, body);
        assert!(!verdict.asks_for_rationale());

        let rationale = JudgeTemplate::rationale();
        assert!(rationale.asks_for_rationale());
        let text = rationale.fill("Q", "X", "Y");
        let order = [
            "(1)",
            "(2)",
            "(3)",
            "(4)",
            "<think>\n",
            "Feedback:\n",
            "Comparision:\n",
            "Conclusion:\n",
            "</think>\n<answer>\n",
        ];
        let places: Vec<usize> = order.iter().map(|m| text.find(m).unwrap()).collect();
        assert!(places.is_sorted());
        let data = "Here is the data.\n\n[User Question]\nQ\n\n[The Start of Assistant A's Response]\nX\n\
                    [The End of Assistant A's Response]\n\n[The Start of Assistant B's Response]\nY\n[The End of Assistant B's Response]";
        assert!(text.ends_with(data));
    }

    #[test]
    fn fields_are_filled_in_one_pass() {
        let t = JudgeTemplate::parse("t", "{a} {{prompt}} {response_1}|{response_b}{\n").unwrap();
        assert_eq!(t.fill("{response_a}", "{response_b}", "{prompt}"), "{a} {{response_a}} {response_b}|{prompt}{");
        assert_eq!(t.name(), "t");
        assert_eq!(t.messages("p", "a", "b"), [Message::user("{a} {p} a|b{")]);
    }

    #[test]
    fn missing_fields_are_named() {
        for (text, field) in [
            ("{response_a}{response_b}", "{prompt}"),
            ("{input}{response_2}", "{response_a}"),
            ("{user_input}{response_1}", "{response_b}"),
        ] {
            let error = JudgeTemplate::parse("t", text).unwrap_err();
            assert!(error.to_string().contains(field) && error.exit_code() == 2, "{error}");
        }
        assert!(JudgeTemplate::open(Path::new("/nowhere/t.txt")).is_err());
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        for (sha, _) in PUBLISHED {
            assert_eq!(published(sha).unwrap(), PUBLISHED.iter().find(|p| p.0 == sha).unwrap().1);
        }
        assert_eq!(published(&digest("abc")), None);
        assert_ne!(JudgeTemplate::verdict().sha256(), JudgeTemplate::rationale().sha256());
    }

    #[test]
    fn pretraining_rows() {
        let (user, assistant) = pretraining_turns("q", "x", "y");
        assert_eq!(user, "[User Question]\nq\n\n");
        assert_eq!(
            assistant,
            "[The Start of Assistant A's Answer]\nx\n[The End of Assistant A's Answer]\n\n\
             [The Start of Assistant B's Answer]\ny\n[The End of Assistant B's Answer]"
        );
    }

    proptest! {
        /// Filling equals splitting the template at its fields, whatever the texts hold.
        #[test]
        fn filling_never_looks_into_the_texts(
            p in "[{}a-z_]{0,20}|\\{response_b\\}", a in "[{}a-z_]{0,20}|\\{prompt\\}", b in ".{0,20}",
            gaps in prop::collection::vec("[{}x]{0,6}", 4),
        ) {
            let text = format!("{}{{prompt}}{}{{response_a}}{}{{response_b}}{}", gaps[0], gaps[1], gaps[2], gaps[3]);
            let filled = JudgeTemplate::parse("t", &text).unwrap().fill(&p, &a, &b);
            prop_assert_eq!(filled, [&gaps[0], &p, &gaps[1], &a, &gaps[2], &b, &gaps[3]].map(|s| s.as_str()).concat());
        }
    }
}
