//! Inputs that are texts or token ids, as scoring and the wires of scalar models take them.

use super::App;
use super::refusal::Refusal;
use crate::reward::service::Failure;
use crate::text::tokenizer::Parse;
use serde_json::Value;

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Text(String),
    Ids(Vec<i32>),
}

impl Input {
    /// A text, or a list of token ids.
    pub fn read(field: &str, value: &Value) -> Result<Input, Refusal> {
        match value {
            Value::String(text) => Ok(Input::Text(text.clone())),
            Value::Array(ids) => {
                let id = |v: &Value| v.as_i64().and_then(|id| i32::try_from(id).ok());
                let ids: Option<Vec<i32>> = ids.iter().map(id).collect();
                ids.map(Input::Ids).ok_or_else(|| Refusal::field(field, "a list here holds token ids"))
            }
            _ => Err(Refusal::field(field, "it must be a text or a list of token ids")),
        }
    }

    /// One of them, or a list of them. A list of numbers is one.
    pub fn read_all(field: &str, value: &Value) -> Result<Vec<Input>, Refusal> {
        let Value::Array(items) = value else { return Ok(vec![Input::read(field, value)?]) };
        if !items.is_empty() && items.iter().all(Value::is_number) {
            return Ok(vec![Input::read(field, value)?]);
        }
        items.iter().enumerate().map(|(i, v)| Input::read(&format!("{field}[{i}]"), v)).collect()
    }

    /// The ids to read: ids stand as they are, a text gets the tokenizer's own beginning.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn ids(&self, app: &App) -> Result<Vec<i32>, Failure> {
        match self {
            Input::Ids(ids) => Ok(ids.clone()),
            Input::Text(text) => {
                let mut ids = app.prefix.clone();
                ids.extend(app.tokenizer().ids(text, Parse::All).map_err(Failure::Invalid)?);
                Ok(ids)
            }
        }
    }
}

/// The text of token ids, control tokens included.
///
/// # Errors
/// An id that the tokenizer does not know, by its place.
pub fn decode(app: &App, field: &str, ids: &[i32]) -> Result<String, Refusal> {
    let known = app.tokenizer().vocab_size();
    if let Some(i) = ids.iter().position(|id| *id < 0 || *id as usize >= known) {
        let message = format!("token {} is outside the tokenizer's vocabulary of {known}", ids[i]);
        return Err(Refusal::field(format!("{field}[{i}]"), message));
    }
    app.tokenizer().decode(ids).map_err(|e| Refusal::from(e).at(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_of_numbers_is_one_input() {
        let read = |value: Value| Input::read_all("input", &value).map_err(|e| e.field);
        assert_eq!(read(json!("a")), Ok(vec![Input::Text("a".into())]));
        assert_eq!(read(json!([1, 2])), Ok(vec![Input::Ids(vec![1, 2])]));
        assert_eq!(read(json!(["a", [1]])), Ok(vec![Input::Text("a".into()), Input::Ids(vec![1])]));
        assert_eq!(read(json!([])), Ok(vec![]));
        assert_eq!(read(json!(["a", [1.5]])), Err("input[1]".into()));
        assert_eq!(read(json!([1, 9_999_999_999i64])), Err("input".into()));
        assert_eq!(read(json!({"a": 1})), Err("input".into()));
    }
}
