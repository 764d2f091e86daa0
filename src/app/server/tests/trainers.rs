//! OpenRLHF, slime and NeMo-Gym.

use super::*;

const RENDERED: &str = "<|im_start|>user\nSay 1<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn openrlhf_gets_numbers_alone() {
    let empty = json!({"query": [], "prompts": [], "labels": []});
    assert_eq!(ok(&JUDGE, "/get_reward", empty), json!({"rewards": [], "scores": [], "extra_logs": {}}));
    let j = alone(&[("Say 1", "1", "no no")])[0];
    let sample =
        |label: Value| json!({"query": [format!("{RENDERED}1<|im_end|>\n")], "prompts": [RENDERED], "labels": [label]});
    let said = ok(&JUDGE, "/get_reward", sample(json!("no no")));
    assert_eq!((&said["rewards"], &said["scores"]), (&json!([j.p_a]), &json!([j.p_a])));
    for (name, values) in said["extra_logs"].as_object().unwrap() {
        assert!(values.as_array().unwrap().iter().all(Value::is_number), "{name}: {values}");
    }
    assert_eq!(said["extra_logs"]["invalid"], json!([0.0]));
    // One sample that cannot be judged costs the trainer nothing but a count.
    let long = ok(&JUDGE, "/get_reward", sample(json!("long ".repeat(9000))));
    assert_eq!((&long["rewards"], &long["extra_logs"]["invalid"]), (&json!([0.5]), &json!([1.0])));
    // A trainer without references is told so.
    refused(&JUDGE, "/get_reward", sample(Value::Null), 422, "labels[0]");
    refused(&JUDGE, "/get_reward", json!({"query": ["a", "b"], "prompts": ["a"]}), 422, "prompts");
    refused(&JUDGE, "/get_reward", json!({"query": "a", "prompts": ["a"]}), 422, "query");
    let r = rewards(&[("Say 1", "1")])[0];
    let said = ok(&SCALAR, "/get_reward", sample(Value::Null));
    assert_eq!(said["rewards"][0].as_f64().unwrap() as f32, r);
}

#[test]
fn slime_gets_a_bare_number() {
    let j = alone(&[("Say 1", "1", "no no")])[0];
    let body = json!({"prompt": RENDERED, "response": "1<|im_end|>", "label": "no no"});
    for route in ["/", "/reward"] {
        assert_eq!(ok(&JUDGE, route, body.clone()), json!(j.p_a));
    }
    let keyed = ok(&JUDGE, "/reward?key=score", body);
    assert_eq!((&keyed["score"], &keyed["weight_version"]), (&json!(j.p_a), &json!("v0")));
    let messages = json!([{"role": "user", "content": "Say 1"}]);
    let group = json!([{"prompt": messages, "response": "1"}, {"prompt": messages, "response": "no no", "label": 3}]);
    assert_eq!(ok(&JUDGE, "/reward/group", group), json!([j.p_a, 1.0 - j.p_a]));
    assert_eq!(ok(&JUDGE, "/reward/group", json!([])), json!([]));
    let other = json!([{"prompt": "a", "response": "1"}, {"prompt": "b", "response": "1"}]);
    refused(&JUDGE, "/reward/group", other, 422, "[1].prompt");
    refused(&JUDGE, "/reward", json!({"prompt": "a", "response": "b"}), 422, "label");
    let r = rewards(&[("Say 1", "1")])[0];
    assert_eq!(ok(&SCALAR, "/", json!({"prompt": RENDERED, "response": "1"})).as_f64().unwrap() as f32, r);
}

#[test]
fn compare_scores_rollouts_from_one_to_five() {
    let said = |text: &str| {
        json!({"output": [{"type": "reasoning", "summary": [{"text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": text}]}]})
    };
    let history = json!([{"role": "user", "content": "Say 1"}]);
    let body = json!({"conversation_history": history, "response_objs": [said("1"), said("no no")], "principle": ""});
    let answer = ok(&JUDGE, "/compare", body);
    let j = alone(&[("Say 1", "1", "no no"), ("Say 1", "no no", "1")]);
    let first = &answer["comparison_results"][0];
    assert_eq!(first["score_1"].as_f64(), Some(1.0 + 4.0 * j[0].p_a));
    assert_eq!(first["ranking"].as_f64(), Some(6.0 - 5.0 * j[0].p_a));
    assert_eq!(answer["comparison_results"].as_array().unwrap().len(), 2);
    let reward = (1.0 + 4.0 * j[0].p_a + 1.0 + 4.0 * (1.0 - j[1].p_a)) / 2.0;
    assert!((answer["rewards"][0].as_f64().unwrap() - reward).abs() < 1e-12);
    assert!(answer["metrics"]["std_individual_score"].is_number());
    let none = ok(&JUDGE, "/compare", json!({"conversation_history": [], "response_objs": []}));
    assert_eq!(none["rewards"], json!([]));
    let wrong = json!({"conversation_history": history, "response_objs": [said("1"), {"output": 3}]});
    refused(&JUDGE, "/compare", wrong, 422, "response_objs[1].output");
}

#[test]
fn references_come_from_the_servers_file_where_no_label_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("references.jsonl");
    std::fs::write(&file, "{\"prompt\": \"Say 1\", \"reference\": \"no no\"}\n").unwrap();
    let references = References::open(file.to_str().unwrap()).unwrap();
    let app = app("qwen3", Config { references: Some(Arc::new(references)), ..config() }, 1 << 22);
    let j = alone(&[("Say 1", "1", "no no"), ("Say 1", "1", "other")]);
    let sample = |label: Value| json!({"query": [format!("{RENDERED}1")], "prompts": [RENDERED], "labels": [label]});
    for label in [Value::Null, json!(17)] {
        assert_eq!(ok(&app, "/get_reward", sample(label))["rewards"], json!([j[0].p_a]));
    }
    assert_eq!(ok(&app, "/get_reward", sample(json!("other")))["rewards"], json!([j[1].p_a]));
    assert_eq!(ok(&app, "/reward", json!({"prompt": RENDERED, "response": "1"})), json!(j[0].p_a));
    let unknown = refused(&app, "/reward", json!({"prompt": "Say 2", "response": "1"}), 422, "label");
    assert!(unknown["error"]["message"].as_str().unwrap().contains("references.jsonl"), "{unknown}");
}
