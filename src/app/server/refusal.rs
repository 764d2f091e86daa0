//! What a client gets instead of an answer: a status, the field it is about, and what to do.
//!
//! The body has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`; on `/v1/systemone` the shapes of that wire.

use crate::error::Error;
use crate::reward::service::Failure;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    /// A word for programs.
    pub code: &'static str,
    /// Where in the body, such as `pairs[3].a`; empty if it is about none of it.
    pub field: String,
    pub message: String,
    /// Seconds.
    pub retry_after: Option<u64>,
    /// Tokens there are, and at most may be.
    pub lengths: Option<(usize, usize)>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, field: String::new(), message: message.into(), retry_after: None, lengths: None }
    }

    /// A field that makes no sense: 422.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message).at(field)
    }

    /// Names the field.
    pub fn at(mut self, field: impl Into<String>) -> Refusal {
        self.field = field.into();
        self
    }

    /// What a failed piece of work means; `overload` is the status of a full queue.
    pub fn of(failure: Failure, overload: StatusCode) -> Refusal {
        let message = failure.to_string();
        match failure {
            Failure::Invalid(_) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message),
            Failure::TooLong { tokens, most } => Refusal {
                lengths: Some((tokens, most)),
                ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too_long", message)
            },
            Failure::TooLarge { tokens, most } => Refusal {
                lengths: Some((tokens, most)),
                ..Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            },
            Failure::Full { retry_after } => {
                Refusal { retry_after: Some(retry_after.as_secs()), ..Refusal::new(overload, "overloaded", message) }
            }
            Failure::Late => Refusal::new(StatusCode::GATEWAY_TIMEOUT, "deadline", message),
            Failure::Stopped => {
                Refusal { retry_after: Some(1), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", message) }
            }
            Failure::Broken(_) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message),
        }
    }

    /// OpenAI's kinds.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 | 403 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The body in OpenAI's shape.
    pub fn body(&self) -> Value {
        let param = if self.field.is_empty() { Value::Null } else { Value::from(self.field.as_str()) };
        let mut error = json!({"message": self.message, "type": self.kind(), "param": param, "code": self.code});
        if let Some((tokens, most)) = self.lengths {
            error["tokens"] = tokens.into();
            error["max_tokens"] = most.into();
        }
        json!({ "error": error })
    }

    /// The status and body of `/v1/systemone`, where everything wrong with a body is a 422.
    pub fn detail(&self) -> (StatusCode, Value) {
        let about_body = matches!(self.status.as_u16(), 400 | 422);
        if !about_body {
            return (self.status, json!({"detail": {"error_type": self.kind(), "message": self.message}}));
        }
        let mut place = vec![Value::from("body")];
        let steps = self.field.split(['.', '[', ']']).filter(|s| !s.is_empty());
        place.extend(steps.map(|s| s.parse::<u64>().map_or(Value::from(s), Value::from)));
        let detail = json!([{"loc": place, "msg": self.message, "type": self.code}]);
        (StatusCode::UNPROCESSABLE_ENTITY, json!({ "detail": detail }))
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", e.to_string())
    }
}

/// Without a body: the guard writes it in the shape of the route.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}
