//! What every request passes: limits, keys, headers, a full queue.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[test]
fn bodies_have_limits() {
    let send = |body: Vec<u8>| {
        let (status, _, bytes) = raw(JUDGE.router(), "POST", "/v1/judge", &[], body);
        (status, serde_json::from_slice::<Value>(&bytes).unwrap()["error"]["code"].as_str().unwrap().to_string())
    };
    assert_eq!(send(vec![b' '; (1 << 20) + 1]), (413, "body_too_large".into()));
    assert_eq!(send("[".repeat(100_000).into_bytes()), (400, "invalid_json".into()));
    assert_eq!(send(b"{\"prompt\": \"\xff\"}".to_vec()), (400, "invalid_json".into()));
    assert_eq!(send(Vec::new()), (400, "invalid_json".into()));
    let (status, _) = post(&JUDGE, "/nowhere", json!({}));
    assert_eq!(status, 404);
    assert_eq!(raw(JUDGE.router(), "GET", "/v1/judge", &[], Vec::new()).0, 405);
    // Control is on another listener.
    assert_eq!(post(&JUDGE, "/sleep", json!({})).0, 404);
}

#[test]
fn keys_open_everything_but_probes() {
    let locked = app("qwen3", Config { keys: Keys::new(["k"]), ..config() }, 1 << 20);
    let get = |route: &str, headers: &[(&str, &str)]| raw(locked.router(), "GET", route, headers, Vec::new());
    for route in ["/health", "/ready", "/ping", "/startup"] {
        assert_eq!(get(route, &[]).0, 200, "{route}");
    }
    for route in ["/", "/metrics", "/version", "/v1/models", "/openapi.json", "/status.json", "/nowhere"] {
        assert_eq!(get(route, &[]).0, 401, "{route}");
        assert_eq!(get(route, &[("authorization", "Bearer no")]).0, 401, "{route}");
        let open = get(route, &[("authorization", "Bearer k")]).0;
        assert_eq!(open, if route == "/nowhere" { 404 } else { 200 }, "{route}");
    }
    assert!(get("/", &[]).1["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    let (status, _, _) = raw(locked.admin_router(), "POST", "/sleep", &[], Vec::new());
    assert_eq!(status, 401);
    assert!(!locked.service.load().asleep);
    let (status, said) = post(&locked, "/v1/systemone", json!({}));
    assert_eq!((status, &said["detail"]["error_type"]), (401, &json!("authentication_error")));
}

#[test]
fn every_answer_names_its_request_and_its_weights() {
    let body = json!({"prompt": "q", "a": "x", "b": "y"}).to_string().into_bytes();
    let (_, headers, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-id", "abc")], body.clone());
    assert!(headers["x-request-id"] == "abc" && headers["x-weight-version"] == "v0", "{headers:?}");
    let (_, first, _) = raw(JUDGE.router(), "GET", "/version", &[], Vec::new());
    let (_, second, _) = raw(JUDGE.router(), "GET", "/version", &[], Vec::new());
    assert_ne!(first["x-request-id"], second["x-request-id"]);
    let (status, _, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-timeout", "soon")], body.clone());
    assert_eq!(status, 400);
    let (status, _, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-timeout", "0.000001")], body);
    assert_eq!(status, 504);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let app = app("qwen3", config(), 4000);
    app.service.pause(true);
    let hold = |id: i32| app.service.labels(vec![id; 1900], vec![1], Options::default()).unwrap();
    let held = [hold(5), hold(6)];
    let body = json!({"prompt": "q", "a": "x", "b": "y"}).to_string().into_bytes();
    let (status, headers, bytes) = raw(app.router(), "POST", "/v1/judge", &[], body.clone());
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&bytes));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    drop(held);
    app.service.pause(false);
    assert_eq!(raw(app.router(), "POST", "/v1/judge", &[], body).0, 200);
}

#[test]
fn clients_that_vanish_take_their_work_with_them() {
    let app = app("qwen3", config(), 1 << 20);
    app.service.pause(true);
    let body = json!({"prompt": "q", "responses": ["a", "b", "c"]}).to_string();
    let request = HttpRequest::builder().method("POST").uri("/v1/rank").body(Body::from(body)).unwrap();
    block(async {
        let answer = app.router().oneshot(request);
        assert!(tokio::time::timeout(Duration::from_millis(500), answer).await.is_err(), "it is paused");
    });
    assert_eq!(app.service.load().queued_tokens, 0);
    assert!(app.metrics.text(&app).contains("route=\"/v1/rank\",status=\"499\"} 1"));
}

#[test]
fn who_would_wait_too_long_is_told_at_the_door() {
    let patient = Config { queue_timeout: Some(Duration::from_millis(1)), ..config() };
    let app = app("qwen3", patient, 1 << 20);
    let body = json!({"prompt": "q", "a": "x", "b": "y"});
    // The pace is known after a pass.
    ok(&app, "/v1/judge", body.clone());
    assert!(app.service.load().tokens_per_second > 0.0);
    app.service.pause(true);
    let held: Vec<_> =
        (5..20).map(|id| app.service.labels(vec![id; 2000], vec![1], Options::default()).unwrap()).collect();
    let (status, headers, _) = raw(app.router(), "POST", "/v1/judge", &[], body.to_string().into_bytes());
    assert_eq!(status, 503);
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(raw(app.router(), "GET", "/v1/models", &[], Vec::new()).0, 200);
    drop(held);
    app.service.pause(false);
    ok(&app, "/v1/judge", body);
}

/// A body that comes in pieces of a kilobyte, and how many are still to come.
struct Pieces(Arc<AtomicUsize>);

impl axum::body::HttpBody for Pieces {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        let left = self.0.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        std::task::Poll::Ready(left.ok().map(|_| Ok(hyper::body::Frame::data(vec![b' '; 1024].into()))))
    }
}

#[test]
fn what_a_refusal_leaves_of_a_body_is_read_within_limits() {
    let left_of = |app: &App, route: &str, pieces: usize| {
        let left = Arc::new(AtomicUsize::new(pieces));
        let request = HttpRequest::builder().method("POST").uri(route).body(Body::new(Pieces(left.clone()))).unwrap();
        let status = block(app.router().oneshot(request)).unwrap().status().as_u16();
        (status, left.load(Relaxed))
    };
    let locked = app("qwen3", Config { keys: Keys::new(["k"]), ..config() }, 1 << 20);
    assert_eq!(left_of(&locked, "/v1/judge", 100), (401, 0));
    assert_eq!(left_of(&JUDGE, "/nowhere", 100), (404, 0));
    // A body of a megabyte is as long as any may be: twice as much is read of one that is refused for its length, and no more.
    let (status, left) = left_of(&JUDGE, "/v1/judge", 10_000);
    assert!(status == 413 && (7_900..8_000).contains(&left), "{status}, {left} left");
}
