//! Ranking and rewards as a person runs them.

use crate::cli::{Bench, golden, json_lines, utf8};
use serde_json::{Value, json};
use std::path::PathBuf;

const METHODS: [&str; 6] = ["linear", "knockout", "round-robin", "swiss", "anchor", "adaptive"];

/// Groups of one to seven responses.
fn groups() -> Vec<Value> {
    let response = |g: usize, i: usize| format!("{} {}", "so ".repeat((g * 5 + i * 3) % 7), g * i);
    let group = |g: usize| {
        let responses: Vec<String> = (0..[7, 1, 4, 2, 6][g]).map(|i| response(g, i)).collect();
        json!({"id": g, "prompt": format!("Question {g}"), "responses": responses})
    };
    (0..5).map(group).collect()
}

fn file(b: &Bench, name: &str, rows: &[Value]) -> PathBuf {
    b.write(name, &rows.iter().map(|row| format!("{row}\n")).collect::<String>())
}

/// Runs a verb over rows with the golden model.
fn answers(b: &Bench, verb: &str, rows: &[Value], more: &[&str]) -> Vec<Value> {
    let (model, rows) = (golden("qwen3"), file(b, "rows.jsonl", rows));
    json_lines(&b.ok(&[&[verb, "--model", utf8(&model), "--input", utf8(&rows)], more].concat()))
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// P(i beats j) and the margin of every pair of a group, as `judge` says them.
fn judged(b: &Bench, group: &Value) -> Vec<(usize, usize, f64, f64)> {
    let responses = group["responses"].as_array().unwrap();
    let pairs: Vec<(usize, usize)> =
        (0..responses.len()).flat_map(|i| (i + 1..responses.len()).map(move |j| (i, j))).collect();
    let row = |(i, j): &(usize, usize)| json!({"prompt": group["prompt"], "response_a": responses[*i], "response_b": responses[*j]});
    let said = answers(b, "judge", &pairs.iter().map(row).collect::<Vec<_>>(), &[]);
    let margin = |a: &Value| a["margin_ab"].as_f64().unwrap() - a["margin_ba"].as_f64().unwrap();
    pairs.iter().zip(said).map(|((i, j), a)| (*i, *j, a["p_a"].as_f64().unwrap(), margin(&a))).collect()
}

/// Mean probability of winning, from all pairs.
fn win_rates(n: usize, judged: &[(usize, usize, f64, f64)]) -> Vec<f64> {
    let of = |r: usize| {
        let wins = judged.iter().filter_map(|(i, j, p, _)| match r {
            r if r == *i => Some(*p),
            r if r == *j => Some(1.0 - p),
            _ => None,
        });
        wins.sum::<f64>() / (n - 1) as f64
    };
    (0..n).map(of).collect()
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

#[test]
fn every_method_orders_every_group_within_its_budget_whatever_is_batched() {
    let b = Bench::new();
    let groups = groups();
    for method in METHODS {
        for budget in [None, Some("3")] {
            let budget: Vec<&str> = budget.iter().flat_map(|n| ["--budget", n]).collect();
            let flags = [&["--method", method, "--threads", "1"], &budget[..]].concat();
            let together = answers(&b, "rank", &groups, &flags);
            assert_eq!(
                together,
                answers(&b, "rank", &groups, &[&["--method", method, "--threads", "2"], &budget[..]].concat())
            );
            assert_eq!(together[3], answers(&b, "rank", &groups[3..4], &flags)[0], "{method}: alone as in company");
            assert_eq!(together[0], answers(&b, "rank", &groups[..1], &flags)[0], "{method}: alone as in company");
            for (group, answer) in groups.iter().zip(&together) {
                let n = group["responses"].as_array().unwrap().len();
                let mut order: Vec<usize> = serde_json::from_value(answer["order"].clone()).unwrap();
                order.sort();
                assert_eq!(order, (0..n).collect::<Vec<_>>(), "{method}: {answer}");
                let comparisons = answer["comparisons"].as_u64().unwrap() as usize;
                assert!(budget.is_empty() || comparisons <= 3, "{method}: {answer}");
                assert_eq!(answer["saved"], n * (n - 1) / 2 - comparisons);
                let bt = ["strength", "lower", "upper"].map(|key| floats(&answer["bt"][key]));
                assert!(bt[0].iter().sum::<f64>().abs() < 1e-5, "{answer}");
                assert!((0..n).all(|i| bt[1][i] <= bt[0][i] && bt[0][i] <= bt[2][i]), "{answer}");
                assert_eq!(floats(&answer["confidence"]).len(), n - 1);
                let stopped = answer["stopped"].as_str().unwrap();
                assert!(["complete", "budget", "decided", "undecidable"].contains(&stopped), "{answer}");
            }
            let spent = together[0]["stopped"] == "budget";
            assert_eq!(spent, !budget.is_empty(), "{method}: {}", together[0]);
        }
    }
}

#[test]
fn a_round_robin_says_what_the_judge_says() {
    let b = Bench::new();
    let groups = groups();
    for (group, answer) in groups.iter().zip(answers(&b, "rank", &groups, &[])) {
        let n = group["responses"].as_array().unwrap().len();
        if n == 1 {
            assert_eq!((&answer["order"], &answer["scores"]), (&json!([0]), &json!([0.5])));
            continue;
        }
        let judged = judged(&b, group);
        let rates = win_rates(n, &judged);
        assert!(close(&floats(&answer["scores"]), &rates), "{answer}");
        let order: Vec<usize> = serde_json::from_value(answer["order"].clone()).unwrap();
        assert!(order.windows(2).all(|w| rates[w[0]] >= rates[w[1]]), "{answer}");
        assert_eq!(answer["comparisons"], judged.len());
        if n == 2 {
            assert_eq!(order[0] == 0, judged[0].3 > 0.0);
        }
        let ties: Vec<_> = judged.iter().filter(|j| j.3 == 0.0).map(|j| json!([j.0, j.1])).collect();
        assert_eq!(answer["ties"], json!(ties));
    }
    let same = json!({"prompt": "p", "responses": ["a", "a", "b"]});
    assert_eq!(answers(&b, "rank", &[same], &[])[0]["ties"], json!([[0, 1]]), "equal texts tie");
}

#[test]
fn a_reward_against_a_reference_is_the_judges_probability() {
    let b = Bench::new();
    let rows: Vec<Value> = (0..4)
        .map(|i| json!({"id": i, "prompt": "Say it", "response": format!("{i}"), "reference": "two or three"}))
        .collect();
    let judge: Vec<Value> = rows
        .iter()
        .map(|r| json!({"prompt": r["prompt"], "response_a": r["response"], "response_b": r["reference"]}))
        .collect();
    let judged = answers(&b, "judge", &judge, &[]);
    let rewards = answers(&b, "reward", &rows, &["--form", "reference"]);
    for (reward, judged) in rewards.iter().zip(&judged) {
        assert_eq!(reward["reward"], judged["p_a"]);
        assert_eq!(reward["consistent"], judged["consistent"]);
        let margin = reward["margin"].as_f64().unwrap();
        assert!(
            (margin - (judged["margin_ab"].as_f64().unwrap() - judged["margin_ba"].as_f64().unwrap())).abs() < 1e-5
        );
        assert_eq!(margin > 0.0, judged["verdict"] == "A");
    }
    assert_eq!(rewards.iter().map(|r| r["id"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn rewards_within_a_group_are_win_rates() {
    let b = Bench::new();
    let groups = groups();
    let group = |more: &[&str]| answers(&b, "reward", &groups, &[&["--form", "group"], more].concat());
    let all = group(&["--rivals", "all"]);
    for (g, answer) in groups.iter().zip(&all).filter(|(g, _)| g["responses"].as_array().unwrap().len() > 1) {
        let n = g["responses"].as_array().unwrap().len();
        assert!(close(&floats(&answer["rewards"]), &win_rates(n, &judged(&b, g))), "{answer}");
    }
    let few = group(&[]);
    let comparisons =
        |answers: &[Value]| answers.iter().map(|a| a["comparisons"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(comparisons(&all), [21, 0, 6, 1, 15]);
    assert_eq!(comparisons(&few), [11, 0, 6, 1, 9], "three rivals each, and one of seven has four");
    assert_eq!(few[2], all[2], "a group of four meets itself whole");
    assert_eq!(few[1]["rewards"], json!([0.5]));
    assert_ne!(few[4], all[4]);
    // The draw hangs on the seed and the texts, not on the company.
    assert_eq!(few, group(&["--seed", "0"]));
    assert_ne!(few, group(&["--seed", "1"]));
    let reversed: Vec<Value> = groups.iter().rev().cloned().collect();
    let mut backwards = answers(&b, "reward", &reversed, &["--form", "group"]);
    backwards.reverse();
    assert_eq!(few, backwards);
    assert_eq!(few[4], answers(&b, "reward", &groups[4..], &["--form", "group"])[0]);
    for (answer, raw) in group(&["--advantage", "normalized"]).iter().zip(&few) {
        assert_eq!(answer["rewards"], raw["rewards"]);
        let advantages = floats(&answer["advantages"]);
        assert!(advantages.iter().sum::<f64>().abs() < 1e-9);
        let n = advantages.len() as f64;
        let squares = advantages.iter().map(|a| a * a).sum::<f64>();
        assert!(n == 1.0 || (squares - (n - 1.0)).abs() < 1e-6, "{answer}");
    }
}

#[test]
fn what_cannot_be_ranked_or_rewarded_is_named() {
    let b = Bench::new();
    let (model, scalar) = (golden("qwen3"), golden("qwen3_scalar"));
    let rows = file(&b, "groups.jsonl", &groups());
    let rank = |more: &[&'static str]| [&["rank", "--model", utf8(&model), "--input", utf8(&rows)], more].concat();
    b.fails(&rank(&["--method", "chess"]), 2, &["chess", "swiss"]);
    b.fails(&rank(&["--budget", "0"]), 2, &["--budget"]);
    b.fails(&rank(&["--anchors", "2"]), 2, &["--anchors", "--method anchor"]);
    b.fails(&rank(&["--method", "anchor", "--anchors", "0"]), 2, &["--anchors"]);
    b.fails(&rank(&["--confidence", "0.9"]), 2, &["--confidence", "--method adaptive"]);
    b.fails(&rank(&["--method", "adaptive", "--confidence", "1.5"]), 2, &["--confidence", "1.5"]);
    let crowd = file(&b, "crowd.jsonl", &[json!({"prompt": "p", "responses": vec!["x"; 2000]})]);
    b.fails(&["rank", "--model", utf8(&model), "--input", utf8(&crowd)], 1, &["crowd.jsonl:1", "2000", "1024"]);
    // What does not fit is told before anything is compared, by tokens: this one has fewer bytes than the others, and more tokens.
    let dense = (0u32..100).map(|i| char::from_u32(0x4e00 + 37 * i).unwrap()).collect::<String>();
    let others = ["word ".repeat(70), "word ".repeat(71)];
    let group = file(&b, "dense.jsonl", &[json!({"prompt": "p", "responses": [others[0], dense, others[1]]})]);
    let lengths = |responses: [&str; 2]| {
        let row = json!({"prompt": "p", "response_a": responses[0], "response_b": responses[1]});
        let row = file(&b, "pair.jsonl", &[row]);
        let out = b.run(&["judge", "--model", utf8(&model), "--input", utf8(&row), "--context", "1"]);
        let said = String::from_utf8(out.stderr).unwrap();
        let number = said.split(' ').find_map(|word| word.parse::<usize>().ok());
        number.unwrap_or_else(|| panic!("no number in {said}"))
    };
    assert!(dense.len() < others[0].len());
    let (longest, words) = (lengths([&others[1], &dense]), lengths([&others[0], &others[1]]));
    assert!(longest > words, "{longest} {words}");
    let between = (longest - 1).to_string();
    for verb in [&["rank"][..], &["reward", "--form", "group"]] {
        let run = [verb, &["--model", utf8(&model), "--input", utf8(&group), "--context"]].concat();
        b.fails(&[&run[..], &[&between]].concat(), 1, &["dense.jsonl:1", "tokens", "nothing is cut"]);
        b.ok(&[&run[..], &[&longest.to_string()]].concat());
    }
    let reward = |model: &PathBuf, form: &'static str, more: &[&str]| {
        let args = ["reward", "--model", utf8(model), "--input", utf8(&rows), "--form", form];
        args.iter().chain(more).map(|s| s.to_string()).collect::<Vec<_>>()
    };
    let fails = |args: Vec<String>, code: i32, words: &[&str]| {
        b.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    fails(reward(&model, "reference", &[]), 1, &["groups.jsonl:1", "\"response\""]);
    fails(reward(&model, "reference", &["--rivals", "2"]), 2, &["--rivals", "--form group"]);
    fails(reward(&model, "group", &["--rivals", "none"]), 2, &["--rivals", "all"]);
    fails(reward(&scalar, "group", &[]), 1, &["scalar head", "rank"]);
    b.fails(&["reward", "--model", utf8(&model), "--input", utf8(&rows)], 2, &["--form"]);
}
