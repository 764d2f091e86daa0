//! Bodies: any JSON, valid ones, and valid ones that were changed here and there.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

/// Names that some wire knows.
const NAMES: [&str; 56] = [
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
    "budget",
    "anchors",
    "confidence",
    "prompt_ids",
    "a_ids",
    "b_ids",
    "queries",
    "use_activation",
    "encoding_format",
    "rationale",
    "x_rationale",
    "priority",
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

pub fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 40, 5, |inner| {
        let name = prop_oneof![4 => prop::sample::select(NAMES.to_vec()).prop_map(String::from), 1 => "[a-z]{0,3}".prop_map(String::from)];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6).prop_map(|m| Value::from(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that each wire takes.
pub fn valid() -> Vec<(&'static str, Value)> {
    let message = json!([{"role": "user", "content": "q"}]);
    let output = json!([{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]);
    vec![
        ("/v1/judge", json!({"prompt": message, "a": "x", "b": "y", "both_orders": false})),
        ("/v1/judge", json!({"pairs": [{"prompt": "q", "a": "x", "b": "y"}], "priority": 1})),
        ("/v1/judge", json!({"prompt_ids": [40, 41], "a_ids": [50], "b_ids": [51, 52]})),
        (
            "/v1/judge",
            json!({"prompt": "q", "a": "x", "b": "y", "rationale": {"votes": 2, "max_tokens": 3, "seed": 1}}),
        ),
        ("/v1/rank", json!({"prompt": message, "responses": ["x", "y"], "method": "linear", "budget": 1})),
        ("/v1/rank", json!({"prompt": "q", "responses": ["x", "y", "z"], "method": "adaptive", "confidence": 0.7})),
        ("/v1/rank", json!({"prompt": "q", "responses": ["x", "y", "z"], "method": "anchor", "anchors": 1})),
        ("/get_reward", json!({"query": ["qx"], "prompts": ["q"], "labels": ["y"]})),
        ("/", json!({"prompt": "q", "response": "x", "label": "y"})),
        ("/reward", json!({"prompt": message, "response": "x", "label": {"reference": "y"}})),
        ("/reward/group", json!([{"prompt": "q", "response": "x"}, {"prompt": "q", "response": "y"}])),
        (
            "/v1/chat/completions",
            json!({"messages": message, "max_tokens": 2, "stop": ["x"], "logprobs": true, "top_logprobs": 2, "n": 1}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": message, "max_tokens": 2, "stream": true, "stream_options": {"include_usage": true}}),
        ),
        (
            "/compare",
            json!({"conversation_history": message, "response_objs": [{"output": output}, {"output": []}], "principle": "p"}),
        ),
        (
            "/v1/decisions",
            json!({"model": "tiny", "input": "t", "questions": [
            {"type": "choice", "instructions": "q", "choices": [{"value": "x"}, {"value": "y"}]},
            {"type": "predicate", "instructions": "q"}, {"type": "score", "instructions": "q", "levels": [{"label": "l"}, {"label": "m"}]}]}),
        ),
        (
            "/v1/systemone",
            json!({"state": "t", "questions": {"q": {"type": "noul"}}, "x_rationale": {"max_tokens": 3}}),
        ),
        (
            "/v1/systemone",
            json!({"state": "t", "questions": {"q": {"type": "score", "criteria": ["x", "y"]}, "r": {"type": "choice", "criteria": {"a": null, "b": "c"}}}}),
        ),
        ("/generative_scoring", json!({"query": "q", "items": ["x"], "label_token_ids": [1, 2]})),
        ("/v1/score", json!({"query": [1], "items": [[2], [3]], "label_token_ids": [1]})),
        ("/v1/score", json!({"queries": "q", "documents": ["x", "y"]})),
        ("/score", json!({"text_1": ["q", "r"], "text_2": ["x", "y"], "use_activation": false})),
        ("/rerank", json!({"query": "q", "documents": ["x", {"text": "y"}], "top_n": 1})),
        ("/v1/rerank", json!({"query": "q", "texts": ["x", "y"], "raw_scores": true})),
        ("/v2/rerank", json!({"query": "q", "documents": ["x"], "top_n": 1})),
        ("/classify", json!({"input": ["x", [3, 4]], "use_activation": false})),
        ("/pooling", json!({"messages": message})),
        ("/v1/embeddings", json!({"input": ["x"], "encoding_format": "base64"})),
    ]
}

/// What may happen to a place in a body.
#[derive(Clone, Debug)]
pub enum Change {
    Replace(Value),
    Remove,
    /// In a list once more, elsewhere as a list of two.
    Double,
    Nest,
    /// An object as the list of its values.
    Unname,
    /// What stands in another place.
    Copy(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => value().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        1 => Just(Change::Double),
        1 => Just(Change::Nest),
        1 => Just(Change::Unname),
        2 => any::<Index>().prop_map(Change::Copy),
    ]
}

/// A valid body after some changes, and its route.
pub fn nearly() -> impl Strategy<Value = (&'static str, Value)> {
    let changes = prop::collection::vec((any::<Index>(), change()), 1..4);
    (prop::sample::select(valid()), changes).prop_map(|((route, mut body), changes)| {
        for (place, change) in changes {
            let places = places(&body);
            apply(&mut body, &places, place.index(places.len()), change);
        }
        (route, body)
    })
}

fn apply(body: &mut Value, places: &[String], at: usize, change: Change) {
    let place = &places[at];
    let present = body.pointer(place).expect("it was listed").clone();
    let new = match change {
        Change::Replace(new) => new,
        Change::Copy(from) => body.pointer(&places[from.index(places.len())]).expect("it was listed").clone(),
        Change::Nest => json!({ "text": present }),
        Change::Unname => match present {
            Value::Object(map) => map.into_values().collect(),
            other => json!([other]),
        },
        Change::Double => json!([present, present]),
        Change::Remove => {
            let Some((parent, name)) = place.rsplit_once('/') else { return };
            match body.pointer_mut(parent).expect("it was listed") {
                Value::Object(map) => drop(map.shift_remove(name)),
                Value::Array(list) => drop(list.remove(name.parse().expect("it is an index"))),
                _ => {}
            }
            return;
        }
    };
    *body.pointer_mut(place).expect("it was listed") = new;
}

/// Every place in a value whose names need no escapes, as JSON pointers.
fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Value::Object(map) => {
            map.iter().filter(|(k, _)| !k.contains(['/', '~'])).map(|(k, v)| (k.clone(), v)).collect()
        }
        _ => Vec::new(),
    };
    let below = children.iter().flat_map(|(name, v)| places(v).into_iter().map(move |p| format!("/{name}{p}")));
    std::iter::once(String::new()).chain(below).collect()
}
