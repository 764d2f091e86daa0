//! What an answer leaves unread of its request.
//!
//! A refusal may be there before the body is. A connection that is closed over unread bytes is reset, and whoever was still
//! writing finds no answer. So the rest is read before the answer goes out, within limits.

use super::Limits;
use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// Longest wait for the rest of a body that nobody wants.
const LONGEST: Duration = Duration::from_secs(5);

/// A body that is lent to a handler; what the handler leaves of it can be read.
pub struct Unread(Arc<Mutex<Body>>);

struct Lent(Arc<Mutex<Body>>);

fn lock(body: &Mutex<Body>) -> MutexGuard<'_, Body> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unread {
    /// The body for the handler, and what it may leave.
    pub fn lend(body: Body) -> (Body, Unread) {
        let shared = Arc::new(Mutex::new(body));
        (Body::new(Lent(shared.clone())), Unread(shared))
    }

    /// Reads the rest, as long as it is no longer than a body may be.
    pub async fn discard(self, limits: &Limits) {
        if lock(&self.0).is_end_stream() {
            return;
        }
        let mut rest = Limited::new(Lent(self.0), limits.body);
        let read = async { while let Some(Ok(_)) = rest.frame().await {} };
        // Who is slower than that loses the answer.
        let _ = tokio::time::timeout(limits.receive.min(LONGEST), read).await;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *lock(&self.0)).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        lock(&self.0).is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        lock(&self.0).size_hint()
    }
}
