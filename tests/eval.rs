//! `gramophone eval` as a person runs it: suites of a few rows, tiny models, recorded verdicts, bad input.

use crate::cli::{Bench, golden, json_lines, utf8};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub fn lines(rows: &[Value]) -> String {
    rows.iter().map(|r| format!("{r}\n")).collect()
}

pub fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn judgebench() -> Vec<Value> {
    let sources = ["mmlu-pro-law", "livebench-math", "livecodebench", "livebench-reasoning", "mmlu-pro-math"];
    let row = |(i, source): (usize, &&str)| {
        let label = if i.is_multiple_of(2) { "A>B" } else { "B>A" };
        json!({"pair_id": format!("p{i}"), "source": source, "question": format!("What is {i} + {i}?"),
               "response_A": format!("It is {}.", 2 * i), "response_B": format!("{} it seems, {i}", "Well, ".repeat(i)),
               "label": label})
    };
    sources.iter().enumerate().map(row).collect()
}

fn rewardbench2() -> Vec<Value> {
    let row = |id: &str, chosen: Value, subset: &str| json!({"id": id, "prompt": "Name a colour", "chosen": chosen, "rejected": ["Seven", "A dog", "Why?"], "subset": subset});
    vec![
        row("1", json!(["Red"]), "Factuality"),
        row("2", json!(["Blue"]), "Math"),
        row("ref:1", json!(["Red"]), "Ties"),
        row("tied:1", json!(["Red", "Green", "Blue"]), "Ties"),
    ]
}

/// Every suite's rows, by the name of the suite and of a file.
pub fn suites() -> Vec<(&'static str, &'static str, Vec<Value>)> {
    let turn = json!([{"role": "user", "content": "Hi"}]);
    vec![
        (
            "rewardbench",
            "rb.jsonl",
            vec![
                json!({"id": 1, "prompt": "q", "chosen": "yes", "rejected": "no", "subset": "math-prm"}),
                json!({"id": 2, "prompt": "r", "chosen": "yes {a}", "rejected": "no", "subset": "alpacaeval-easy"}),
            ],
        ),
        ("rewardbench2", "rb2.jsonl", rewardbench2()),
        (
            "rm-bench",
            "chat_filtered.json",
            vec![json!({"id": 8, "prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]})],
        ),
        ("judgebench", "jb.jsonl", judgebench()),
        (
            "ppe",
            "PPE-MATH-Best-of-K.jsonl",
            vec![json!({"question_id": "k", "prompt": "q", "response_1": "a", "response_2": "b", "response_3": "c",
                        "scores": [true, false, true], "sampled_conflict_pairs": [[0, 1], [1, 2]]})],
        ),
        (
            "rmb",
            "rmb.jsonl",
            vec![
                json!({"bon_uid": "5", "conversation_input": turn, "bon_best": {"answer": "best"},
                       "loser_list": [{"answer": "x"}, {"answer": "y"}], "category_path": "BoN_set/Harmlessness/S1"}),
                json!({"pair_uid": "6", "conversation_input": turn, "chosen": {"answer": "c"}, "reject": {"answer": "r"},
                       "category_path": "Pairwise_set/Helpfulness/Chat"}),
            ],
        ),
        ("pairs", "pairs.jsonl", vec![json!({"prompt": "q", "chosen": "c", "rejected": "r"})]),
    ]
}

#[test]
fn every_suite_is_judged_and_its_rows_score_the_same_again() {
    for case in ["qwen3", "qwen3_scalar"] {
        let (b, model) = (Bench::new(), golden(case));
        for (suite, file, rows) in suites() {
            b.write(file, &lines(&rows));
            let mut args =
                vec!["eval", suite, "--data", file, "--model", utf8(&model), "--out", suite, "--bootstrap", "50"];
            args.extend((suite == "ppe").then_some("--best-of-n"));
            let said = b.ok(&args);
            assert!(said.contains("official: ") || said.contains("papers: "), "{said}");
            for name in ["rows.jsonl", "metrics.json", "summary.json", "report.md", "report.html"] {
                assert!(b.path(suite).join(name).exists(), "{suite}: {name}");
            }
            let verdicts = format!("{suite}/rows.jsonl");
            let again = [
                "eval",
                "score",
                suite,
                "--data",
                file,
                "--verdicts",
                &verdicts,
                "--out",
                "again",
                "--bootstrap",
                "50",
            ];
            b.ok(&again);
            let (first, second) = (read(&b.path(suite).join("summary.json")), read(&b.path("again/summary.json")));
            for part in ["rules", "judge", "calibration", "best_of_n", "auc"] {
                assert_eq!(first[part], second[part], "{case} {suite} {part}");
            }
            fs::remove_dir_all(b.path("again")).unwrap();
        }
    }
}

#[test]
fn a_judged_suite_agrees_with_the_judge_verb_whatever_the_threads() {
    let (b, model) = (Bench::new(), golden("qwen3"));
    b.write("jb.jsonl", &lines(&judgebench()));
    let run = |threads: &str, out: &str| {
        b.ok(&[
            "eval",
            "judgebench",
            "--data",
            "jb.jsonl",
            "--model",
            utf8(&model),
            "--threads",
            threads,
            "--out",
            out,
        ]);
        let rows = json_lines(&fs::read_to_string(b.path(out).join("rows.jsonl")).unwrap());
        let strip = |mut row: Value| {
            assert!(row["tokens"].as_u64().unwrap() > 0);
            row.as_object_mut().unwrap().remove("ms");
            row
        };
        rows.into_iter().map(strip).collect::<Vec<Value>>()
    };
    let rows = run("1", "one");
    assert_eq!(rows, run("2", "two"));
    // The same pairs, judged by themselves; what that verb writes is scored to the same.
    let pair = |r: Value| json!({"id": r["pair_id"], "prompt": r["question"], "response_a": r["response_A"], "response_b": r["response_B"]});
    b.write("judge.jsonl", &lines(&judgebench().into_iter().map(pair).collect::<Vec<Value>>()));
    b.ok(&["judge", "--model", utf8(&model), "--input", "judge.jsonl", "--output", "judged.jsonl"]);
    let judged = json_lines(&fs::read_to_string(b.path("judged.jsonl")).unwrap());
    for (row, said) in rows.iter().zip(&judged) {
        for field in ["id", "p_a", "margin_ab", "margin_ba", "verdict", "consistent"] {
            assert_eq!(row[field], said[field], "{field}");
        }
    }
    b.ok(&["eval", "score", "judgebench", "--data", "jb.jsonl", "--verdicts", "judged.jsonl", "--out", "three"]);
    assert_eq!(read(&b.path("one/summary.json"))["rules"], read(&b.path("three/summary.json"))["rules"]);
}

#[test]
fn published_judgments_are_scored_without_a_model() {
    let b = Bench::new();
    b.write("jb.jsonl", &lines(&judgebench()));
    // In the file's order, then in the other: right and right, tie and right, right and wrong, none and right, wrong twice.
    let decisions = [["A>B", "B>A"], ["A=B", "A>B"], ["A>B", "A>B"], ["", "A>B"], ["B>A", "A>B"]];
    let recorded = judgebench().into_iter().zip(decisions).rev().map(|(mut row, both)| {
        let judgment = |d: &str| if d.is_empty() { Value::Null } else { json!({"decision": d, "judgment": {}}) };
        row["judgments"] = both.iter().map(|d| judgment(d)).collect();
        row
    });
    b.write("out.jsonl", &lines(&recorded.collect::<Vec<Value>>()));
    let said = b.ok(&["eval", "score", "judgebench", "--data", "jb.jsonl", "--verdicts", "out.jsonl", "--out", "o"]);
    let rules = &read(&b.path("o/summary.json"))["rules"];
    let score = |rule: &str, name: &str| rules[rule]["scores"][name]["value"].as_f64().unwrap();
    assert_eq!(score("official", "Overall"), 3.0 / 5.0);
    assert_eq!(score("official", "Knowledge"), 1.0 / 2.0);
    assert_eq!(score("official", "mean of groups"), (0.5 + 1.0 + 0.0 + 1.0) / 4.0);
    assert_eq!(
        score("papers", "Overall"),
        (0.5 + 1.0 + 0.0 + 0.0) / 4.0,
        "without a verdict is wrong, and groups count alike"
    );
    assert_eq!(read(&b.path("o/metrics.json"))["Overall"], 0.6);
    assert!(said.contains("60.00%") && said.contains("without a verdict"), "{said}");
}

#[test]
fn bad_input_is_named_and_nothing_is_left_behind() {
    let (b, model) = (Bench::new(), golden("qwen3"));
    let mut rows = judgebench();
    rows[2]["label"] = json!("both");
    b.write("bad.jsonl", &lines(&rows));
    let eval = |data: &'static str, more: &[&'static str]| {
        [&["eval", "judgebench", "--data", data, "--model", utf8(&model), "--out", "o"], more].concat()
    };
    b.fails(&eval("bad.jsonl", &[]), 1, &["bad.jsonl:3", "\"label\"", "both"]);
    rows[2]["label"] = json!("A>B");
    rows[1]["response_A"] = json!("long ".repeat(3000));
    b.write("long.jsonl", &lines(&rows));
    b.fails(&eval("long.jsonl", &[]), 1, &["long.jsonl:2", "tokens", "nothing is cut"]);
    assert!(!b.path("o").exists());
    let said = b.ok(&eval("long.jsonl", &["--too-long", "invalid"]));
    assert!(said.contains("without a verdict"), "{said}");
    assert_eq!(read(&b.path("o/summary.json"))["judge"]["invalid_rate"]["value"], json!(0.2));
    b.fails(&eval("nowhere.jsonl", &[]), 1, &["nowhere.jsonl"]);
    b.fails(&eval("long.jsonl", &["--best-of-n"]), 2, &["--best-of-n"]);
    b.fails(&["eval", "score", "poems", "--data", "bad.jsonl", "--verdicts", "x"], 2, &["poems", "judgebench"]);
    fs::create_dir(b.path("mine")).unwrap();
    b.write("mine/thesis.txt", "years of work");
    b.fails(&[&eval("long.jsonl", &[])[..7], &["mine"]].concat(), 2, &["--out mine", "name another"]);
    assert!(b.path("mine/thesis.txt").exists());
    b.write("some.jsonl", &lines(&[json!({"pair_id": "p0", "verdict": "A"})]));
    let score = ["eval", "score", "judgebench", "--data", "long.jsonl", "--verdicts", "some.jsonl"];
    b.fails(&score, 1, &["4 of 5 rows", "--partial"]);
    assert!(b.ok(&[&score[..], &["--partial"]].concat()).contains("4 of 5 rows have no answer"));
}

#[test]
fn contamination_is_found_by_runs_of_words() {
    let b = Bench::new();
    let text = "the quick brown fox jumps over the lazy dog and then it goes home to sleep";
    b.write("bench.jsonl", &lines(&[json!({"id": "x", "prompt": text}), json!({"id": "y", "prompt": "short"})]));
    b.write("train.jsonl", &lines(&[json!({"messages": [{"role": "user", "content": text.to_uppercase()}]})]));
    let args = ["eval", "contamination", "--train", "train.jsonl", "--bench", "bench.jsonl"];
    let said = b.ok(&[&args[..], &["--json", "c.json"]].concat());
    assert!(said.contains("1 of 2 rows") && said.contains("train.jsonl:1") && said.contains("100.0%"), "{said}");
    let found = read(&b.path("c.json"));
    assert_eq!((found["with_overlap"].clone(), found["too_short"].clone()), (json!(1), json!(1)));
    assert_eq!(found["overlaps"][0]["fields"]["prompt"], json!({"shared": 4, "runs": 4}));
    let printed: Value = serde_json::from_str(&b.ok(&[&args[..], &["--json", "-"]].concat())).unwrap();
    assert_eq!(printed, found);
}
