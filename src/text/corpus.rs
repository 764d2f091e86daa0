//! The examples of one stage of training: checked and measured once, encoded when their turn comes. What is kept is text,
//! which is smaller than the ids of both orders would be.
//!
//! Which response of a pair is shown as A is drawn anew in each epoch, from random bits keyed by (seed, epoch, the example's place in
//! its dataset). An example is left out if either order is too long, so every epoch has the same examples.

use std::ops::Range;

use rayon::prelude::*;

use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use crate::text::encode::{Encoder, Item};
use crate::text::example::{Drops, Example, Reason, Record, Side};
use crate::text::pack;
use crate::text::source::OnError;

/// Examples ready to be trained on.
pub struct Corpus {
    encoder: Encoder,
    seed: u64,
    entries: Vec<Entry>,
    drops: Drops,
}

struct Entry {
    record: Record,
    /// The example's number in its dataset: the key of its random bits.
    key: u64,
    /// Tokens with the first response as A, and as B.
    tokens: [usize; 2],
    /// Where the first response is shown, when that is not drawn for each epoch.
    first: Option<Side>,
}

/// In which order pairs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// One, drawn anew for each epoch.
    Drawn,
    /// Both: the pair is two examples, one after the other, with the first response as A and then as B.
    Both,
}

/// Limits and switches of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A sequence with more tokens is left out.
    pub max_tokens: usize,
    pub on_error: OnError,
    pub orders: Orders,
    pub seed: u64,
}

impl Corpus {
    /// Encodes every example once, in parallel on the current thread pool, to measure it.
    pub fn new(encoder: Encoder, records: Vec<Record>, limits: &Limits) -> Result<Corpus> {
        let measured: Vec<Result<std::result::Result<[usize; 2], Reason>>> =
            records.par_iter().map(|r| measure(&encoder, &r.example, limits).map_err(|e| e.at(&r.place))).collect();
        let total = records.len();
        let (mut entries, mut drops, mut kind) = (Vec::new(), Drops::default(), None);
        for (key, (record, measured)) in records.into_iter().zip(measured).enumerate() {
            match (measured, limits.on_error) {
                (Ok(Ok(tokens)), _) => {
                    let key = key as u64;
                    if limits.orders == Orders::Both && encoder.has_order(&record.example) {
                        let first = Some(Side::A);
                        entries.push(Entry { record: record.clone(), key, tokens, first });
                        entries.push(Entry { record, key, tokens, first: Some(Side::B) });
                    } else {
                        entries.push(Entry { record, key, tokens, first: None });
                    }
                }
                (Ok(Err(reason)), _) => {
                    kind.get_or_insert(record.example.kind());
                    drops.add(reason);
                }
                (Err(error), OnError::Fail) => return Err(error),
                (Err(_), OnError::Skip) => drops.add(Reason::Malformed),
            }
        }
        if entries.is_empty() {
            let stage = encoder.stage;
            let found = kind.map_or(String::new(), |kind| format!(" (they are {kind})"));
            return Err(Error::data(format!(
                "of {total} examples{found} none is left for stage {}, which learns from {}: {drops}",
                stage.name(),
                stage.wants()
            )));
        }
        Ok(Corpus { encoder, seed: limits.seed, entries, drops })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was left out here (not what the dataset had left out before).
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub fn record(&self, i: usize) -> &Record {
        &self.entries[i].record
    }

    /// Tokens of example `i` in an epoch, all its sequences together.
    pub fn tokens(&self, i: usize, epoch: u64) -> usize {
        self.entries[i].tokens[self.first(i, epoch) as usize]
    }

    /// Tokens of the longest example in any epoch, all its sequences together.
    pub fn longest(&self) -> usize {
        self.entries.iter().flat_map(|e| e.tokens).max().unwrap_or(0)
    }

    /// Where the first (of a pair: the chosen) response of example `i` is shown in an epoch.
    pub fn first(&self, i: usize, epoch: u64) -> Side {
        let entry = &self.entries[i];
        if let Some(first) = entry.first {
            return first;
        }
        let drawn = self.encoder.has_order(&entry.record.example);
        match drawn && Rng::new(self.seed, Stream::Order, epoch).bits(entry.key) >> 63 == 1 {
            true => Side::B,
            false => Side::A,
        }
    }

    /// Encodes example `i` as an epoch shows it.
    pub fn item(&self, i: usize, epoch: u64) -> Result<Item> {
        let record = self.record(i);
        let item = self.encoder.item(&record.example, self.first(i, epoch)).map_err(|e| e.at(&record.place))?;
        item.map_err(|reason| Error::data(format!("left out ({})", reason.text())).at(&record.place))
    }

    /// Encodes examples in parallel on the current thread pool, in the order given.
    pub fn items(&self, which: &[u32], epoch: u64) -> Result<Vec<Item>> {
        which.par_iter().map(|&i| self.item(i as usize, epoch)).collect()
    }

    /// Cuts an order of examples into micro-batches of at most `budget` tokens: ranges of `order`.
    pub fn batches(&self, order: &[u32], epoch: u64, budget: usize) -> Result<Vec<Range<usize>>> {
        let lengths: Vec<usize> = order.iter().map(|&i| self.tokens(i as usize, epoch)).collect();
        pack::batches(&lengths, budget)
    }
}

/// Tokens in both orders, or why the example is left out.
fn measure(encoder: &Encoder, example: &Example, limits: &Limits) -> Result<std::result::Result<[usize; 2], Reason>> {
    let mut tokens = [0; 2];
    for side in [Side::A, Side::B] {
        if side == Side::B && !encoder.has_order(example) {
            tokens[1] = tokens[0];
            break;
        }
        match encoder.item(example, side)? {
            Err(reason) => return Ok(Err(reason)),
            Ok(item) if item.longest() > limits.max_tokens => return Ok(Err(Reason::TooLong)),
            Ok(Item::Tokens { ids, start }) if start >= ids.len() => return Ok(Err(Reason::EmptyResponse)),
            Ok(item) => tokens[side as usize] = item.tokens(),
        }
    }
    Ok(Ok(tokens))
}
