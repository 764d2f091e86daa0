//! One turn of a conversation, as JSON rows and chat templates know it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A message: who speaks, what is said, and whatever else the row holds (`reasoning_content`, `tool_calls`, ...).
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    /// A text, or a list of parts `{"type": "text", "text": ..}`, or null.
    pub content: Value,
    pub extra: Map<String, Value>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: Value::String(content.into()), extra: Map::new() }
    }
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// Reads `{"role", "content"}` or `{"from", "value"}` (roles `human`, `gpt`, ... become `user`, `assistant`, ...).
    pub fn from_json(value: &Value) -> Result<Message> {
        let Some(map) = value.as_object() else {
            return Err(Error::data(format!("a message is an object with role and content, not {}", kind(value))));
        };
        let (role_key, content_key) = if map.contains_key("role") { ("role", "content") } else { ("from", "value") };
        let Some(role) = map.get(role_key).and_then(Value::as_str) else {
            return Err(Error::data("a message has no \"role\" (or \"from\") that is a text"));
        };
        let content = map.get(content_key).cloned().unwrap_or(Value::Null);
        if !matches!(content, Value::String(_) | Value::Array(_) | Value::Null) {
            return Err(Error::data(format!("the {content_key:?} of a message is a text, not {}", kind(&content))));
        }
        let rest = map.iter().filter(|(k, v)| *k != role_key && *k != content_key && !v.is_null());
        Ok(Message {
            role: usual_role(role).into(),
            content,
            extra: rest.map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    /// Reads a conversation: a list of messages, or a text, which is one user turn.
    pub fn conversation(value: &Value) -> Result<Vec<Message>> {
        match value {
            Value::String(text) => Ok(vec![Message::user(text.as_str())]),
            Value::Array(values) => values.iter().map(Message::from_json).collect(),
            other => Err(Error::data(format!("a conversation is a text or a list of messages, not {}", kind(other)))),
        }
    }

    /// The message as chat templates get it from transformers: null fields left out, and the reasoning of an assistant under each
    /// of the names that templates read.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|k| self.extra.get(*k)).cloned();
        if let Some(reasoning) = &reasoning {
            map.insert("thinking".into(), reasoning.clone());
        }
        map.insert("role".into(), Value::String(self.role.clone()));
        if !self.content.is_null() {
            map.insert("content".into(), self.content.clone());
        }
        map.extend(self.extra.iter().map(|(k, v)| (k.clone(), v.clone())));
        if let Some(reasoning) = reasoning {
            map.insert("reasoning_content".into(), reasoning);
        }
        Value::Object(map)
    }

    /// What the message says, if it is text alone. Parts are joined without anything between them.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match &self.content {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Array(parts) => {
                let mut joined = String::new();
                for part in parts {
                    let is_text = part.get("type").is_none_or(|t| t == "text");
                    joined.push_str(part.get("text").and_then(Value::as_str).filter(|_| is_text)?);
                }
                Some(Cow::Owned(joined))
            }
            _ => None,
        }
    }
}

/// The role names of other formats, as chat templates call them.
fn usual_role(role: &str) -> &str {
    match role {
        "human" | "prompter" => "user",
        "gpt" | "bot" | "model" | "chatgpt" => "assistant",
        "observation" => "tool",
        other => other,
    }
}

/// What a JSON value is, for error messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A conversation as one text, for prompt templates that have one place for it: a single user turn is itself; otherwise
/// each turn is headed by who speaks, with an empty line between turns. `None` if a turn is not text.
pub fn transcript(messages: &[Message]) -> Option<String> {
    if let [only] = messages
        && only.role == "user"
    {
        return only.text().map(Cow::into_owned);
    }
    let mut turns = Vec::new();
    for message in messages {
        let mut speaker = message.role.clone();
        if let Some(first) = speaker.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        turns.push(format!("{speaker}: {}", message.text()?));
    }
    Some(turns.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_read_in_both_dialects() {
        let a = Message::from_json(&json!({"role": "user", "content": "hi", "name": null})).unwrap();
        let b = Message::from_json(&json!({"from": "human", "value": "hi"})).unwrap();
        assert_eq!(a, b);
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "h"}, {"text": "i"}]});
        assert_eq!(Message::from_json(&parts).unwrap().text().unwrap(), "hi");
        let image = json!({"role": "user", "content": [{"type": "image"}]});
        assert_eq!(Message::from_json(&image).unwrap().text(), None);
        for wrong in [json!("hi"), json!({"content": "hi"}), json!({"role": "user", "content": 3})] {
            assert!(Message::from_json(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn reasoning_has_all_its_names() {
        let m = Message::from_json(&json!({"role": "assistant", "content": "A", "reasoning": "r"})).unwrap();
        let j = m.to_json();
        assert_eq!(j["reasoning_content"], "r");
        assert_eq!(j["thinking"], "r");
    }

    #[test]
    fn transcripts() {
        assert_eq!(transcript(&[Message::user("q")]).unwrap(), "q");
        let turns = [Message::system("s"), Message::user("q"), Message::assistant("a"), Message::user("r")];
        assert_eq!(transcript(&turns).unwrap(), "System: s\n\nUser: q\n\nAssistant: a\n\nUser: r");
    }
}
