//! Sequences whose prompts are read elsewhere, in passes that others share: a place and pages first, then, when the prompt has been read,
//! its keys and values and the first token. Those with equal prompts share whole pages.

use super::{Generation, Generator, Request, Watch, Wrote};
use crate::device::{Device, View};
use crate::error::Result;
use crate::infer::scorer::read_f32;
use crate::model::cache::{Cache, PAGE, place};
use crate::model::forward::Extent;
use crate::model::head::Head;
use crate::ops::embed::embed_fwd;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A prompt that has been read, by a model with the same weights.
#[derive(Clone, Copy)]
pub struct Prompt<'a> {
    pub cache: &'a Cache,
    /// Rows of its pool with the prompt's keys and values.
    pub rows: &'a [u32],
    /// The residual stream at its end, `[1, D]`.
    pub end: View<'a>,
}

/// A token that was just written.
pub struct Written<'a> {
    /// What the sequence holds so far.
    pub made: &'a Generation,
    /// Nothing follows. Where the sequence ended with an end-of-sequence token, `made` did not grow.
    pub ended: bool,
    pub(super) dev: &'a Device,
    pub(super) logits: Option<View<'a>>,
}

impl Written<'_> {
    /// The logits of the whole vocabulary that the token was drawn from, f32.
    ///
    /// # Errors
    /// As [`Device::read`].
    ///
    /// # Panics
    /// A sequence that does not [watch](Watch) them: the next step may have overwritten them.
    pub fn logits(&self) -> Result<Vec<f32>> {
        read_f32(self.dev, self.logits.expect("logits are kept for those who watch them"))
    }
}

impl Generator<'_> {
    /// A place and pages for a request, until [`Generator::begin`]; the number that it is called by. `None` while there is no room.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn seat(&mut self, request: &Request, watch: Watch) -> Result<Option<usize>> {
        self.check(request)?;
        if self.active.len() + self.seated.len() == self.shape.sequences {
            return Ok(None);
        }
        let same = self.active.iter().chain(&self.seated).find(|other| other.asked.prompt == request.prompt);
        let shared = same.map_or(Vec::new(), |other| other.pages[..request.prompt.len() / PAGE].to_vec());
        let number = self.taken;
        let Some(active) = self.start(number, Arc::new(request.clone()), watch, &shared) else { return Ok(None) };
        self.taken += 1;
        self.seated.push(active);
        Ok(Some(number))
    }

    /// The prompt of these seats has been read: they get their first tokens, which `wrote` sees. Who has finished already.
    ///
    /// # Errors
    /// When the device fails; whatever `wrote` returns. Then [`Generator::clear`].
    ///
    /// # Panics
    /// A seat that there is not, or of another prompt.
    pub fn begin(&mut self, seats: &[usize], prompt: &Prompt, wrote: &mut Wrote) -> Result<Vec<(usize, Generation)>> {
        let first = self.active.len();
        // By place: those that share pages fill them once.
        let mut copies = BTreeMap::new();
        for number in seats {
            let at = self.seated.iter().position(|a| a.number == *number).expect("a seat");
            let active = self.seated.remove(at);
            let len = active.asked.prompt.len();
            assert_eq!(len, prompt.rows.len(), "a row for each token of the prompt");
            copies.extend((0..len).map(|p| (place(&active.pages, p), prompt.rows[p] as i32)));
            self.counts.asked += len;
            self.active.push(active);
        }
        let (to, from): (Vec<i32>, Vec<i32>) = copies.into_iter().unzip();
        self.copy(prompt.cache, &from, &to);
        let (dev, model, acts, n) = (self.dev, self.model, &self.acts, seats.len());
        let rows = acts.at(&acts.inputs.rows).cols_in(0..n);
        dev.write(rows, &vec![0; n]);
        dev.install(|| {
            embed_fwd(dev, acts.at(&acts.out).top(1), prompt.end, rows.cols_in(0..1));
            Head::gather(dev, model, acts, Extent { tokens: 1, sequences: 1 }, n).logits();
        });
        self.write_sampling(first, n);
        let drawing = self.draw(first)?;
        self.take(drawing, wrote)
    }

    /// Drops a seat or what is being written there; its pages are free at once.
    pub fn leave(&mut self, number: usize) {
        for places in [&mut self.seated, &mut self.active] {
            if let Some(i) = places.iter().position(|a| a.number == number) {
                self.pages.give_back(places.remove(i).pages);
            }
        }
    }

    /// Sequences that write or are about to.
    pub fn places_taken(&self) -> usize {
        self.active.len() + self.seated.len()
    }
}
