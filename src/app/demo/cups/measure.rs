//! Judges on test pairs: each pair in both orders, the answer of each kept, so that judges can be compared pair by pair.

use super::files::{CONTEXT, LONGEST};
use super::world::Item;
use crate::device::Device;
use crate::error::Result;
use crate::infer::{generator, scorer};
use crate::model::Model;
use crate::reward::judge::{Judge, Pair, Prompts, Side as Verdict};
use crate::reward::rationale::{self, RationaleJudge, Settings, TEMPERATURE};
use crate::reward::selftrain::config::SelfTrain;
use crate::text::chat::Chat;
use crate::text::example::Side;
use crate::text::message::Message;
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::train::data;
use std::path::Path;
use std::sync::Arc;

/// What a judge said of test pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// Of each pair, whether the mean over both orders is right; ties and pairs without a valid reply are wrong.
    pub right: Vec<bool>,
    /// Pairs with the same verdict in both orders.
    pub consistent: usize,
    /// Replies without a verdict, of two for each pair and vote.
    pub invalid: usize,
}

impl Verdicts {
    pub fn pairs(&self) -> usize {
        self.right.len()
    }
    pub fn count(&self) -> usize {
        self.right.iter().filter(|right| **right).count()
    }
    pub fn accuracy(&self) -> f64 {
        self.count() as f64 / self.pairs().max(1) as f64
    }
    pub fn consistency(&self) -> f64 {
        self.consistent as f64 / self.pairs().max(1) as f64
    }

    fn add(&mut self, item: &Item, verdict: Option<Verdict>, consistent: bool) {
        let truth = if item.better == Side::A { Verdict::A } else { Verdict::B };
        self.right.push(verdict == Some(truth));
        self.consistent += usize::from(consistent);
    }
}

/// Opens judges and asks them.
pub struct Examiner<'a> {
    pub dev: &'a Device,
    pub file: &'a SelfTrain,
}

impl Examiner<'_> {
    /// A judge that reasons: one greedy reply in each order, or so many sampled ones.
    ///
    /// # Errors
    /// As [`RationaleJudge::judge`].
    pub fn reasoning(&self, dir: &Path, items: &[Item], votes: usize) -> Result<Verdicts> {
        let tokenizer = Arc::new(Tokenizer::open(dir)?);
        let model = Model::open(dir, |stored| stored)?.on(self.dev)?;
        let stop = tokenizer.stop().to_vec();
        let encoder = data::encoder(&self.file.reward, tokenizer)?;
        let prompts = rationale::prompts(encoder.chat, encoder.template)?;
        let temperature = if votes == 1 { 0.0 } else { TEMPERATURE };
        let settings = Settings { votes, temperature, max_tokens: LONGEST, ..Settings::default() };
        let shape = generator::Shape { sequences: 64, context: CONTEXT };
        let mut judge = RationaleJudge::new(self.dev, &model, prompts, settings, shape, &stop)?;
        let pairs = items.iter().map(|item| judge.prompts.pair(&pair(item))).collect::<Result<Vec<_>>>()?;
        let mut verdicts = Verdicts::default();
        for (item, reasoned) in items.iter().zip(judge.judge(&pairs)?) {
            verdicts.add(item, reasoned.verdict(), reasoned.consistent());
            verdicts.invalid += reasoned.votes.invalid.len();
        }
        Ok(verdicts)
    }

    /// A judge that answers at once.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn at_once(&self, dir: &Path, template: &Path, items: &[Item]) -> Result<Verdicts> {
        let model = Model::open(dir, |stored| stored)?.on(self.dev)?;
        let chat = Chat::of(Arc::new(Tokenizer::open(dir)?))?;
        let prompts = Prompts::new(chat, JudgeTemplate::open(template)?)?;
        let pairs = items.iter().map(|item| prompts.pair(&pair(item))).collect::<Result<Vec<_>>>()?;
        let mut judge = Judge::new(self.dev, &model, prompts, scorer::Shape { context: CONTEXT, pass: 4096 })?;
        let mut verdicts = Verdicts::default();
        for (item, judged) in items.iter().zip(judge.judge(&pairs)?) {
            verdicts.add(item, Some(judged.verdict), judged.consistent);
        }
        Ok(verdicts)
    }
}

fn pair(item: &Item) -> Pair {
    Pair { prompt: vec![Message::user(&*item.prompt)], a: item.a.to_string(), b: item.b.to_string() }
}
