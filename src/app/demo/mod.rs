//! The demo: both papers in miniature, with nothing downloaded.
//!
//! ```text
//! hills   GRAM: pre-training on unlabelled pairs, then few labels; the control starts from random weights
//! cups    GRAM-R²: labels alone; proved rationales; rounds on unlabelled pairs; votes; two controls
//! ```
//! Everything goes through the same code as `gramophone train`, `self-train`, `judge` and `rank`. Every number is computed in the
//! run that reports it. `--full` runs the second chapter at length, over several seeds.

pub mod cups;
pub mod hills;

use crate::error::{Error, Result};
use cups::Cups;
use hills::Hills;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One phase of training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub steps: usize,
    pub batch: usize,
    pub lr: f64,
}

/// Sizes of both chapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    pub hills: Hills,
    pub cups: Cups,
}

impl Sizes {
    /// What fits into three minutes on two cores.
    pub fn short() -> Sizes {
        Sizes { hills: Hills::default(), cups: Cups::short() }
    }

    /// The long second chapter.
    pub fn full() -> Sizes {
        Sizes { cups: Cups::full(), ..Sizes::short() }
    }

    /// These sizes with others where `json` names them: `{"cups": {"rounds": 1}}`.
    ///
    /// # Errors
    /// It is no JSON, or names what is no size.
    pub fn with(&self, json: &str) -> Result<Sizes> {
        let wrong = |e: serde_json::Error| Error::usage(format!("sizes: {e}"));
        let mut all = serde_json::to_value(self).map_err(wrong)?;
        merge(&mut all, serde_json::from_str(json).map_err(wrong)?);
        serde_json::from_value(all).map_err(wrong)
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_replaced_by_name() {
        let sizes =
            Sizes::short().with(r#"{"cups": {"rounds": 7, "judge": {"steps": 3}}, "hills": {"seed": 5}}"#).unwrap();
        let short = Sizes::short();
        assert_eq!((sizes.cups.rounds, sizes.cups.judge.steps, sizes.hills.seed), (7, 3, 5));
        assert_eq!((sizes.cups.judge.lr, sizes.hills.vocab), (short.cups.judge.lr, short.hills.vocab));
        for wrong in ["{", r#"{"cups": {"round": 1}}"#, r#"{"cups": {"rounds": {"steps": 1}}}"#] {
            let error = Sizes::short().with(wrong).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().starts_with("sizes: "), "{wrong}: {error}");
        }
    }
}
