//! The rows that units of work hand to each other: pairs as JSON objects, one a line, whatever format they came in.

use super::votes::Ballot;
use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use crate::reward::prove::{fields, pair};
use crate::text::dataset::{Dataset, Options, Purpose};
use crate::text::example::{Drops, Example, Reason, Side};
use crate::text::labels::NAMES;
use crate::text::message::Message;
use crate::text::proof::Rule;
use crate::text::proving::Claim;
use crate::text::source::{OnError, Row, Source};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A pair on its way: the label it has or was given, and the true one where it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    pub id: Value,
    pub claim: Claim,
    pub truth: Option<Side>,
}

/// What a judge said of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Voted {
    Ballot(Ballot),
    /// The judge prompt does not fit.
    TooLong,
}

/// Rows with what was left out, for people.
pub struct Imported {
    pub bytes: Vec<u8>,
    pub note: String,
}

/// The human rationales, each under our names and in its form.
///
/// # Errors
/// Files that are missing or malformed; nothing left.
pub fn rationales(names: &[String], rule: &Rule, seed: u64) -> Result<Imported> {
    import(names, Purpose::Claims, "rationales", |example| {
        let (claim, why) = Claim::of(example, seed)?;
        let reading = rule.reading(&why.ok_or(Reason::NoRationale)?, claim.label).map_err(|_| Reason::BadRationale)?;
        let rationale = rule.write(&rule.rationale, &reading).map_err(|_| Reason::BadRationale)?;
        rule.write(&rule.proof, &reading).map_err(|_| Reason::BadRationale)?;
        let mut row = pair(&claim);
        row.insert("rationale".into(), rationale.into());
        Ok(row)
    })
}

/// Labelled pairs.
///
/// # Errors
/// As [`rationales`].
pub fn labelled(names: &[String], what: &str, seed: u64) -> Result<Imported> {
    import(names, Purpose::Claims, what, |example| Ok(pair(&Claim::of(example, seed)?.0)))
}

/// Unlabelled pairs; a label is kept as `truth`. The pairs of share `i` of `n`, in the order of the files, or shuffled by the seed
/// where the files are to be shared out.
///
/// # Errors
/// As [`rationales`].
pub fn pool(names: &[String], what: &str, seed: u64, share: Option<(usize, usize)>) -> Result<Imported> {
    let mut imported = import(names, Purpose::Pool, what, |example| {
        let (claim, truth) = match example {
            Example::Unlabelled { prompt, a, b } => (Claim { prompt, a, b, label: Side::A }, None),
            labelled => Claim::of(labelled, seed).map(|(claim, _)| (claim.clone(), Some(claim.label)))?,
        };
        let mut row = pair(&claim);
        row.shift_remove("label");
        if let Some(truth) = truth {
            row.insert("truth".into(), NAMES[truth as usize].into());
        }
        Ok(row)
    })?;
    if let Some((i, n)) = share {
        let lines: Vec<&[u8]> = imported.bytes.split_inclusive(|b| *b == b'\n').collect();
        let order = Rng::new(seed, Stream::Shuffle, 0).permutation(lines.len());
        let part = &order[lines.len() * i / n..lines.len() * (i + 1) / n];
        if part.is_empty() {
            return Err(Error::data(format!(
                "{what}: {} pairs are too few to be shared out among {n} rounds",
                lines.len()
            )));
        }
        imported.note += &format!("; {} of them for this round", part.len());
        imported.bytes = part.iter().flat_map(|line| lines[*line as usize]).copied().collect();
    }
    Ok(imported)
}

/// Reads files of any format and writes each example as the row that `row` makes of it.
fn import(
    names: &[String],
    purpose: Purpose,
    what: &str,
    row: impl Fn(Example) -> std::result::Result<Map<String, Value>, Reason>,
) -> Result<Imported> {
    let dataset = Dataset::read(names, &Options { purpose, ..Options::default() })?;
    let (mut bytes, mut drops, mut kept): (_, Drops, _) = (Vec::new(), dataset.drops, 0);
    for (number, record) in dataset.records.into_iter().enumerate() {
        match row(record.example) {
            Err(reason) => drops.add(reason),
            Ok(mut row) => {
                let id = if record.id.is_null() { Value::from(number + 1) } else { record.id };
                row.shift_insert(0, "id".into(), id);
                push(&mut bytes, &row);
                kept += 1;
            }
        }
    }
    let left = if drops.total() > 0 { format!(", left out: {drops}") } else { String::new() };
    match kept {
        0 => Err(Error::data(format!("{what}: none of the rows of {} can be used{left}", names.join(", ")))),
        n => Ok(Imported { bytes, note: format!("{what}: {n} pairs{left}") }),
    }
}

/// Adds a row on a line of its own.
pub fn push(bytes: &mut Vec<u8>, row: &Map<String, Value>) {
    bytes.extend_from_slice(Value::Object(row.clone()).to_string().as_bytes());
    bytes.push(b'\n');
}

/// All rows of a file of ours.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    if std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len() == 0 {
        return Ok(Vec::new());
    }
    Source::open(&[path.display().to_string()])?.rows(OnError::Fail).collect()
}

/// The pairs of a file of ours.
///
/// # Errors
/// A row that is none.
pub fn pooled(path: &Path) -> Result<Vec<Pooled>> {
    read(path)?.iter().map(|row| one(row).map_err(|e| e.at(&row.place))).collect()
}

fn one(row: &Row) -> Result<Pooled> {
    let text = |name: &str| row.value.get(name).and_then(Value::as_str);
    let needed = |name: &str| {
        text(name).map(String::from).ok_or_else(|| Error::data(format!("there is no text in the field {name:?}")))
    };
    let prompt = row.value.get("prompt").ok_or_else(|| Error::data("there is no field \"prompt\""))?;
    let (label, truth) = (text("label").and_then(side), text("truth").and_then(side));
    let claim = Claim {
        prompt: Message::conversation(prompt)?,
        a: needed("response_a")?,
        b: needed("response_b")?,
        label: label.unwrap_or(Side::A),
    };
    Ok(Pooled { id: row.value.get("id").cloned().unwrap_or(Value::Null), claim, truth })
}

pub fn side(name: &str) -> Option<Side> {
    NAMES.iter().position(|known| *known == name).map(|i| [Side::A, Side::B][i])
}

/// A row of votes.
pub fn voted(id: &Value, voted: &Voted) -> Map<String, Value> {
    match voted {
        Voted::Ballot(Ballot { a, b, invalid, p_a }) => {
            fields(json!({"id": id, "votes_a": a, "votes_b": b, "invalid": invalid, "p_a": p_a}))
        }
        Voted::TooLong => fields(json!({"id": id, "doubt": PROMPT_TOO_LONG})),
    }
}

/// The reason of a pair whose prompt does not fit.
pub const PROMPT_TOO_LONG: &str = "prompt_too_long";

/// Reads a row of votes back.
///
/// # Errors
/// It is none.
pub fn ballot(row: &Row) -> Result<Voted> {
    if row.value.contains_key("doubt") {
        return Ok(Voted::TooLong);
    }
    let wrong = |name: &str| Error::data(format!("there is no number in the field {name:?}")).at(&row.place);
    let count = |name: &str| row.value.get(name).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| wrong(name));
    let p_a = row.value.get("p_a").and_then(Value::as_f64).ok_or_else(|| wrong("p_a"))?;
    Ok(Voted::Ballot(Ballot { a: count("votes_a")?, b: count("votes_b")?, invalid: count("invalid")?, p_a }))
}
