//! Decode steps: one more token for each sequence.
//!
//! On a device that queues its work, the next step is launched before the tokens of the last one are known here, so that the device never
//! waits for the host: the drawn tokens become the next inputs where they lie. A sequence that turns out to have ended wrote one
//! token more, which nobody hears of; its pages are free at once, since whatever a later owner writes comes after.

use super::draw::Drawing;
use super::{Generation, Generator, Wrote};
use crate::error::Result;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::ops::advance::{Step, advance};

impl Generator<'_> {
    /// Gives one token to each that writes, which `wrote` sees. Those who began while a step was under way get theirs with the
    /// next. Who has finished, and with what.
    ///
    /// # Errors
    /// As [`Generator::begin`].
    pub fn next(&mut self, wrote: &mut Wrote) -> Result<Vec<(usize, Generation)>> {
        let writes = |number: &usize| self.active.iter().any(|a| a.number == *number);
        let drawing = match self.ahead.take().filter(|ahead| ahead.whose.iter().any(writes)) {
            Some(ahead) => ahead,
            None if self.active.is_empty() => return Ok(Vec::new()),
            None => self.decode()?,
        };
        if self.goes_on(&drawing) {
            self.ahead = Some(self.decode_on()?);
        }
        self.take(drawing, wrote)
    }

    /// Whether the step after this one is certain before its tokens are: it was the last thing that was done, for all that write, and
    /// none of them is at its end or wants to see logits.
    fn goes_on(&self, drawing: &Drawing) -> bool {
        self.dev.queues()
            && drawing.turn == self.turns
            && drawing.whose.iter().eq(self.active.iter().map(|a| &a.number))
            && self.active.iter().all(|a| a.made.tokens.len() + 1 < a.budget && !a.watch.logits)
    }

    /// A step from the tokens that are known here.
    fn decode(&mut self) -> Result<Drawing> {
        let active = &self.active;
        let n = active.len();
        // Rows beyond the active ones compute something that nobody reads, and write nothing to the cache.
        let rows = self.dev.bucket(n, self.shape.sequences);
        let mut last: Vec<i32> = active.iter().map(|a| *a.made.tokens.last().expect("prefill wrote one")).collect();
        // The newest token is not in the cache yet: it goes to position `cached`.
        let mut positions: Vec<i32> = active.iter().map(|a| a.cached as i32).collect();
        last.resize(rows, 0);
        positions.resize(rows, 0);
        let all: Vec<i32> = (0..rows as i32).collect();
        let inputs = &self.acts.inputs;
        for (slot, data) in [(&inputs.ids, &last), (&inputs.positions, &positions), (&inputs.rows, &all)] {
            self.dev.write(self.acts.at(slot).cols_in(0..rows), data);
        }
        let places: Vec<(&[u32], usize)> = active.iter().map(|a| (a.pages.as_slice(), a.cached + 1)).collect();
        self.cache.set_decode(self.dev, &places, rows);
        self.write_sampling(0, rows);
        self.step(rows)
    }

    /// A step from the tokens that the last one drew, which are still on the device.
    fn decode_on(&mut self) -> Result<Drawing> {
        let (acts, inputs, cache) = (&self.acts, &self.acts.inputs, &self.cache);
        let rows = self.dev.bucket(self.active.len(), self.shape.sequences);
        let [ids, positions, drawn] =
            [&inputs.ids, &inputs.positions, &inputs.targets].map(|slot| acts.at(slot).cols_in(0..rows));
        let step = Step {
            ids,
            positions,
            lens: cache.lens(rows),
            places: cache.places(rows),
            settings: acts.at(&inputs.sampling).top(rows),
            table: cache.table(rows),
            page: cache.page(),
        };
        advance(self.dev, step, drawn);
        self.step(rows)
    }

    fn step(&mut self, rows: usize) -> Result<Drawing> {
        let (dev, model, acts, cache) = (self.dev, self.model, &self.acts, &self.cache);
        dev.replay(&mut self.replays, rows, || {
            let extent = Extent { tokens: rows, sequences: rows };
            forward(dev, model, acts, extent, Attend::Decode(cache));
            Head::gather(dev, model, acts, extent, rows).logits();
        })?;
        self.draw(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Request, Settings, Shape};
    use super::*;
    use crate::base::dtype::Dtype;
    use crate::device::Device;
    use crate::infer::scorer::tests::{CONTEXT, model, text};
    use crate::model::config::{Family, HeadKind};
    use crate::ops::check::gpus;
    use std::sync::Arc;

    /// Two sequences of five and four tokens: of each turn, whether the next step was launched before it ended.
    fn ahead(dev: &Device) -> Vec<bool> {
        let model = model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32).on(dev).unwrap();
        let mut generator = Generator::new(dev, &model, Shape { sequences: 4, context: CONTEXT }, &[]).unwrap();
        let request = |max_tokens, seed| {
            let settings = Settings { temperature: 1.0, max_tokens, seed, ..Settings::default() };
            Arc::new(Request { prompt: text(seed, 70), settings })
        };
        for request in [request(5, 0), request(4, 1)] {
            generator.line(request);
        }
        let (mut found, mut made) = (Vec::new(), Vec::new());
        while !generator.is_idle() {
            made.extend(generator.turn().unwrap());
            found.push(generator.ahead.is_some());
        }
        assert_eq!(
            made.iter().map(|(number, made)| (*number, made.tokens.len())).collect::<Vec<_>>(),
            [(1, 4), (0, 5)]
        );
        assert_eq!(generator.counts().generated, 9);
        found
    }

    #[test]
    fn gpus_are_given_the_next_step_before_the_tokens_of_the_last() {
        assert_eq!(ahead(&Device::cpu(1)), [false; 5]);
        for (name, dev) in gpus().into_iter().take(2) {
            // The prompts, two steps with another after them, the end of the shorter, the end of the longer.
            assert_eq!(ahead(&dev), [false, true, true, false, false], "{name}");
        }
    }
    /// Who leaves between two steps, and a request that comes and is done with its first token, change nothing for the others,
    /// although the step after theirs is under way.
    #[test]
    fn a_step_that_was_launched_ahead_on_a_gpu_is_theirs_who_were_there() {
        let request = |seed, max_tokens| {
            let settings = Settings { temperature: 1.0, max_tokens, seed, ..Settings::default() };
            Request { prompt: text(seed, 70), settings }
        };
        let requests: Vec<Request> = (0..3).map(|seed| request(seed, 7)).collect();
        for (name, dev) in gpus().into_iter().take(1) {
            let model = model(Family::Llama, HeadKind::LanguageModel, Dtype::F32).on(&dev).unwrap();
            let mut generator = Generator::new(&dev, &model, Shape { sequences: 4, context: CONTEXT }, &[]).unwrap();
            let want = generator.generate(&requests, |_, _| ()).unwrap();
            for leaver in [None, Some(0), Some(1)] {
                generator.clear();
                let numbers: Vec<usize> = requests.iter().map(|r| generator.line(Arc::new(r.clone()))).collect();
                let mut made: Vec<_> = (0..3).flat_map(|_| generator.turn().unwrap()).collect();
                assert!(generator.ahead.is_some());
                let short = match leaver {
                    Some(i) => {
                        generator.leave(numbers[i]);
                        None
                    }
                    None => Some(generator.line(Arc::new(request(9, 1)))),
                };
                while !generator.is_idle() {
                    made.extend(generator.turn().unwrap());
                }
                made.retain(|(number, _)| Some(*number) != short);
                made.sort_by_key(|(number, _)| *number);
                let others = (0..3).filter(|i| Some(*i) != leaver);
                let want: Vec<_> = others.map(|i| (numbers[i], want[i].clone())).collect();
                assert!(made == want, "{name}, {leaver:?} left");
            }
        }
    }
}
