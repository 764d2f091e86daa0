//! Fields of a row, by name and kind. What is missing or of another kind is an error that names the field; the row's
//! place is added by who reads the rows.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::text::message::{Message, kind};
use crate::text::source::Row;

impl Row {
    /// A field that must be there.
    ///
    /// # Errors
    /// It is missing; the message lists the fields that are there.
    pub fn field(&self, name: &str) -> Result<&Value> {
        self.value.get(name).ok_or_else(|| {
            let have: Vec<&str> = self.value.keys().map(String::as_str).collect();
            Error::data(format!("there is no field {name:?}; the row has {}", have.join(", ")))
        })
    }

    /// The first of these fields that is there, and its name.
    ///
    /// # Errors
    /// None is there.
    pub fn either<'n>(&self, names: &[&'n str]) -> Result<(&'n str, &Value)> {
        let found = names.iter().find_map(|name| Some((*name, self.value.get(*name)?)));
        found.map_or_else(|| self.field(names[0]).map(|value| (names[0], value)), Ok)
    }

    /// A text field.
    ///
    /// # Errors
    /// It is missing or not a text.
    pub fn text(&self, name: &str) -> Result<&str> {
        let value = self.field(name)?;
        value.as_str().ok_or_else(|| wrong(name, value, "a text"))
    }

    /// A number.
    ///
    /// # Errors
    /// It is missing or not a number.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self.field(name)?;
        value.as_f64().ok_or_else(|| wrong(name, value, "a number"))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// It is missing, not a list, or holds something else.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let value = self.field(name)?;
        let list = value.as_array().ok_or_else(|| wrong(name, value, "a list of texts"))?;
        let text = |v: &Value| v.as_str().map(String::from).ok_or_else(|| wrong(name, v, "a list of texts"));
        list.iter().map(text).collect()
    }

    /// A conversation under the first of these names: a text, which is one user turn, or a list of messages.
    ///
    /// # Errors
    /// It is missing, empty, or neither.
    pub fn conversation(&self, names: &[&str]) -> Result<Vec<Message>> {
        let (_, value) = self.either(names)?;
        let messages = Message::conversation(value).map_err(|e| e.at(format!("the field {:?}", names[0])))?;
        if messages.is_empty() {
            return Err(Error::data(format!("the field {:?} is an empty list of messages", names[0])));
        }
        Ok(messages)
    }
}

fn wrong(name: &str, value: &Value, must: &str) -> Error {
    let is = if must.starts_with("a list of") && !value.is_array() { "is or holds" } else { "is" };
    Error::data(format!("the field {name:?} {is} {}; it must be {must}", kind(value)))
}
