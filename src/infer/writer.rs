//! Continuous generation: who writes next, on a [`Generator`].
//!
//! Drafts wait in a line of the same order as the [scheduler](super::scheduler)'s: priority plus patience, then the client that was given
//! least, then the nearest deadline, then the longest wait. Whoever comes first takes those with it that have the same prompt, as far as
//! there are places, since they share it. Equal drafts are written once for all who want them; who joins late gets what was written before.
//! A draft's tokens depend on the draft alone. A generator writes with one adapter at a time: when a draft for another one is first in
//! line, nothing starts before it does.
//!
//! A draft that is given a place has its prompt read by the scheduler's passes, in pieces where it is long, among the work of others
//! and after what they have left in memory. What is written stays in the generator's own cache: keys and values that decoding computed
//! are another numeric class, and never the beginning of something that is scored.

use super::generator::{Generation, Generator, Prompt, Request, Watch, Written};
use super::scheduler::{Micros, Terms, Waiter};
use crate::error::Result;
use crate::model::Model;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Text that somebody wants written.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Which of the models writes; the first is 0.
    pub adapter: usize,
    pub request: Request,
    /// Labels whose logits are wanted at every token.
    pub watch: Option<[i32; 2]>,
    /// How many of the likeliest tokens are wanted at every place.
    pub top: usize,
}

impl From<Request> for Draft {
    fn from(request: Request) -> Draft {
        Draft { adapter: 0, request, watch: None, top: 0 }
    }
}

/// A token that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: i32,
    /// Log-probability under the model itself.
    pub logprob: f32,
    /// The likeliest tokens at its place with their log-probabilities, as many as the draft wanted.
    pub top: Vec<(i32, f32)>,
}

/// Who waits for a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pen(u64);

/// A draft and all who want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sheet(u64);

struct Job {
    draft: Arc<Draft>,
    pens: BTreeMap<Pen, Terms>,
    arrived: Micros,
    place: Place,
    history: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Line,
    /// The generator's number, and who waits for the prompt.
    Seat(usize, Waiter),
    Writes(usize),
}

/// What becomes of those who wait.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Token(Pen, Token),
    Done(Pen, Generation),
}

/// Those who want text.
#[derive(Default)]
pub struct Writer {
    patience: Micros,
    jobs: BTreeMap<Sheet, Job>,
    pens: BTreeMap<Pen, Sheet>,
    /// Tokens promised to each client that has drafts here.
    given: BTreeMap<u64, u64>,
    /// Seats and prompts that nobody wants any more.
    left: Vec<usize>,
    dropped: Vec<Waiter>,
    next: u64,
}

impl Writer {
    pub fn new(patience: Micros) -> Writer {
        Writer { patience, ..Writer::default() }
    }

    /// Those without an outcome.
    pub fn waiting(&self) -> usize {
        self.pens.len()
    }
    /// Drafts that are being written.
    pub fn writing(&self) -> usize {
        self.jobs.values().filter(|job| matches!(job.place, Place::Writes(_))).count()
    }
    /// Whether a draft waits for a place.
    pub fn lines_up(&self) -> bool {
        self.jobs.values().any(|job| job.place == Place::Line)
    }
    /// The nearest deadline.
    pub fn deadline(&self) -> Option<Micros> {
        self.jobs.values().flat_map(|job| job.pens.values().filter_map(|terms| terms.deadline)).min()
    }
    /// Whether the draft has been given a place.
    pub fn started(&self, pen: Pen) -> bool {
        self.pens.get(&pen).is_some_and(|sheet| self.jobs[sheet].place != Place::Line)
    }

    /// Takes a draft into the line, or joins an equal one: then the tokens that it has already.
    pub fn submit(&mut self, now: Micros, terms: Terms, draft: Draft) -> (Pen, Option<Vec<Token>>) {
        let (pen, new) = (Pen(self.next), Sheet(self.next));
        self.next += 1;
        let least = self.given.values().copied().min().unwrap_or(0);
        self.given.entry(terms.client).or_insert(least);
        let same = self.jobs.iter().find(|(_, job)| *job.draft == draft).map(|(sheet, _)| *sheet);
        let sheet = same.unwrap_or(new);
        let job = self.jobs.entry(sheet).or_insert_with(|| Job {
            draft: Arc::new(draft),
            pens: BTreeMap::new(),
            arrived: now,
            place: Place::Line,
            history: Vec::new(),
        });
        job.pens.insert(pen, terms);
        self.pens.insert(pen, sheet);
        (pen, same.map(|_| job.history.clone()))
    }

    /// Forgets who wants a draft. When nobody wants it any more, its pages are free before anything else is done.
    pub fn cancel(&mut self, pen: Pen) {
        let Some(sheet) = self.pens.remove(&pen) else { return };
        let job = self.jobs.get_mut(&sheet).expect("the draft of a pen");
        job.pens.remove(&pen);
        if job.pens.is_empty()
            && let Some(job) = self.jobs.remove(&sheet)
        {
            match job.place {
                Place::Line => {}
                Place::Seat(number, waiter) => {
                    self.left.push(number);
                    self.dropped.push(waiter);
                }
                Place::Writes(number) => self.left.push(number),
            }
        }
        self.forget_clients();
    }

    /// Forgets those whose deadline has passed, and says who they are.
    pub fn expire(&mut self, now: Micros) -> Vec<Pen> {
        let all = self.jobs.values().flat_map(|job| &job.pens);
        let late: Vec<Pen> = all.filter(|(_, t)| t.deadline.is_some_and(|d| d <= now)).map(|(pen, _)| *pen).collect();
        late.iter().for_each(|pen| self.cancel(*pen));
        late
    }

    /// Forgets every draft. The generator is to be cleared too.
    pub fn clear(&mut self) {
        *self = Writer { next: self.next, ..Writer::new(self.patience) };
    }

    /// Prompts of the scheduler that nobody waits for any more.
    pub fn dropped(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.dropped)
    }

    /// Gives places back that nobody wants any more.
    pub fn settle(&mut self, generator: &mut Generator) {
        self.left.drain(..).for_each(|number| generator.leave(number));
    }

    /// Sends those back into the line whose prompts are not read yet; they are dropped.
    pub fn unseat(&mut self) {
        for job in self.jobs.values_mut() {
            if let Place::Seat(number, waiter) = job.place {
                job.place = Place::Line;
                self.left.push(number);
                self.dropped.push(waiter);
            }
        }
    }

    /// The generator that had the places is gone.
    pub fn forget_places(&mut self) {
        self.left.clear();
    }

    /// Gives places to those whose turn it is. `read` has a prompt read. An idle generator turns to the
    /// adapter of the first in line. Who has a place now.
    ///
    /// # Errors
    /// As [`Generator::seat`].
    pub fn seat<'m>(
        &mut self,
        now: Micros,
        generator: &mut Generator<'m>,
        models: &[&'m Model],
        mut read: impl FnMut(&Draft, Terms) -> Waiter,
    ) -> Result<Vec<Pen>> {
        self.settle(generator);
        let mut seated = Vec::new();
        while let Some(first) = self.first(now) {
            let draft = self.jobs[&first].draft.clone();
            if !generator.writes_with(models[draft.adapter]) {
                if !generator.is_idle() {
                    break;
                }
                generator.switch(models[draft.adapter]);
            }
            let same = |(sheet, job): (&Sheet, &Job)| {
                let with = job.draft.adapter == draft.adapter && job.draft.request.prompt == draft.request.prompt;
                (job.place == Place::Line && with && *sheet != first).then_some(*sheet)
            };
            let others: Vec<Sheet> = self.jobs.iter().filter_map(same).collect();
            let before = seated.len();
            for sheet in [first].into_iter().chain(others) {
                let job = self.jobs.get_mut(&sheet).expect("a draft in line");
                let watch = Watch { labels: job.draft.watch, logits: job.draft.top > 0 };
                let Some(number) = generator.seat(&job.draft.request, watch)? else { break };
                let terms = job.pens.values().max_by_key(|t| t.priority).copied().unwrap_or_default();
                job.place = Place::Seat(number, read(&job.draft, Terms { deadline: None, ..terms }));
                let asked = &job.draft.request;
                *self.given.entry(terms.client).or_default() += (asked.prompt.len() + asked.settings.max_tokens) as u64;
                seated.extend(job.pens.keys());
            }
            if seated.len() == before {
                break;
            }
        }
        Ok(seated)
    }

    /// A prompt has been read: those of `waiters` that are ours begin to write.
    ///
    /// # Errors
    /// When the device fails; then [`Writer::clear`].
    pub fn begin(&mut self, waiters: &[Waiter], prompt: &Prompt, generator: &mut Generator) -> Result<Vec<News>> {
        self.settle(generator);
        let mut seats = Vec::new();
        for job in self.jobs.values_mut() {
            if let Place::Seat(number, waiter) = job.place
                && waiters.contains(&waiter)
            {
                job.place = Place::Writes(number);
                seats.push(number);
            }
        }
        if seats.is_empty() {
            return Ok(Vec::new());
        }
        let mut news = Vec::new();
        let finished = generator.begin(&seats, prompt, &mut |number, written| self.note(number, written, &mut news))?;
        self.finish(finished, &mut news);
        Ok(news)
    }

    /// Gives a token to each that writes.
    ///
    /// # Errors
    /// When the device fails; then [`Writer::clear`].
    pub fn step(&mut self, generator: &mut Generator) -> Result<Vec<News>> {
        self.settle(generator);
        let mut news = Vec::new();
        let finished = generator.next(&mut |number, written| self.note(number, written, &mut news))?;
        self.finish(finished, &mut news);
        Ok(news)
    }

    fn note(&mut self, number: usize, written: &Written, news: &mut Vec<News>) -> Result<()> {
        let made = written.made;
        let job = self.jobs.values_mut().find(|job| job.place == Place::Writes(number)).expect("a draft that writes");
        // The end-of-sequence token is none of the text.
        if made.tokens.len() > job.history.len() {
            let (id, logprob) = (made.tokens[job.history.len()], made.logprobs[job.history.len()]);
            let top = if job.draft.top == 0 { Vec::new() } else { likeliest(&written.logits()?, job.draft.top) };
            let token = Token { id, logprob, top };
            news.extend(job.pens.keys().map(|pen| News::Token(*pen, token.clone())));
            job.history.push(token);
        }
        Ok(())
    }

    fn finish(&mut self, finished: Vec<(usize, Generation)>, news: &mut Vec<News>) {
        for (number, made) in finished {
            let sheet = self.jobs.iter().find(|(_, job)| job.place == Place::Writes(number)).map(|(sheet, _)| *sheet);
            let job = self.jobs.remove(&sheet.expect("a draft that writes")).expect("it was found");
            for pen in job.pens.into_keys() {
                self.pens.remove(&pen);
                news.push(News::Done(pen, made.clone()));
            }
        }
        self.forget_clients();
    }

    /// Whose turn it is.
    fn first(&self, now: Micros) -> Option<Sheet> {
        let key = |(sheet, job): (&Sheet, &Job)| {
            let level = job.pens.values().map(|t| t.level(job.arrived, now, self.patience)).max().unwrap_or(0);
            let given = job.pens.values().map(|t| self.given[&t.client]).min().unwrap_or(0);
            let deadline = job.pens.values().filter_map(|t| t.deadline).min().unwrap_or(Micros::MAX);
            (u64::MAX - level, given, deadline, *sheet)
        };
        self.jobs.iter().filter(|(_, job)| job.place == Place::Line).map(key).min().map(|(.., sheet)| sheet)
    }

    fn forget_clients(&mut self) {
        let jobs = &self.jobs;
        self.given.retain(|client, _| jobs.values().any(|job| job.pens.values().any(|t| t.client == *client)));
    }
}

/// The `n` likeliest tokens with their log-probabilities, likeliest first, lower ids first where they tie.
fn likeliest(logits: &[f32], n: usize) -> Vec<(i32, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| ((z - largest) as f64).exp()).sum();
    let lse = largest as f64 + sum.ln();
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_by(order);
    ids.into_iter().map(|i| (i as i32, (logits[i] as f64 - lse) as f32)).collect()
}

#[cfg(test)]
mod tests;
