//! Rationales before verdicts and decisions, and adapters beside the model.

use super::*;
use crate::infer::generator;
use crate::reward::open::{AdapterPlace, Opening, Serving};
use crate::reward::rationale::{self, RationaleJudge};

#[test]
fn rationales_are_those_of_the_judge_that_reasons() {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let reasoning = rationale::prompts(JUDGE.service.texts().chat().clone(), JudgeTemplate::rationale()).unwrap();
    let settings = rationale::Settings { votes: 2, temperature: 0.75, max_tokens: 20, seed: 5, ..Default::default() };
    let shape = generator::Shape { sequences: 2, context: CONTEXT };
    let stop = JUDGE.service.sizes().stop.clone();
    let mut judge = RationaleJudge::new(&dev, &model, reasoning.clone(), settings, shape, &stop).unwrap();
    let pair = Pair { prompt: vec![Message::user("Say 1")], a: "1".into(), b: "no no".into() };
    let alone = judge.judge(&[reasoning.0.pair(&pair).unwrap()]).unwrap().remove(0);
    let how = json!({"votes": 2, "max_tokens": 20, "seed": 5});
    let body = json!({"prompt": "Say 1", "a": "1", "b": "no no", "rationale": how});
    let said = ok(&JUDGE, "/v1/judge", body);
    let row = Value::from(crate::app::cli::reasoned(&alone));
    assert_eq!(said["p"], row["p_a"]);
    for name in ["verdict", "votes", "invalid", "invalid_reasons", "rationale", "consistent", "label_mass"] {
        assert_eq!(said[name], row[name], "{name}");
    }
    assert_eq!(said["usage"]["completion_tokens"].as_u64(), Some(alone.generated_tokens as u64));
    assert_eq!(said["usage"]["prompt_tokens"].as_u64(), Some(alone.prompt_tokens as u64));
    let pairs =
        json!({"pairs": [{"prompt": "Say 1", "a": "1", "b": "no no"}], "rationale": true, "votes": 2, "seed": 5});
    let many = ok(&JUDGE, "/v1/judge", pairs);
    assert_eq!(many["judgments"][0]["votes"].as_object().unwrap().len(), 4);
    let one_order = json!({"prompt": "q", "a": "x", "b": "y", "rationale": true, "both_orders": false});
    refused(&JUDGE, "/v1/judge", one_order, 422, "both_orders");
    refused(
        &JUDGE,
        "/v1/judge",
        json!({"prompt": "q", "a": "x", "b": "y", "rationale": {"adaptive": 0.9}}),
        422,
        "rationale",
    );
    refused(&JUDGE, "/v1/rank", json!({"prompt": "q", "responses": ["x"], "rationale": true}), 422, "rationale");
    let (status, scalar) = post(&SCALAR, "/v1/judge", json!({"prompt": "q", "a": "x", "b": "y", "rationale": true}));
    assert!(status == 422 && scalar.to_string().contains("scalar"), "{scalar}");
}

#[test]
fn decisions_are_read_behind_rationales() {
    let question = json!({"type": "choice", "name": "w", "instructions": "Which?", "choices": [{"value": "x"}, {"value": "y"}, {"value": "z"}]});
    let body =
        |how: Value| json!({"model": "tiny", "input": "Some text.", "questions": [question], "x_rationale": how});
    let at_once = ok(&JUDGE, "/v1/decisions", body(json!(false)));
    let how = json!({"votes": 2, "max_tokens": 10, "seed": 3});
    let said = ok(&JUDGE, "/v1/decisions", body(how.clone()));
    let answer = &said["answers"][0];
    let p: Vec<f64> =
        answer["probabilities"].as_array().unwrap().iter().map(|p| p["probability"].as_f64().unwrap()).collect();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{answer}");
    assert_eq!((&answer["x_votes"], answer["x_rationale"].is_string()), (&json!(4), true));
    assert!(answer["x_fallback"].is_boolean());
    assert_ne!(answer["probabilities"], at_once["answers"][0]["probabilities"]);
    assert!(at_once["answers"][0].get("x_rationale").is_none());
    let usage = &said["usage"];
    assert!(usage["output_tokens"].as_u64() > Some(0));
    assert_eq!(usage["output_tokens"], usage["output_tokens_details"]["reasoning_tokens"]);
    assert_eq!(ok(&JUDGE, "/v1/decisions", body(how.clone()))["answers"], said["answers"]);
    let other = ok(&JUDGE, "/v1/decisions", body(json!({"votes": 2, "max_tokens": 10, "seed": 4})));
    assert_ne!(other["answers"], said["answers"]);
    let named = json!({"state": "Some text.", "questions": {"w": {"type": "choice", "instructions": "Which?", "criteria": {"x": null, "y": null, "z": null}}}, "x_rationale": how});
    let named = ok(&JUDGE, "/v1/systemone", named);
    assert_eq!(named["answers"]["w"]["probabilities"]["y"], answer["probabilities"][1]["probability"]);
    assert!(named["usage"]["output_tokens"].as_u64() > Some(0));
    let many: Vec<Value> = (0..40).map(|i| json!({"value": format!("option {i}")})).collect();
    let many = json!([{"type": "choice", "instructions": "Which?", "choices": many}]);
    let body = json!({"model": "tiny", "input": "t", "questions": many, "x_rationale": true});
    refused(&JUDGE, "/v1/decisions", body, 422, "questions[0]");
}

#[test]
fn adapters_are_models_by_their_names() {
    let dev = Device::cpu(1);
    let place = AdapterPlace { name: Some("kind".into()), dir: dir("lora/qwen3") };
    let opening =
        || Opening { model: dir("qwen3"), adapters: vec![place.clone()], context: Some(CONTEXT), ..Opening::default() };
    let opened = opening().open(&dev).unwrap();
    let prompts = opened.prompts(JudgeTemplate::verdict()).unwrap();
    let pair = Pair { prompt: vec![Message::user("Say 1")], a: "1".into(), b: "no no".into() };
    let encoded = prompts.pair(&pair).unwrap();
    let p = |model: &Model| {
        let shape = scorer::Shape { context: CONTEXT, pass: 1024 };
        Judge::new(&dev, model, prompts.clone(), shape).unwrap().judge(std::slice::from_ref(&encoded)).unwrap()[0].p_a
    };
    let [base, adapted] = opened.models()[..] else { panic!("a base and an adapter") };
    let (base, adapted) = (p(base), p(adapted));
    assert_ne!(base, adapted);
    let app =
        App::new(opening().open(&dev).unwrap().service(dev.clone(), Serving::default()).unwrap(), config()).unwrap();
    let asked =
        |model: Value| ok(&app, "/v1/judge", json!({"prompt": "Say 1", "a": "1", "b": "no no", "model": model}));
    for (model, p, called) in [
        (json!("tiny"), base, "tiny"),
        (Value::Null, base, "tiny"),
        (json!("kind"), adapted, "kind"),
        (json!("tiny:kind"), adapted, "kind"),
    ] {
        let said = asked(model);
        assert_eq!((said["p"].as_f64(), &said["model"]), (Some(p), &json!(called)));
    }
    let sample = json!({"query": ["Say 11"], "prompts": ["Say 1"], "labels": ["no no"]});
    assert_eq!(ok(&app, "/get_reward?model=kind", sample.clone())["rewards"], json!([adapted]));
    assert_eq!(ok(&app, "/get_reward", sample)["rewards"], json!([base]));
    let (status, unknown) = post(&app, "/v1/judge?model=x", json!({"prompt": "q", "a": "x", "b": "y"}));
    assert!(status == 404 && unknown.to_string().contains("tiny, kind"), "{unknown}");
    refused(&app, "/rerank", json!({"query": "q", "documents": ["a"], "model": "tiny:x"}), 404, "model");
    let (_, _, models) = raw(app.router(), "GET", "/v1/models", &[], Vec::new());
    assert!(String::from_utf8(models).unwrap().contains("\"kind\""));
    let clash = App::new(app.service.clone(), Config { names: vec!["kind".into()], ..config() });
    assert!(clash.err().unwrap().to_string().contains("kind"));
}
