//! Decisions on both wires.

use super::*;

#[test]
fn decisions_do_not_depend_on_each_other_or_on_names() {
    let choice = |name: &str| {
        json!({"type": "choice", "name": name, "instructions": "Which?",
        "choices": [{"value": "x", "description": "the first"}, {"value": true}]})
    };
    let predicate = json!({"type": "predicate", "instructions": "Is it so?"});
    let levels = json!([{"label": "bad"}, {"label": "fair"}, {"label": "good"}]);
    let score = json!({"type": "score", "instructions": "How good?", "levels": levels});
    let body = json!({"model": "tiny", "input": "Some text.", "questions": [choice("w"), predicate, score]});
    let said = ok(&JUDGE, "/v1/decisions", body);
    let [w, p, s] = [0, 1, 2].map(|i| &said["answers"][i]);
    let sum = |a: &Value| {
        a["probabilities"].as_array().unwrap().iter().map(|p| p["probability"].as_f64().unwrap()).sum::<f64>()
    };
    assert!((sum(w) - 1.0).abs() < 1e-9 && (sum(s) - 1.0).abs() < 1e-9);
    assert!(w["choice"] == "x" || w["choice"] == true);
    assert_eq!((&w["name"], &p["name"]), (&json!("w"), &Value::Null));
    assert!((0.0..=1.0).contains(&p["probability"].as_f64().unwrap()));
    assert!((0.0..=2.0).contains(&s["score"].as_f64().unwrap()));
    assert_eq!(w["x_confidence_kind"], "top_over_uniform");
    assert_eq!(said["usage"]["output_tokens_details"]["reasoning_tokens"], 0);
    let parts = json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Some text."}]}]);
    let alone = ok(&JUDGE, "/v1/decisions", json!({"model": "tiny", "input": parts, "questions": [choice("z")]}));
    assert_eq!(alone["answers"][0]["probabilities"], w["probabilities"]);
    let wrong = |questions: Value| json!({"model": "tiny", "input": "t", "questions": questions});
    for (body, field) in [
        (wrong(json!([])), "questions"),
        (wrong(json!([{"type": "choice", "instructions": "q", "choices": [{"value": "x"}]}])), "questions[0].choices"),
        (
            wrong(json!([{"type": "choice", "instructions": "q", "choices": [{"value": "x"}, {"value": 3}]}])),
            "questions[0].choices[1].value",
        ),
        (
            wrong(json!([{"type": "score", "instructions": "q", "levels": [{"label": "l"}, {}]}])),
            "questions[0].levels[1].label",
        ),
        (wrong(json!([["predicate", "w", "Is it so?"]])), "questions[0]"),
        (json!({"model": "tiny", "questions": []}), "input"),
        (json!({"model": "tiny", "input": "t", "questions": [choice("a")], "x_rationale": 3}), "x_rationale"),
    ] {
        refused(&JUDGE, "/v1/decisions", body, 422, field);
    }
    let many: Vec<Value> = (0..60).map(|i| json!({"value": format!("option {i}")})).collect();
    let many = json!([{"type": "choice", "instructions": "Which?", "choices": many}]);
    let said = ok(&JUDGE, "/v1/decisions", json!({"model": "tiny", "input": "t", "questions": many}));
    assert!((sum(&said["answers"][0]) - 1.0).abs() < 1e-9);
}

#[test]
fn systemone_answers_by_name() {
    let questions = json!({"with space": {"type": "noul", "instructions": "So?", "criteria": null},
        "c": {"type": "choice", "criteria": {"환불": null, "b": {"why": 1}}},
        "s": {"type": "score", "instructions": {"scale": "x"}, "criteria": ["low", {"label": "high"}]}});
    let body = json!({"model": "jev-latest", "state": {"a": [1]}, "questions": questions, "unknown": 1});
    let said = ok(&JUDGE, "/v1/systemone", body);
    let answers = said["answers"].as_object().unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["with space", "c", "s"]);
    assert!(answers["c"]["probabilities"]["환불"].is_number());
    assert_eq!(answers["s"]["legend"], json!({"0": "low", "1": {"label": "high"}}));
    let (status, wrong) = post(&JUDGE, "/v1/systemone", json!({"state": "x", "questions": {"q": {"type": "boolean"}}}));
    assert_eq!((status, &wrong["detail"][0]["loc"]), (422, &json!(["body", "questions", "q", "type"])));
    let (status, _, body) = raw(JUDGE.router(), "POST", "/v1/systemone", &[], b"{".to_vec());
    assert_eq!(status, 422, "{}", String::from_utf8_lossy(&body));
    let (status, wrong) =
        post(&JUDGE, "/v1/systemone", json!({"model": "no", "state": "x", "questions": {"q": {"type": "noul"}}}));
    assert_eq!((status, &wrong["detail"]["error_type"]), (404, &json!("not_found_error")));
}
