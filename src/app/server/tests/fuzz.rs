//! Random bodies against every wire: whatever comes is answered or refused, never a panic, never a side where there is none.

use super::{JUDGE, SCALAR, block, post, raw};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const ROUTES: [&str; 16] = [
    "/v1/judge",
    "/v1/rank",
    "/get_reward",
    "/",
    "/reward",
    "/reward/group",
    "/v1/chat/completions",
    "/compare",
    "/v1/decisions",
    "/v1/systemone",
    "/generative_scoring",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/classify",
];

/// Names that some wire knows.
const NAMES: [&str; 44] = [
    "prompt",
    "a",
    "b",
    "pairs",
    "model",
    "both_orders",
    "votes",
    "responses",
    "method",
    "query",
    "prompts",
    "labels",
    "response",
    "label",
    "messages",
    "role",
    "content",
    "max_tokens",
    "temperature",
    "n",
    "stop",
    "logprobs",
    "top_logprobs",
    "conversation_history",
    "response_objs",
    "output",
    "input",
    "questions",
    "type",
    "instructions",
    "choices",
    "levels",
    "value",
    "state",
    "criteria",
    "items",
    "label_token_ids",
    "documents",
    "texts",
    "text",
    "top_n",
    "timeout_s",
    "stream",
    "seed",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..4).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z<>|_/\\\\ é\u{0}]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "assistant",
            "choice",
            "score",
            "noul",
            "predicate",
            "message",
            "output_text",
            "tiny",
            "linear",
            "<|im_start|>user\n",
            "<|im_end|>",
            "true"
        ])
        .prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 40, 5, |inner| {
        let name = prop_oneof![4 => prop::sample::select(NAMES.to_vec()).prop_map(String::from), 1 => "[a-z]{0,3}".prop_map(String::from)];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6).prop_map(|m| Value::from(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that a wire would take, with one place replaced.
fn nearly() -> impl Strategy<Value = (usize, Value)> {
    let message = json!([{"role": "user", "content": "q"}]);
    let good = [
        json!({"pairs": [{"prompt": "q", "a": "x", "b": "y"}], "priority": 1}),
        json!({"prompt": message, "responses": ["x", "y"], "method": "linear"}),
        json!({"query": ["qx"], "prompts": ["q"], "labels": ["y"]}),
        json!({"prompt": "q", "response": "x", "label": "y"}),
        json!({"prompt": message, "response": "x", "label": {"reference": "y"}}),
        json!([{"prompt": "q", "response": "x"}, {"prompt": "q", "response": "y"}]),
        json!({"messages": message, "max_tokens": 2, "stop": ["x"], "logprobs": true, "top_logprobs": 2, "n": 1}),
        json!({"conversation_history": message, "response_objs": [{"output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]}]}),
        json!({"model": "tiny", "input": "t", "questions": [{"type": "choice", "instructions": "q", "choices": [{"value": "x"}, {"value": "y"}]}]}),
        json!({"state": "t", "questions": {"q": {"type": "score", "criteria": ["x", "y"]}}}),
        json!({"query": "q", "items": ["x"], "label_token_ids": [1, 2]}),
        json!({"query": [1], "items": [[2], [3]], "label_token_ids": [1]}),
        json!({"query": "q", "documents": ["x", {"text": "y"}]}),
        json!({"query": "q", "texts": ["x", "y"]}),
        json!({"query": "q", "documents": ["x"], "top_n": 1}),
        json!({"input": ["x"], "use_activation": false}),
    ];
    (0..ROUTES.len(), any::<prop::sample::Index>(), value()).prop_map(move |(route, place, new)| {
        let mut body = good[route].clone();
        let places = places(&body);
        *body.pointer_mut(&places[place.index(places.len())]).expect("it was listed") = new;
        (route, body)
    })
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        _ => Vec::new(),
    };
    let below = children.iter().flat_map(|(name, v)| places(v).into_iter().map(move |p| format!("/{name}{p}")));
    std::iter::once(String::new()).chain(below).collect()
}

fn sane(status: u16, answer: &Value, body: &Value, route: &str) -> Result<(), TestCaseError> {
    // 504: a deadline that the body itself asked for.
    let fine = status < 500 || (status == 504 && body.get("timeout_s").is_some());
    prop_assert!(fine, "{} {}: {} {}", route, body, status, answer);
    if status >= 400 {
        let said =
            answer.pointer("/error/message").or(answer.pointer("/detail/0/msg")).or(answer.pointer("/detail/message"));
        prop_assert!(said.is_some_and(|m| m.as_str().is_some_and(|m| !m.is_empty())), "{answer}");
    }
    Ok(())
}

/// Streams are not JSON; the rest is.
fn is_stream(body: &Value) -> bool {
    body.get("stream") == Some(&Value::Bool(true))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_answered_or_refused(route in 0..ROUTES.len(), body in value(), scalar in any::<bool>()) {
        let app = if scalar { &*SCALAR } else { &*JUDGE };
        if !is_stream(&body) {
            let (status, answer) = post(app, ROUTES[route], body.clone());
            sane(status, &answer, &body, ROUTES[route])?;
        }
    }

    #[test]
    fn bodies_that_are_nearly_right_are_too((route, body) in nearly(), scalar in any::<bool>()) {
        let app = if scalar { &*SCALAR } else { &*JUDGE };
        if !is_stream(&body) {
            let (status, answer) = post(app, ROUTES[route], body.clone());
            sane(status, &answer, &body, ROUTES[route])?;
        }
    }

    #[test]
    fn any_bytes_are_too(route in 0..ROUTES.len(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let (status, _, _) = raw(JUDGE.router(), "POST", ROUTES[route], &[], bytes);
        prop_assert!((200..500).contains(&status));
    }
}

#[test]
fn nothing_is_left_behind() {
    post(&JUDGE, "/v1/judge", json!({"prompt": "q", "a": "x", "b": "y"}));
    block(async {
        for _ in 0..200 {
            if JUDGE.service.load().in_flight == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{:?}", JUDGE.service.load());
    });
}
