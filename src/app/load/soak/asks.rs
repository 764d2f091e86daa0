//! What is asked: every wire, with texts of several lengths, and bodies that make no sense.

use crate::app::load::work::words;
use serde_json::{Value, json};

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub route: &'static str,
    pub body: Vec<u8>,
    /// Answered with events.
    pub streams: bool,
    /// To be answered; otherwise to be refused.
    pub sound: bool,
}

/// Texts of each wire.
const TEXTS: u64 = 4;

/// All of them.
pub fn all(seed: u64) -> Vec<Ask> {
    let mut asks: Vec<Ask> = (0..TEXTS).flat_map(|n| sound(seed, n)).collect();
    asks.extend(nonsense().into_iter().map(|(route, body)| Ask { route, body, streams: false, sound: false }));
    asks
}

fn sound(seed: u64, n: u64) -> Vec<Ask> {
    let text = |part: u64, length: u64| words(seed, n, part, length);
    let prompt = text(0, 12 + 9 * n);
    let answers: Vec<String> = (1..5).map(|i| text(i, 6 + 5 * ((n + i) % 4))).collect();
    let [a, b, c, d] = &answers[..] else { unreachable!("four answers") };
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]);
    let rendered = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    let said =
        |text: &str| json!({"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]});
    let choice =
        json!({"type": "choice", "name": "winner", "instructions": "Which?", "choices": [{"value": a}, {"value": b}]});
    let chat = |more: Value| {
        let mut body = json!({"model": "soak", "messages": messages, "max_tokens": 4 + n});
        body.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
        body
    };
    let bodies = [
        ("/v1/judge", json!({"prompt": prompt, "a": a, "b": b})),
        ("/v1/judge", json!({"pairs": [{"prompt": messages, "a": a, "b": b}, {"prompt": prompt, "a": c, "b": d}]})),
        ("/v1/judge", json!({"prompt": prompt, "a": a, "b": b, "rationale": {"votes": 2, "max_tokens": 6, "seed": n}})),
        ("/v1/rank", json!({"prompt": prompt, "responses": answers})),
        ("/v1/rank", json!({"prompt": prompt, "responses": answers, "method": "linear", "budget": 3})),
        ("/v1/rank", json!({"prompt": prompt, "responses": answers, "method": "adaptive", "confidence": 0.9})),
        ("/get_reward", json!({"query": [format!("{rendered}{a}<|im_end|>")], "prompts": [rendered], "labels": [b]})),
        ("/", json!({"prompt": prompt, "response": a, "label": b})),
        ("/reward?key=score", json!({"prompt": messages, "response": c, "label": d})),
        ("/reward/group", json!([{"prompt": prompt, "response": a}, {"prompt": prompt, "response": b}])),
        ("/v1/chat/completions", chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 2}))),
        ("/v1/chat/completions", chat(json!({"seed": n, "n": 2}))),
        ("/v1/chat/completions", chat(json!({"seed": 7, "stream": true}))),
        ("/v1/chat/completions", chat(json!({"temperature": 0, "stream": true}))),
        ("/compare", json!({"conversation_history": messages, "response_objs": [said(a), said(b), said(c)]})),
        ("/v1/decisions", json!({"model": "soak", "input": prompt, "questions": [choice]})),
        ("/v1/systemone", json!({"state": prompt, "questions": {"better": {"type": "noul", "instructions": a}}})),
        (
            "/v1/systemone",
            json!({"state": prompt, "questions": {"better": {"type": "noul"}}, "x_rationale": {"max_tokens": 6}}),
        ),
        ("/rerank", json!({"query": prompt, "documents": [a, b, c]})),
        ("/rerank", json!({"query": prompt, "texts": [c, d]})),
        ("/v1/score", json!({"queries": prompt, "documents": [a, d]})),
        ("/v1/score", json!({"query": prompt, "items": [a, b], "label_token_ids": [5, 6]})),
        ("/generative_scoring", json!({"query": prompt, "items": [c], "label_token_ids": [5, 6]})),
    ];
    let ask = |(route, body): (&'static str, Value)| {
        let streams = body["stream"] == true;
        Ask { route, body: body.to_string().into_bytes(), streams, sound: true }
    };
    bodies.into_iter().map(ask).collect()
}

/// Bodies that must be refused.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let deep = "[".repeat(5000);
    let long = json!({"prompt": "q", "a": "long ".repeat(9000), "b": "y"}).to_string();
    vec![
        ("/v1/judge", b"{\"prompt\": \"q\", \"a\"".to_vec()),
        ("/v1/judge", b"{\"prompt\": \"\xff\"}".to_vec()),
        ("/v1/judge", long.into_bytes()),
        ("/v1/rank", json!({"prompt": "q", "responses": ["a", 1]}).to_string().into_bytes()),
        ("/get_reward", json!({"query": ["a", "b"], "prompts": ["a"]}).to_string().into_bytes()),
        ("/reward", deep.into_bytes()),
        ("/v1/chat/completions", json!({"messages": [], "stream": true}).to_string().into_bytes()),
        ("/v1/systemone", json!({"state": "x", "questions": {"q": {"type": "?"}}}).to_string().into_bytes()),
        ("/v1/decisions", json!({"model": "nobody", "input": "x", "questions": []}).to_string().into_bytes()),
        ("/rerank", Vec::new()),
        ("/v1/score", json!({"query": "a", "items": ["b"], "label_token_ids": [-1]}).to_string().into_bytes()),
        ("/nowhere", b"{}".to_vec()),
    ]
}
