//! One JSON object read key by key: every error names the place, the key, the value and what would be right.
//!
//! A key whose value is `null` counts as absent, except for [`Keys::is_null`].

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// A JSON object and where it came from.
#[derive(Clone, Copy)]
pub(in crate::model) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// The file, for messages.
    place: &'a str,
    /// The key of the object itself when it lies inside another one, for messages.
    inside: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(map: &'a Map<String, Value>, place: &'a str) -> Keys<'a> {
        Keys { map, place, inside: "" }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there and says `null`.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The error for this key: `config.json: rope_scaling.factor is -1; it must be ...`. Long values are cut.
    pub fn wrong(&self, key: &str, advice: &str) -> Error {
        let value = self.map.get(key).map_or("missing".to_string(), Value::to_string);
        let value = match value.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &value[..end]),
            None => value,
        };
        let dot = if self.inside.is_empty() { "" } else { "." };
        Error::model(format!("{}: {}{dot}{key} is {value}; {advice}", self.place, self.inside))
    }

    /// A whole number from 1 to `most`.
    pub fn size(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if n >= 1 && n <= most as u64 => Ok(Some(n as usize)),
            _ => Err(self.wrong(key, &format!("it must be a whole number from 1 to {most}"))),
        }
    }

    /// As [`Keys::size`], for a key that must be there.
    pub fn needed(&self, key: &str, most: usize) -> Result<usize> {
        let advice = format!("it must be a whole number from 1 to {most}");
        self.size(key, most)?.ok_or_else(|| self.wrong(key, &advice))
    }

    /// A number that satisfies `ok`, which `range` puts into words.
    pub fn number(&self, key: &str, range: &str, ok: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && ok(x) => Ok(Some(x)),
            _ => Err(self.wrong(key, &format!("it must be a number {range}"))),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "it must be true or false"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "it must be text"))
    }

    /// An object of its own.
    pub fn object(&self, key: &'a str) -> Result<Option<Keys<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Object(map) => Ok(Some(Keys { map, place: self.place, inside: key })),
            _ => Err(self.wrong(key, "it must be an object")),
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// A token id, or a list of them.
    pub fn tokens(&self, key: &str) -> Result<Vec<i64>> {
        let list = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let ids: Option<Vec<i64>> = list.iter().map(Value::as_i64).collect();
        ids.ok_or_else(|| self.wrong(key, "it must be a token id or a list of token ids"))
    }
}
