//! Items for tests.

use super::item::{Item, Kind};
use crate::text::message::Message;
use crate::text::source::{Place, Unit};
use serde_json::Value;

pub fn item(subset: &str, responses: &[&str], truth: &[f64], pairs: &[(usize, usize)], kind: Kind) -> Item {
    Item {
        id: Value::from(1),
        place: Place { file: "test.jsonl".into(), number: 1, unit: Unit::Line },
        subset: subset.into(),
        prompt: vec![Message::user("q")],
        responses: responses.iter().map(|r| r.to_string()).collect(),
        truth: truth.to_vec(),
        pairs: pairs.to_vec(),
        kind,
    }
}

/// Two responses, of which the first is better or the second.
pub fn pair(subset: &str, first: bool) -> Item {
    let truth = if first { [1.0, 0.0] } else { [0.0, 1.0] };
    item(subset, &["yes", "not so"], &truth, &[(0, 1)], Kind::Pair)
}

pub fn best_of_four() -> Item {
    let pairs: Vec<_> = (0..4).flat_map(|i| (i + 1..4).map(move |j| (i, j))).collect();
    item("Math", &["a", "b", "c", "d"], &[1.0, 0.0, 0.0, 0.0], &pairs, Kind::BestOfFour)
}

pub fn styles(domain: &str) -> Item {
    let truth = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    item(domain, &["a", "b", "c", "d", "e", "f"], &truth, &super::suite::rm_bench::CELLS, Kind::Styles)
}

pub fn samples(truth: &[f64], pairs: &[(usize, usize)]) -> Item {
    let texts: Vec<String> = (0..truth.len()).map(|i| format!("sample {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    item("MATH", &texts, truth, pairs, Kind::Samples)
}
