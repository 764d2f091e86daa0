//! Requests as trainers and their libraries send them, written by hand from their sources and documents (`tests/wires/*.json`): they are
//! replayed, and the answers must have the shapes that those programs read.
//!
//! In a shape `<number>`, `<probability>`, `<whole>`, `<text>`, `<bool>` and `<any>` stand for values, an object with the single name `*`
//! for any names with such values, and everything else for itself; an answer may say more than its shape.

use super::*;

fn fits(shape: &Value, value: &Value) -> Result<(), String> {
    let wrong = || Err(format!("{value} is not {shape}"));
    let check = |fits: bool| if fits { Ok(()) } else { wrong() };
    match shape {
        Value::String(name) if name.starts_with('<') && name.ends_with('>') => match name.as_str() {
            "<number>" => check(value.is_number()),
            "<probability>" => check(value.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))),
            "<whole>" => check(value.is_u64()),
            "<text>" => check(value.is_string()),
            "<bool>" => check(value.is_boolean()),
            "<any>" => check(!value.is_null()),
            other => Err(format!("{other} is no shape")),
        },
        Value::Array(shapes) => match value.as_array() {
            Some(values) if values.len() == shapes.len() => {
                shapes.iter().zip(values).try_for_each(|(shape, value)| fits(shape, value))
            }
            _ => wrong(),
        },
        Value::Object(shapes) => {
            let Some(map) = value.as_object() else { return wrong() };
            if let (1, Some(each)) = (shapes.len(), shapes.get("*")) {
                return map.values().try_for_each(|value| fits(each, value));
            }
            shapes.iter().try_for_each(|(name, shape)| match map.get(name) {
                Some(value) => fits(shape, value).map_err(|e| format!("{name}: {e}")),
                None => Err(format!("{name} is missing in {value}")),
            })
        }
        literal => check(literal == value),
    }
}

fn recordings() -> Vec<(String, Value)> {
    let root = dir("..").join("wires");
    let files = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap().replace("$MODEL", "tiny");
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path.file_stem().unwrap().to_string_lossy().into_owned(), value)
    };
    files.map(read).collect()
}

#[test]
fn recorded_clients_get_what_they_read() {
    let all = recordings();
    for wanted in ["ms_swift", "nemo_gym", "openrlhf", "skyrl", "slime", "verifiers", "verl"] {
        assert!(all.iter().any(|(name, _)| name == wanted), "{wanted} is missing");
    }
    for (name, recording) in all {
        let exchanges = recording["exchanges"].as_array().unwrap();
        assert!(!exchanges.is_empty() && recording["source"].is_string(), "{name}");
        for (i, exchange) in exchanges.iter().enumerate() {
            let app = match exchange["model"].as_str() {
                Some("judge") => &*JUDGE,
                Some("scalar") => &*SCALAR,
                other => panic!("{name} {i}: {other:?}"),
            };
            let method = exchange["method"].as_str().unwrap_or("POST");
            let body = exchange["request"].to_string().into_bytes();
            let route = exchange["route"].as_str().unwrap();
            let (status, _, bytes) = raw(app.router(), method, route, &[("content-type", "application/json")], body);
            let text = String::from_utf8_lossy(&bytes);
            assert_eq!(json!(status), exchange["status"], "{name} {i}: {text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            if let Err(why) = fits(&exchange["answer"], &answer) {
                panic!("{name} {i}: {why}");
            }
        }
    }
}

#[test]
fn shapes_tell_what_does_not_fit() {
    for (shape, value) in [
        (json!("<number>"), json!("1")),
        (json!("<probability>"), json!(1.5)),
        (json!(["<whole>"]), json!([1, 2])),
        (json!({"a": "<text>"}), json!({"b": "x"})),
        (json!({"*": ["<number>"]}), json!({"x": ["a"]})),
        (json!({"a": null}), json!({"a": 1})),
        (json!("<unknown>"), json!(1)),
    ] {
        assert!(fits(&shape, &value).is_err(), "{shape} {value}");
    }
    assert!(fits(&json!({"a": ["<any>"], "b": "x"}), &json!({"a": [[]], "b": "x", "c": 1})).is_ok());
}
