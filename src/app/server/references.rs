//! Reference responses by prompt, for trainers that send none: a file of rows `{"prompt", "reference"}`.
//!
//! A trainer sends prompts as its policy's chat template rendered them, which may put a system turn of its own in front. So prompts are
//! compared without system turns and without white space at the ends of turns.

use crate::error::{Error, Result};
use crate::text::message::Message;
use crate::text::policy;
use crate::text::source::{OnError, Row, Source};
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// References of a file.
#[derive(Clone, Debug)]
pub struct References {
    pub file: String,
    by_prompt: HashMap<Vec<(String, String)>, String>,
}

/// What two prompts have in common that are the same question.
fn key(prompt: &[Message]) -> Option<Vec<(String, String)>> {
    let turns = prompt.iter().filter(|m| m.role != "system");
    let key: Option<Vec<_>> = turns.map(|m| Some((m.role.clone(), m.text()?.trim().to_string()))).collect();
    key.filter(|key| !key.is_empty())
}

impl References {
    /// Reads a file.
    ///
    /// # Errors
    /// A row without a prompt or a reference; two references for one prompt; no rows.
    pub fn open(file: &str) -> Result<References> {
        let mut references = References { file: file.into(), by_prompt: HashMap::new() };
        for row in Source::open(&[file])?.rows(OnError::Fail) {
            let row = row?;
            references.add(&row).map_err(|e| e.at(&row.place))?;
        }
        match references.by_prompt.is_empty() {
            true => Err(Error::data(format!("{file}: there are no rows in it"))),
            false => Ok(references),
        }
    }

    fn add(&mut self, row: &Row) -> Result<()> {
        let prompt = match row.value.get("prompt") {
            Some(Value::String(text)) => policy::turns(text),
            _ => row.conversation(&["prompt"])?,
        };
        let reference = row.text("reference")?.to_string();
        let key = key(&prompt).ok_or_else(|| Error::data("the prompt holds no text besides system turns"))?;
        match self.by_prompt.entry(key) {
            Entry::Vacant(place) => {
                place.insert(reference);
                Ok(())
            }
            Entry::Occupied(known) if *known.get() == reference => Ok(()),
            Entry::Occupied(_) => Err(Error::data("this prompt has another reference in an earlier row")),
        }
    }

    /// The reference of a prompt.
    pub fn of(&self, prompt: &[Message]) -> Option<&str> {
        self.by_prompt.get(&key(prompt)?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(rows: &str) -> Result<References> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("references.jsonl");
        std::fs::write(&file, rows).unwrap();
        References::open(file.to_str().unwrap())
    }

    #[test]
    fn prompts_are_found_as_trainers_render_them() {
        let found = open("{\"prompt\": \"1 + 1?\", \"reference\": \"2\"}\n{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"reference\": \"b\"}").unwrap();
        let rendered =
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(found.of(&policy::turns(rendered)), Some("2"));
        assert_eq!(found.of(&[Message::user("a ")]), Some("b"));
        assert_eq!(found.of(&[Message::user("1 + 2?")]), None);
        assert_eq!(found.of(&[Message::assistant("a")]), None);
        assert_eq!(found.of(&[Message::system("a")]), None);
    }

    #[test]
    fn wrong_files_are_refused_with_the_place() {
        let twice = "{\"prompt\": \"a\", \"reference\": \"b\"}\n{\"prompt\": \"a\", \"reference\": \"c\"}";
        for (rows, words) in [
            ("", "empty"),
            ("[]", "no rows"),
            ("{\"prompt\": \"a\"}", "reference"),
            ("{\"reference\": \"a\"}", "prompt"),
            (twice, ":2"),
        ] {
            let error = open(rows).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(open(&twice.replace("\"c\"", "\"b\"")).is_ok());
    }
}
