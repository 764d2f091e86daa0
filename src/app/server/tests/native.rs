//! The wires of our own.

use super::*;

#[test]
fn judge_says_all_it_knows_of_a_pair() {
    let j = alone(&[("Say 1", "1", "no no")])[0];
    let said = ok(&JUDGE, "/v1/judge", json!({"prompt": "Say 1", "a": "1", "b": "no no", "model": "tiny"}));
    assert_eq!(said["p"].as_f64(), Some(j.p_a));
    assert_eq!(said["margin_ab"].as_f64().unwrap() as f32, j.margin_ab);
    assert_eq!(said["margin_ba"].as_f64().unwrap() as f32, j.margin_ba);
    assert_eq!((said["verdict"].as_str(), said["consistent"].as_bool()), (Some(j.verdict.name()), Some(j.consistent)));
    assert_eq!(said["label_mass"].as_f64(), Some(j.label_mass));
    assert!((0.5 * (said["p_ab"].as_f64().unwrap() + said["p_ba"].as_f64().unwrap()) - j.p_a).abs() < 1e-12);
    assert_eq!((said["weight_version"].as_str(), said["model"].as_str()), (Some("v0"), Some("tiny")));
    assert!(said["usage"]["prompt_tokens"].as_u64().unwrap() > 100);

    let pairs = json!({"pairs": [{"prompt": [{"role": "user", "content": "Say 1"}], "a": "1", "b": "no no"},
                                 {"prompt": "Say 1", "response_a": "no no", "response_b": "1"}]});
    let both = ok(&JUDGE, "/v1/judge", pairs);
    assert_eq!(both["judgments"][0]["p"], said["p"]);
    assert_eq!(both["judgments"][1]["margin_ab"], said["margin_ba"]);
    // The names in the rows of `gramophone judge` mean the same.
    let row = json!({"prompt": "Say 1", "response_a": "1", "response_b": "no no"});
    assert_eq!(ok(&JUDGE, "/v1/judge", row)["p"], said["p"]);
    let one = ok(&JUDGE, "/v1/judge", json!({"prompt": "Say 1", "a": "1", "b": "no no", "both_orders": false}));
    assert_eq!((&one["p"], one.get("p_ba")), (&said["p_ab"], None));
}

#[test]
fn judge_names_what_is_wrong() {
    let base = json!({"prompt": "q", "a": "x", "b": "y"});
    let with = |name: &str, value: Value| {
        let mut body = base.clone();
        body[name] = value;
        body
    };
    for (body, status, field) in [
        (json!({}), 422, "prompt"),
        (json!({"prompt": "q", "a": "x"}), 422, "b"),
        (with("a", json!(3)), 422, "a"),
        (with("prompt", json!([])), 422, "prompt"),
        (with("prompt", json!([{"role": "user"}, 3])), 422, "prompt"),
        (with("pairs", json!([])), 422, "pairs"),
        (json!({"pairs": [{"prompt": "q", "a": "x", "b": "y"}, {"prompt": "q", "a": "x"}]}), 422, "pairs[1].b"),
        (json!({"pairs": [{"prompt": 7, "a": "x", "b": "y"}]}), 422, "pairs[0].prompt"),
        (with("rationale", json!(3)), 422, "rationale"),
        (with("rationale", json!({"votes": "x"})), 422, "rationale.votes"),
        (with("rationale", json!({"votes": 2, "temperature": 0.0})), 422, "rationale"),
        (with("votes", json!(3)), 422, "votes"),
        (with("model", json!("gpt")), 404, "model"),
        (with("timeout_s", json!(-1)), 422, "timeout_s"),
        (json!({"pairs": vec![base.clone(); 101]}), 413, "pairs"),
        (json!([1]), 422, ""),
    ] {
        let shown = body.to_string();
        let (got, answer) = post(&JUDGE, "/v1/judge", body);
        let param = answer["error"]["param"].as_str().unwrap_or("");
        assert!(got == status && (param == field || field.is_empty()), "{shown}: {got} {answer}");
    }
    let long = refused(&JUDGE, "/v1/judge", with("a", json!("long ".repeat(9000))), 422, "");
    assert_eq!(
        (long["error"]["code"].as_str(), long["error"]["max_tokens"].as_u64()),
        (Some("too_long"), Some(CONTEXT as u64))
    );
    assert!(long["error"]["tokens"].as_u64().unwrap() > CONTEXT as u64);
}

#[test]
fn rank_orders_and_shows_the_comparisons() {
    let said = ok(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": ["a", "b b", "c c c"]}));
    let j = alone(&[("Which?", "a", "b b"), ("Which?", "a", "c c c"), ("Which?", "b b", "c c c")]);
    assert_eq!(said["wins"][0][1].as_f64(), Some(j[0].p_a));
    assert_eq!(said["wins"][2][0].as_f64(), Some(1.0 - j[1].p_a));
    assert!(said["wins"][1][1].is_null());
    assert_eq!(said["rewards"][0].as_f64(), Some((j[0].p_a + j[1].p_a) / 2.0));
    assert_eq!((said["comparisons"].as_u64(), said["ranking"].as_array().unwrap().len()), (Some(3), 3));
    for method in ["linear", "knockout", "swiss", "anchor", "adaptive", "round-robin"] {
        let said = ok(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": ["a", "b b"], "method": method}));
        assert_eq!(said["wins"][0][1].as_f64(), Some(j[0].p_a), "{method}");
    }
    refused(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": []}), 422, "responses");
    refused(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": ["a"], "method": "best"}), 422, "method");
    refused(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": ["a", 1]}), 422, "responses[1]");

    let r = rewards(&[("Which?", "a"), ("Which?", "b b")]);
    let said = ok(&SCALAR, "/v1/rank", json!({"prompt": "Which?", "responses": ["a", "b b"]}));
    assert_eq!(said["rewards"], json!([r[0] as f64, r[1] as f64]));
}

#[test]
fn token_ids_are_judged_as_their_texts_are() {
    let tokenizer = JUDGE.tokenizer();
    let ids = |text: &str| tokenizer.ids(text, crate::text::tokenizer::Parse::All).unwrap();
    let text = ok(&JUDGE, "/v1/judge", json!({"prompt": "Say 1", "a": "1", "b": "no no"}));
    let rendered = ids("<|im_start|>user\nSay 1<|im_end|>\n<|im_start|>assistant\n");
    let body = json!({"prompt_ids": rendered, "a_ids": ids("1<|im_end|>"), "b_ids": ids("no no")});
    assert_eq!(ok(&JUDGE, "/v1/judge", body.clone()), text);
    let mixed = json!({"pairs": [{"prompt": "Say 1", "a": "1", "b_ids": ids("no no")}, body]});
    let both = ok(&JUDGE, "/v1/judge", mixed);
    assert_eq!((&both["judgments"][0]["p"], &both["judgments"][1]["p"]), (&text["p"], &text["p"]));
    for (body, field) in [
        (json!({"prompt": "q", "a": "x", "a_ids": [1], "b": "y"}), "a"),
        (json!({"prompt": "q", "prompt_ids": [1], "a": "x", "b": "y"}), "prompt"),
        (json!({"prompt": "q", "a": "x", "b_ids": [1, 99_999]}), "b_ids[1]"),
        (json!({"prompt": "q", "a": "x", "b_ids": [-1]}), "b_ids[0]"),
        (json!({"prompt": "q", "a": "x", "b_ids": [0.5]}), "b_ids[0]"),
        (json!({"pairs": [], "a_ids": [1]}), "pairs"),
        (json!({"pairs": [{"prompt": "q", "a_ids": [70_000], "b": "y"}]}), "pairs[0].a_ids[0]"),
    ] {
        refused(&JUDGE, "/v1/judge", body, 422, field);
    }
}

#[test]
fn rank_says_what_the_command_line_says() {
    let responses: Vec<String> = (0..6).map(|i| "word ".repeat(i + 1)).collect();
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let Texts::Pairwise(prompts) = JUDGE.service.texts().clone() else { panic!("a judge") };
    let mut judge = Judge::new(&dev, &model, prompts, scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap();
    let group = crate::reward::group::Group { prompt: vec![Message::user("Which?")], responses: responses.clone() };
    for (more, method, budget) in [
        (json!({}), Method::RoundRobin, None),
        (json!({"budget": 4}), Method::RoundRobin, Some(4)),
        (json!({"method": "swiss", "budget": 7}), Method::Swiss, Some(7)),
        (json!({"method": "anchor", "anchors": 1}), Method::Anchor { anchors: 1 }, None),
        (json!({"method": "adaptive", "confidence": 0.6}), Method::Adaptive { confidence: 0.6 }, None),
    ] {
        let mut body = json!({"prompt": "Which?", "responses": responses});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let said = ok(&JUDGE, "/v1/rank", body);
        let alone = judge.rank_groups(&[&group], Rules::new(method, budget).unwrap()).unwrap().remove(0);
        let row = Value::from(crate::app::cli::ranking(&alone));
        assert_eq!((&said["ranking"], &said["rewards"]), (&row["order"], &json!(alone.scores)), "{more}");
        for name in ["comparisons", "saved", "stopped", "confidence", "bt", "ties", "cycles"] {
            assert!(!row[name].is_null() && said[name] == row[name], "{more} {name}: {said}");
        }
    }
    let wrong = |more: Value| {
        let mut body = json!({"prompt": "Which?", "responses": ["a", "b"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, field) in [
        (json!({"budget": 0}), "budget"),
        (json!({"budget": -1}), "budget"),
        (json!({"anchors": 2}), "anchors"),
        (json!({"method": "anchor", "anchors": 0}), "anchors"),
        (json!({"confidence": 0.9}), "confidence"),
        (json!({"method": "adaptive", "confidence": 1.0}), "confidence"),
    ] {
        refused(&JUDGE, "/v1/rank", wrong(more), 422, field);
    }
}
