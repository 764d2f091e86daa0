//! The two tokens a verdict is read from. Whether "A" is one token depends on what stands before it, so it is asked of the
//! rendered prompt, not of the bare letter.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::text::chat::{Chat, Ending};
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::{Parse, Tokenizer};

/// What the candidates are called.
pub const NAMES: [&str; 2] = ["A", "B"];

/// Token ids of the candidates: first response better, second response better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    pub a: i32,
    pub b: i32,
}

impl Labels {
    /// The label tokens right after a judge prompt of `template` rendered by `chat`.
    pub fn resolve(chat: &Chat, template: &JudgeTemplate) -> Result<Labels> {
        let prompt = chat.render(&template.messages("Which?", "This.", "That."), Ending::Open)?;
        Labels::after(chat.tokenizer(), &prompt.text, &prompt.hidden, NAMES)
    }

    /// The tokens that `names` become right after `text`. `hidden` are the ranges of `text` that hold no control tokens.
    /// Each name must leave the tokens of `text` as they are and add exactly one.
    pub fn after(tokenizer: &Tokenizer, text: &str, hidden: &[Range<usize>], names: [&str; 2]) -> Result<Labels> {
        let ids = Labels::tokens(tokenizer, text, hidden, &names)?;
        if ids[0] == ids[1] {
            let [a, b] = names;
            return Err(Error::model(format!(
                "the tokenizer writes the labels {a:?} and {b:?} as the same token {}; use a tokenizer that knows both letters",
                ids[0]
            )));
        }
        Ok(Labels { a: ids[0], b: ids[1] })
    }

    /// As [`Labels::after`] for any number of names.
    pub fn tokens(tokenizer: &Tokenizer, text: &str, hidden: &[Range<usize>], names: &[&str]) -> Result<Vec<i32>> {
        let before = tokenizer.ids(text, Parse::Except(hidden))?;
        let token = |name: &&str| {
            let with = tokenizer.ids(&format!("{text}{name}"), Parse::Except(hidden))?;
            match with.strip_prefix(&before[..]) {
                Some([one]) => Ok(*one),
                _ => Err(refusal(tokenizer, name, &before, &with)),
            }
        };
        names.iter().map(token).collect()
    }
}

fn refusal(tokenizer: &Tokenizer, name: &str, before: &[i32], with: &[i32]) -> Error {
    let same = before.iter().zip(with).take_while(|(a, b)| a == b).count();
    let spell = |ids: &[i32]| {
        let tokens: Vec<String> =
            ids.iter().map(|&id| format!("{:?}", tokenizer.token(id).unwrap_or_default())).collect();
        tokens.join(" ")
    };
    let what = if same == before.len() {
        format!("it adds {} tokens: {}", with.len() - same, spell(&with[same..]))
    } else {
        format!("it merges with the prompt: {} becomes {}", spell(&before[same..]), spell(&with[same..]))
    };
    Error::model(format!(
        "the label {name:?} must add exactly one token after the rendered prompt, but {what}; \
         verdicts cannot be read with this tokenizer and chat template"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixture::{LLAMA, QWEN3, WORDS, chat, tokenizer};

    #[test]
    fn labels_are_one_token_each_after_the_rendered_prompt() {
        for template in [LLAMA, QWEN3] {
            for judge in [JudgeTemplate::verdict(), JudgeTemplate::rationale()] {
                let labels = Labels::resolve(&chat(template), &judge).unwrap();
                let want = ["A", "B"].map(|l| tokenizer().single_token(l).unwrap().unwrap());
                assert_eq!([labels.a, labels.b], want);
            }
        }
    }

    #[test]
    fn labels_that_split_merge_or_coincide_are_refused() {
        let tokenizer = tokenizer();
        let message = |text: &str, names| Labels::after(&tokenizer, text, &[], names).unwrap_err().to_string();
        let split = message("x\n", ["A", "Zq"]);
        assert!(split.contains("\"Zq\"") && split.contains("adds 2 tokens: \"Z\" \"q\""), "{split}");
        assert!(WORDS.contains("the "));
        let merged = message("x th", ["e", "B"]);
        assert!(merged.contains("merges with the prompt") && merged.contains("becomes"), "{merged}");
        assert!(message("x", ["A", "A"]).contains("same token"));
    }
}
