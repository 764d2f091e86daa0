//! Datasets: the rows of any known [`Format`] as [`Example`]s, with everything that was left out counted by reason.
//!
//! Each file's format is that of its first row, unless one is asked for. Examples keep the order of their rows; pairs that
//! are made of separately rated completions come at the end, in the order in which their prompts first appeared.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::example::{Drops, Example, Reason, Record, Side};
use crate::text::format::{Format, Outcome};
use crate::text::message::Message;
use crate::text::registry::{self, Columns};
use crate::text::source::{OnError, Place, Row, Rows, Source};

/// What examples are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Which response is better matters: ties, identical and empty responses are left out.
    #[default]
    Preferences,
    /// Two responses are needed, not which is better: pairs lose their labels, ties stay.
    Responses,
    /// Which response is better matters, in which order the row shows them, and why if the row says so: rows with a
    /// label become [`Example::Labelled`]. Ties are left out.
    Claims,
    /// As `Claims`, but ties stay, as pairs without a label.
    Pool,
    /// Responses are to be judged: pairs lose their labels, and a row is judged or it is an error.
    Judging,
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub purpose: Purpose,
    pub on_error: OnError,
    pub columns: Columns,
    /// Overrides what the first row suggests.
    pub format: Option<Format>,
}

/// A dataset as a stream.
pub struct Records {
    parts: VecDeque<Part>,
    options: Options,
    formats: Vec<(Arc<str>, Format)>,
    drops: Drops,
    first_malformed: Option<String>,
    ready: VecDeque<Record>,
    rated: Rated,
}

/// Files that share their column names.
struct Part {
    rows: Rows,
    columns: Columns,
}

/// Rated completions that wait for a counterpart, by prompt.
#[derive(Default)]
struct Rated {
    /// Prompts in the order of their first appearance.
    prompts: Vec<Waiting>,
    index: BTreeMap<String, usize>,
}

struct Waiting {
    place: Place,
    id: Value,
    prompt: Vec<Message>,
    good: Vec<String>,
    bad: Vec<String>,
}

/// A dataset in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub records: Vec<Record>,
    /// The format of each file.
    pub formats: Vec<(Arc<str>, Format)>,
    pub drops: Drops,
    /// What was wrong with the first malformed row, where those are skipped.
    pub first_malformed: Option<String>,
}

impl Dataset {
    /// Reads everything. Names are as [`Source::open`] takes them, or `path/dataset_info.json:name`.
    pub fn read<S: AsRef<str>>(names: &[S], options: &Options) -> Result<Dataset> {
        let mut records = Records::open(names, options)?;
        let read = records.by_ref().collect::<Result<Vec<Record>>>()?;
        Ok(Dataset {
            records: read,
            formats: std::mem::take(&mut records.formats),
            first_malformed: records.first_malformed.take(),
            drops: records.drops,
        })
    }
}

impl Records {
    pub fn open<S: AsRef<str>>(names: &[S], options: &Options) -> Result<Records> {
        let mut parts = VecDeque::new();
        let mut plain: Vec<&str> = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            match registry::split(name) {
                None => plain.push(name),
                Some((path, dataset)) => {
                    // Order is kept: what was named before comes before.
                    push_part(&mut parts, &mut plain, options)?;
                    let entry = registry::lookup(Path::new(path), dataset)?;
                    let rows = Source::open(&[entry.file])?.rows(options.on_error);
                    parts.push_back(Part { rows, columns: entry.columns });
                }
            }
        }
        push_part(&mut parts, &mut plain, options)?;
        if parts.is_empty() {
            return Err(Error::usage("no data file is named"));
        }
        Ok(Records {
            parts,
            options: options.clone(),
            formats: Vec::new(),
            drops: Drops::default(),
            first_malformed: None,
            ready: VecDeque::new(),
            rated: Rated::default(),
        })
    }

    /// The format of each file read so far.
    pub fn formats(&self) -> &[(Arc<str>, Format)] {
        &self.formats
    }

    /// What was left out so far.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// What was wrong with the first malformed row, where those are skipped.
    pub fn first_malformed(&self) -> Option<&str> {
        self.first_malformed.as_deref()
    }

    /// Takes one row in: its examples become ready, or are counted as left out.
    fn take(&mut self, row: Row, columns: &Columns) -> Result<()> {
        let id =
            ["id", "pair_id", "prompt_id"].iter().find_map(|name| row.value.get(*name)).cloned().unwrap_or(Value::Null);
        let value = columns.apply(row.value)?;
        let known = self.formats.last().filter(|(file, _)| *file == row.place.file).map(|(_, format)| *format);
        let format = match known.or(self.options.format) {
            Some(format) => format,
            None => Format::detect(&value)?,
        };
        let outcomes = format.read(&value)?;
        if known.is_none() {
            self.formats.push((row.place.file.clone(), format));
        }
        for outcome in outcomes {
            match settle(outcome, self.options.purpose) {
                Settled::Keep(example) => {
                    self.ready.push_back(Record { id: id.clone(), place: row.place.clone(), example })
                }
                Settled::Drop(reason) if self.options.purpose == Purpose::Judging => {
                    return Err(Error::data(format!("this row cannot be judged ({})", reason.text())));
                }
                Settled::Drop(reason) => self.drops.add(reason),
                Settled::Wait { prompt, completion, good } => {
                    self.rated.add(&row.place, &id, prompt, completion, good);
                }
            }
        }
        Ok(())
    }

    fn pair_up(&mut self) {
        for waiting in std::mem::take(&mut self.rated).prompts {
            let Waiting { place, id, prompt, good, bad } = waiting;
            let left = good.len().abs_diff(bad.len());
            self.drops.add_many(Reason::Unpaired, left as u64);
            for (chosen, rejected) in good.into_iter().zip(bad) {
                let pair = Example::Pair { prompt: prompt.clone(), chosen, rejected, margin: None };
                match settle(Outcome::Keep(pair), self.options.purpose) {
                    Settled::Keep(example) => {
                        self.ready.push_back(Record { id: id.clone(), place: place.clone(), example });
                    }
                    Settled::Drop(reason) => self.drops.add(reason),
                    Settled::Wait { .. } => {}
                }
            }
        }
    }
}

fn push_part(parts: &mut VecDeque<Part>, plain: &mut Vec<&str>, options: &Options) -> Result<()> {
    if !plain.is_empty() {
        let rows = Source::open(plain)?.rows(options.on_error);
        parts.push_back(Part { rows, columns: options.columns.clone() });
        plain.clear();
    }
    Ok(())
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            let Some(mut part) = self.parts.pop_front() else {
                if self.rated.prompts.is_empty() {
                    return None;
                }
                self.pair_up();
                continue;
            };
            let row = match part.rows.next() {
                None => {
                    self.drops.add_many(Reason::Malformed, part.rows.skipped());
                    if self.first_malformed.is_none() {
                        self.first_malformed = part.rows.first_skipped().map(String::from);
                    }
                    continue;
                }
                Some(Ok(row)) => row,
                Some(Err(error)) => {
                    self.parts.clear();
                    return Some(Err(error));
                }
            };
            let place = row.place.clone();
            let taken = self.take(row, &part.columns).map_err(|e| e.at(place));
            match (taken, self.options.on_error) {
                (Ok(()), _) => self.parts.push_front(part),
                (Err(error), OnError::Fail) => {
                    self.parts.clear();
                    self.rated = Rated::default();
                    return Some(Err(error));
                }
                (Err(error), OnError::Skip) => {
                    self.drops.add(Reason::Malformed);
                    self.first_malformed.get_or_insert_with(|| error.to_string());
                    self.parts.push_front(part);
                }
            }
        }
    }
}

impl Rated {
    fn add(&mut self, place: &Place, id: &Value, prompt: Vec<Message>, completion: String, good: bool) {
        let key = Value::Array(prompt.iter().map(Message::to_json).collect()).to_string();
        let at = *self.index.entry(key).or_insert(self.prompts.len());
        if at == self.prompts.len() {
            let (place, id) = (place.clone(), id.clone());
            self.prompts.push(Waiting { place, id, prompt, good: Vec::new(), bad: Vec::new() });
        }
        let waiting = &mut self.prompts[at];
        if good { &mut waiting.good } else { &mut waiting.bad }.push(completion);
    }
}

enum Settled {
    Keep(Example),
    Drop(Reason),
    Wait { prompt: Vec<Message>, completion: String, good: bool },
}

/// What one row comes to by itself: an example, or why it is left out.
///
/// # Errors
/// The row does not have this format; or it is not one pair or completion, but several, or half of one.
pub fn one(format: Format, row: &Map<String, Value>, purpose: Purpose) -> Result<std::result::Result<Example, Reason>> {
    let mut outcomes = format.read(row)?;
    let Some(outcome) = outcomes.pop().filter(|_| outcomes.is_empty()) else {
        return Err(Error::data("the row holds several pairs; write one a row"));
    };
    match settle(outcome, purpose) {
        Settled::Keep(example) => Ok(Ok(example)),
        Settled::Drop(reason) => Ok(Err(reason)),
        Settled::Wait { .. } => Err(Error::data("the row holds one rated completion; a pair of responses is needed")),
    }
}

/// What a row's outcome is for this purpose.
fn settle(outcome: Outcome, purpose: Purpose) -> Settled {
    let labels = matches!(purpose, Purpose::Preferences | Purpose::Claims | Purpose::Pool);
    let ordered = matches!(purpose, Purpose::Claims | Purpose::Pool);
    let example = match outcome {
        Outcome::Drop(reason) => return Settled::Drop(reason),
        Outcome::Rated { prompt, completion, good } => return Settled::Wait { prompt, completion, good },
        Outcome::Tied { .. } if labels && purpose != Purpose::Pool => return Settled::Drop(Reason::Tie),
        Outcome::Tied { prompt, a, b } => Example::Unlabelled { prompt, a, b },
        Outcome::Compared { prompt, a, b, .. } | Outcome::Reasoned { prompt, a, b, .. } if !labels => {
            Example::Unlabelled { prompt, a, b }
        }
        Outcome::Compared { prompt, a, b, better } if ordered => {
            Example::Labelled { prompt, a, b, label: better, why: None }
        }
        Outcome::Reasoned { prompt, a, b, better, why } if ordered => {
            Example::Labelled { prompt, a, b, label: better, why: Some(why) }
        }
        Outcome::Compared { prompt, a, b, better } | Outcome::Reasoned { prompt, a, b, better, .. } => {
            let (chosen, rejected) = if better == Side::A { (a, b) } else { (b, a) };
            Example::Pair { prompt, chosen, rejected, margin: None }
        }
        Outcome::Keep(Example::Pair { prompt, chosen, rejected, .. }) if !labels => {
            Example::Unlabelled { prompt, a: chosen, b: rejected }
        }
        Outcome::Keep(example) => example,
    };
    match flaw(&example) {
        Some(reason) if purpose != Purpose::Judging => Settled::Drop(reason),
        _ => Settled::Keep(example),
    }
}

/// Why an example teaches nothing.
fn flaw(example: &Example) -> Option<Reason> {
    let blank = |text: &str| text.trim().is_empty();
    let prompt = match example {
        Example::Pair { prompt, chosen, rejected, .. } => {
            if blank(chosen) || blank(rejected) {
                return Some(Reason::EmptyResponse);
            }
            if chosen == rejected {
                return Some(Reason::Same);
            }
            prompt
        }
        Example::Unlabelled { prompt, a, b } | Example::Labelled { prompt, a, b, .. } => {
            if blank(a) || blank(b) {
                return Some(Reason::EmptyResponse);
            }
            if a == b {
                return Some(Reason::Same);
            }
            prompt
        }
        Example::Completion { prompt, completion } => {
            if blank(completion) {
                return Some(Reason::EmptyResponse);
            }
            prompt
        }
        Example::Group { prompt, responses } => {
            if responses.iter().any(|r| blank(r)) {
                return Some(Reason::EmptyResponse);
            }
            prompt
        }
        Example::Judged { .. } => return None,
    };
    if prompt.iter().any(|m| m.text().is_none()) {
        return Some(Reason::NotText);
    }
    let said = prompt.iter().any(|m| m.text().is_some_and(|t| !blank(&t)));
    if said { None } else { Some(Reason::EmptyPrompt) }
}

#[cfg(test)]
mod tests;
