//! Reading request bodies: bytes within their limit, text, JSON that is not too deep, and then the fields a wire knows. What is wrong is said with
//! the path of the field.

mod object;

use super::refusal::Refusal;
use super::{App, Call};
use crate::text::message::Message;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use object::Named;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use utoipa::ToSchema;

/// A JSON body.
pub struct Body<T>(pub T);

/// Longest deadline that can be asked for: a day.
const LONGEST: f64 = 86_400.0;

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Body<T>, Refusal> {
        let call = request.extensions().get::<Call>().cloned().expect("the guard runs first");
        let limit = app.config.limits.body;
        let read = Limited::new(request.into_body(), limit).collect();
        let bytes = match tokio::time::timeout(app.config.limits.receive, read).await {
            Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body came too slowly")),
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                let message = format!("the body is larger than {limit} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
            }
            Ok(Err(e)) => return Err(bad_json(format!("the body did not arrive: {e}"))),
            Ok(Ok(collected)) => collected.to_bytes(),
        };
        call.note(|notes| notes.content = app.config.log_content.then(|| String::from_utf8_lossy(&bytes).into_owned()));
        let mut value = parse(&bytes, app.config.limits.depth)?;
        if let Some(map) = value.as_object_mut()
            && let Some(seconds) = map.shift_remove("timeout_s")
        {
            let seconds = seconds.as_f64().and_then(timeout);
            let seconds =
                seconds.ok_or_else(|| Refusal::field("timeout_s", "it must be a positive number of seconds"))?;
            call.hurry(seconds);
        }
        decode(value).map(Body)
    }
}

/// A deadline in seconds, if it makes sense.
pub fn timeout(seconds: f64) -> Option<Duration> {
    (seconds > 0.0 && seconds.is_finite()).then(|| Duration::from_secs_f64(seconds.min(LONGEST)))
}

fn bad_json(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

/// JSON text of at most this depth.
fn parse(bytes: &[u8], most: usize) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| bad_json(format!("the body is not UTF-8: byte {} is not part of a character", e.valid_up_to())))?;
    let deepest = depth(text);
    if deepest > most {
        return Err(bad_json(format!("the body is nested {deepest} deep; at most {most} is read")));
    }
    serde_json::from_str(text).map_err(|e| bad_json(format!("the body is not JSON: {e}")))
}

/// How deep brackets are nested outside strings.
fn depth(text: &str) -> usize {
    let (mut deepest, mut now, mut quoted, mut escaped) = (0usize, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The fields of a value, or which one is wrong.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(Named(value)).map_err(|e| {
        let message = e.inner().to_string();
        let mut field = e.path().to_string().replace('?', "");
        if field == "." {
            field.clear();
        }
        // A missing field is reported at the object that lacks it.
        if let Some(name) = message.strip_prefix("missing field `").and_then(|m| m.split('`').next()) {
            field = if field.is_empty() { name.to_string() } else { format!("{field}.{name}") };
        }
        Refusal::field(field, message)
    })
}

/// One of something, or a list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn into_list(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// A prompt: a text, or a list of messages that is not empty.
pub fn messages(field: &str, value: &Value) -> Result<Vec<Message>, Refusal> {
    let messages = Message::conversation(value).map_err(|e| Refusal::field(field, e.to_string()))?;
    if messages.is_empty() {
        return Err(Refusal::field(field, "the list of messages is empty"));
    }
    Ok(messages)
}

/// At most this many items in a list.
pub fn count(field: &str, items: usize, most: usize) -> Result<(), Refusal> {
    if items <= most {
        return Ok(());
    }
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    Err(Refusal::new(status, "too_many", format!("{items} items; at most {most} in one request")).at(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        pairs: Vec<Inner>,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        a: String,
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let field = |text: &str| decode::<Outer>(serde_json::from_str(text).unwrap()).unwrap_err().field;
        assert_eq!(field(r#"{"pairs": [{"a": "x"}, {"a": 3}]}"#), "pairs[1].a");
        assert_eq!(field(r#"{"pairs": [{}]}"#), "pairs[0].a");
        assert_eq!(field("{}"), "pairs");
        assert_eq!(field(r#"{"pairs": 3}"#), "pairs");
    }

    #[test]
    fn a_list_is_not_an_object() {
        let refused = |text: &str| decode::<Outer>(serde_json::from_str(text).unwrap()).unwrap_err();
        assert_eq!(refused(r#"[[{"a": "x"}]]"#).field, "");
        assert_eq!(refused(r#"{"pairs": [["x"]]}"#).field, "pairs[0]");
        assert!(refused("[[]]").message.contains("expected an object"), "{}", refused("[[]]").message);
        // Whole values and lists of one kind are what they are, and nothing is left over.
        assert_eq!(
            decode::<Value>(serde_json::json!([[1], {"a": [null]}])).unwrap().to_string(),
            r#"[[1],{"a":[null]}]"#
        );
        assert_eq!(decode::<(u32, Option<String>)>(serde_json::json!([1, null])).unwrap(), (1, None));
        assert!(decode::<(u32,)>(serde_json::json!([1, 2])).is_err());
    }

    #[test]
    fn depth_looks_past_strings() {
        assert_eq!(depth(r#"{"a": ["[[[[\"[["]}"#), 2);
        assert_eq!(depth("[[["), 3);
        let refused = parse("[".repeat(100_000).as_bytes(), 64).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(parse(b"\xff", 64).unwrap_err().message.contains("UTF-8"));
    }
}
