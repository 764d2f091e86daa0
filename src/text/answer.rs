//! What a judge that reasons must write, and where its verdict stands. Pure: texts and token ids in, an answer or a reason out.
//!
//! ```text
//! reply  = [<think>] thought </think> <answer> label </answer>      white space between the parts is free
//! label  = A | B                                                    in either case, white space around it
//! ```
//! Each of the four tags occurs exactly once in the whole reply, the thought included, and nothing else is written outside of
//! them. Anything else is [`Invalid`], with the reason: a reply that quotes an answer tag in its thought, that answers twice or
//! names both letters has no verdict. So neither a response that is echoed nor a model that hedges can choose a side by accident.
//!
//! The thought always lies in the reply. Chat templates may end the prompt with `<think>`, which then opens it, or with an
//! empty thought (Qwen3 with `enable_thinking=false`), which is the prompt's own and changes nothing: training renders the
//! same prompt before the same reply.
//!
//! The verdict's probability is read from the logits that the label token was drawn from, so the label must be one token of its
//! own, the same after any thought. [`Grammar::resolve`] checks that at start-up on a rendered reply, and [`Grammar::read`]
//! finds the token in a reply that was generated: the one before which the text up to the label has been written, and no more.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::text::chat::{Chat, Ending};
use crate::text::example::Side;
use crate::text::labels::{Labels, NAMES};
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";
const ANSWER: &str = "<answer>";
const END_ANSWER: &str = "</answer>";

/// Why a reply has no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalid {
    /// It was cut at the most tokens that it might have.
    CutOff,
    /// It does not begin with `<think>`.
    NoThought,
    /// There is no `</think>`.
    UnclosedThought,
    /// `<think>` or `</think>` occurs more than once.
    RepeatedThought,
    /// No `<answer>` follows the thought.
    NoAnswer,
    /// There is no `</answer>`.
    UnclosedAnswer,
    /// `<answer>` or `</answer>` occurs more than once, the thought included.
    RepeatedAnswer,
    /// Something stands between the thought and the answer.
    TextBeforeAnswer,
    /// Something follows the answer.
    TextAfterAnswer,
    /// The answer holds something other than A or B.
    NotALabel,
    /// The label is not the token whose probability was read.
    NotTheToken,
}

impl Invalid {
    pub const ALL: [Invalid; 11] = [
        Invalid::CutOff,
        Invalid::NoThought,
        Invalid::UnclosedThought,
        Invalid::RepeatedThought,
        Invalid::NoAnswer,
        Invalid::UnclosedAnswer,
        Invalid::RepeatedAnswer,
        Invalid::TextBeforeAnswer,
        Invalid::TextAfterAnswer,
        Invalid::NotALabel,
        Invalid::NotTheToken,
    ];

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Invalid::CutOff => "cut_off",
            Invalid::NoThought => "no_thought",
            Invalid::UnclosedThought => "unclosed_thought",
            Invalid::RepeatedThought => "repeated_thought",
            Invalid::NoAnswer => "no_answer",
            Invalid::UnclosedAnswer => "unclosed_answer",
            Invalid::RepeatedAnswer => "repeated_answer",
            Invalid::TextBeforeAnswer => "text_before_answer",
            Invalid::TextAfterAnswer => "text_after_answer",
            Invalid::NotALabel => "not_a_label",
            Invalid::NotTheToken => "not_the_token",
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A reply that keeps to the grammar, as parts of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'t> {
    /// The thought, without white space around it.
    pub thought: &'t str,
    pub side: Side,
    /// Byte position of the label's letter.
    pub at: usize,
}

/// Takes a whole reply apart. `opened` says that the prompt ended with `<think>`.
pub fn parse(reply: &str, opened: bool) -> std::result::Result<Parsed<'_>, Invalid> {
    let count = |tag: &str| reply.matches(tag).count();
    let begin = reply.len() - reply.trim_start().len();
    let from = match (opened, reply[begin..].starts_with(THINK)) {
        (true, _) => 0,
        (false, true) => begin + THINK.len(),
        (false, false) => return Err(Invalid::NoThought),
    };
    let to = from + reply[from..].find(END_THINK).ok_or(Invalid::UnclosedThought)?;
    if count(THINK) > usize::from(!opened) || count(END_THINK) > 1 {
        return Err(Invalid::RepeatedThought);
    }
    if count(ANSWER) > 1 || count(END_ANSWER) > 1 {
        return Err(Invalid::RepeatedAnswer);
    }
    let body = to + END_THINK.len();
    let open = body + reply[body..].find(ANSWER).ok_or(Invalid::NoAnswer)?;
    if !reply[body..open].trim().is_empty() {
        return Err(Invalid::TextBeforeAnswer);
    }
    let inside = open + ANSWER.len();
    let close = inside + reply[inside..].find(END_ANSWER).ok_or(Invalid::UnclosedAnswer)?;
    if !reply[close + END_ANSWER.len()..].trim().is_empty() {
        return Err(Invalid::TextAfterAnswer);
    }
    let content = &reply[inside..close];
    let side = match content.trim() {
        "A" | "a" => Side::A,
        "B" | "b" => Side::B,
        _ => return Err(Invalid::NotALabel),
    };
    let at = inside + content.len() - content.trim_start().len();
    Ok(Parsed { thought: reply[from..to].trim(), side, at })
}

/// The whole reply that says this: what a judge that reasons is trained to write.
pub fn reply(thought: &str, side: Side) -> String {
    format!("{THINK}\n{}\n{END_THINK}\n{ANSWER}\n{}\n{END_ANSWER}", thought.trim(), NAMES[side as usize])
}

/// A reply's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The thought, without white space around it.
    pub rationale: String,
    pub side: Side,
    /// Which of the reply's tokens is the label.
    pub position: usize,
}

/// The grammar as one tokenizer and chat template write it.
#[derive(Clone)]
pub struct Grammar {
    tokenizer: Arc<Tokenizer>,
    opened: bool,
    labels: Labels,
}

/// How the label may stand in its tag, and what the candidates then are: on a line of its own as the shipped template shows it, right
/// after the tag, or after a blank that belongs to its token.
const LAYOUTS: [(&str, [&str; 2]); 3] = [("<answer>\n", NAMES), ("<answer>", NAMES), ("<answer>", [" A", " B"])];

impl Grammar {
    /// Finds the label tokens of replies to prompts of `template` rendered by `chat`.
    ///
    /// # Errors
    /// A template that does not ask for a rationale; a tokenizer that merges the label with what stands before it in every layout.
    pub fn resolve(chat: &Chat, template: &JudgeTemplate) -> Result<Grammar> {
        if !template.asks_for_rationale() {
            return Err(Error::usage(format!(
                "the template {:?} does not ask for a rationale with the letter inside <answer> tags",
                template.name()
            )));
        }
        let prompt = chat.render(&template.messages("Which?", "This.", "That."), Ending::Open)?;
        let opened = prompt.text.trim_end().ends_with(THINK);
        let open = if opened { "" } else { "<think>\n" };
        let mut refusal = None;
        for (before, names) in LAYOUTS {
            let text = format!("{}{open}This is better.\n{END_THINK}\n{before}", prompt.text);
            match Labels::after(chat.tokenizer(), &text, &prompt.hidden, names) {
                Ok(labels) => return Ok(Grammar { tokenizer: chat.tokenizer().clone(), opened, labels }),
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        Err(refusal.expect("there are layouts").at("the label inside <answer>"))
    }

    /// The tokens that a label is.
    pub fn labels(&self) -> Labels {
        self.labels
    }

    /// Whether the prompt ends with `<think>`, so that replies begin inside of the thought.
    pub fn opened(&self) -> bool {
        self.opened
    }

    /// The verdict of a generated reply. `ended` says that the model ended it by itself. The inner `Err` is why it has none.
    ///
    /// # Errors
    /// Tokens that cannot be decoded.
    pub fn read(&self, tokens: &[i32], ended: bool) -> Result<std::result::Result<Answer, Invalid>> {
        if !ended {
            return Ok(Err(Invalid::CutOff));
        }
        let text = self.tokenizer.decode(tokens)?;
        let Parsed { thought, side, at } = match parse(&text, self.opened) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Err(reason)),
        };
        let label = if side == Side::A { self.labels.a } else { self.labels.b };
        let position = self.position(tokens, label, text[..at].trim_end())?;
        Ok(match position {
            Some(position) => Ok(Answer { rationale: thought.to_string(), side, position }),
            None => Err(Invalid::NotTheToken),
        })
    }

    /// The token `label` before which exactly `before` is written, white space at its end aside.
    fn position(&self, tokens: &[i32], label: i32, before: &str) -> Result<Option<usize>> {
        for (i, _) in tokens.iter().enumerate().rev().filter(|(_, id)| **id == label) {
            let text = self.tokenizer.decode(&tokens[..i])?;
            let text = text.trim_end();
            if text == before {
                return Ok(Some(i));
            }
            if text.len() < before.len() {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
