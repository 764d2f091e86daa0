//! `gramophone eval` that is long: judges that reason, evaluations that are killed and go on, and evaluations in parts.

use crate::cli::{Bench, golden, json_lines, utf8};
use crate::rationale::{TAUGHT, pair};
use gramophone::text::message::transcript;
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// So many rows of JudgeBench about warm and cold things.
fn suite(b: &Bench, n: usize) {
    let row = |i: usize| {
        let (pair, first) = pair(i);
        let question = transcript(&pair.prompt).unwrap();
        let source = ["mmlu-pro-law", "livebench-math", "livecodebench", "livebench-reasoning"][i % 4];
        json!({"pair_id": format!("p{i}"), "source": source, "question": question, "response_A": pair.a,
               "response_B": pair.b, "label": if first { "A>B" } else { "B>A" }})
    };
    b.write("jb.jsonl", &(0..n).map(|i| row(i).to_string() + "\n").collect::<String>());
    let row = |i: usize| {
        let (pair, _) = pair(i);
        let prompt = transcript(&pair.prompt).unwrap();
        json!({"id": format!("p{i}"), "prompt": prompt, "response_a": pair.a, "response_b": pair.b})
    };
    b.write("rows.jsonl", &(0..n).map(|i| row(i).to_string() + "\n").collect::<String>());
}

fn read(b: &Bench, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(b.path(name)).unwrap()).unwrap()
}

/// The rows of a result without the time that they took.
fn rows(b: &Bench, out: &str) -> Vec<Value> {
    let mut rows = json_lines(&fs::read_to_string(b.path(out).join("rows.jsonl")).unwrap());
    for row in &mut rows {
        assert!(row.as_object_mut().unwrap().remove("ms").is_some_and(|ms| ms.as_f64().unwrap() > 0.0));
    }
    rows
}

/// Everything that scores a judge is the same in both results.
fn assert_same_scores(b: &Bench, one: &str, other: &str) {
    let (one, other) = (read(b, &format!("{one}/summary.json")), read(b, &format!("{other}/summary.json")));
    for part in ["rules", "judge", "calibration", "tokens", "tokens_written", "rows", "comparisons"] {
        assert_eq!(one[part], other[part], "{part}");
    }
}

fn reasoning(more: &[&str]) -> Vec<String> {
    let model = TAUGHT.path();
    let template = model.join("judge.txt");
    let base = ["--rationale", "--model", utf8(model), "--template", utf8(&template), "--max-tokens", "60"];
    base.iter().chain(more).map(|s| s.to_string()).collect()
}

fn eval(b: &Bench, out: &str, more: &[&str]) -> String {
    let flags = reasoning(more);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let base = ["eval", "judgebench", "--data", "jb.jsonl", "--out", out, "--bootstrap", "50"];
    b.ok(&[&base[..], &flags].concat())
}

#[test]
fn suites_are_answered_by_rationales_and_votes_as_the_judge_answers_them() {
    let b = Bench::new();
    suite(&b, 12);
    let said = eval(&b, "greedy", &[]);
    assert!(
        said.contains("tokens, ") && said.contains("of them written") && said.contains("replies that are invalid"),
        "{said}"
    );
    let summary = read(&b, "greedy/summary.json");
    for rule in ["official", "papers"] {
        assert_eq!(summary["rules"][rule]["scores"]["Overall"]["value"], 1.0, "{rule}");
    }
    assert_eq!(summary["judge"]["invalid_reply_rate"], json!({"value": 0.0, "low": 0.0, "high": 0.0, "n": 24}));
    assert!(summary["tokens_written"].as_u64().unwrap() > 12 * 20 && summary["seconds"].as_f64().unwrap() > 0.0);
    // Hot votes, of which some are invalid: the rows are those of the judge, whatever the batch.
    let hot = ["--votes", "5", "--temperature", "1.4"];
    eval(&b, "hot", &hot);
    let found = rows(&b, "hot");
    eval(&b, "batched", &[&hot[..], &["--batch", "3", "--threads", "1"]].concat());
    assert_eq!(found, rows(&b, "batched"));
    let judge = |more: &[&str], output: &str| {
        let flags = reasoning(more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        b.ok(&[&["judge", "--input", "rows.jsonl", "--output", output, "--seed", "42"], &flags[..]].concat());
        json_lines(&fs::read_to_string(b.path(output)).unwrap())
    };
    let mut invalid = 0;
    for (row, judged) in found.iter().zip(judge(&hot, "judged.jsonl")) {
        for field in ["id", "p_a", "verdict", "rationale", "rationale_order", "votes", "invalid"] {
            assert_eq!(row.get(field).unwrap_or(&Value::Null), &judged[field], "{field} of {row}");
        }
        let [read, written] = ["prompt", "generated"].map(|part| judged["tokens"][part].as_u64().unwrap());
        assert_eq!((row["tokens"].as_u64().unwrap(), row["written"].as_u64().unwrap()), (read + written, written));
        invalid += row["invalid"].as_u64().unwrap();
    }
    assert!(invalid > 0 && invalid < 120, "{invalid} of 120 votes");
    let share = &read(&b, "hot/summary.json")["judge"]["invalid_reply_rate"];
    assert_eq!((share["value"].as_f64().unwrap(), share["n"].as_u64().unwrap()), (invalid as f64 / 120.0, 120));
    // What was written scores the same again, and so do the judge's own rows, order by order but for rounding.
    let score = ["eval", "score", "judgebench", "--data", "jb.jsonl", "--bootstrap", "50", "--verdicts"];
    b.ok(&[&score[..], &["hot/rows.jsonl", "--out", "again"]].concat());
    assert_same_scores(&b, "hot", "again");
    assert_eq!(found, rows(&b, "again"));
    b.ok(&[&score[..], &["judged.jsonl", "--out", "of-judge"]].concat());
    let papers = |out: &str| read(&b, &format!("{out}/summary.json"))["rules"]["papers"].clone();
    assert_eq!(papers("hot"), papers("of-judge"));
    // Majorities and adaptive voting go through the same door.
    eval(&b, "majority", &["--votes", "8", "--vote", "majority", "--adaptive", "0.9", "--temperature", "1.1"]);
    let counts = |order: &Value| order.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    let cast: u64 =
        rows(&b, "majority").iter().map(|row| counts(&row["votes"]["ab"]) + counts(&row["votes"]["ba"])).sum();
    assert!(cast < 12 * 16, "{cast} votes: some pairs were settled early");
    b.ok(&[&score[..], &["majority/rows.jsonl", "--out", "majority-again"]].concat());
    assert_same_scores(&b, "majority", "majority-again");
}

#[test]
fn rationales_that_mean_nothing_are_refused_and_long_prompts_count_as_invalid() {
    let b = Bench::new();
    suite(&b, 4);
    let fails = |model: &std::path::Path, more: &[&str], code: i32, words: &[&str]| {
        let base = ["eval", "judgebench", "--data", "jb.jsonl", "--out", "o", "--model", utf8(model)];
        b.fails(&[&base[..], more].concat(), code, words);
        assert!(!b.path("o").exists());
    };
    fails(&golden("qwen3_scalar"), &["--rationale"], 1, &["scalar", "--rationale"]);
    fails(&golden("qwen3"), &["--votes", "3"], 2, &["--rationale"]);
    fails(&golden("qwen3"), &["--rationale", "--votes", "3", "--temperature", "0"], 2, &["greedy"]);
    let text = fs::read_to_string(b.path("jb.jsonl")).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    let (pair, _) = pair(0);
    let long = json!({"pair_id": "long", "source": "livecodebench", "question": "tea ".repeat(400), "response_A": pair.a,
                      "response_B": pair.b, "label": "A>B"});
    b.write("jb.jsonl", &format!("{long}\n{rest}"));
    let flags = reasoning(&["--too-long", "invalid"]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let base = ["eval", "judgebench", "--data", "jb.jsonl", "--out", "o"];
    let out = b.run(&[&base[..], &flags[..flags.len() - 2]].concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let refused = ["jb.jsonl:1", "tokens", "nothing is cut"].iter().all(|words| said.contains(words));
    assert!(out.status.code() == Some(1) && refused && !b.path("o").exists(), "{said}");
    b.ok(&[&base[..], &flags].concat());
    let summary = read(&b, "o/summary.json");
    assert_eq!(
        (&summary["judge"]["invalid_rate"]["value"], &summary["judge"]["invalid_reply_rate"]["n"]),
        (&json!(0.25), &json!(6))
    );
}

#[test]
fn a_killed_evaluation_goes_on_and_ends_in_the_same_bytes() {
    let b = Bench::new();
    suite(&b, 96);
    let hot = ["--votes", "3", "--temperature", "1.4", "--threads", "1"];
    eval(&b, "straight", &hot);
    assert!(!b.path("straight.unfinished").exists());
    let flags = reasoning(&hot);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let args =
        [&["eval", "judgebench", "--data", "jb.jsonl", "--out", "killed", "--bootstrap", "50"], &flags[..]].concat();
    let known = || fs::read_to_string(b.path("killed.unfinished")).map_or(0, |text| text.lines().count());
    for least in [33, 65] {
        let mut child = b.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while known() < least {
            assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "{least}");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!b.path("killed").exists());
    }
    // Torn in the middle of a line, as a kill may leave it.
    let path = b.path("killed.unfinished");
    let text = fs::read_to_string(&path).unwrap();
    let answers = text.lines().count() - 2;
    fs::write(&path, text.trim_end().rsplit_once('\n').unwrap().0.to_string() + "\n{\"pair\":[0,").unwrap();
    // Other settings do not go on from there.
    let other = args.iter().map(|s| if *s == "1.4" { "1.3" } else { *s }).collect::<Vec<&str>>();
    b.fails(&other, 2, &["killed.unfinished", "rationale", "--out"]);
    let out = b.run(&args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains(&format!("going on after {answers} answers")), "{said}");
    assert!(!path.exists());
    assert_eq!(rows(&b, "straight"), rows(&b, "killed"));
    let metrics = |out: &str| fs::read(b.path(out).join("metrics.json")).unwrap();
    assert!(metrics("straight") == metrics("killed"));
    assert_same_scores(&b, "straight", "killed");
}

/// Every way to answer: at once, by rewards, and best of n, whose questions depend on the answers before.
#[test]
fn parts_put_together_are_the_whole_and_answers_are_reused() {
    let b = Bench::new();
    suite(&b, 11);
    let row = |i: usize| {
        json!({"question_id": format!("k{i}"), "prompt": "q", "response_1": format!("a{i}"), "response_2": "b", "response_3": "c",
               "scores": [i.is_multiple_of(2), false, true], "sampled_conflict_pairs": [[1, 2]]})
    };
    b.write("PPE-MATH-Best-of-K.jsonl", &(0..7).map(|i| row(i).to_string() + "\n").collect::<String>());
    let cases: [(&str, &str, &str, &[&str]); 3] = [
        ("judgebench", "jb.jsonl", "qwen3", &[]),
        ("judgebench", "jb.jsonl", "qwen3_scalar", &[]),
        ("ppe", "PPE-MATH-Best-of-K.jsonl", "qwen3", &["--best-of-n"]),
    ];
    for (suite, data, model, more) in cases {
        let model = golden(model);
        let run = |out: &str, flags: &[&str]| {
            let base = ["eval", suite, "--data", data, "--model", utf8(&model), "--out", out, "--bootstrap", "50"];
            b.ok(&[&base[..], more, flags].concat())
        };
        run("whole", &[]);
        let parts = ["1/3", "2/3", "3/3"].map(|part| {
            let out = format!("part-{}", &part[..1]);
            assert!(run(&out, &["--shard", part]).contains(&format!("part {} of 3", &part[..1])));
            format!("{out}/rows.jsonl")
        });
        let verdicts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let score = ["eval", "score", suite, "--data", data, "--out", "together", "--bootstrap", "50", "--verdicts"];
        b.ok(&[&score[..], &verdicts].concat());
        assert_same_scores(&b, "whole", "together");
        assert_eq!(rows(&b, "whole"), rows(&b, "together"));
        assert_eq!(read(&b, "whole/summary.json")["best_of_n"], read(&b, "together/summary.json")["best_of_n"]);
        for out in ["whole", "together", "part-1", "part-2", "part-3"] {
            fs::remove_dir_all(b.path(out)).unwrap();
        }
    }
    let base =
        ["eval", "judgebench", "--data", "jb.jsonl", "--model", utf8(&golden("qwen3")), "--shard"].map(String::from);
    let with =
        |part: &'static str| base.iter().map(|s| &*s.clone().leak()).chain([part]).collect::<Vec<&'static str>>();
    b.fails(&with("0/3"), 2, &["--shard", "2/8"]);
    b.fails(&with("4/3"), 2, &["--shard"]);
    b.fails(&with("1/100"), 2, &["too few"]);
}
