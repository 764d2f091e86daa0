//! The rules a proof must keep before a judge learns from it: text alone, no model (GRAM-R², "rule-based filtering").

use super::{Reading, Rule};
use crate::error::{Error, Result};
use crate::text::answer;
use crate::text::example::Side;
use crate::text::proving::Claim;
use regex::{Regex, escape};
use std::collections::BTreeMap;

/// Why a proof is not taken. They are looked for in this order, only that the rationale's length is counted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// Bytes that are no text, control characters, or nothing at all.
    NotText,
    /// It went on to the longest text allowed, or its rationale is longer than [`Checks::max_tokens`].
    TooLong,
    /// It does not have the proof's form.
    Structure,
    /// Its verdict is not the label it was to prove.
    Verdict,
    /// On the way it concludes that the other response is better.
    Conclusion,
    /// It repeats itself.
    Loop,
    /// It speaks of the label it was given, which a judge will not have.
    Leak,
    /// What it quotes is not what the question says, in order.
    Quote,
    /// It does not say what the label demands.
    Demand,
    /// The prover is sure of it without any context, so the ratio that scores proofs is of rounding errors.
    Unscored,
}

impl Flaw {
    pub const ALL: [Flaw; 10] = [
        Flaw::NotText,
        Flaw::TooLong,
        Flaw::Structure,
        Flaw::Verdict,
        Flaw::Conclusion,
        Flaw::Loop,
        Flaw::Leak,
        Flaw::Quote,
        Flaw::Demand,
        Flaw::Unscored,
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::NotText => "not_text",
            Flaw::TooLong => "too_long",
            Flaw::Structure => "structure",
            Flaw::Verdict => "verdict",
            Flaw::Conclusion => "conclusion",
            Flaw::Loop => "loop",
            Flaw::Leak => "leak",
            Flaw::Quote => "quote",
            Flaw::Demand => "demand",
            Flaw::Unscored => "unscored",
        }
    }
}

/// Phrases that betray a label, looked for whatever their case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaks(pub Vec<String>);

impl Leaks {
    /// Phrases that only somebody who was told the label writes.
    pub fn standard() -> Leaks {
        let phrases = [
            "labelled response",
            "labeled response",
            "labelled as",
            "labeled as",
            "selected response",
            "preferred label",
            "preferred response is:",
            "given label",
            "provided label",
            "label is",
            "label says",
            "according to the label",
            "asked to prove",
            "told that response",
        ];
        Leaks(phrases.map(String::from).to_vec())
    }

    fn any(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.0.iter().any(|phrase| text.contains(&phrase.to_lowercase()))
    }
}

/// What counts as a loop: a run of `words` words that stands in a text more than `times` times. 0 words for no such rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loops {
    pub words: usize,
    pub times: usize,
}

impl Loops {
    fn any(self, text: &str) -> bool {
        if self.words == 0 {
            return false;
        }
        let words = words(text);
        let mut seen: BTreeMap<&[&str], usize> = BTreeMap::new();
        words.windows(self.words).any(|run| {
            let count = seen.entry(run).or_default();
            *count += 1;
            *count > self.times
        })
    }
}

/// Letters and digits of Latin script together; every other letter, and every run of one sign, by itself.
fn words(text: &str) -> Vec<&str> {
    let alike =
        |a: char, b: char| a == b && !a.is_alphanumeric() || a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric();
    let (mut words, mut start, mut before) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        if before.is_some_and(|b| !alike(b, c)) {
            words.push(&text[start..at]);
            start = at;
        }
        before = Some(c);
    }
    words.push(&text[start..]);
    words.retain(|word| !word.trim().is_empty());
    words
}

/// The rules of one run.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Tokens of a rationale, at most.
    pub max_tokens: usize,
    pub loops: Loops,
    pub leaks: Leaks,
    /// What of the question matches must stand in the sections, all of it, in order, and no more.
    pub quotes: Vec<Regex>,
    /// What the rationale must match if A is better, and if B is.
    pub demands: [Option<String>; 2],
}

/// A proof that kept all rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Reformed {
    /// What the judge learns to write.
    pub rationale: String,
    pub label: Side,
}

/// Fields of a demand that stand for the example's own texts.
const FIELDS: [&str; 3] = ["{prompt}", "{response_a}", "{response_b}"];

impl Default for Checks {
    fn default() -> Checks {
        let loops = Loops { words: 8, times: 3 };
        Checks { max_tokens: 1024, loops, leaks: Leaks::standard(), quotes: Vec::new(), demands: [None, None] }
    }
}

impl Checks {
    /// Adds patterns: `quotes` (see the field), and `demands`, in which `{prompt}`, `{response_a}` and `{response_b}` stand
    /// for the example's own texts.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn with_patterns(mut self, quotes: &[String], demands: [Option<String>; 2]) -> Result<Checks> {
        self.quotes = quotes.iter().map(|q| pattern(q)).collect::<Result<_>>()?;
        for demand in demands.iter().flatten() {
            pattern(&FIELDS.iter().fold(demand.clone(), |text, field| text.replace(field, "x")))?;
        }
        self.demands = demands;
        Ok(self)
    }

    /// The rationale of a generated proof, if it keeps the rules. `cut` says that it was cut off; `tokens` counts a text.
    ///
    /// # Errors
    /// The inner one is the first rule broken; the outer one is `tokens`'.
    pub fn check(
        &self,
        rule: &Rule,
        claim: &Claim,
        proof: &str,
        cut: bool,
        tokens: impl FnOnce(&str) -> Result<usize>,
    ) -> Result<std::result::Result<Reformed, Flaw>> {
        if proof.trim().is_empty() || proof.chars().any(is_no_text) {
            return Ok(Err(Flaw::NotText));
        }
        if cut {
            return Ok(Err(Flaw::TooLong));
        }
        let reading = match rule.proof.read(proof) {
            Ok(reading) => reading,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let rationale = match self.sound(rule, claim, &reading) {
            Ok(rationale) => rationale,
            Err(flaw) => return Ok(Err(flaw)),
        };
        match tokens(&rationale)? > self.max_tokens {
            true => Ok(Err(Flaw::TooLong)),
            false => Ok(Ok(Reformed { rationale, label: claim.label })),
        }
    }

    /// The rationale that a reading comes to, if the reading keeps the rules that are not about its length.
    fn sound(&self, rule: &Rule, claim: &Claim, reading: &Reading) -> std::result::Result<String, Flaw> {
        if reading.label != claim.label {
            return Err(Flaw::Verdict);
        }
        let rationale = rule.write(&rule.rationale, reading)?;
        // Tags within the thought would take the verdict from the judge that learns it.
        if rule.reply().is_some_and(|opened| answer::parse(&rationale, opened).is_err()) {
            return Err(Flaw::Structure);
        }
        let sections: Vec<&str> = rule.proof.sections().iter().map(|name| reading.sections[*name].as_str()).collect();
        let said = sections.join("\n");
        let other = claim.label.other();
        let conclusions = [&rule.rationale, &rule.proof].into_iter().filter_map(|form| form.conclusion(other));
        if conclusions.into_iter().any(|conclusion| said.contains(&conclusion)) {
            return Err(Flaw::Conclusion);
        }
        if self.loops.any(&said) {
            return Err(Flaw::Loop);
        }
        if self.leaks.any(&said) {
            return Err(Flaw::Leak);
        }
        let question = claim.question().ok_or(Flaw::NotText)?;
        let quoted = |quote: &Regex| {
            quote.find_iter(&question).map(|m| m.as_str()).eq(quote.find_iter(&said).map(|m| m.as_str()))
        };
        if !self.quotes.iter().all(quoted) {
            return Err(Flaw::Quote);
        }
        match &self.demands[claim.label as usize] {
            Some(demand) if !demanded(demand, claim, &question, &rationale) => Err(Flaw::Demand),
            _ => Ok(rationale),
        }
    }
}

/// Whether a rationale says what its label demands. A pattern too large to compile with these texts in it is not met.
fn demanded(demand: &str, claim: &Claim, question: &str, rationale: &str) -> bool {
    let texts = [question, &claim.a, &claim.b];
    let mut filled = String::new();
    let mut rest = demand;
    while let Some((at, i)) = (0..3).filter_map(|i| Some((rest.find(FIELDS[i])?, i))).min() {
        filled.push_str(&rest[..at]);
        filled.push_str(&escape(texts[i]));
        rest = &rest[at + FIELDS[i].len()..];
    }
    filled.push_str(rest);
    Regex::new(&filled).is_ok_and(|pattern| pattern.is_match(rationale))
}

fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| {
        let reason = e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
        Error::usage(format!("{text:?} is no regular expression: {reason}"))
    })
}

fn is_no_text(c: char) -> bool {
    c == char::REPLACEMENT_CHARACTER || c.is_control() && !matches!(c, '\n' | '\t' | '\r')
}
