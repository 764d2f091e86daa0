//! Every wire against the router in this process, with a tiny model: what is answered, to the bit, and what is refused.

mod fuzz;

use super::*;
use crate::device::Device;
use crate::infer::generator::{Generator, Request, Settings, Shape};
use crate::infer::scorer::{self, Scorer};
use crate::model::Model;
use crate::model::config::HeadKind;
use crate::reward::judge::{Judge, Judgment, Prompts, conversation};
use crate::reward::service::{Setup, Sizes};
use crate::text::chat::Chat;
use crate::text::template::JudgeTemplate;
use axum::body::Body;
use axum::http::{HeaderMap, Request as HttpRequest};
use http_body_util::BodyExt;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tower::ServiceExt;

fn dir(case: &str) -> PathBuf {
    let root = std::env::var_os("GRAMOPHONE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden").join(case)
}

fn open(dir: &Path) -> crate::Result<Model> {
    Model::open(dir, |stored| stored)
}

const CONTEXT: usize = 2048;

fn config() -> Config {
    Config {
        names: vec!["tiny".into()],
        keys: Keys::default(),
        limits: Limits { body: 1 << 20, receive: Duration::from_secs(5), items: 100, depth: 32 },
        timeouts: Timeouts {
            default: Duration::from_secs(60),
            openrlhf: Duration::from_secs(60),
            slime: Duration::from_secs(60),
        },
        overload: StatusCode::SERVICE_UNAVAILABLE,
        compare: Strategy::Circular,
        method: Method::RoundRobin,
        references: None,
        queue_timeout: None,
        max_tokens: 8,
        log: false,
        log_content: false,
    }
}

fn app(case: &str, config: Config, queue: usize) -> App {
    let model = open(&dir(case)).unwrap();
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir(case)).unwrap())).unwrap();
    let mut stop = model.config.eos.clone();
    stop.extend(chat.tokenizer().stop());
    let texts = match model.config.head {
        HeadKind::Scalar => Texts::Scalar(chat),
        HeadKind::LanguageModel => Texts::Pairwise(Prompts::new(chat, JudgeTemplate::verdict()).unwrap()),
    };
    let sizes = Sizes { context: CONTEXT, pass: 1024, sequences: 4, queue, stop };
    let (dev, dir, version) = (Device::cpu(1), dir(case), "v0".to_string());
    let setup = Setup { dev, model, texts, sizes, loader: Box::new(open), dir, version };
    App::new(Service::start(setup).unwrap(), config).unwrap()
}

static JUDGE: LazyLock<App> = LazyLock::new(|| app("qwen3", config(), 1 << 22));
static SCALAR: LazyLock<App> = LazyLock::new(|| app("qwen3_scalar", config(), 1 << 22));

/// A runtime for one request; the service is shared between them.
fn block<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn raw(
    router: Router,
    method: &str,
    route: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = HttpRequest::builder().method(method).uri(route);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    block(async {
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    })
}

fn post(app: &App, route: &str, body: Value) -> (u16, Value) {
    let (status, _, bytes) = raw(app.router(), "POST", route, &[], body.to_string().into_bytes());
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&bytes))))
}

fn ok(app: &App, route: &str, body: Value) -> Value {
    let (status, answer) = post(app, route, body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Must be refused with this status, about this field.
fn refused(app: &App, route: &str, body: Value, status: u16, field: &str) -> Value {
    let (got, answer) = post(app, route, body);
    assert_eq!((got, answer["error"]["param"].as_str().unwrap_or("")), (status, field), "{answer}");
    answer
}

/// The judge by itself.
fn alone(pairs: &[(&str, &str, &str)]) -> Vec<Judgment> {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let Texts::Pairwise(prompts) = JUDGE.service.texts().clone() else { panic!("a judge") };
    let encode = |(q, a, b): &(&str, &str, &str)| {
        let pair = Pair { prompt: vec![Message::user(*q)], a: a.to_string(), b: b.to_string() };
        prompts.pair(&pair).unwrap()
    };
    let pairs: Vec<_> = pairs.iter().map(encode).collect();
    let mut judge = Judge::new(&dev, &model, prompts.clone(), scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap();
    judge.judge(&pairs).unwrap()
}

fn rewards(conversations: &[(&str, &str)]) -> Vec<f32> {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3_scalar")).unwrap());
    let chat = SCALAR.service.texts().chat();
    let ids = |(q, r): &(&str, &str)| conversation(chat, &[Message::user(*q)], r).unwrap();
    let all: Vec<Vec<i32>> = conversations.iter().map(ids).collect();
    Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap().rewards(&all).unwrap()
}

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
                                 {"prompt": "Say 1", "a": "no no", "b": "1"}]});
    let both = ok(&JUDGE, "/v1/judge", pairs);
    assert_eq!(both["judgments"][0]["p"], said["p"]);
    assert_eq!(both["judgments"][1]["margin_ab"], said["margin_ba"]);
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
        (with("rationale", json!(true)), 422, "rationale"),
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
    refused(&JUDGE, "/v1/score", json!({"query": "a", "items": ["b"]}), 422, "label_token_ids");
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
}

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
        (json!({"model": "tiny", "questions": []}), "input"),
        (json!({"model": "tiny", "input": "t", "questions": [choice("a")], "x_rationale": true}), "x_rationale"),
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

#[test]
fn bodies_have_limits() {
    let send = |body: Vec<u8>| {
        let (status, _, bytes) = raw(JUDGE.router(), "POST", "/v1/judge", &[], body);
        (status, serde_json::from_slice::<Value>(&bytes).unwrap()["error"]["code"].as_str().unwrap().to_string())
    };
    assert_eq!(send(vec![b' '; (1 << 20) + 1]), (413, "body_too_large".into()));
    assert_eq!(send("[".repeat(100_000).into_bytes()), (400, "invalid_json".into()));
    assert_eq!(send(b"{\"prompt\": \"\xff\"}".to_vec()), (400, "invalid_json".into()));
    assert_eq!(send(Vec::new()), (400, "invalid_json".into()));
    let (status, _) = post(&JUDGE, "/nowhere", json!({}));
    assert_eq!(status, 404);
    assert_eq!(raw(JUDGE.router(), "GET", "/v1/judge", &[], Vec::new()).0, 405);
    // Control is on another listener.
    assert_eq!(post(&JUDGE, "/sleep", json!({})).0, 404);
}

#[test]
fn keys_open_everything_but_probes() {
    let locked = app("qwen3", Config { keys: Keys::new(["k"]), ..config() }, 1 << 20);
    let get = |route: &str, headers: &[(&str, &str)]| raw(locked.router(), "GET", route, headers, Vec::new());
    for route in ["/health", "/ready", "/ping", "/startup"] {
        assert_eq!(get(route, &[]).0, 200, "{route}");
    }
    for route in ["/", "/metrics", "/version", "/v1/models", "/openapi.json", "/status.json", "/nowhere"] {
        assert_eq!(get(route, &[]).0, 401, "{route}");
        assert_eq!(get(route, &[("authorization", "Bearer no")]).0, 401, "{route}");
        let open = get(route, &[("authorization", "Bearer k")]).0;
        assert_eq!(open, if route == "/nowhere" { 404 } else { 200 }, "{route}");
    }
    assert!(get("/", &[]).1["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    let (status, _, _) = raw(locked.admin_router(), "POST", "/sleep", &[], Vec::new());
    assert_eq!(status, 401);
    assert!(!locked.service.load().asleep);
    let (status, said) = post(&locked, "/v1/systemone", json!({}));
    assert_eq!((status, &said["detail"]["error_type"]), (401, &json!("authentication_error")));
}

#[test]
fn every_answer_names_its_request_and_its_weights() {
    let body = json!({"prompt": "q", "a": "x", "b": "y"}).to_string().into_bytes();
    let (_, headers, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-id", "abc")], body.clone());
    assert!(headers["x-request-id"] == "abc" && headers["x-weight-version"] == "v0", "{headers:?}");
    let (_, first, _) = raw(JUDGE.router(), "GET", "/version", &[], Vec::new());
    let (_, second, _) = raw(JUDGE.router(), "GET", "/version", &[], Vec::new());
    assert_ne!(first["x-request-id"], second["x-request-id"]);
    let (status, _, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-timeout", "soon")], body.clone());
    assert_eq!(status, 400);
    let (status, _, _) = raw(JUDGE.router(), "POST", "/v1/judge", &[("x-request-timeout", "0.000001")], body);
    assert_eq!(status, 504);
}

#[test]
fn control_changes_weights_and_sleeps() {
    let app = app("qwen3", config(), 1 << 20);
    let admin = |method: &str, route: &str, body: Value| {
        let (status, _, bytes) = raw(app.admin_router(), method, route, &[], body.to_string().into_bytes());
        (status, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let ready = || raw(app.router(), "GET", "/ready", &[], Vec::new()).0;
    let pair = json!({"prompt": "q", "a": "x", "b": "y"});
    let before = ok(&app, "/v1/judge", pair.clone());
    for (down, up, asked, key) in [
        ("/sleep", "/wake_up", "/is_sleeping", "is_sleeping"),
        ("/release_memory_occupation", "/resume_memory_occupation", "/is_sleeping", "is_sleeping"),
        ("/pause", "/resume", "/is_paused", "is_paused"),
    ] {
        assert_eq!((admin("POST", down, json!({})).0, ready()), (200, 503), "{down}");
        assert_eq!(admin("GET", asked, json!({})).1[key], true);
        assert_eq!((admin("POST", up, json!({})).0, ready()), (200, 200), "{up}");
        assert_eq!(admin("GET", asked, json!({})).1[key], false);
    }
    assert_eq!(ok(&app, "/v1/judge", pair.clone())["p"], before["p"]);
    let (status, said) = admin("POST", "/update_weights_from_disk", json!({"model_path": "/nowhere"}));
    assert_eq!((status, &said["success"], &said["weight_version"]), (400, &json!(false), &json!("v0")));
    assert_eq!(ok(&app, "/v1/judge", pair.clone())["p"], before["p"]);
    let other = tempfile::tempdir().unwrap();
    let config = open(&dir("qwen3")).unwrap().config;
    Model::random(config, crate::base::dtype::Dtype::F32, 7).unwrap().save(other.path()).unwrap();
    let (status, said) =
        admin("POST", "/update_weights_from_disk", json!({"model_path": other.path(), "weight_version": "r2"}));
    assert_eq!((status, &said["success"]), (200, &json!(true)), "{said}");
    let after = ok(&app, "/v1/judge", pair);
    assert_eq!(after["weight_version"], "r2");
    assert_ne!(after["p"], before["p"]);
    assert_eq!(admin("POST", "/pause_generation", json!({"mode": "nap"})).0, 422);
    assert_eq!(admin("POST", "/pause_generation", json!({"mode": "abort"})).0, 200);
    assert_eq!(admin("POST", "/continue_generation", json!({})).0, 200);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let app = app("qwen3", config(), 4000);
    app.service.pause(true);
    let hold = |id: i32| app.service.labels(vec![id; 1900], vec![1], Options::default()).unwrap();
    let held = [hold(5), hold(6)];
    let body = json!({"prompt": "q", "a": "x", "b": "y"}).to_string().into_bytes();
    let (status, headers, bytes) = raw(app.router(), "POST", "/v1/judge", &[], body.clone());
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&bytes));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    drop(held);
    app.service.pause(false);
    assert_eq!(raw(app.router(), "POST", "/v1/judge", &[], body).0, 200);
}

#[test]
fn metrics_models_status_and_the_interface_are_there() {
    ok(&JUDGE, "/v1/judge", json!({"prompt": "q", "a": "x", "b": "y"}));
    let get = |route: &str| {
        let (status, _, bytes) = raw(JUDGE.router(), "GET", route, &[], Vec::new());
        assert_eq!(status, 200, "{route}");
        String::from_utf8(bytes).unwrap()
    };
    let metrics = get("/metrics");
    for name in [
        "requests_total{route=\"/v1/judge\",status=\"200\"}",
        "queued_tokens 0",
        "score_bucket{le=\"+Inf\"}",
        "weight_info{version=\"v0\"",
    ] {
        assert!(metrics.contains(&format!("gramophone_{name}")), "{name}: {metrics}");
    }
    let models: Value = serde_json::from_str(&get("/v1/models")).unwrap();
    assert_eq!((&models["data"][0]["id"], &models["models"][0]["name"]), (&json!("tiny"), &json!("tiny")));
    JUDGE.metrics.sample(&JUDGE);
    let status: Value = serde_json::from_str(&get("/status.json")).unwrap();
    assert!(!status["scores"].as_array().unwrap().is_empty() && status["unready"].is_null());
    let page = get("/");
    assert!(page.contains("</html>") && !page.contains("https://") && !page.contains("src="));
    let interface: Value = serde_json::from_str(&get("/openapi.json")).unwrap();
    assert!(interface["openapi"].as_str().unwrap().starts_with("3.1"));
    for route in ["/v1/judge", "/get_reward", "/v1/systemone", "/compare", "/sleep", "/rerank"] {
        assert!(interface["paths"].get(route).is_some(), "{route}");
    }
}

#[test]
fn clients_that_vanish_take_their_work_with_them() {
    let app = app("qwen3", config(), 1 << 20);
    app.service.pause(true);
    let body = json!({"prompt": "q", "responses": ["a", "b", "c"]}).to_string();
    let request = HttpRequest::builder().method("POST").uri("/v1/rank").body(Body::from(body)).unwrap();
    block(async {
        let answer = app.router().oneshot(request);
        assert!(tokio::time::timeout(Duration::from_millis(500), answer).await.is_err(), "it is paused");
    });
    assert_eq!(app.service.load().queued_tokens, 0);
    assert!(app.metrics.text(&app).contains("route=\"/v1/rank\",status=\"499\"} 1"));
}
