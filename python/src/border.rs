//! The border between Python and Rust: prompts in, columns of bytes out, errors as the exceptions of `gramophone.errors`.

use engine::error::{Error, Kind, Result};
use engine::model::config::HeadKind;
use engine::reward::judge::{Judgment, Side};
use engine::reward::service::{Failure, Judged};
use engine::text::message::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::time::Duration;

/// A prompt: a text, or messages as JSON in bytes.
#[derive(FromPyObject)]
pub enum Prompt {
    Text(String),
    Messages(Vec<u8>),
}

impl Prompt {
    pub fn read(&self) -> Result<Vec<Message>> {
        let json = match self {
            Prompt::Text(text) => return Ok(vec![Message::user(text.as_str())]),
            Prompt::Messages(json) => json,
        };
        let value: serde_json::Value = serde_json::from_slice(json)
            .map_err(|e| Error::data(format!("the prompt's messages are not JSON: {e}")))?;
        match Message::conversation(&value)? {
            messages if messages.is_empty() => Err(Error::data("the prompt's list of messages is empty")),
            messages => Ok(messages),
        }
    }
}

/// Messages as JSON.
pub fn json(messages: &[Message]) -> String {
    serde_json::Value::from_iter(messages.iter().map(Message::to_json)).to_string()
}

/// Prompts of int32 ids that lie end to end.
pub fn prompts(ids: &[u8], lengths: &[usize]) -> PyResult<Vec<Vec<i32>>> {
    let words = ids.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().expect("four bytes")));
    let (mut words, due) = (words, lengths.iter().sum::<usize>());
    if ids.len() != 4 * due {
        return Err(refused(
            "InvalidInput",
            &format!("the lengths add up to {due} ids, but there are {}", ids.len() / 4),
        ));
    }
    Ok(lengths.iter().map(|n| words.by_ref().take(*n).collect()).collect())
}

/// A column of numbers.
pub fn column<T, const N: usize>(rows: &[T], value: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    rows.iter().flat_map(value).collect()
}

/// Judgments, or rewards of a scalar model, as columns by name: float64 `p_a` and `label_mass`, float32 margins and rewards, int8
/// `verdict` (1 for A, -1 for B) and `consistent`.
pub fn columns<'py>(py: Python<'py>, judged: &[Judged], head: HeadKind) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    let add = |name: &str, bytes: Vec<u8>| columns.set_item(name, PyBytes::new(py, &bytes));
    add("p_a", column(judged, |j| j.p_a().to_le_bytes()))?;
    add("verdict", column(judged, |j| side(j.verdict()).to_le_bytes()))?;
    if head == HeadKind::Scalar {
        let of = |j: &Judged| match j {
            Judged::Rewards { a, b } => [*a, *b],
            Judged::Judgment(_) => unreachable!("a scalar model gives rewards"),
        };
        add("reward_a", column(judged, |j| of(j)[0].to_le_bytes()))?;
        add("reward_b", column(judged, |j| of(j)[1].to_le_bytes()))?;
        return Ok(columns);
    }
    let of = |j: &Judged| -> Judgment {
        match j {
            Judged::Judgment(j) => *j,
            Judged::Rewards { .. } => unreachable!("a judge gives judgments"),
        }
    };
    add("margin_ab", column(judged, |j| of(j).margin_ab.to_le_bytes()))?;
    add("margin_ba", column(judged, |j| of(j).margin_ba.to_le_bytes()))?;
    add("label_mass", column(judged, |j| of(j).label_mass.to_le_bytes()))?;
    add("consistent", column(judged, |j| [of(j).consistent as u8]))?;
    Ok(columns)
}

fn side(side: Side) -> i8 {
    match side {
        Side::A => 1,
        Side::B => -1,
        Side::Tie => 0,
    }
}

/// A time to wait.
pub fn seconds(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    match timeout {
        None => Ok(None),
        Some(s) if s > 0.0 && s <= 1e9 => Ok(Some(Duration::from_secs_f64(s))),
        Some(s) => {
            let message = format!("timeout is {s}; it must be a positive number of seconds, or None to wait for ever");
            Err(refused("InvalidInput", &message))
        }
    }
}

/// An exception of `gramophone.errors`.
pub fn refused(class: &str, message: &str) -> PyErr {
    Python::attach(|py| raise(py, class, message).map_or_else(|e| e, PyErr::from_value))
}

fn raise<'py>(py: Python<'py>, class: &str, message: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("gramophone.errors")?.getattr(class)?.call1((message,))
}

/// The exception of an error.
pub fn error(e: &Error) -> PyErr {
    refused(class(e), &e.to_string())
}

fn class(e: &Error) -> &'static str {
    match e.kind() {
        Kind::Usage | Kind::Data => "InvalidInput",
        Kind::Model | Kind::Diverged => "ModelError",
        Kind::Io => "FileError",
        Kind::Device => "DeviceError",
        Kind::Interrupted => "Stopped",
    }
}

/// The exception of work that failed at a place.
pub fn failed(py: Python, place: &str, failure: Failure) -> PyErr {
    let message = format!("{place}: {failure}");
    let class = match &failure {
        Failure::Invalid(e) | Failure::Broken(e) => class(e),
        Failure::TooLong { .. } | Failure::TooLarge { .. } => "TooLong",
        Failure::Late => "DeadlineExceeded",
        // A full queue is waited for, so nobody sees it.
        Failure::Full { .. } | Failure::Stopped => "Stopped",
    };
    let made = raise(py, class, &message).and_then(|made| {
        if let Failure::TooLong { tokens, most } | Failure::TooLarge { tokens, most } = failure {
            made.setattr("tokens", tokens)?;
            made.setattr("most", most)?;
        }
        Ok(made)
    });
    made.map_or_else(|e| e, PyErr::from_value)
}
