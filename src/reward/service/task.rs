//! What a piece of work asks the model for, and what it makes of the answers. Pure: reads in, answers out.

use super::ticket::{Answered, Mail};
use super::{Counters, Failure};
use crate::error::{Error, Kind};
use crate::infer::scorer::{LabelLogits, Verdict};
use crate::reward::judge::{EncodedPair, Judgment, Pair, Prompts, Side, conversation};
use crate::reward::rank::{Method, Ranking, by_reward, rank};
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
    pub method: Method,
}

/// An order, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub ranking: Ranking,
    /// P(i beats j) of the pairs that were compared. Empty for a scalar model, whose rewards are the ranking's scores.
    pub wins: BTreeMap<(usize, usize), f64>,
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
    pub known: BTreeMap<(usize, usize), f64>,
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
            Task::Group(group) => {
                group.known.clear();
                group.advance(meta, counters)
            }
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
            let scores = rewards.iter().map(|r| *r as f64).collect();
            let ranking = Ranking { order: by_reward(&rewards), scores, comparisons: 0 };
            self.mail.finish(meta.of(Ranked { ranking, wins: BTreeMap::new() }));
            return Ok(Vec::new());
        }
        for (pair, reads) in std::mem::take(&mut self.asked).into_iter().zip(reads.chunks(2)) {
            let judged = judged(&reads[0], &reads[1])?;
            counters.judged(&judged);
            self.known.insert(pair, judged.p_a());
        }
        self.advance(meta, counters)
    }

    /// Asks the method again, with all that is known: it stops at the first comparisons that are not, and those come
    /// next. Methods depend on answers alone, so they ask the same every time; nothing of them need be kept.
    fn advance(&mut self, meta: Meta, counters: &Counters) -> Result<Vec<Arc<Ask>>, Failure> {
        let n = self.group.responses.len();
        let prompts = match &self.texts {
            Texts::Pairwise(prompts) => prompts,
            Texts::Scalar(chat) => {
                let of = |r: &String| conversation(chat, &self.group.prompt, r).map_err(Failure::Invalid);
                let ask = |ids| Arc::new(Ask { ids, labels: Vec::new() });
                return self.group.responses.iter().map(|r| of(r).map(ask)).collect();
            }
        };
        let mut missing = Vec::new();
        let ranked = rank(n, self.group.method, |pairs| {
            let answers: Option<Vec<f64>> = pairs.iter().map(|p| self.known.get(p).copied()).collect();
            answers.ok_or_else(|| {
                missing = pairs.iter().filter(|p| !self.known.contains_key(p)).copied().collect();
                Error::new(Kind::Interrupted, "comparisons are missing")
            })
        });
        match ranked {
            Ok(ranking) => {
                counters.ranked();
                self.mail.finish(meta.of(Ranked { ranking, wins: std::mem::take(&mut self.known) }));
                Ok(Vec::new())
            }
            Err(e) if missing.is_empty() => Err(Failure::Invalid(e)),
            Err(_) => {
                let (labels, mut asks) = (vec![prompts.labels.a, prompts.labels.b], Vec::new());
                for (i, j) in &missing {
                    let (a, b) = (&self.group.responses[*i], &self.group.responses[*j]);
                    for (x, y) in [(a, b), (b, a)] {
                        let ids = prompts.encode(&self.group.prompt, x, y).map_err(Failure::Invalid)?;
                        asks.push(Arc::new(Ask { ids, labels: labels.clone() }));
                    }
                }
                self.asked = missing;
                Ok(asks)
            }
        }
    }
}

fn judged(a: &Read, b: &Read) -> Result<Judged, Failure> {
    let verdict = |l: &LabelLogits| Verdict { logits: [l.logits[0], l.logits[1]], lse: l.lse };
    Ok(match (a, b) {
        (Read::Labels(ab), Read::Labels(ba)) => {
            let (ab, ba) = (verdict(ab), verdict(ba));
            if !ab.margin().is_finite() || !ba.margin().is_finite() {
                return Err(damaged());
            }
            Judged::Judgment(Judgment::of(ab, ba))
        }
        _ => Judged::Rewards { a: reward(a)?, b: reward(b)? },
    })
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
