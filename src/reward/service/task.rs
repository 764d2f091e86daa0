//! What a piece of work asks the model for, and what it makes of the answers. Pure: reads in, answers out.

use super::ticket::{Answered, Mail};
use super::{Counters, Failure};
use crate::error::{Error, Kind};
use crate::infer::scorer::{LabelLogits, Verdict};
use crate::reward::judge::{EncodedPair, Judgment, Pair, Prompts, Side, conversation};
use crate::reward::rank::{Outcome, Ranking, Rules, Tournament, by_reward};
use crate::text::chat::Chat;
use crate::text::message::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A prompt, and what is to be read at its end. Equal ones in flight are computed once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    pub ids: Vec<i32>,
    /// The labels whose logits are wanted; none for the reward of a scalar model.
    pub labels: Vec<i32>,
}

/// What was read.
#[derive(Clone, Debug)]
pub enum Read {
    Labels(LabelLogits),
    Reward(f32),
}

/// A pair as the model reads it.
#[derive(Clone, Debug)]
pub enum PairWork {
    /// Judge prompts in both orders.
    Orders(EncodedPair),
    /// Two conversations for a scalar model.
    Conversations([Vec<i32>; 2]),
}

/// What became of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judged {
    Judgment(Judgment),
    /// The rewards of a scalar model.
    Rewards {
        a: f32,
        b: f32,
    },
}

impl Judged {
    /// Probability that response a is better; for rewards, Bradley and Terry's.
    pub fn p_a(&self) -> f64 {
        match self {
            Judged::Judgment(j) => j.p_a,
            Judged::Rewards { a, b } => 1.0 / (1.0 + (*b as f64 - *a as f64).exp()),
        }
    }

    pub fn verdict(&self) -> Side {
        match self {
            Judged::Judgment(j) => j.verdict,
            Judged::Rewards { a, b } if a > b => Side::A,
            Judged::Rewards { a, b } if a < b => Side::B,
            Judged::Rewards { .. } => Side::Tie,
        }
    }
}

/// Responses to order.
#[derive(Clone)]
pub struct Group {
    pub prompt: Vec<Message>,
    pub responses: Vec<String>,
    pub rules: Rules,
}

/// An order, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub enum Ranked {
    Compared {
        ranking: Ranking,
        /// P(i beats j) of the pairs that were compared, `i < j`.
        wins: BTreeMap<(usize, usize), f64>,
    },
    /// The rewards of a scalar model, which compares nothing.
    Rewards(Vec<f32>),
}

impl Ranked {
    /// Indices of the responses, best first.
    pub fn order(&self) -> Vec<usize> {
        match self {
            Ranked::Compared { ranking, .. } => ranking.order.clone(),
            Ranked::Rewards(rewards) => by_reward(rewards),
        }
    }

    /// In input order, the mean probability of beating those it was compared with; or the reward.
    pub fn scores(&self) -> Vec<f64> {
        match self {
            Ranked::Compared { ranking, .. } => ranking.scores.clone(),
            Ranked::Rewards(rewards) => rewards.iter().map(|r| *r as f64).collect(),
        }
    }

    /// P(i beats j), as far as they were compared.
    pub fn win(&self, i: usize, j: usize) -> Option<f64> {
        match self {
            Ranked::Compared { wins, .. } => wins.get(&(i, j)).copied().or_else(|| wins.get(&(j, i)).map(|p| 1.0 - p)),
            Ranked::Rewards(_) => None,
        }
    }
}

/// How texts become prompts.
#[derive(Clone)]
pub enum Texts {
    Pairwise(Prompts),
    Scalar(Chat),
}

impl Texts {
    pub fn chat(&self) -> &Chat {
        match self {
            Texts::Pairwise(prompts) => &prompts.chat,
            Texts::Scalar(chat) => chat,
        }
    }

    /// # Errors
    /// As [`Prompts::encode`].
    pub fn pair(&self, pair: &Pair) -> Result<PairWork, Error> {
        Ok(match self {
            Texts::Pairwise(prompts) => PairWork::Orders(prompts.pair(pair)?),
            Texts::Scalar(chat) => {
                let of = |response: &str| conversation(chat, &pair.prompt, response);
                PairWork::Conversations([of(&pair.a)?, of(&pair.b)?])
            }
        })
    }
}

/// Work in progress, and where its answer goes.
pub(super) enum Task {
    Pair { asks: [Arc<Ask>; 2], mail: Mail<Answered<Judged>> },
    Group(Box<GroupTask>),
    Labels { ask: Arc<Ask>, mail: Mail<Answered<LabelLogits>> },
    Reward { ask: Arc<Ask>, mail: Mail<Answered<f32>> },
}

pub(super) struct GroupTask {
    pub group: Group,
    pub texts: Texts,
    /// None yet, or none to come: a scalar model compares nothing.
    pub tournament: Option<Tournament>,
    pub wins: BTreeMap<(usize, usize), f64>,
    pub asked: Vec<(usize, usize)>,
    pub mail: Mail<Answered<Ranked>>,
}

/// How an answer came about.
pub(super) struct Meta {
    pub version: Arc<str>,
    pub tokens: usize,
    pub queued: Duration,
}

impl Meta {
    fn of<T>(self, answer: T) -> Answered<T> {
        Answered { answer, version: self.version, tokens: self.tokens, queued: self.queued }
    }
}

impl Task {
    pub fn pair(work: PairWork, texts: &Texts, mail: Mail<Answered<Judged>>) -> Task {
        let (prompts, labels) = match (work, texts) {
            (PairWork::Orders(pair), Texts::Pairwise(p)) => ([pair.ab, pair.ba], vec![p.labels.a, p.labels.b]),
            (PairWork::Orders(pair), Texts::Scalar(_)) => ([pair.ab, pair.ba], Vec::new()),
            (PairWork::Conversations(both), _) => (both, Vec::new()),
        };
        Task::Pair { asks: prompts.map(|ids| Arc::new(Ask { ids, labels: labels.clone() })), mail }
    }

    /// The first prompts, again if the weights changed meanwhile. None of them: the answer went out.
    pub fn start(&mut self, meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        match self {
            Task::Pair { asks, .. } => Ok(asks.to_vec()),
            Task::Labels { ask, .. } | Task::Reward { ask, .. } => Ok(vec![ask.clone()]),
            Task::Group(group) => group.start(meta, counters),
        }
    }

    /// Takes what was read at the prompts asked for; gives the next prompts, none when the answer went out.
    pub fn learn(&mut self, reads: Vec<Read>, meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        match (self, &reads[..]) {
            (Task::Pair { mail, .. }, [a, b]) => {
                let judged = judged(a, b)?;
                counters.judged(&judged);
                mail.finish(meta.of(judged));
            }
            (Task::Labels { mail, .. }, [Read::Labels(logits)]) => {
                if logits.logits.iter().any(|z| !z.is_finite()) || !logits.lse.is_finite() {
                    return Err(damaged());
                }
                mail.finish(meta.of(logits.clone()));
            }
            (Task::Reward { mail, .. }, [Read::Reward(reward)]) => {
                counters.rewarded(finite(*reward)?);
                mail.finish(meta.of(*reward));
            }
            (Task::Group(group), reads) => return group.learn(reads, meta, counters),
            _ => unreachable!("a task gets the reads it asked for"),
        }
        Ok(Vec::new())
    }

    pub fn fail(&self, failure: Failure) {
        match self {
            Task::Pair { mail, .. } => mail.fail(failure),
            Task::Group(group) => group.mail.fail(failure),
            Task::Labels { mail, .. } => mail.fail(failure),
            Task::Reward { mail, .. } => mail.fail(failure),
        }
    }
}

impl GroupTask {
    fn learn(&mut self, reads: &[Read], meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        if let Texts::Scalar(_) = self.texts {
            let rewards = reads.iter().map(reward).collect::<Result<Vec<f32>, Failure>>()?;
            rewards.iter().for_each(|r| counters.rewarded(*r));
            self.mail.finish(meta.of(Ranked::Rewards(rewards)));
            return Ok(Vec::new());
        }
        let mut outcomes = Vec::with_capacity(self.asked.len());
        for (pair, reads) in std::mem::take(&mut self.asked).into_iter().zip(reads.chunks(2)) {
            let judgment = judgment(&reads[0], &reads[1])?;
            counters.judged(&Judged::Judgment(judgment));
            self.wins.insert(pair, judgment.p_a);
            outcomes.push(Outcome::from(&judgment));
        }
        self.tournament.as_mut().expect("pairs were asked for it").answer(&outcomes);
        self.advance(meta, counters)
    }

    /// From the beginning, whatever was read before.
    fn start(&mut self, meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        let Group { prompt, responses, rules } = &self.group;
        match &self.texts {
            Texts::Scalar(chat) => {
                let of = |r: &String| conversation(chat, prompt, r).map_err(Failure::Invalid);
                let ask = |ids| Arc::new(Ask { ids, labels: Vec::new() });
                responses.iter().map(|r| of(r).map(ask)).collect()
            }
            Texts::Pairwise(_) => {
                self.tournament = Some(Tournament::new(responses.len(), *rules).map_err(Failure::Invalid)?);
                self.wins.clear();
                self.advance(meta, counters)
            }
        }
    }

    /// Asks the tournament what it wants compared next.
    fn advance(&mut self, meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        let (Some(tournament), Texts::Pairwise(prompts)) = (&mut self.tournament, &self.texts) else {
            unreachable!("only judges play tournaments");
        };
        self.asked = tournament.ask().to_vec();
        if self.asked.is_empty() {
            counters.ranked();
            let (ranking, wins) = (tournament.ranking(), std::mem::take(&mut self.wins));
            self.mail.finish(meta.of(Ranked::Compared { ranking, wins }));
            return Ok(Vec::new());
        }
        let (labels, mut asks) = (vec![prompts.labels.a, prompts.labels.b], Vec::new());
        for (i, j) in &self.asked {
            let (a, b) = (&self.group.responses[*i], &self.group.responses[*j]);
            for (x, y) in [(a, b), (b, a)] {
                let ids = prompts.encode(&self.group.prompt, x, y).map_err(Failure::Invalid)?;
                asks.push(Arc::new(Ask { ids, labels: labels.clone() }));
            }
        }
        Ok(asks)
    }
}

fn judged(a: &Read, b: &Read) -> Result<Judged, Failure> {
    Ok(match (a, b) {
        (Read::Labels(_), Read::Labels(_)) => Judged::Judgment(judgment(a, b)?),
        _ => Judged::Rewards { a: reward(a)?, b: reward(b)? },
    })
}

/// Of both orders.
fn judgment(ab: &Read, ba: &Read) -> Result<Judgment, Failure> {
    let verdict = |read: &Read| match read {
        Read::Labels(l) => Verdict { logits: [l.logits[0], l.logits[1]], lse: l.lse },
        Read::Reward(_) => unreachable!("language models give label logits"),
    };
    let (ab, ba) = (verdict(ab), verdict(ba));
    if !ab.margin().is_finite() || !ba.margin().is_finite() {
        return Err(damaged());
    }
    Ok(Judgment::of(ab, ba))
}

fn reward(read: &Read) -> Result<f32, Failure> {
    match read {
        Read::Reward(reward) => finite(*reward),
        Read::Labels(_) => unreachable!("scalar models give rewards"),
    }
}

fn finite(reward: f32) -> Result<f32, Failure> {
    if reward.is_finite() { Ok(reward) } else { Err(damaged()) }
}

fn damaged() -> Failure {
    Failure::Broken(Error::new(Kind::Model, "the model's logits are not finite; its weights are damaged"))
}
