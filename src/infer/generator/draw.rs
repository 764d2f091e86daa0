//! Drawing tokens from rows of logits, and what the watched labels' logits were there.

use super::{Active, Finish, Generator, Settings};
use crate::error::Result;
use crate::infer::scorer::{Verdict, read_f32};
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

impl Generator<'_> {
    /// Draws the next tokens of these sequences from the first rows of logits.
    pub(super) fn choose(&self, whose: &[Active]) -> Result<Vec<Drawn>> {
        let (dev, acts, n) = (self.dev, &self.acts, whose.len());
        let ids = acts.at(&acts.inputs.targets).cols_in(0..n);
        let logprobs = acts.at(&acts.head.nll).cols_in(0..n);
        let table = acts.at(&acts.inputs.sampling).top(n);
        dev.write(table, &whose.iter().map(sampling).flat_map(|s| s.row()).collect::<Vec<_>>());
        dev.install(|| sample(dev, ids, logprobs, acts.at(&acts.head.logits).top(n), table));
        let verdicts = self.verdicts(whose)?;
        let logprobs = read_f32(dev, logprobs)?;
        let drawn = dev.read::<i32>(ids)?.into_iter().zip(logprobs).zip(verdicts);
        Ok(drawn.map(|((token, logprob), verdict)| Drawn { token, logprob, verdict }).collect())
    }

    /// The label columns and the log-sum-exp of the rows of logits of those who watch.
    fn verdicts(&self, whose: &[Active]) -> Result<Vec<Option<Verdict>>> {
        let (dev, acts, n) = (self.dev, &self.acts, whose.len());
        let mut verdicts = vec![None; n];
        let watched: BTreeSet<[i32; 2]> = whose.iter().filter_map(|a| a.watch).collect();
        let (logits, z) = (acts.at(&acts.head.logits).top(n), acts.at(&acts.head.verdict).top(n));
        let (lse, all) = (acts.at(&acts.head.lse).cols_in(0..n), acts.at(&acts.inputs.others).cols_in(0..n));
        if !watched.is_empty() {
            dev.write(all, &(0..n as i32).collect::<Vec<i32>>());
            dev.install(|| logits_lse(dev, lse, logits));
        }
        for labels in watched {
            dev.install(|| {
                for (i, label) in labels.into_iter().enumerate() {
                    // Looking rows up in a table one column wide.
                    let column = logits.cols_in(label as usize..label as usize + 1);
                    embed_fwd(dev, z.cols_in(i..i + 1), column, all);
                }
            });
            for (row, (z, lse)) in read_f32(dev, z)?.chunks(2).zip(read_f32(dev, lse)?).enumerate() {
                if whose[row].watch == Some(labels) {
                    verdicts[row] = Some(Verdict { logits: [z[0], z[1]], lse });
                }
            }
        }
        Ok(verdicts)
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
