//! The suites: how their rows are laid out, and what counts as a score. One file each.

pub mod judgebench;
pub mod pairs;
pub mod ppe;
pub mod rewardbench;
pub mod rewardbench2;
pub mod rm_bench;
pub mod rmb;

use super::item::{Item, Kind};
use super::rules::{Rule, Score, Tallies};
use crate::error::{Error, Result};
use crate::text::source::{OnError, Place, Row, Source};
use serde_json::Value;

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    RewardBench,
    RewardBench2,
    RmBench,
    JudgeBench,
    Ppe,
    Rmb,
    /// Any preference pairs.
    Pairs,
}

/// A suite's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    pub items: Vec<Item>,
    /// What a reader of the scores should know of the rows.
    pub notes: Vec<String>,
}

impl Suite {
    pub const ALL: [Suite; 7] = [
        Suite::RewardBench,
        Suite::RewardBench2,
        Suite::RmBench,
        Suite::JudgeBench,
        Suite::Ppe,
        Suite::Rmb,
        Suite::Pairs,
    ];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Suite::RewardBench => "rewardbench",
            Suite::RewardBench2 => "rewardbench2",
            Suite::RmBench => "rm-bench",
            Suite::JudgeBench => "judgebench",
            Suite::Ppe => "ppe",
            Suite::Rmb => "rmb",
            Suite::Pairs => "pairs",
        }
    }

    /// As its authors write it.
    pub fn title(self) -> &'static str {
        match self {
            Suite::RewardBench => "RewardBench",
            Suite::RewardBench2 => "RewardBench 2",
            Suite::RmBench => "RM-Bench",
            Suite::JudgeBench => "JudgeBench",
            Suite::Ppe => "PPE",
            Suite::Rmb => "RMB",
            Suite::Pairs => "Preference pairs",
        }
    }

    /// Reads the rows of files, as [`Source::open`] takes their names; of at most `limit` rows each.
    ///
    /// # Errors
    /// A row that is not of the suite: its place and its field are named. No rows.
    pub fn load<S: AsRef<str>>(self, names: &[S], limit: Option<usize>) -> Result<Loaded> {
        let mut loader = Loader::default();
        for row in Source::open(names)?.rows(OnError::Fail) {
            let row = row?;
            loader.seen += 1;
            if limit.is_some_and(|limit| loader.in_file(&row.place) >= limit) {
                continue;
            }
            self.read(&row, &mut loader).map_err(|e| e.at(&row.place))?;
        }
        loader.finish(self)
    }

    fn read(self, row: &Row, loader: &mut Loader) -> Result<()> {
        match self {
            Suite::RewardBench => loader.push(rewardbench::item(row)?),
            Suite::RewardBench2 => loader.push(rewardbench2::item(row)?),
            Suite::RmBench => rm_bench::read(row, loader)?,
            Suite::JudgeBench => loader.push(judgebench::item(row)?),
            Suite::Ppe => match ppe::item(row)? {
                Some(item) => loader.push(item),
                None => loader.tied += 1,
            },
            Suite::Rmb => loader.push(rmb::item(row)?),
            Suite::Pairs => pairs::read(row, loader)?,
        }
        Ok(())
    }

    /// Every score of the suite, from the tallies of its subsets.
    pub fn scores(self, tallies: &Tallies) -> Vec<Score> {
        match self {
            Suite::RewardBench => rewardbench::scores(tallies),
            Suite::RewardBench2 => rewardbench2::scores(tallies),
            Suite::RmBench => rm_bench::scores(tallies),
            Suite::JudgeBench => judgebench::scores(tallies),
            Suite::Ppe => ppe::scores(tallies),
            Suite::Rmb => rmb::scores(tallies),
            Suite::Pairs => pairs::scores(tallies),
        }
    }

    /// What a rule means in this suite.
    pub fn explain(self, rule: Rule) -> &'static str {
        match self {
            Suite::RewardBench => rewardbench::explain(rule),
            Suite::RewardBench2 => rewardbench2::explain(rule),
            Suite::RmBench => rm_bench::explain(rule),
            Suite::JudgeBench => judgebench::explain(rule),
            Suite::Ppe => ppe::explain(rule),
            Suite::Rmb => rmb::explain(rule),
            Suite::Pairs => pairs::explain(rule),
        }
    }
}

/// Collects items while rows are read.
#[derive(Default)]
pub(super) struct Loader {
    items: Vec<Item>,
    /// Rows read, whatever became of them.
    seen: u64,
    /// Rows without a better response.
    tied: u64,
    dropped: u64,
    /// RM-Bench's flattened rows of a prompt that is not complete.
    styles: rm_bench::Pending,
    format: Option<(std::sync::Arc<str>, crate::text::format::Format)>,
}

impl Loader {
    /// A row without an id is known by its number, as in the output of `gramophone judge`.
    fn push(&mut self, mut item: Item) {
        if item.id.is_null() {
            item.id = Value::from(self.seen);
        }
        self.items.push(item);
    }

    /// Items of the file that a row stands in.
    fn in_file(&self, place: &Place) -> usize {
        self.items.iter().rev().take_while(|i| i.place.file == place.file).count()
    }

    fn finish(mut self, suite: Suite) -> Result<Loaded> {
        self.styles.finish()?;
        if self.items.is_empty() {
            return Err(Error::data(format!("there is no row of {} to judge", suite.title())));
        }
        let mut notes = Vec::new();
        if self.tied > 0 {
            notes.push(format!("{} rows without a better response were left out.", self.tied));
        }
        if self.dropped > 0 {
            notes.push(format!("{} rows that hold no two different texts were left out.", self.dropped));
        }
        Ok(Loaded { items: std::mem::take(&mut self.items), notes })
    }
}

/// The row's id under the first of these names, or null.
fn id(row: &Row, names: &[&str]) -> Value {
    names.iter().find_map(|name| row.value.get(*name)).cloned().unwrap_or_default()
}

/// A row that compares two responses.
fn pair(row: &Row, id: Value, subset: &str, prompt: &str, responses: [&str; 2], better: usize) -> Result<Item> {
    let text = |name: &str| row.text(name).map(String::from);
    Ok(Item {
        id,
        place: row.place.clone(),
        subset: subset.to_string(),
        prompt: row.conversation(&[prompt])?,
        responses: vec![text(responses[0])?, text(responses[1])?],
        truth: if better == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] },
        pairs: vec![(0, 1)],
        kind: Kind::Pair,
    })
}

/// A field whose value is not one of the known ones.
fn unknown(field: &str, value: &str, known: &[&str]) -> Error {
    Error::data(format!("the field {field:?} is {value:?}; this suite has {}", known.join(", ")))
}

#[cfg(test)]
mod tests;
