//! The judge that reasons (GRAM-R2's R5): it writes a thought and then its verdict, whose probability is read from the logits that
//! the verdict's token was drawn from, in both orders, once or by several votes.
//!
//! ```text
//! prompt (one for each order) -> k replies, sharing it -> grammar: the label's token, or invalid -> votes -> verdict
//! ```
//! The seed of a vote is keyed by (seed, the prompt's token ids, the vote's number). So a pair's votes depend on the pair alone, not on
//! its row, its id or its batch; swapping the responses gives the same votes in mirrored roles; and the first k votes are
//! the same whatever comes after them.

use super::judge::{EncodedPair, Prompts, Side};
use super::vote::{Order, Rule, Vote, Votes, rounds};
use crate::base::rng::{Rng, Stream};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::generator::{self, Counts, Finish, Generation, Generator, Request, Shape};
use crate::model::Model;
use crate::text::answer::Grammar;
use crate::text::chat::Chat;
use crate::text::example;
use crate::text::template::JudgeTemplate;
use sha2::{Digest, Sha256};

/// How a judge reasons and votes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Replies for each order, at most.
    pub votes: usize,
    pub rule: Rule,
    /// Ends the voting on a pair when its outcome is settled with this confidence, above 1/2; 1 for certainty.
    pub adaptive: Option<f64>,
    pub temperature: f32,
    pub top_p: f32,
    /// Longest reply in tokens; a longer one is cut and invalid.
    pub max_tokens: usize,
    pub seed: u64,
}

/// Temperature of votes, as in GRAM-R2's script.
pub const TEMPERATURE: f32 = 0.75;

impl Default for Settings {
    /// One greedy reply for each order.
    fn default() -> Settings {
        Settings { votes: 1, rule: Rule::Soft, adaptive: None, temperature: 0.0, top_p: 1.0, max_tokens: 2048, seed: 0 }
    }
}

impl Settings {
    /// # Errors
    /// The first setting that means nothing, by name.
    pub fn check(&self) -> Result<()> {
        self.generation(0).check()?;
        if self.votes == 0 {
            return Err(Error::usage("votes is 0; it must be at least 1"));
        }
        if self.votes > 1 && self.temperature == 0.0 {
            return Err(Error::usage(format!(
                "{} greedy votes are all the same; give a temperature above 0, or one vote",
                self.votes
            )));
        }
        match self.adaptive {
            Some(c) if !(c > 0.5 && c <= 1.0) => Err(Error::usage(format!(
                "the confidence of adaptive voting is {c}; it must be above 0.5 and at most 1"
            ))),
            Some(_) if self.votes < 3 => Err(Error::usage(format!(
                "adaptive voting looks after 2 votes of each order; with votes {} it has nothing to save",
                self.votes
            ))),
            _ => Ok(()),
        }
    }

    fn generation(&self, seed: u64) -> generator::Settings {
        let Settings { temperature, top_p, max_tokens, .. } = *self;
        generator::Settings { temperature, top_p, max_tokens, seed, ..generator::Settings::default() }
    }
}

/// The seed of a vote on a prompt.
pub fn vote_seed(seed: u64, prompt: &[i32], vote: usize) -> u64 {
    let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    let key = Sha256::digest(&bytes);
    let key = key[..8].iter().fold(0u64, |key, byte| key << 8 | *byte as u64);
    Rng::new(seed, Stream::Vote, key).bits(vote as u64)
}

/// What a judge that reasons says of a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Reasoned {
    pub votes: Votes,
    pub rule: Rule,
    /// Prompt tokens read for it: both orders, once for each round of voting.
    pub prompt_tokens: usize,
    /// Tokens written for it, ends of replies included.
    pub generated_tokens: usize,
}

impl Reasoned {
    /// The better response; `None` if no reply was valid.
    pub fn verdict(&self) -> Option<Side> {
        self.votes.verdict(self.rule)
    }
    /// Whether both orders by themselves come to the same winner.
    pub fn consistent(&self) -> bool {
        self.votes.consistent(self.rule)
    }
    /// The vote whose rationale speaks for the verdict; see [`Votes::typical`].
    pub fn typical(&self) -> Option<&Vote> {
        self.votes.typical(self.rule)
    }
}

/// A model that thinks before it judges.
pub struct RationaleJudge<'m> {
    generator: Generator<'m>,
    grammar: Grammar,
    settings: Settings,
    pub prompts: Prompts,
}

/// Judge prompts that ask for a rationale, and the grammar of the replies.
///
/// # Errors
/// As [`Grammar::resolve`].
pub fn prompts(chat: Chat, template: JudgeTemplate) -> Result<(Prompts, Grammar)> {
    let grammar = Grammar::resolve(&chat, &template)?;
    Ok((Prompts { chat, template, labels: grammar.labels() }, grammar))
}

impl<'m> RationaleJudge<'m> {
    /// `stop` are the ids that end a reply.
    ///
    /// # Errors
    /// As [`prompts`], [`Settings::check`] and [`Generator::new`].
    pub fn new(
        dev: &'m Device,
        model: &'m Model,
        (prompts, grammar): (Prompts, Grammar),
        settings: Settings,
        shape: Shape,
        stop: &[i32],
    ) -> Result<RationaleJudge<'m>> {
        RationaleJudge::over(dev, &[model], (prompts, grammar), settings, shape, stop)
    }

    /// A judge that may [`RationaleJudge::switch`] between models that are adapters of one base; the first one judges until then.
    ///
    /// # Errors
    /// As [`RationaleJudge::new`].
    pub fn over(
        dev: &'m Device,
        models: &[&'m Model],
        (prompts, grammar): (Prompts, Grammar),
        settings: Settings,
        shape: Shape,
        stop: &[i32],
    ) -> Result<RationaleJudge<'m>> {
        settings.check()?;
        let mut generator = Generator::over(dev, models, shape, stop)?;
        generator.watch(Some([grammar.labels().a, grammar.labels().b]));
        Ok(RationaleJudge { generator, grammar, settings, prompts })
    }

    /// From now on another of the models that it was made for.
    pub fn switch(&mut self, model: &'m Model) {
        self.generator.switch(model);
    }

    /// Longest prompt and reply together.
    pub fn context(&self) -> usize {
        self.generator.context()
    }

    /// Tokens so far.
    pub fn counts(&self) -> Counts {
        self.generator.counts()
    }

    /// Judges pairs; answers come in their order.
    ///
    /// # Errors
    /// As [`Generator::generate`]; a model whose logits are not finite.
    pub fn judge(&mut self, pairs: &[EncodedPair]) -> Result<Vec<Reasoned>> {
        let mut ballots: Vec<Ballot> = pairs.iter().map(|pair| Ballot::new(pair.clone(), self.settings)).collect();
        loop {
            let asked: Vec<Vec<Request>> = ballots.iter_mut().map(Ballot::ask).collect();
            if asked.iter().all(Vec::is_empty) {
                return Ok(ballots.into_iter().map(Ballot::finish).collect());
            }
            let counts: Vec<usize> = asked.iter().map(Vec::len).collect();
            let mut made = self.generator.generate(&asked.concat(), |_, _| ())?;
            for (ballot, count) in ballots.iter_mut().zip(counts) {
                let later = made.split_off(count);
                ballot.answer(&self.grammar, &made)?;
                made = later;
            }
        }
    }
}

/// The voting on one pair: which replies are wanted, and what they come to. Pure.
#[derive(Clone, Debug)]
pub struct Ballot {
    pair: EncodedPair,
    settings: Settings,
    found: Reasoned,
    /// Votes of each order that were asked for.
    cast: usize,
    /// The orders of the replies that were asked for last.
    asked: Vec<Order>,
}

impl Ballot {
    pub fn new(pair: EncodedPair, settings: Settings) -> Ballot {
        let found = Reasoned { votes: Votes::default(), rule: settings.rule, prompt_tokens: 0, generated_tokens: 0 };
        Ballot { pair, settings, found, cast: 0, asked: Vec::new() }
    }

    /// The replies that are wanted next, in both orders; none when the voting is over.
    pub fn ask(&mut self) -> Vec<Request> {
        let Settings { votes, rule, adaptive, seed, .. } = self.settings;
        let settled = |c| self.cast > 0 && self.found.votes.settled(rule, votes, c);
        if self.cast == votes || adaptive.is_some_and(settled) {
            return Vec::new();
        }
        let next = |_| rounds(votes).into_iter().find(|round| *round > self.cast);
        let to = adaptive.and_then(next).unwrap_or(votes);
        let mut requests = Vec::new();
        for (order, prompt) in [(Order::Ab, &self.pair.ab), (Order::Ba, &self.pair.ba)] {
            self.found.prompt_tokens += prompt.len();
            for vote in self.cast..to {
                let settings = self.settings.generation(vote_seed(seed, prompt, vote));
                requests.push(Request { prompt: prompt.clone(), settings });
                self.asked.push(order);
            }
        }
        self.cast = to;
        requests
    }

    /// Takes the replies to the last requests, in their order, with the logits of the grammar's labels watched.
    ///
    /// # Errors
    /// Tokens that are no text; logits that are not finite.
    pub fn answer(&mut self, grammar: &Grammar, made: &[Generation]) -> Result<()> {
        let found = &mut self.found;
        for (made, order) in made.iter().zip(self.asked.drain(..)) {
            let ended = made.finish == Finish::Stop;
            found.generated_tokens += made.tokens.len() + usize::from(ended);
            match grammar.read(&made.tokens, ended)? {
                Err(reason) => found.votes.invalid.push((order, reason)),
                Ok(answer) => {
                    let vote = vote(order, answer.side, made, answer.position, answer.rationale);
                    if !vote.margin.is_finite() {
                        let message = "the model's logits are not finite; its weights are damaged";
                        return Err(Error::new(Kind::Model, message));
                    }
                    found.votes.valid.push(vote);
                }
            }
        }
        Ok(())
    }

    /// What the votes come to.
    pub fn finish(self) -> Reasoned {
        self.found
    }
}

fn vote(order: Order, label: example::Side, made: &Generation, position: usize, rationale: String) -> Vote {
    let verdict = made.verdicts[position];
    let logprob = made.logprobs[position];
    Vote { order, label, margin: verdict.margin(), logprob, label_mass: verdict.label_mass(), rationale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_function_of_seed_prompt_and_vote() {
        let all =
            [vote_seed(0, &[1, 2], 0), vote_seed(1, &[1, 2], 0), vote_seed(0, &[2, 1], 0), vote_seed(0, &[1, 2], 1)];
        let different: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), 4);
        assert_eq!(vote_seed(0, &[1, 2], 0), all[0]);
    }

    #[test]
    fn settings_that_mean_nothing_are_named() {
        let base = Settings { votes: 8, temperature: 0.75, ..Settings::default() };
        base.check().unwrap();
        Settings::default().check().unwrap();
        for (settings, word) in [
            (Settings { votes: 0, ..base }, "votes"),
            (Settings { temperature: 0.0, ..base }, "greedy"),
            (Settings { temperature: -1.0, ..base }, "temperature"),
            (Settings { top_p: 0.0, ..base }, "top_p"),
            (Settings { max_tokens: 0, ..base }, "max_tokens"),
            (Settings { adaptive: Some(0.5), ..base }, "confidence"),
            (Settings { adaptive: Some(f64::NAN), ..base }, "confidence"),
            (Settings { adaptive: Some(0.9), votes: 2, ..base }, "nothing to save"),
        ] {
            let e = settings.check().unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().contains(word), "{e}");
        }
    }
}
