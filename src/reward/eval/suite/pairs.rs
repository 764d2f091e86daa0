//! Any preference pairs, in every layout that training reads. Rows may name a `subset`, `category`, `domain` or `source`.

use super::super::item::{Item, Kind};
use super::super::rules::{Rule, Score, Tallies};
use super::{Loader, id};
use crate::error::{Error, Result};
use crate::text::example::{Example, Side};
use crate::text::format::{Format, Outcome};
use crate::text::message::Message;
use crate::text::source::Row;
use serde_json::Value;

pub(super) fn read(row: &Row, loader: &mut Loader) -> Result<()> {
    let format = match &loader.format {
        Some((file, format)) if *file == row.place.file => *format,
        _ => Format::detect(&row.value)?,
    };
    loader.format = Some((row.place.file.clone(), format));
    for outcome in format.read(&row.value)? {
        match outcome {
            Outcome::Keep(Example::Pair { chosen, rejected, .. }) if chosen == rejected => loader.dropped += 1,
            Outcome::Compared { a, b, .. } | Outcome::Reasoned { a, b, .. } if a == b => loader.dropped += 1,
            Outcome::Keep(Example::Pair { prompt, chosen, rejected, .. }) => {
                loader.push(item(row, prompt, [chosen, rejected], 0));
            }
            Outcome::Compared { prompt, a, b, better } | Outcome::Reasoned { prompt, a, b, better, .. } => {
                loader.push(item(row, prompt, [a, b], usize::from(better == Side::B)));
            }
            Outcome::Tied { .. } => loader.tied += 1,
            Outcome::Drop(_) => loader.dropped += 1,
            Outcome::Keep(example) => {
                let kind = example.kind();
                return Err(Error::data(format!("the row is of the format {format}: {kind}, without which is better")));
            }
            Outcome::Rated { .. } => {
                return Err(Error::data(format!("the row is of the format {format}: a rating, not a pair")));
            }
        }
    }
    Ok(())
}

fn item(row: &Row, prompt: Vec<Message>, responses: [String; 2], better: usize) -> Item {
    let names = ["subset", "category", "domain", "source"];
    let subset = names.iter().find_map(|name| row.value.get(*name).and_then(Value::as_str));
    Item {
        id: id(row, &["id", "pair_id", "prompt_id"]),
        place: row.place.clone(),
        subset: subset.unwrap_or("pairs").to_string(),
        prompt,
        responses: responses.into(),
        truth: if better == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] },
        pairs: vec![(0, 1)],
        kind: Kind::Pair,
    }
}

pub(super) fn scores(tallies: &Tallies) -> Vec<Score> {
    let rules = [Rule::Papers, Rule::OneOrder];
    let subsets = tallies.by_subset(&rules, |rule, t| t.credit(rule));
    let all = tallies.pooled(|_| true);
    let overall = rules.iter().filter_map(|rule| {
        let t = all.as_ref()?;
        Some(Score::new(*rule, "Overall", t.credit(*rule) / t.n, t.rows))
    });
    let mut scores: Vec<Score> = overall.collect();
    if tallies.len() > 1 {
        scores.extend(subsets);
    }
    scores
}

pub(super) fn explain(rule: Rule) -> &'static str {
    match rule {
        Rule::Papers => "the mean of both orders must favour the better response, a tie is wrong; over all rows",
        _ => "one order drawn for each row, a tie is wrong; over all rows",
    }
}
