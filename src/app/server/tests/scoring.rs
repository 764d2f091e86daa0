//! Label tokens, relevance, rewards of scalar models.

use super::*;

#[test]
fn label_tokens_are_scored_as_vllm_and_sglang_do() {
    let tokenizer = JUDGE.tokenizer();
    let (a, b) = (tokenizer.token_id("A").unwrap(), tokenizer.token_id("B").unwrap());
    let ids = tokenizer.encode("one two").unwrap();
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass: 512 }).unwrap();
    let v = scorer.verdicts(std::slice::from_ref(&ids), [a, b]).unwrap()[0];
    let p = 1.0 / (1.0 + (-(v.margin() as f64)).exp());
    let body = json!({"query": "one", "items": [" two", ids], "label_token_ids": [a, b], "model": "tiny"});
    let said = ok(&JUDGE, "/generative_scoring", body.clone());
    assert!((said["data"][0]["score"].as_f64().unwrap() - p).abs() < 1e-9);
    assert_eq!((&said["object"], &said["data"][1]["index"]), (&json!("list"), &json!(1)));
    let said = ok(&JUDGE, "/v1/score", body);
    let pair: Vec<f64> = said["scores"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert!((pair[0] + pair[1] - v.label_mass() as f64).abs() < 1e-6);
    assert_eq!(said["object"], "scoring");
    refused(&JUDGE, "/generative_scoring", json!({"query": "a", "items": ["b"]}), 422, "label_token_ids");
    refused(
        &JUDGE,
        "/v1/score",
        json!({"query": "a", "items": ["b"], "label_token_ids": [1, 99999999]}),
        422,
        "label_token_ids[1]",
    );
    refused(&JUDGE, "/v1/score", json!({"query": "a", "items": [3.5], "label_token_ids": [1]}), 422, "items");
    refused(&SCALAR, "/v1/score", json!({"query": "a", "items": ["b"], "label_token_ids": [1]}), 422, "model");
}

#[test]
fn rerank_speaks_both_shapes() {
    let body = json!({"query": "Which?", "documents": ["a", {"text": "b b"}, "c c c"], "top_n": 2});
    let said = ok(&JUDGE, "/v2/rerank", body);
    let results = said["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert!(results[0]["relevance_score"].as_f64() >= results[1]["relevance_score"].as_f64());
    let index = results[0]["index"].as_u64().unwrap() as usize;
    assert_eq!(results[0]["document"]["text"], ["a", "b b", "c c c"][index]);
    let bare = ok(&JUDGE, "/rerank", json!({"query": "Which?", "texts": ["a", "b b", "c c c"], "return_text": true}));
    assert_eq!((&bare[0]["index"], &bare[0]["score"]), (&results[0]["index"], &results[0]["relevance_score"]));
    assert_eq!(bare[0]["text"], results[0]["document"]["text"]);
    refused(&JUDGE, "/rerank", json!({"query": "q"}), 422, "documents");
    refused(&JUDGE, "/rerank", json!({"query": "q", "documents": ["a", 3]}), 422, "documents[1]");
    refused(
        &JUDGE,
        "/rerank",
        json!({"query": "q", "documents": ["a"], "max_tokens_per_doc": 5}),
        422,
        "max_tokens_per_doc",
    );
    let r = rewards(&[("Which?", "a"), ("Which?", "b b")]);
    let raw = ok(&SCALAR, "/rerank", json!({"query": "Which?", "texts": ["a", "b b"], "raw_scores": true}));
    assert_eq!(raw[0]["score"].as_f64(), Some(r[0].max(r[1]) as f64));
}

#[test]
fn classify_gives_rewards_of_scalar_models() {
    let chat = SCALAR.service.texts().chat();
    let messages = [Message::user("Say 1"), Message::assistant("1")];
    let rendered = chat.render(&messages, Ending::Closed).unwrap().text;
    let r = rewards(&[("Say 1", "1")])[0];
    let said = ok(&SCALAR, "/classify", json!({"input": [rendered], "use_activation": false}));
    assert_eq!(said["data"][0]["probs"][0].as_f64().unwrap() as f32, r);
    let body = json!({"messages": [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "1"}]});
    let said = ok(&SCALAR, "/classify", body);
    assert!((said["data"][0]["probs"][0].as_f64().unwrap() - 1.0 / (1.0 + (-r as f64).exp())).abs() < 1e-12);
    refused(&JUDGE, "/classify", json!({"input": "x"}), 422, "model");
    refused(&SCALAR, "/classify", json!({}), 422, "input");
    let ids = SCALAR.tokenizer().encode("some text").unwrap();
    let by_ids = ok(&SCALAR, "/classify", json!({"input": [ids.clone(), ids], "use_activation": false}));
    let by_text = ok(&SCALAR, "/classify", json!({"input": "some text", "activation": false}));
    assert_eq!(by_ids["data"][1]["probs"], by_text["data"][0]["probs"]);
    refused(&SCALAR, "/classify", json!({"input": "x", "truncate_prompt_tokens": 3}), 422, "truncate_prompt_tokens");
}

#[test]
fn rewards_are_pooled_and_embedded() {
    let chat = SCALAR.service.texts().chat();
    let messages = [Message::user("Say 1"), Message::assistant("1")];
    let rendered = chat.render(&messages, Ending::Closed).unwrap().text;
    let r = rewards(&[("Say 1", "1")])[0];
    let said = ok(&SCALAR, "/v1/embeddings", json!({"model": "tiny", "input": rendered}));
    assert_eq!(said["data"][0]["embedding"][0].as_f64().unwrap() as f32, r);
    assert_eq!((&said["object"], &said["data"][0]["object"]), (&json!("list"), &json!("embedding")));
    let packed = ok(&SCALAR, "/v1/embeddings", json!({"input": [rendered], "encoding_format": "base64"}));
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 8);
    let pooled = ok(&SCALAR, "/pooling", json!({"input": [rendered, "other"]}));
    assert_eq!(pooled["data"][0]["data"][0].as_f64().unwrap() as f32, r);
    let squashed = ok(&SCALAR, "/pooling", json!({"input": rendered, "use_activation": true}));
    assert_eq!(squashed["data"][0]["data"][0].as_f64(), Some(1.0 / (1.0 + (-r as f64).exp())));
    for (body, field) in [
        (json!({}), "input"),
        (json!({"input": "x", "dimensions": 2}), "dimensions"),
        (json!({"input": "x", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": [[1, 99_999]]}), "input[0]"),
        (json!({"input": [{"a": 1}]}), "input[0]"),
    ] {
        refused(&SCALAR, "/v1/embeddings", body, 422, field);
    }
    refused(&JUDGE, "/v1/embeddings", json!({"input": "x"}), 422, "model");
    refused(&JUDGE, "/pooling", json!({"input": "x"}), 422, "model");
}

#[test]
fn documents_are_scored_in_the_order_they_came() {
    let ranked = ok(&JUDGE, "/v1/rank", json!({"prompt": "Which?", "responses": ["a", "b b", "c c c"]}));
    for (route, query, documents) in [
        ("/v1/score", "queries", "documents"),
        ("/score", "text_1", "text_2"),
        ("/score", "data_1", "data_2"),
        ("/v1/score", "queries", "items"),
    ] {
        let said = ok(&JUDGE, route, json!({"model": "tiny", query: "Which?", documents: ["a", "b b", "c c c"]}));
        let scores: Vec<&Value> = said["data"].as_array().unwrap().iter().map(|d| &d["score"]).collect();
        assert_eq!(json!(scores), ranked["rewards"], "{query}");
        assert_eq!(said["data"][2]["index"], 2);
    }
    let r = rewards(&[("Which?", "a"), ("Who?", "b b")]);
    let said = ok(
        &SCALAR,
        "/score",
        json!({"queries": ["Which?", "Who?"], "documents": ["a", "b b"], "use_activation": false}),
    );
    assert_eq!(said["data"][1]["score"].as_f64().unwrap() as f32, r[1]);
    let one = ok(&SCALAR, "/score", json!({"queries": "Which?", "documents": "a"}));
    assert_eq!(one["data"][0]["score"].as_f64(), Some(1.0 / (1.0 + (-r[0] as f64).exp())));
    for (body, field) in [
        (json!({"queries": "a"}), "documents"),
        (json!({"documents": ["a", "b"]}), "queries"),
        (json!({"queries": ["a", "b"], "documents": ["a", "b"]}), "documents"),
        (json!({"queries": "a", "documents": "b"}), "documents"),
        (json!({"queries": ["a", "b"], "documents": ["a", "b", "c"]}), "queries"),
        (json!({"queries": [], "documents": []}), "documents"),
    ] {
        refused(&JUDGE, "/v1/score", body, 422, field);
    }
}
