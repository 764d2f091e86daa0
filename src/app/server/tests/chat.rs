//! Chats, whole and as streams.

use super::*;

/// What a generator by itself makes of a conversation.
fn written(conversation: &Value, settings: Settings) -> (Vec<i32>, Vec<f32>, String) {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let messages = Message::conversation(conversation).unwrap();
    let prompt = JUDGE.service.texts().chat().render(&messages, Ending::Open).unwrap().ids;
    let shape = Shape { sequences: 1, context: CONTEXT };
    let mut generator = Generator::new(&dev, &model, shape, &JUDGE.service.sizes().stop).unwrap();
    let made = generator.generate(&[Request { prompt, settings }], |_, _| ()).unwrap().remove(0);
    let text = JUDGE.tokenizer().decode_plain(&made.tokens).unwrap();
    (made.tokens, made.logprobs, text)
}

#[test]
fn chats_are_written_with_log_probabilities() {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let settings = Settings { temperature: 1.0, max_tokens: 12, seed: 5, ..Settings::default() };
    let (tokens, logprobs, text) = written(&messages, settings);
    let body = json!({"model": "tiny", "messages": messages, "max_tokens": 12, "seed": 5, "logprobs": true, "top_logprobs": 3});
    let said = ok(&JUDGE, "/v1/chat/completions", body);
    let choice = &said["choices"][0];
    assert_eq!(choice["message"]["content"], json!(text));
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), tokens.len());
    for (entry, logprob) in entries.iter().zip(&logprobs) {
        assert_eq!(entry["logprob"].as_f64().unwrap() as f32, *logprob);
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    assert_eq!(said["usage"]["completion_tokens"], json!(tokens.len()));
    let greedy = ok(
        &JUDGE,
        "/v1/chat/completions",
        json!({"messages": messages, "temperature": 0, "max_tokens": 1, "logprobs": true, "top_logprobs": 1}),
    );
    let entry = &greedy["choices"][0]["logprobs"]["content"][0];
    assert!((entry["logprob"].as_f64().unwrap() - entry["top_logprobs"][0]["logprob"].as_f64().unwrap()).abs() < 1e-5);
    let two = ok(&JUDGE, "/v1/chat/completions", json!({"messages": messages, "max_tokens": 12, "seed": 4, "n": 2}));
    assert_eq!(two["choices"][1]["message"]["content"], json!(text));
    assert!(two["choices"][0]["logprobs"].is_null());
}

#[test]
fn streams_add_up_to_the_whole_text() {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"messages": messages, "max_tokens": 12, "seed": 5, "stream": true, "logprobs": true,
        "stream_options": {"include_usage": true}});
    let (status, headers, bytes) =
        raw(JUDGE.router(), "POST", "/v1/chat/completions", &[], body.to_string().into_bytes());
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/event-stream; charset=utf-8"));
    let text = String::from_utf8(bytes).unwrap();
    let events: Vec<&str> =
        text.split("\n\n").filter(|e| !e.is_empty()).map(|e| e.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let content: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    let settings = Settings { temperature: 1.0, max_tokens: 12, seed: 5, ..Settings::default() };
    let (tokens, _, whole) = written(&messages, settings);
    assert_eq!(content, whole);
    let entries: usize =
        chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).map(Vec::len).sum();
    assert_eq!(entries, tokens.len());
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], json!(tokens.len()));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn chats_refuse_by_name_what_they_cannot_do() {
    let base = json!({"messages": [{"role": "user", "content": "Hello"}]});
    for (name, value, field) in [
        ("tools", json!([{"type": "function"}]), "tools"),
        ("response_format", json!({"type": "json_object"}), "response_format"),
        ("logit_bias", json!({"5": 1}), "logit_bias"),
        ("frequency_penalty", json!(0.5), "frequency_penalty"),
        ("temperature", json!(-1), "temperature"),
        ("top_p", json!(0), "top_p"),
        ("max_tokens", json!(0), "max_tokens"),
        ("n", json!(0), "n"),
        ("n", json!(129), "n"),
        ("top_logprobs", json!(2), "top_logprobs"),
        ("stop", json!([""]), "stop"),
        ("messages", json!([]), "messages"),
        ("messages", json!("x ".repeat(9000)), "messages"),
        ("model", json!("gpt"), "model"),
    ] {
        let mut body = base.clone();
        body[name] = value;
        let status = if name == "model" { 404 } else { 422 };
        refused(&JUDGE, "/v1/chat/completions", body, status, field);
    }
    refused(&SCALAR, "/v1/chat/completions", base, 422, "messages");
}
