//! The preference-proving model at work (GRAM-R², section 3.2): for a pair with a known label it writes several proofs, those that keep the
//! rules are scored, and the best becomes a rationale for the judge.
//!
//! ```text
//! score = - log p(proof | s, l) / log p(proof)     in (-inf, 0]; the same tokens above and below, so length cancels
//! ```
//! -1 says that the pair and its label do not make the proof any likelier; near 0 it is likely for them and unlikely alone. `p(proof)` is that of the
//! same tokens after an empty user turn. Both sums are of the proof's own tokens, without the end of the turn.

use crate::base::rng::{Rng, Stream};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::generator::{self, Finish, Generation, Generator, Request};
use crate::infer::scorer::{self, LogProb, Scorer};
use crate::model::Model;
use crate::text::chat::{Chat, Ending};
use crate::text::labels::NAMES;
use crate::text::message::Message;
use crate::text::proof::{Checks, Flaw, Rule};
use crate::text::proving::{Claim, ProvingTemplate, nothing};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Mean log-probability of a token below which a proof is certain without its context.
const CERTAIN: f64 = 1e-3;

/// Sequences that are scored between two looks at whether to stop.
const SCORED: usize = 64;

/// How proofs are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Proofs of each claim, `k`.
    pub proofs: usize,
    pub temperature: f32,
    pub top_p: f32,
    pub max_tokens: usize,
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { proofs: 4, temperature: 0.75, top_p: 1.0, max_tokens: 2048, seed: 0 }
    }
}

impl Settings {
    /// # Errors
    /// The first setting outside its range, by name.
    pub fn check(&self) -> Result<()> {
        if self.proofs == 0 {
            return Err(Error::usage("proofs is 0; it must be at least 1"));
        }
        self.sampling(0).check()
    }

    fn sampling(&self, seed: u64) -> generator::Settings {
        let &Settings { temperature, top_p, max_tokens, .. } = self;
        generator::Settings { temperature, top_k: 0, top_p, min_p: 0.0, max_tokens, seed }
    }
}

/// What is asked and what is taken for an answer. Pure: no model.
#[derive(Clone)]
pub struct Prompts {
    pub chat: Chat,
    pub template: ProvingTemplate,
    pub rule: Rule,
    pub checks: Checks,
    /// The context of a proof in isolation.
    alone: Vec<i32>,
    special: Vec<i32>,
}

/// A claim and its proving prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub claim: Claim,
    pub ids: Vec<i32>,
}

impl Prompts {
    /// # Errors
    /// A chat template that refuses an empty user turn, or makes nothing of it.
    pub fn new(chat: Chat, template: ProvingTemplate, rule: Rule, checks: Checks) -> Result<Prompts> {
        let alone = chat.render(&nothing(), Ending::Open)?.ids;
        if alone.is_empty() {
            return Err(Error::model(
                "the chat template makes nothing of an empty turn: proofs cannot be scored alone",
            ));
        }
        let tokenizer = chat.tokenizer();
        let special = tokenizer.special().iter().filter_map(|token| tokenizer.token_id(token)).collect();
        Ok(Prompts { chat, template, rule, checks, alone, special })
    }

    /// # Errors
    /// A prompt whose messages are not text; a chat template that refuses it.
    pub fn encode(&self, claim: Claim) -> Result<Encoded> {
        let messages = self.template.messages(&claim);
        let messages = messages
            .ok_or_else(|| Error::data("the prompt holds content that is not text; a prover reads text only"))?;
        Ok(Encoded { ids: self.chat.render(&messages, Ending::Open)?.ids, claim })
    }

    /// What was written, as text, and its rationale if it keeps the rules.
    fn judge(&self, claim: &Claim, made: &Generation) -> Result<(String, std::result::Result<String, Flaw>)> {
        let tokenizer = self.chat.tokenizer();
        let proof = tokenizer.decode(&made.tokens)?;
        if made.tokens.iter().any(|id| self.special.contains(id)) {
            return Ok((proof, Err(Flaw::NotText)));
        }
        let cut = made.finish == Finish::Length;
        let count = |text: &str| Ok(tokenizer.encode(text)?.len());
        let found = self.checks.check(&self.rule, claim, &proof, cut, count)?;
        Ok((proof, found.map(|reformed| reformed.rationale)))
    }
}

/// A proof that kept the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    pub proof: String,
    pub rationale: String,
    /// Its log-probability after the claim, and in isolation.
    pub given: LogProb,
    pub alone: LogProb,
    pub score: f64,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Proofs {
    /// The best of the sound ones; of equals the first.
    pub best: Option<Sound>,
    /// How many were sound.
    pub sound: usize,
    /// What was wrong with the others.
    pub flaws: BTreeMap<Flaw, usize>,
    /// The first unsound one, for people to look at.
    pub unsound: Option<String>,
}

impl Proofs {
    /// The flaw that most proofs had (of equals the first in the order of checking), if none was sound.
    pub fn reason(&self) -> Option<Flaw> {
        let most = self.flaws.iter().rev().max_by_key(|(_, n)| **n).map(|(flaw, _)| *flaw);
        most.filter(|_| self.best.is_none())
    }

    /// The fields of an accepted row: a labelled pair with its rationale, which both `prove` and `sft` train on.
    pub fn accepted(&self, claim: &Claim) -> Option<Map<String, Value>> {
        let best = self.best.as_ref()?;
        let mut row = pair(claim);
        row.extend(fields(json!({
            "rationale": best.rationale,
            "proof": best.proof,
            "score": best.score,
            "logprob": best.given.sum,
            "logprob_alone": best.alone.sum,
            "tokens": best.given.tokens,
            "sound": self.sound,
            "flaws": self.named(),
        })));
        Some(row)
    }

    /// The fields of a rejected row: the reason first.
    pub fn rejected(&self, claim: &Claim) -> Option<Map<String, Value>> {
        let reason = self.reason()?;
        let mut row = fields(json!({"reason": reason.name(), "flaws": self.named()}));
        row.extend(pair(claim));
        row.insert("proof".into(), self.unsound.clone().into());
        Some(row)
    }

    fn named(&self) -> Map<String, Value> {
        self.flaws.iter().map(|(flaw, n)| (flaw.name().into(), Value::from(*n))).collect()
    }
}

/// The fields of a labelled pair.
pub fn pair(claim: &Claim) -> Map<String, Value> {
    let prompt = match &claim.prompt[..] {
        [Message { role, content: text @ Value::String(_), extra }] if role == "user" && extra.is_empty() => {
            text.clone()
        }
        turns => turns.iter().map(Message::to_json).collect(),
    };
    fields(
        json!({"prompt": prompt, "response_a": claim.a, "response_b": claim.b, "label": NAMES[claim.label as usize]}),
    )
}

/// The fields of an object literal.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}

/// Sizes of a prover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Proofs that are written together. Changes no result.
    pub sequences: usize,
    /// Longest prompt and proof.
    pub context: usize,
    /// Tokens of a scoring pass. Changes no result.
    pub pass: usize,
}

/// A model that proves labels.
pub struct Prover<'m> {
    generator: Generator<'m>,
    scorer: Scorer<'m>,
    pub prompts: Prompts,
    settings: Settings,
}

impl<'m> Prover<'m> {
    /// # Errors
    /// A scalar model; settings out of range; memory that is not there.
    pub fn new(
        dev: &'m Device,
        model: &'m Model,
        prompts: Prompts,
        settings: Settings,
        shape: Shape,
    ) -> Result<Prover<'m>> {
        settings.check()?;
        let mut stop = model.config.eos.clone();
        stop.extend(prompts.chat.tokenizer().stop());
        let Shape { sequences, context, pass } = shape;
        let generator = Generator::new(dev, model, generator::Shape { sequences, context }, &stop)?;
        Ok(Prover { generator, scorer: Scorer::new(dev, model, scorer::Shape { context, pass })?, prompts, settings })
    }

    /// Longest prompt and proof together.
    pub fn context(&self) -> usize {
        self.generator.context()
    }

    /// Proves claims; answers come in their order. The random bits of a proof are keyed by the seed, the claim's texts and
    /// the proof's number, so that a claim's proofs are the same in any batch.
    ///
    /// # Errors
    /// A prompt that leaves no room for a proof; a model whose logits are not finite.
    pub fn prove(&mut self, claims: &[Encoded]) -> Result<Vec<Proofs>> {
        self.prove_until(claims, &|| false)
    }

    /// As [`Prover::prove`], but gives up between two tokens or two scoring passes when `stop` says so.
    ///
    /// # Errors
    /// As [`Prover::prove`]; [`Kind::Interrupted`] where it gave up.
    pub fn prove_until(&mut self, claims: &[Encoded], stop: &dyn Fn() -> bool) -> Result<Vec<Proofs>> {
        let requests: Vec<Request> = claims.iter().flat_map(|claim| self.requests(claim)).collect();
        let made = self.generator.generate_until(&requests, |_, _| (), stop)?;
        let mut written = Vec::with_capacity(made.len());
        for (claim, made) in claims.iter().zip(made.chunks(self.settings.proofs)) {
            for made in made {
                written.push(self.prompts.judge(&claim.claim, made)?);
            }
        }
        let mut scores = self.scores(claims, &made, &written, stop)?.into_iter();
        let mut all = Vec::with_capacity(claims.len());
        for written in written.chunks(self.settings.proofs) {
            let mut proofs = Proofs { best: None, sound: 0, flaws: BTreeMap::new(), unsound: None };
            for (proof, found) in written {
                let scored = match found {
                    Ok(rationale) => {
                        let (given, alone) = scores.next().expect("every sound proof is scored");
                        score(given, alone)?.map(|score| (rationale, given, alone, score)).ok_or(Flaw::Unscored)
                    }
                    Err(flaw) => Err(*flaw),
                };
                match scored {
                    Ok((rationale, given, alone, score)) => {
                        proofs.sound += 1;
                        if proofs.best.as_ref().is_none_or(|best| score > best.score) {
                            let (proof, rationale) = (proof.clone(), rationale.clone());
                            proofs.best = Some(Sound { proof, rationale, given, alone, score });
                        }
                    }
                    Err(flaw) => {
                        *proofs.flaws.entry(flaw).or_default() += 1;
                        proofs.unsound.get_or_insert_with(|| proof.clone());
                    }
                }
            }
            all.push(proofs);
        }
        Ok(all)
    }

    /// Equal prompts, one after the other: the generator reads them once.
    fn requests(&self, claim: &Encoded) -> Vec<Request> {
        let key = claim.claim.key() ^ claim.claim.label as u64;
        let seed = |i: usize| Rng::new(self.settings.seed, Stream::Proof, key).bits(i as u64);
        let request = |i| Request { prompt: claim.ids.clone(), settings: self.settings.sampling(seed(i)) };
        (0..self.settings.proofs).map(request).collect()
    }

    /// Both log-probabilities of every sound proof, in order.
    fn scores<T>(
        &mut self,
        claims: &[Encoded],
        made: &[Generation],
        written: &[(String, std::result::Result<T, Flaw>)],
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<(LogProb, LogProb)>> {
        let mut sequences = Vec::new();
        for (i, (made, (_, found))) in made.iter().zip(written).enumerate() {
            if found.is_ok() {
                let given = &claims[i / self.settings.proofs].ids;
                sequences.extend([given, &self.prompts.alone].map(|c| ([&c[..], &made.tokens].concat(), c.len())));
            }
        }
        let mut sums = Vec::with_capacity(sequences.len());
        for some in sequences.chunks(SCORED) {
            if stop() {
                return Err(Error::new(Kind::Interrupted, "stopped while it scored"));
            }
            sums.extend(self.scorer.logprobs(some)?);
        }
        Ok(sums.chunks(2).map(|both| (both[0], both[1])).collect())
    }
}

/// The score of a proof; `None` if it is certain in isolation.
///
/// # Errors
/// Sums that are not finite.
fn score(given: LogProb, alone: LogProb) -> Result<Option<f64>> {
    if !given.sum.is_finite() || !alone.sum.is_finite() {
        return Err(Error::new(Kind::Model, "the model's logits are not finite; its weights are damaged"));
    }
    Ok((alone.mean().abs() >= CERTAIN).then(|| -(given.sum / alone.sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::example::Side;

    fn log(sum: f64) -> LogProb {
        LogProb { sum, tokens: 10 }
    }

    #[test]
    fn scores_are_ratios_and_certain_proofs_have_none() {
        assert_eq!(score(log(-5.0), log(-20.0)).unwrap(), Some(-0.25));
        assert_eq!(score(log(-20.0), log(-20.0)).unwrap(), Some(-1.0));
        assert_eq!(score(log(-1.0), log(-0.01)).unwrap(), Some(-100.0));
        assert_eq!(score(log(-1.0), log(-0.009)).unwrap(), None);
        assert!(score(log(f64::NAN), log(-1.0)).is_err() && score(log(-1.0), log(f64::NEG_INFINITY)).is_err());
    }

    #[test]
    fn the_reason_is_the_commonest_flaw() {
        let none = Proofs { best: None, sound: 0, flaws: BTreeMap::new(), unsound: Some("p".into()) };
        let of = |flaws: &[(Flaw, usize)]| Proofs { flaws: flaws.iter().copied().collect(), ..none.clone() }.reason();
        assert_eq!(of(&[(Flaw::Leak, 2), (Flaw::Verdict, 1)]), Some(Flaw::Leak));
        assert_eq!(of(&[(Flaw::Leak, 2), (Flaw::Verdict, 2)]), Some(Flaw::Verdict));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn rows_keep_what_was_asked() {
        let claim = |prompt| Claim { prompt, a: "x".into(), b: "y".into(), label: Side::B };
        let text = pair(&claim(vec![Message::user("q")]));
        assert_eq!(Value::Object(text), json!({"prompt": "q", "response_a": "x", "response_b": "y", "label": "B"}));
        let turns = pair(&claim(vec![Message::system("s"), Message::user("q")]));
        assert_eq!(turns["prompt"][0], json!({"role": "system", "content": "s"}));
    }
}
