//! What a proving model is asked and learns, and what a judge learns from it (GRAM-R², sections 3.2 and 3.3).
//!
//! ```text
//! prover   (s, l) -> proof         -log p(proof | s, l)      s: prompt and both responses, l: the better one
//! alone           -> proof         -log p(proof)             one empty user turn: the score's denominator
//! judge    s      -> rationale     -log p(rationale | s)
//! ```

use super::example::{Example, Reason, Side, Why};
use super::labels::NAMES;
use super::message::{Message, transcript};
use super::proof::{Flaw, Rule};
use super::template::{JudgeTemplate, PLACES, Part, Place, fill, parts};
use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// A pair of responses and which of them is said to be better.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub prompt: Vec<Message>,
    pub a: String,
    pub b: String,
    pub label: Side,
}

impl Claim {
    /// The claim of a labelled example, and why it holds if the example says so. Of a pair without an order, the chosen
    /// response is shown first or second as random bits say that are keyed by the seed and the texts.
    ///
    /// # Errors
    /// The example is no labelled pair.
    pub fn of(example: Example, seed: u64) -> std::result::Result<(Claim, Option<Why>), Reason> {
        match example {
            Example::Labelled { prompt, a, b, label, why } => Ok((Claim { prompt, a, b, label }, why)),
            Example::Pair { prompt, chosen, rejected, .. } => {
                let drawn = Rng::new(seed, Stream::Order, 0).bits(key(&prompt, &chosen, &rejected));
                Ok(match drawn >> 63 {
                    0 => (Claim { prompt, a: chosen, b: rejected, label: Side::A }, None),
                    _ => (Claim { prompt, a: rejected, b: chosen, label: Side::B }, None),
                })
            }
            _ => Err(Reason::WrongKind),
        }
    }

    /// Tells the claim from others by its texts alone.
    pub fn key(&self) -> u64 {
        key(&self.prompt, &self.a, &self.b)
    }

    /// The prompt as one text; `None` if it holds something else.
    pub fn question(&self) -> Option<String> {
        transcript(&self.prompt)
    }
}

/// A number that is the same for the same texts, wherever they stand.
pub fn key(prompt: &[Message], a: &str, b: &str) -> u64 {
    let turns: Vec<Value> = prompt.iter().map(Message::to_json).collect();
    let digest = Sha256::digest(json!([turns, a, b]).to_string());
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
}

/// A proving prompt: a text file with the fields of a judge template and `{label}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvingTemplate {
    name: String,
    source: String,
    parts: Vec<Part>,
}

impl ProvingTemplate {
    /// Our wording.
    pub fn standard() -> ProvingTemplate {
        let text = include_str!("templates/prove.txt");
        Self::parse("gramophone prove", text).expect("the shipped template parses")
    }

    /// Reads a template file; ours without one.
    ///
    /// # Errors
    /// It cannot be read, is not text, or lacks a field.
    pub fn open(path: Option<&Path>) -> Result<ProvingTemplate> {
        let Some(path) = path else { return Ok(Self::standard()) };
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Self::parse(&path.display().to_string(), &text).map_err(|e| e.at(path.display()))
    }

    /// Parses a template's text. One line end at its end is the editor's.
    ///
    /// # Errors
    /// A field is missing.
    pub fn parse(name: &str, text: &str) -> Result<ProvingTemplate> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
        let mut places = PLACES.to_vec();
        places.push(("{label}", Place::Label));
        let parts = parts(source, &places);
        for (field, place) in [
            ("{prompt}", Place::Prompt),
            ("{response_a}", Place::A),
            ("{response_b}", Place::B),
            ("{label}", Place::Label),
        ] {
            if !parts.contains(&Part::Place(place)) {
                return Err(Error::usage(format!(
                    "the proving template has no field {field}; write it where that text goes"
                )));
            }
        }
        Ok(ProvingTemplate { name: name.into(), source: source.into(), parts })
    }

    /// What to call the template in output.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text as used.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The one user turn that a prover gets; `None` if the claim's prompt is not text.
    pub fn messages(&self, claim: &Claim) -> Option<Vec<Message>> {
        let question = claim.question()?;
        let text = fill(&self.parts, |place| match place {
            Place::Prompt => &question,
            Place::A => &claim.a,
            Place::B => &claim.b,
            Place::Label => NAMES[claim.label as usize],
        });
        Some(vec![Message::user(text)])
    }
}

/// The context of a proof in isolation.
pub fn nothing() -> Vec<Message> {
    vec![Message::user("")]
}

/// What becomes of labelled pairs with a reason: who learns from them.
#[derive(Clone, Debug)]
pub enum Lesson {
    /// The prover writes the proof of a known label.
    Prover(ProvingTemplate, Rule),
    /// The judge writes the rationale, the label last. Rationales that are whole texts are learned to the letter.
    Judge(JudgeTemplate, Rule),
}

impl Lesson {
    /// A labelled pair as a completion; other examples as they are.
    ///
    /// # Errors
    /// Why there is nothing to learn from it.
    pub fn of(&self, example: Example) -> std::result::Result<Example, Reason> {
        let (claim, why) = match example {
            Example::Labelled { prompt, a, b, label, why } => (Claim { prompt, a, b, label }, why),
            Example::Pair { .. } => return Err(Reason::NoRationale),
            other => return Ok(other),
        };
        let why = why.ok_or(Reason::NoRationale)?;
        let flawed = |_: Flaw| Reason::BadRationale;
        let (prompt, completion) = match self {
            Lesson::Prover(template, rule) => {
                let reading = rule.reading(&why, claim.label).map_err(flawed)?;
                (template.messages(&claim).ok_or(Reason::NotText)?, rule.write(&rule.proof, &reading).map_err(flawed)?)
            }
            Lesson::Judge(template, rule) => {
                let rationale = match why {
                    Why::Text(text) => text,
                    sections => {
                        let reading = rule.reading(&sections, claim.label).map_err(flawed)?;
                        rule.write(&rule.rationale, &reading).map_err(flawed)?
                    }
                };
                (template.messages(&claim.question().ok_or(Reason::NotText)?, &claim.a, &claim.b), rationale)
            }
        };
        Ok(Example::Completion { prompt, completion })
    }

    /// The same completion in isolation: what the score's denominator is learned from. `None` where it has no part.
    pub fn alone(&self, example: &Example) -> Option<Example> {
        match (self, example) {
            (Lesson::Prover(..), Example::Completion { completion, .. }) => {
                Some(Example::Completion { prompt: nothing(), completion: completion.clone() })
            }
            _ => None,
        }
    }
}
