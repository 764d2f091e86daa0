//! What every request passes: an id, the key, a deadline, counting, a line in the log; and what every answer gets:
//! headers, and a body if it is a refusal.

use super::refusal::Refusal;
use super::unread::Unread;
use super::{App, body};
use axum::body::Body;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Routes that need no key.
const PROBES: [&str; 4] = ["/health", "/ready", "/startup", "/ping"];

/// A request on its way. Clones are the same one.
#[derive(Clone)]
pub struct Call(Arc<Inner>);

struct Inner {
    id: String,
    start: Instant,
    notes: Mutex<Notes>,
}

/// What is known of a request at its end.
#[derive(Default)]
pub struct Notes {
    pub tokens: usize,
    pub items: usize,
    pub queued: Duration,
    pub version: Option<Arc<str>>,
    /// Tokens that were written for it.
    pub written: usize,
    /// The adapter that it asks for.
    pub adapter: Option<String>,
    /// The body, where the log may hold it.
    pub content: Option<String>,
    deadline: Option<Instant>,
}

impl Call {
    fn new(id: String, deadline: Duration) -> Call {
        let start = Instant::now();
        let notes = Notes { deadline: Some(start + deadline), ..Notes::default() };
        Call(Arc::new(Inner { id, start, notes: Mutex::new(notes) }))
    }

    /// The weights that answered, once something was.
    pub fn version(&self) -> Option<String> {
        self.note(|n| n.version.as_deref().map(String::from))
    }

    pub fn id(&self) -> &str {
        &self.0.id
    }

    pub fn note<R>(&self, f: impl FnOnce(&mut Notes) -> R) -> R {
        f(&mut self.0.notes.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Nobody wants the answer later than this after the start.
    pub fn hurry(&self, after: Duration) {
        let asked = self.0.start + after;
        self.note(|n| n.deadline = n.deadline.map(|d| d.min(asked)).or(Some(asked)));
    }

    pub fn deadline(&self) -> Instant {
        self.note(|n| n.deadline).expect("every call has one")
    }
}

#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

/// Counts a request in and out. Dropped before it was answered, the client has gone.
struct Visit {
    app: App,
    call: Call,
    route: String,
    answered: Option<StatusCode>,
}

/// How a vanished client is counted, after nginx.
const GONE: u16 = 499;

impl Drop for Visit {
    fn drop(&mut self) {
        let status = self.answered.map_or(GONE, |s| s.as_u16());
        let took = self.call.0.start.elapsed();
        let probe = PROBES.contains(&self.route.as_str());
        self.app.metrics.leave(&self.route, status, took, probe);
        if probe || !self.app.config.log {
            return;
        }
        let line = self.call.note(|notes| {
            let mut line = json!({
                "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| (d.as_secs_f64() * 1e3).round() / 1e3),
                "level": if status >= 500 { "error" } else { "info" },
                "id": self.call.id(),
                "route": self.route,
                "status": status,
                "ms": (took.as_secs_f64() * 1e6).round() / 1e3,
                "queue_ms": (notes.queued.as_secs_f64() * 1e6).round() / 1e3,
                "items": notes.items,
                "tokens": notes.tokens,
                "written": notes.written,
            });
            if let Some(content) = notes.content.take() {
                line["body"] = content.into();
            }
            line
        });
        super::log(&line);
    }
}

/// The middleware.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (body, unread) = Unread::lend(body);
    let mut request = Request::from_parts(head, body);
    let path = request.uri().path().to_string();
    // Paths that lead nowhere share a name, or anybody could fill the metrics with them.
    let matched = request.extensions().get::<MatchedPath>().map(|m| m.as_str().to_string());
    let route = match matched.unwrap_or_else(|| "unknown".into()) {
        // Who looks at the page asks for no reward.
        root if root == "/" && request.method() == Method::GET => "page".into(),
        route => route,
    };
    let call = Call::new(request_id(&app, request.headers()), app.config.timeouts.of(&route));
    app.metrics.enter();
    let mut visit = Visit { app: app.clone(), call: call.clone(), route, answered: None };
    request.extensions_mut().insert(call.clone());
    let mut response = match admit(&app, &path, &request, &call) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    if let Some(refusal) = response.extensions_mut().remove::<Arc<Refusal>>() {
        // Whoever was too slow was waited for.
        if refusal.status != StatusCode::REQUEST_TIMEOUT {
            unread.discard(&app.config.limits).await;
        }
        render(&refusal, &path, &mut response);
    }
    let version = call.note(|n| n.version.clone()).unwrap_or_else(|| app.service.version());
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-request-id", call.id());
    set("x-weight-version", &version);
    visit.answered = Some(response.status());
    response
}

/// The client's id if it can stand in a header and a log, else one of ours.
fn request_id(app: &App, headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|v| v.to_str().ok());
    match given.filter(|id| !id.is_empty() && id.len() <= 128) {
        Some(id) => id.to_string(),
        None => app.metrics.next_id(),
    }
}

fn admit(app: &App, path: &str, request: &Request, call: &Call) -> Result<(), Refusal> {
    if !PROBES.contains(&path) && !app.config.keys.allows(request.headers()) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "the key is missing or wrong"));
    }
    // Trainers that send no model can have it in their URL.
    if let Ok(Query(named)) = Query::<Named>::try_from_uri(request.uri()) {
        app.choose(call, &named.model)?;
    }
    if let Some(asked) = request.headers().get("x-request-timeout") {
        let seconds = asked.to_str().ok().and_then(|s| s.trim().parse().ok()).and_then(body::timeout);
        call.hurry(seconds.ok_or_else(|| {
            let message = "the header X-Request-Timeout must be a positive number of seconds";
            Refusal::new(StatusCode::BAD_REQUEST, "invalid_header", message).at("X-Request-Timeout")
        })?);
    }
    Ok(())
}

/// Sends away at the door what would wait in the queue for longer than `queue_timeout`, by the pace of the last passes.
pub async fn crowd(State(app): State<App>, request: Request, next: Next) -> Response<Body> {
    let load = app.service.load();
    // Before the first pass there is no pace to go by.
    let wait = match load.tokens_per_second {
        pace if pace > 0.0 => load.queued_tokens as f64 / pace,
        _ => 0.0,
    };
    match app.config.queue_timeout {
        Some(most) if request.method() == Method::POST && wait > most.as_secs_f64() => {
            let seconds = (wait - most.as_secs_f64()).ceil().clamp(1.0, 60.0);
            let message = format!("it would wait in the queue for about {wait:.0} s; try again in {seconds} s");
            let refusal = Refusal::new(app.config.overload, "overloaded", message);
            Refusal { retry_after: Some(seconds as u64), ..refusal }.into_response()
        }
        _ => next.run(request).await,
    }
}

fn render(refusal: &Refusal, path: &str, response: &mut Response<Body>) {
    let (status, body): (StatusCode, Value) = match path {
        "/v1/systemone" => refusal.detail(),
        _ => (refusal.status, refusal.body()),
    };
    *response.status_mut() = status;
    *response.body_mut() = Body::from(body.to_string());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        // A browser that opens the status page asks for the key, as a password; programs send it as a bearer.
        let challenge = if path == "/" { "Basic realm=\"gramophone\"" } else { "Bearer" };
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
}

/// The keys that open the server; none means that it is open.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Keys {
        Keys(keys.into_iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect())
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(credential);
        // Digests are compared, so that the time it takes says nothing about a key.
        given.is_some_and(|key| self.0.contains(&Sha256::digest(&key).into()))
    }
}

/// The key in `Bearer KEY`, or the password in `Basic base64(user:KEY)`.
fn credential(value: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().as_bytes().to_vec()),
        "basic" => {
            let both = STANDARD_NO_PAD.decode(rest.trim().trim_end_matches('=')).ok()?;
            let colon = both.iter().position(|b| *b == b':')?;
            Some(both[colon + 1..].to_vec())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_both_schemes() {
        let keys = Keys::new(["open sesame"]);
        let allows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            keys.allows(&headers)
        };
        assert!(allows("Bearer open sesame") && allows("bearer open sesame"));
        // base64("me:open sesame")
        assert!(allows("Basic bWU6b3BlbiBzZXNhbWU="));
        for wrong in ["Bearer open", "Bearer", "open sesame", "Basic bWU6b3Blbg==", "Basic ???", "Digest x"] {
            assert!(!allows(wrong), "{wrong}");
        }
        assert!(!keys.allows(&HeaderMap::new()));
        assert!(Keys::default().allows(&HeaderMap::new()));
    }
}
