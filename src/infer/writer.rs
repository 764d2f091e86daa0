//! Continuous generation: who writes next, on a [`Generator`].
//!
//! Requests wait in a line of the same order as the [scheduler](super::scheduler)'s: priority plus patience, then the client that was given
//! least, then the nearest deadline, then the longest wait. Whoever comes first takes those with it that have the same prompt, as far as
//! there are places, since they share it. A request's tokens depend on the request alone. What is written stays in the generator's own
//! cache: keys and values that decoding computed are another numeric class, and never the beginning of something that is scored.

use super::engine::Failure;
use super::generator::{Generation, Generator, Request};
use super::scheduler::{Micros, Terms};
use crate::error::Result;
use std::collections::BTreeMap;

/// A request of a [`Writer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pen(u64);

struct Queued {
    pen: Pen,
    terms: Terms,
    arrived: Micros,
    request: Request,
}

/// A generator and those who wait for it.
pub struct Writer<'m> {
    generator: Generator<'m>,
    sequences: usize,
    /// Most that may wait or write.
    most: usize,
    patience: Micros,
    line: Vec<Queued>,
    /// By the generator's number.
    writing: BTreeMap<usize, (Pen, Terms)>,
    /// Tokens promised to each client that has requests here.
    given: BTreeMap<u64, u64>,
    next: u64,
}

impl<'m> Writer<'m> {
    /// For a generator of so many sequences; at most `most` requests wait or write.
    pub fn new(generator: Generator<'m>, sequences: usize, most: usize, patience: Micros) -> Writer<'m> {
        let (line, writing, given) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Writer { generator, sequences, most, patience, line, writing, given, next: 0 }
    }

    /// Those without an outcome.
    pub fn waiting(&self) -> usize {
        self.line.len() + self.writing.len()
    }

    /// # Errors
    /// A request that the model cannot continue; too many that wait.
    pub fn submit(&mut self, now: Micros, terms: Terms, request: Request) -> std::result::Result<Pen, Failure> {
        self.generator.check(&request).map_err(Failure::Refused)?;
        if self.waiting() >= self.most {
            return Err(Failure::Full);
        }
        let pen = Pen(self.next);
        self.next += 1;
        let least = self.given.values().copied().min().unwrap_or(0);
        self.given.entry(terms.client).or_insert(least);
        self.line.push(Queued { pen, terms, arrived: now, request });
        Ok(pen)
    }

    /// Forgets a request; its pages are free at once.
    pub fn cancel(&mut self, pen: Pen) {
        self.line.retain(|q| q.pen != pen);
        if let Some(number) = self.writing.iter().find(|(_, (p, _))| *p == pen).map(|(number, _)| *number) {
            self.writing.remove(&number);
            self.generator.cancel(number);
        }
        self.forget_clients();
    }

    /// Forgets those whose deadline has passed, and says who they are.
    pub fn expire(&mut self, now: Micros) -> Vec<Pen> {
        let all = self.line.iter().map(|q| (q.pen, q.terms)).chain(self.writing.values().copied());
        let late: Vec<Pen> = all.filter(|(_, t)| t.deadline.is_some_and(|d| d <= now)).map(|(pen, _)| pen).collect();
        late.iter().for_each(|pen| self.cancel(*pen));
        late
    }

    /// Forgets every request.
    pub fn clear(&mut self) {
        (self.line, self.writing, self.given) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        self.generator.clear();
    }

    /// Starts those whose turn it is, or gives a token to each that writes; who has finished.
    ///
    /// # Errors
    /// When the device fails; then [`Writer::clear`].
    pub fn step(&mut self, now: Micros) -> Result<Vec<(Pen, Generation)>> {
        while self.room() > 0
            && let Some(first) = self.first(now)
        {
            let prompt = self.line[first].request.prompt.clone();
            self.start(first)?;
            while self.room() > 0
                && let Some(next) = self.line.iter().position(|q| q.request.prompt == prompt)
            {
                self.start(next)?;
            }
        }
        let finished = self.generator.step()?;
        let named = finished.into_iter().filter_map(|(number, made)| Some((self.writing.remove(&number)?.0, made)));
        let named = named.collect();
        self.forget_clients();
        Ok(named)
    }

    /// Places for more sequences.
    fn room(&self) -> usize {
        self.sequences.saturating_sub(self.writing.len())
    }

    /// Whose turn it is.
    fn first(&self, now: Micros) -> Option<usize> {
        let key = |q: &Queued| {
            let level = q.terms.level(q.arrived, now, self.patience);
            (u64::MAX - level, self.given[&q.terms.client], q.terms.deadline.unwrap_or(Micros::MAX), q.pen)
        };
        (0..self.line.len()).min_by_key(|i| key(&self.line[*i]))
    }

    fn start(&mut self, i: usize) -> Result<()> {
        let Queued { pen, terms, request, .. } = self.line.remove(i);
        *self.given.entry(terms.client).or_default() += (request.prompt.len() + request.settings.max_tokens) as u64;
        let number = self.generator.push(request)?;
        self.writing.insert(number, (pen, terms));
        Ok(())
    }

    fn forget_clients(&mut self) {
        let (line, writing) = (&self.line, &self.writing);
        let here =
            |client| line.iter().any(|q| q.terms.client == client) || writing.values().any(|(_, t)| t.client == client);
        self.given.retain(|client, _| here(*client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::Dtype;
    use crate::base::rng::{Rng, Stream};
    use crate::device::Device;
    use crate::infer::generator::{Settings, Shape};
    use crate::infer::scorer::tests::{model, text};
    use crate::model::config::{Family, HeadKind};

    const SHAPE: Shape = Shape { sequences: 4, context: 200 };

    fn requests(n: u64) -> Vec<Request> {
        let request = |i: u64| {
            let settings = Settings {
                temperature: (i % 3) as f32,
                max_tokens: 3 + 5 * (i % 7) as usize,
                seed: i,
                ..Settings::default()
            };
            Request { prompt: text(i / 3 % 4, 30 + 40 * (i / 3 % 4) as usize), settings }
        };
        (0..n).map(request).collect()
    }

    #[test]
    fn what_is_written_depends_on_the_request_alone_whoever_comes_and_goes() {
        let (dev, model) = (Device::cpu(2), model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32));
        let (stop, requests) = ([7, 8, 9], requests(30));
        let mut alone = Generator::new(&dev, &model, Shape { sequences: 1, ..SHAPE }, &stop).unwrap();
        let want: Vec<Generation> =
            requests.iter().flat_map(|r| alone.generate(std::slice::from_ref(r), |_, _| ()).unwrap()).collect();
        for pages in [4, 100] {
            let generator = Generator::with_pages(&dev, &[&model], SHAPE, &stop, pages).unwrap();
            let free = generator.free_pages();
            let mut writer = Writer::new(generator, 4, 100, 1000);
            let rng = Rng::new(pages as u64, Stream::Test, 5);
            let (mut asked, mut next, mut gone, mut heard) = (BTreeMap::new(), 0, 0, 0);
            for turn in 0.. {
                let draw = |k: u64, n: u64| rng.below(8 * turn + k, n) as usize;
                for _ in 0..draw(0, 3) {
                    if next < requests.len() {
                        let terms = Terms { client: draw(1, 2) as u64, priority: draw(2, 2) as u32, deadline: None };
                        asked.insert(writer.submit(turn, terms, requests[next].clone()).unwrap(), next);
                        next += 1;
                    }
                }
                if draw(3, 6) == 0
                    && let Some(pen) = asked.keys().nth(draw(4, 5)).copied()
                {
                    writer.cancel(pen);
                    asked.remove(&pen);
                    gone += 1;
                }
                for (pen, made) in writer.step(turn).unwrap() {
                    let request = asked.remove(&pen).expect("one outcome for each");
                    assert!(made == want[request], "request {request}, {pages} pages");
                    heard += 1;
                }
                if next == requests.len() && writer.waiting() == 0 {
                    break;
                }
            }
            assert!(asked.is_empty() && gone > 0 && heard + gone == requests.len(), "{heard} heard, {gone} gone");
            assert_eq!(writer.generator.free_pages(), free, "every page comes back");
            assert!(writer.given.is_empty());
        }
    }

    #[test]
    fn clients_take_turns_deadlines_pass_and_the_line_is_bounded() {
        let (dev, model) = (Device::cpu(1), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
        let generator = Generator::new(&dev, &model, Shape { sequences: 1, ..SHAPE }, &[]).unwrap();
        let mut writer = Writer::new(generator, 1, 5, 1000);
        let request =
            |seed| Request { prompt: text(seed, 5), settings: Settings { max_tokens: 4, ..Settings::default() } };
        let by = |client, deadline| Terms { client, priority: 0, deadline };
        let mut large: Vec<Pen> = (0..3).map(|i| writer.submit(0, by(1, None), request(i)).unwrap()).collect();
        let mut done = Vec::new();
        done.extend(writer.step(0).unwrap());
        let small = writer.submit(0, by(2, None), request(5)).unwrap();
        let late = writer.submit(0, by(3, Some(10)), request(6)).unwrap();
        assert!(matches!(writer.submit(0, by(1, None), request(7)), Err(Failure::Full)));
        assert_eq!(writer.expire(10), [late]);
        while writer.waiting() > 0 {
            done.extend(writer.step(20).unwrap());
        }
        large.insert(2, small);
        assert_eq!(done.iter().map(|(pen, _)| *pen).collect::<Vec<_>>(), large);
        assert!(done.iter().all(|(_, made)| made.tokens.len() == 4));
        let empty = Request { prompt: vec![], settings: Settings::default() };
        assert!(matches!(writer.submit(0, by(1, None), empty), Err(Failure::Refused(_))));
    }
}
