//! Random bodies against every wire: whatever comes is answered or refused; never a fault of the server's, never a side where there is
//! none, and nothing is left of it afterwards.

mod bodies;

use super::*;
use crate::app::load::soak;
use bodies::{nearly, valid, value};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

/// An app that nobody else uses, so that it must come to rest.
struct Bench {
    judge: App,
    scalar: App,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { judge: app("qwen3", config(), 1 << 22), scalar: app("qwen3_scalar", config(), 1 << 22) };
        // The engine tells of its memory from its first pass on.
        for app in [&bench.judge, &bench.scalar] {
            ok(app, "/v1/judge", json!({"prompt": "q", "a": "x", "b": "y"}));
        }
        std::thread::sleep(Duration::from_millis(100));
        bench
    }

    fn run<S: proptest::strategy::Strategy>(
        &self,
        cases: u32,
        strategy: S,
        test: impl Fn(&App, S::Value) -> Result<(), TestCaseError>,
    ) {
        let text = |app: &App| app.metrics.text(app);
        let unused = [&self.judge, &self.scalar].map(|app| soak::unused(&text(app)));
        let mut runner = TestRunner::new(Runs { cases, failure_persistence: None, ..Runs::default() });
        let both = (strategy, any::<bool>());
        let ran = runner.run(&both, |(value, scalar)| test(if scalar { &self.scalar } else { &self.judge }, value));
        ran.unwrap_or_else(|e| panic!("{e}"));
        for (app, unused) in [&self.judge, &self.scalar].into_iter().zip(unused) {
            // Work whose ticket was dropped leaves at the engine's next turn.
            let left = || soak::left(&text(app), unused);
            let until = std::time::Instant::now() + Duration::from_secs(20);
            while !left().is_empty() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(left(), [""; 0]);
            assert!(!text(app).contains("status=\"500\""), "{}", text(app));
        }
    }
}

/// Sends a body; the status, and the answer if it is JSON.
fn send(app: &App, route: &str, body: Vec<u8>) -> (u16, Option<Value>, String) {
    let (status, _, bytes) = raw(app.router(), "POST", route, &[], body);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (status, serde_json::from_str(&text).ok(), text)
}

/// Answered with what makes sense, or refused with a reason.
fn sane(app: &App, route: &str, body: &Value) -> Result<(), TestCaseError> {
    let (status, answer, text) = send(app, route, body.to_string().into_bytes());
    // 504: a deadline that the body itself asked for.
    let fine = status < 500 || (status == 504 && body.get("timeout_s").is_some());
    prop_assert!(fine, "{} {}: {} {}", route, body, status, text);
    let Some(answer) = answer else {
        prop_assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{} {}: {}", route, body, text);
        return Ok(());
    };
    if status >= 400 {
        let said =
            answer.pointer("/error/message").or(answer.pointer("/detail/0/msg")).or(answer.pointer("/detail/message"));
        prop_assert!(said.is_some_and(|m| m.as_str().is_some_and(|m| !m.is_empty())), "{answer}");
        return Ok(());
    }
    prop_assert!(sound(route, body, &answer), "{} {}: {}", route, body, answer);
    Ok(())
}

fn is_prompt(value: &Value) -> bool {
    let message = |m: &Value| m["role"].is_string() || m["from"].is_string();
    value.is_string() || value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(message))
}

fn texts(value: &Value) -> Option<usize> {
    let list = value.as_array()?;
    list.iter().all(Value::is_string).then_some(list.len())
}

fn probability(value: &Value) -> bool {
    value.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))
}

/// Whether a body should have been answered at all, and the answer is one to it.
fn sound(route: &str, body: &Value, answer: &Value) -> bool {
    let side = |pair: &Value, name: &str| {
        let ids = &pair[format!("{name}_ids")];
        pair[name].is_string() != ids.as_array().is_some_and(|ids| ids.iter().all(Value::is_u64))
    };
    let pair = |pair: &Value| {
        (is_prompt(&pair["prompt"]) || pair["prompt_ids"].is_array()) && side(pair, "a") && side(pair, "b")
    };
    let judged = |j: &Value| match &j["p"] {
        // Only rationales can be invalid.
        Value::Null => j["verdict"] == "invalid" && j["invalid"].as_u64() > Some(0),
        p => probability(p) && ["A", "B", "tie"].iter().any(|side| j["verdict"] == *side),
    };
    let whole = |list: &Value, n: usize| list.as_array().is_some_and(|l| l.len() == n);
    match route {
        "/v1/judge" => match body["pairs"].as_array() {
            Some(pairs) => {
                let judgments = answer["judgments"].as_array().cloned().unwrap_or_default();
                pairs.len() == judgments.len() && pairs.iter().all(pair) && judgments.iter().all(judged)
            }
            None => pair(body) && judged(answer),
        },
        "/v1/rank" => texts(&body["responses"]).is_some_and(|n| {
            let mut order: Vec<u64> = answer["ranking"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
            order.sort();
            is_prompt(&body["prompt"]) && order == (0..n as u64).collect::<Vec<_>>() && whole(&answer["rewards"], n)
        }),
        "/get_reward" => texts(&body["query"]).is_some_and(|n| {
            let neutral = |i: usize| {
                answer["extra_logs"]["invalid"][i] != 1.0 || [0.0, 0.5].iter().any(|r| answer["rewards"][i] == *r)
            };
            let prompts = texts(&body["prompts"]);
            (prompts == Some(n) || n == 0) && whole(&answer["rewards"], n) && (0..n).all(neutral)
        }),
        "/" | "/reward" => is_prompt(&body["prompt"]) && body["response"].is_string() && answer.is_number(),
        "/v1/decisions" => whole(&answer["answers"], body["questions"].as_array().map_or(0, Vec::len)),
        "/v1/systemone" => {
            answer["answers"].as_object().map(|a| a.len()) == body["questions"].as_object().map(|q| q.len())
        }
        "/v1/chat/completions" => answer["choices"].as_array().is_some_and(|c| !c.is_empty()),
        "/compare" => whole(&answer["rewards"], body["response_objs"].as_array().map_or(0, Vec::len)),
        _ => true,
    }
}

#[test]
fn valid_bodies_are_valid() {
    let bench = Bench::new();
    for (route, body) in valid() {
        let both = [&bench.judge, &bench.scalar].map(|app| send(app, route, body.to_string().into_bytes()).0);
        assert!(both.contains(&200), "{route} {body}: {both:?}");
    }
}

/// serde reads a list as the fields of a struct in their order; no wire means that.
#[test]
fn lists_of_values_are_not_objects() {
    let bench = Bench::new();
    for (route, body) in valid() {
        let Value::Object(map) = body else { continue };
        let list = Value::from_iter(map.into_values());
        for app in [&bench.judge, &bench.scalar] {
            let (status, _, text) = send(app, route, list.to_string().into_bytes());
            assert!((400..500).contains(&status), "{route} {list}: {status} {text}");
        }
    }
}

#[test]
fn any_json_is_answered_or_refused() {
    let routes = prop::sample::select(valid().into_iter().map(|(route, _)| route).collect::<Vec<_>>());
    Bench::new().run(300, (routes, value()), |app, (route, body)| sane(app, route, &body));
}

#[test]
fn bodies_that_are_nearly_right_are_too() {
    Bench::new().run(700, nearly(), |app, (route, body)| sane(app, route, &body));
}

/// Bytes of a valid body with some of them changed, left out or put in.
#[test]
fn damaged_bytes_are_too() {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 1..6);
    Bench::new().run(400, (prop::sample::select(valid()), damage), |app, ((route, body), damage)| {
        let mut bytes = body.to_string().into_bytes();
        for (place, how, byte) in damage {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let (status, _, text) = send(app, route, bytes.clone());
        prop_assert!(status < 500, "{} {}: {} {}", route, String::from_utf8_lossy(&bytes), status, text);
        Ok(())
    });
}
