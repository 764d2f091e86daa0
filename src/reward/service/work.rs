//! Work that a service takes, and what becomes of it. Pure.

use crate::error::Error;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::judge::{EncodedPair, Judgment, Pair, Prompts, Side, conversation};
use crate::reward::rank::{Ranking, Rules, by_reward};
use crate::text::chat::Chat;
use crate::text::message::Message;
use std::collections::BTreeMap;

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
            Judged::Rewards { a, b } => sigmoid(*a as f64 - *b as f64),
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
