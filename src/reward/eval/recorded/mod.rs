//! Verdicts and scores that were written down, of any model: JudgeBench's output files, RewardBench's and RMB's score files,
//! the papers' own, this program's rows. `docs/formats.md` lists the shapes; `row` reads one.
//!
//! Rows find their items by id; where ids repeat, by the subset as well, then in the files' order. A file without ids is
//! taken row by row. What is missing or left over is an error unless a part is asked for.

mod row;

use super::comparison::{Answer, Comparison};
use super::item::Item;
use crate::error::{Error, Kind, Result};
use crate::text::source::{OnError, Place, Row, Source, Unit};
use row::Said;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

/// What a file says of a suite's items.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The items that were answered, by index, and their answers.
    pub answers: Vec<(usize, Answer)>,
    /// The model, if the file names one.
    pub model: Option<String>,
    pub notes: Vec<String>,
}

/// Reads the answers to `items`, which may be spread over several files.
///
/// # Errors
/// A row that says nothing known, belongs to no item, or comes twice: its place is named. Items without an answer, unless
/// `partial`; none at all.
pub fn read(items: &[Item], paths: &[String], partial: bool) -> Result<Recorded> {
    let mut rows = Vec::new();
    for path in paths {
        rows.extend(self::rows(path)?);
    }
    let path = &paths.join(", ");
    let model = rows.iter().find_map(|r| r.value.get("model")?.as_str()).map(String::from);
    let mut finder = Finder::new(items, &rows, path)?;
    let mut answers: Vec<Option<Answer>> = vec![None; items.len()];
    let mut scored: Vec<(usize, Scored)> = Vec::new();
    let mut elsewhere = 0u64;
    for (number, row) in rows.iter().enumerate() {
        let read = |item: &Item| row::said(row, item).map_err(|e| e.at(&row.place));
        let Some(candidates) = finder.candidates(number, row) else {
            if partial {
                elsewhere += 1;
                continue;
            }
            let id = super::item::key(row::id(row).unwrap_or(&Value::Null));
            return Err(Error::data(format!("no row of the data has the id {id}")).at(&row.place));
        };
        let said = read(&items[candidates[0]])?;
        let free = |i: &&usize| match (&answers[**i], &said) {
            (None, _) => true,
            (Some(a), Said::Pair(c)) => a.rewards.is_none() && a.result.is_none() && a.find(c.pair).is_none(),
            (Some(a), Said::Scores(s)) => {
                a.comparisons.is_empty() && !scored.iter().any(|(j, t)| j == *i && t.pair == s.pair)
            }
            _ => false,
        };
        let Some(&at) = candidates.iter().find(free) else {
            return Err(Error::data("a second answer to the same question; the file says two things").at(&row.place));
        };
        // Of items that share an id, the one that was free may have its better response on the other side.
        let said = if at == candidates[0] { said } else { read(&items[at])? };
        let answer = answers[at].get_or_insert_default();
        let row::Cost { tokens, ms, .. } = row::cost(row);
        answer.tokens += tokens;
        answer.ms += ms;
        match said {
            Said::Pair(comparison) => answer.comparisons.push(comparison),
            Said::Rewards(rewards) => answer.rewards = Some(rewards),
            Said::Result(result) => answer.result = Some(result),
            Said::Scores(s) => scored.push((at, s)),
        }
    }
    let mut notes = Vec::new();
    notes.extend(settle(items, &mut answers, scored));
    notes.extend((elsewhere > 0).then(|| format!("{elsewhere} recorded rows belong to no row of the data.")));
    let missing = answers.iter().filter(|a| a.is_none()).count();
    if missing > 0 {
        let first = answers.iter().position(|a| a.is_none()).expect("some are missing");
        let words = format!("{missing} of {} rows have no answer in {path}", items.len());
        if !partial || missing == items.len() {
            let advice = if partial { "" } else { "; --partial scores those that have one" };
            let (place, id) = (&items[first].place, items[first].key());
            return Err(Error::data(format!("{words}, the first is {place} (id {id}){advice}")));
        }
        notes.push(format!("{words}; scores are of the others."));
    }
    let answers = answers.into_iter().enumerate().filter_map(|(i, a)| Some((i, a?))).collect();
    Ok(Recorded { answers, model, notes })
}

/// Two scores of which it is not yet known whether they are rewards or the two halves of a probability.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scored {
    pub pair: (usize, usize),
    pub scores: [f64; 2],
}

/// Scores that all lie in 0..1 and add up to 1 are probabilities, as the papers' evaluation writes them (in bfloat16): their
/// log-odds are the rewards. Otherwise they are rewards.
fn settle(items: &[Item], answers: &mut [Option<Answer>], scored: Vec<(usize, Scored)>) -> Option<String> {
    let halves = |s: &[f64; 2]| s.iter().all(|x| (0.0..=1.0).contains(x)) && (s[0] + s[1] - 1.0).abs() <= 0.02;
    let probabilities = !scored.is_empty() && scored.iter().all(|(_, s)| halves(&s.scores));
    for (at, s) in scored {
        let rewards = if probabilities { [(s.scores[0] / s.scores[1]).ln(), 0.0] } else { s.scores };
        let answer = answers[at].as_mut().expect("it was begun");
        if items[at].responses.len() == 2 {
            answer.rewards = Some(if s.pair == (0, 1) { rewards.into() } else { vec![rewards[1], rewards[0]] });
        } else {
            let c = Comparison::of_rewards((0, 1), &rewards);
            answer.comparisons.push(Comparison { pair: s.pair, ..c });
        }
    }
    probabilities.then(|| "The recorded scores of each pair add up to 1 and are read as probabilities.".into())
}

/// Finds the items of recorded rows.
enum Finder {
    Ids {
        by_key: BTreeMap<String, Vec<usize>>,
        subsets: Vec<String>,
    },
    /// So many rows for each item, in order.
    Order {
        each: usize,
    },
}

impl Finder {
    fn new(items: &[Item], rows: &[Row], path: &str) -> Result<Finder> {
        if rows.iter().any(|r| row::id(r).is_some()) {
            let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (i, item) in items.iter().enumerate() {
                by_key.entry(item.key()).or_default().push(i);
            }
            return Ok(Finder::Ids { by_key, subsets: items.iter().map(|i| i.subset.clone()).collect() });
        }
        let each = rows.len() / items.len();
        if !rows.len().is_multiple_of(items.len()) || each == 0 {
            return Err(Error::data(format!(
                "{path}: its {} rows have no ids, and the data has {} rows; they cannot be matched",
                rows.len(),
                items.len()
            )));
        }
        Ok(Finder::Order { each })
    }

    fn candidates(&mut self, number: usize, row: &Row) -> Option<Vec<usize>> {
        match self {
            Finder::Order { each } => Some(vec![number / *each]),
            Finder::Ids { by_key, subsets } => {
                let found = by_key.get(&super::item::key(row::id(row)?))?;
                let named = ["subset", "source", "domain"].iter().find_map(|n| row.value.get(*n)?.as_str());
                let same: Vec<usize> = found.iter().copied().filter(|i| Some(subsets[*i].as_str()) == named).collect();
                Some(if found.len() > 1 && !same.is_empty() { same } else { found.clone() })
            }
        }
    }
}

/// The rows of a file: JSON lines, an array, pretty-printed objects one after the other, or one object of columns.
fn rows(path: &str) -> Result<Vec<Row>> {
    if !spans_lines(path)? {
        let rows = Source::open(&[path])?.rows(OnError::Fail).collect::<Result<Vec<Row>>>()?;
        return Ok(match &rows[..] {
            [only] if columns(&only.value).is_some() => unfold(&only.value, path),
            _ => rows,
        });
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path.as_ref(), e))?;
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Map<String, Value>>();
    let objects = values.collect::<std::result::Result<Vec<_>, _>>();
    let objects = objects.map_err(|e| Error::data(format!("{path}: it does not parse as JSON: {e}")))?;
    Ok(match &objects[..] {
        [only] if columns(only).is_some() => unfold(only, path),
        _ => objects.into_iter().enumerate().map(|(i, value)| numbered(value, i, path)).collect(),
    })
}

/// Whether a file begins with an object that its first line does not finish.
fn spans_lines(path: &str) -> Result<bool> {
    if path == "-" || !std::path::Path::new(path).is_file() {
        return Ok(false);
    }
    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path.as_ref(), e))?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|e| Error::io("read", path.as_ref(), e))?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        return Ok(line.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<Value>(&line).is_err());
    }
    Err(Error::new(Kind::Data, format!("{path}: the file is empty")))
}

/// How many rows an object of columns holds: it has lists of one length, among them one that names or scores rows.
fn columns(object: &Map<String, Value>) -> Option<usize> {
    let telling = ["id", "results", "scores_chosen", "subset"];
    let n = telling.iter().find_map(|name| object.get(*name)?.as_array()).map(Vec::len)?;
    object.values().filter_map(Value::as_array).all(|list| list.len() == n).then_some(n)
}

/// The rows of an object of columns; what is no list belongs to every row.
fn unfold(object: &Map<String, Value>, path: &str) -> Vec<Row> {
    let n = columns(object).expect("callers have asked");
    let cell = |value: &Value, i: usize| value.as_array().map_or_else(|| value.clone(), |list| list[i].clone());
    let row = |i: usize| object.iter().map(|(name, value)| (name.clone(), cell(value, i))).collect();
    (0..n).map(|i| numbered(row(i), i, path)).collect()
}

fn numbered(value: Map<String, Value>, i: usize, path: &str) -> Row {
    Row { place: Place { file: path.into(), number: i as u64 + 1, unit: Unit::Row }, value }
}

#[cfg(test)]
mod tests;
