//! Drawing tokens from rows of logits, and what the watched labels' logits were there.

use super::{Active, Finish, Generator, Settings};
use crate::device::Fetched;
use crate::error::Result;
use crate::infer::scorer::{Verdict, fetch_f32};
use crate::ops::embed::embed_fwd;
use crate::ops::sample::{Sampling, sample};
use crate::ops::xent::logits_lse;
use std::collections::BTreeSet;

/// A token that was drawn.
pub(super) struct Drawn {
    pub token: i32,
    pub logprob: f32,
    pub verdict: Option<Verdict>,
}

/// Tokens on their way to the host.
pub(super) struct Drawing {
    /// The numbers of the sequences, by row.
    pub whose: Vec<usize>,
    /// How many drawings came before: none has come after the latest.
    pub turn: usize,
    watches: Vec<Option<[i32; 2]>>,
    ids: Fetched<i32>,
    logprobs: Fetched<f32>,
    watched: Vec<Watched>,
}

/// A pair of labels that somebody watches: its logits in all rows, and the log-sum-exp.
struct Watched {
    labels: [i32; 2],
    logits: Fetched<f32>,
    lse: Fetched<f32>,
}

impl Drawing {
    /// Waits for the tokens; by row.
    ///
    /// # Errors
    /// When the device fails.
    pub fn wait(self) -> Result<Vec<(usize, Drawn)>> {
        let mut verdicts = vec![None; self.whose.len()];
        for Watched { labels, logits, lse } in self.watched {
            for (row, (z, lse)) in logits.wait()?.chunks(2).zip(lse.wait()?).enumerate() {
                if self.watches[row] == Some(labels) {
                    verdicts[row] = Some(Verdict { logits: [z[0], z[1]], lse });
                }
            }
        }
        let drawn = self.ids.wait()?.into_iter().zip(self.logprobs.wait()?).zip(verdicts);
        let drawn = drawn.map(|((token, logprob), verdict)| Drawn { token, logprob, verdict });
        Ok(self.whose.into_iter().zip(drawn).collect())
    }
}

impl Generator<'_> {
    /// Writes how the sequences from `first` on draw their next tokens; rows beyond them, up to `rows`, draw none.
    pub(super) fn write_sampling(&self, first: usize, rows: usize) {
        let mut table: Vec<i32> = self.active[first..].iter().map(sampling).flat_map(|s| s.row()).collect();
        table.resize(rows * Sampling::WORDS, 0);
        self.dev.write(self.acts.at(&self.acts.inputs.sampling).top(rows), &table);
    }

    /// Draws the next tokens of the sequences from `first` on, from the first rows of logits.
    pub(super) fn draw(&mut self, first: usize) -> Result<Drawing> {
        self.turns += 1;
        let whose = &self.active[first..];
        let (dev, acts, n) = (self.dev, &self.acts, whose.len());
        let ids = acts.at(&acts.inputs.targets).cols_in(0..n);
        let logprobs = acts.at(&acts.head.nll).cols_in(0..n);
        let table = acts.at(&acts.inputs.sampling).top(n);
        dev.install(|| sample(dev, ids, logprobs, acts.at(&acts.head.logits).top(n), table));
        Ok(Drawing {
            whose: whose.iter().map(|a| a.number).collect(),
            turn: self.turns,
            watches: whose.iter().map(|a| a.watch.labels).collect(),
            ids: dev.fetch(ids),
            logprobs: fetch_f32(dev, logprobs)?,
            watched: self.verdicts(whose)?,
        })
    }

    /// The label columns and the log-sum-exp of the rows of logits, for all labels that somebody watches.
    fn verdicts(&self, whose: &[Active]) -> Result<Vec<Watched>> {
        let (dev, acts, n) = (self.dev, &self.acts, whose.len());
        let watched: BTreeSet<[i32; 2]> = whose.iter().filter_map(|a| a.watch.labels).collect();
        let (logits, z) = (acts.at(&acts.head.logits).top(n), acts.at(&acts.head.verdict).top(n));
        let (lse, all) = (acts.at(&acts.head.lse).cols_in(0..n), acts.at(&acts.inputs.others).cols_in(0..n));
        if !watched.is_empty() {
            dev.write(all, &(0..n as i32).collect::<Vec<i32>>());
            dev.install(|| logits_lse(dev, lse, logits));
        }
        let fetch = |labels: [i32; 2]| {
            dev.install(|| {
                for (i, label) in labels.into_iter().enumerate() {
                    // Looking rows up in a table one column wide.
                    let column = logits.cols_in(label as usize..label as usize + 1);
                    embed_fwd(dev, z.cols_in(i..i + 1), column, all);
                }
            });
            Ok(Watched { labels, logits: fetch_f32(dev, z)?, lse: fetch_f32(dev, lse)? })
        };
        watched.into_iter().map(fetch).collect()
    }
}

fn sampling(a: &Active) -> Sampling {
    let Settings { temperature, top_k, top_p, min_p, seed, .. } = a.asked.settings;
    Sampling { temperature, top_k, top_p, min_p, seed, step: a.made.tokens.len() as u64 }
}

/// Adds a sampled token; whether the sequence is finished.
pub(super) fn add(stop: &[i32], a: &mut Active, drawn: Drawn) -> bool {
    if stop.contains(&drawn.token) {
        a.made.finish = Finish::Stop;
        return true;
    }
    // All but the first sampled token came from a decode step, which cached the token before it.
    if !a.made.tokens.is_empty() {
        a.cached += 1;
    }
    a.made.tokens.push(drawn.token);
    a.made.logprobs.push(drawn.logprob);
    a.made.verdicts.extend(drawn.verdict);
    a.made.tokens.len() == a.budget
}
