//! RM-Bench (`THU-KEG/RM-Bench`): `id`, `prompt`, `chosen` and `rejected` (three each: concise, detailed, detailed in Markdown),
//! `domain`; or flattened as the papers' copy has it, nine rows for a prompt with texts and `matrix_id` "i-j".
//!
//! Each prompt gives a matrix of wins, chosen i against rejected j. Hard is its upper triangle (a plainer right response), normal
//! the diagonal, easy the lower triangle. Official: each difficulty is the mean over the four domains of the domain's own;
//! a domain is the mean of its three. The papers pool the prompts of all domains for the difficulties. Overall is the mean
//! of the domains in both.

use super::super::item::{Item, Kind};
use super::super::rules::{Rule, Score, Tallies, Tally, mean};
use super::{Loader, id, unknown};
use crate::error::{Error, Result};
use crate::text::source::Row;

/// In the official order, which decides how sums round.
const DOMAINS: [&str; 4] = ["chat", "math", "code", "safety"];
const KNOWN: [&str; 6] = ["chat", "code", "math", "safety-refuse", "safety-response", "safety"];

/// The pairs of the win matrix, row by row.
pub const CELLS: [(usize, usize); 9] = [(0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)];

pub(super) fn read(row: &Row, loader: &mut Loader) -> Result<()> {
    if row.value.contains_key("matrix_id") {
        if let Some(item) = loader.styles.add(row)? {
            loader.push(item);
        }
        return Ok(());
    }
    loader.styles.finish()?;
    let (chosen, rejected) = (row.texts("chosen")?, row.texts("rejected")?);
    for (field, texts) in [("chosen", &chosen), ("rejected", &rejected)] {
        if texts.len() != 3 {
            return Err(Error::data(format!("the field {field:?} holds {} texts; it must hold 3", texts.len())));
        }
    }
    loader.push(item(row, chosen.into_iter().chain(rejected).collect())?);
    Ok(())
}

fn item(row: &Row, responses: Vec<String>) -> Result<Item> {
    Ok(Item {
        id: id(row, &["id"]),
        place: row.place.clone(),
        subset: domain(row)?,
        prompt: row.conversation(&["prompt"])?,
        responses,
        truth: vec![1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
        pairs: CELLS.to_vec(),
        kind: Kind::Styles,
    })
}

/// The row's domain; files of one domain have it in their name instead.
fn domain(row: &Row) -> Result<String> {
    if row.value.contains_key("domain") {
        let domain = row.text("domain")?;
        return match KNOWN.contains(&domain) {
            true => Ok(domain.to_string()),
            false => Err(unknown("domain", domain, &KNOWN)),
        };
    }
    let file = row.place.file.rsplit('/').next().unwrap_or_default();
    let named = KNOWN.iter().rev().filter(|d| file.contains(*d)).max_by_key(|d| d.len());
    named.map(|d| d.to_string()).ok_or_else(|| {
        Error::data(format!(
            "there is no field \"domain\", and the file's name holds none of {}; rename the file",
            KNOWN.join(", ")
        ))
    })
}

/// The flattened rows of one prompt, as they come.
#[derive(Default)]
pub(super) struct Pending {
    rows: Vec<((usize, usize), Row)>,
}

impl Pending {
    fn add(&mut self, row: &Row) -> Result<Option<Item>> {
        let cell = cell(row)?;
        if let Some((_, first)) = self.rows.first()
            && (first.value.get("prompt") != row.value.get("prompt") || self.rows.iter().any(|(c, _)| *c == cell))
        {
            return self.finish().map(|()| None);
        }
        self.rows.push((cell, row.clone()));
        if self.rows.len() < 9 {
            return Ok(None);
        }
        let rows = std::mem::take(&mut self.rows);
        let text = |side: &str, at: (usize, usize)| {
            rows.iter().find(|(c, _)| *c == at).expect("nine different cells").1.text(side).map(String::from)
        };
        let chosen = (0..3).map(|i| text("chosen", (i, 0)));
        let responses = chosen.chain((0..3).map(|j| text("rejected", (0, j)))).collect::<Result<Vec<String>>>()?;
        item(&rows[0].1, responses).map(Some)
    }

    /// # Errors
    /// A prompt has fewer than nine rows.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.rows.first() {
            None => Ok(()),
            Some((_, first)) => Err(Error::data(format!(
                "the prompt whose flattened rows begin at {} has {} of its 9, each with another \"matrix_id\"",
                first.place,
                self.rows.len()
            ))),
        }
    }
}

/// The cell that a flattened row's `matrix_id` names.
pub fn cell(row: &Row) -> Result<(usize, usize)> {
    let text = row.text("matrix_id")?;
    let parsed = text.split_once('-').and_then(|(i, j)| Some((i.parse().ok()?, j.parse().ok()?)));
    match parsed {
        Some((i, j)) if i < 3 && j < 3 => Ok((i, j)),
        _ => Err(Error::data(format!("the field \"matrix_id\" is {text:?}; it must be i-j, both from 0 to 2"))),
    }
}

/// Hard, normal and easy of a matrix of win rates; sums in the official order.
fn difficulties(wins: &[f64; 9], n: f64) -> [f64; 3] {
    let m = |i: usize| wins[i] / n;
    [((m(1) + m(2)) + m(5)) / 3.0, (m(0) + m(4) + m(8)) / 3.0, (m(3) + (m(6) + m(7))) / 3.0]
}

pub(super) fn scores(tallies: &Tallies) -> Vec<Score> {
    const DIFFICULTIES: [&str; 3] = ["hard", "normal", "easy"];
    let domains: Vec<(&str, Tally)> =
        DOMAINS.iter().filter_map(|d| Some((*d, tallies.pooled(|name| name.starts_with(d))?))).collect();
    let mut scores = Vec::new();
    for rule in [Rule::Official, Rule::Papers] {
        let domain = |(name, t): &(&str, Tally)| {
            let value = match rule {
                Rule::Official => mean(difficulties(&t.cells, t.n).into_iter()),
                _ => t.cells.iter().sum::<f64>() / (9.0 * t.n),
            };
            Score::new(rule, *name, value, t.rows)
        };
        let by_domain: Vec<Score> = domains.iter().map(domain).collect();
        let all = tallies.pooled(|_| true);
        let difficulty = |i: usize| match rule {
            Rule::Official => mean(domains.iter().map(|(_, t)| difficulties(&t.cells, t.n)[i])),
            _ => all.as_ref().map_or(f64::NAN, |t| difficulties(&t.cells, t.n)[i]),
        };
        let rows = all.as_ref().map_or(0, |t| t.rows);
        scores.extend(Score::mean_of(rule, "Overall", &by_domain));
        scores.extend(by_domain);
        scores.extend((0..3).map(|i| Score::new(rule, DIFFICULTIES[i], difficulty(i), rows)));
    }
    scores
}

pub(super) fn explain(rule: Rule) -> &'static str {
    match rule {
        Rule::Official => "difficulties are means over the domains; overall is the mean of the domains",
        _ => "difficulties pool the prompts of all domains; overall is the mean of the domains",
    }
}
