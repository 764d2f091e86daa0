//! Writing for somebody who asks as it goes and sees every token at once.

use super::{Generation, Generator, Request};
use crate::device::{Device, View};
use crate::error::Result;
use crate::infer::scorer::read_f32;
use std::collections::BTreeMap;

/// What happens to a sequence after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    GoOn,
    /// Nobody wants it any more: its place and its pages are free at once.
    Drop,
}

/// A token that was just written.
pub struct Written<'a> {
    /// What the sequence holds so far.
    pub made: &'a Generation,
    /// Nothing follows. Where the sequence ended with an end-of-sequence token, `made` did not grow.
    pub ended: bool,
    pub(super) dev: &'a Device,
    pub(super) logits: View<'a>,
}

impl Written<'_> {
    /// The logits of the whole vocabulary that the token was drawn from, f32.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn logits(&self) -> Result<Vec<f32>> {
        read_f32(self.dev, self.logits)
    }
}

/// Who asks for sequences and watches them being written.
pub trait Feed {
    /// Requests to start, at most `room`, each with a number to know it by; asked between steps. The run ends when it
    /// has nothing to write and none come.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn more(&mut self, room: usize) -> Result<Vec<(u64, Request)>>;

    /// A sequence got a token.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn wrote(&mut self, number: u64, written: &Written) -> Result<Flow>;
}

impl Generator<'_> {
    /// Writes what `feed` asks for until it asks for nothing more. Sequences are those of [`Generator::generate`].
    ///
    /// # Errors
    /// As [`Generator::generate`]; whatever `feed` returns. What was being written is then lost.
    pub fn run(&mut self, feed: &mut impl Feed) -> Result<()> {
        self.clear();
        let ran = self.follow(feed);
        self.clear();
        ran
    }

    fn follow(&mut self, feed: &mut impl Feed) -> Result<()> {
        // The feed's number of each request by ours.
        let mut numbers = BTreeMap::new();
        loop {
            let room = self.shape.sequences.saturating_sub(self.writing() + self.waiting());
            for (number, request) in feed.more(room)? {
                numbers.insert(self.push(request)?, number);
            }
            if self.is_idle() {
                return Ok(());
            }
            self.step_with(&mut |taken, written| {
                let flow = feed.wrote(numbers[&taken], written)?;
                if written.ended || flow == Flow::Drop {
                    numbers.remove(&taken);
                }
                Ok(flow)
            })?;
        }
    }
}
