//! Answers as server-sent events.

use super::choice::Choice;
use super::{App, Call, ChatBody, next, usage};
use crate::reward::service::{Event, Ticket};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Chunks that wait for a slow reader; then the tokens do.
const CHUNKS: usize = 16;

/// A body that is sent as it is made. Its drop ends the making.
struct Events(Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Starts the stream.
pub fn respond(
    app: App,
    call: Call,
    body: ChatBody,
    tickets: Vec<Ticket<Event>>,
    stops: Vec<String>,
    tokens: usize,
) -> Response<Body> {
    let (sender, receiver) = channel(CHUNKS);
    tokio::spawn(async move {
        tokio::select! {
            // The reader went away: the tickets go, and what they asked for.
            () = sender.closed() => {}
            _ = write(&app, &call, &body, &tickets, &stops, tokens, &sender) => {}
        }
    });
    let mut response = Response::new(Body::new(Events(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn write(
    app: &App,
    call: &Call,
    body: &ChatBody,
    tickets: &[Ticket<Event>],
    stops: &[String],
    tokens: usize,
    sender: &Sender<Bytes>,
) -> Option<()> {
    let send = async |value: &Value| sender.send(format!("data: {value}\n\n").into()).await.ok();
    let envelope = |choices: Value| {
        json!({
            "id": format!("chatcmpl-{}", call.id()),
            "object": "chat.completion.chunk",
            "created": app.created,
            "model": app.called(call),
            "choices": choices,
        })
    };
    let mut written = 0;
    for (i, ticket) in tickets.iter().enumerate() {
        let first = json!({"role": "assistant", "content": ""});
        let first = json!([{"index": i, "delta": first, "logprobs": null, "finish_reason": null}]);
        send(&envelope(first)).await?;
        let mut choice = Choice::new(app, body, stops);
        while !choice.done() {
            let taken = match next(call, ticket).await {
                Ok(event) => choice.take(event),
                Err(failure) => Err(app.refuse(failure)),
            };
            if let Err(refusal) = taken {
                // The status is long sent; the error is an event of its own.
                return send(&refusal.body()).await;
            }
            if let Some(chunk) = choice.chunk(i) {
                send(&envelope(json!([chunk]))).await?;
            }
        }
        written += choice.tokens();
    }
    if body.stream_options.as_ref().is_some_and(|o| o.include_usage) {
        let mut last = envelope(json!([]));
        last["usage"] = usage(tokens, written);
        send(&last).await?;
    }
    sender.send("data: [DONE]\n\n".into()).await.ok()
}
