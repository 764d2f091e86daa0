//! The demo as a person runs it, in sizes of seconds: too small to learn anything, large enough that every part runs.

use crate::cli::Bench;
use serde_json::Value;
use std::fs;

const TINY: &str = r#"{
    "hills": {"vocab": 384, "unlabelled": 64, "labelled": 32, "held_out": 20,
              "pretrain": {"steps": 3, "batch": 8}, "finetune": {"steps": 3, "batch": 8}},
    "cups": {"swaps": [1, 1], "reasoned": 60, "labelled": 20, "unlabelled": 20, "rounds": 1, "held_out": 15,
             "prover": {"steps": 150, "batch": 16}, "judge": {"steps": 120, "batch": 8}, "round": {"steps": 2, "batch": 8},
             "agreement": 0.5, "ballots": 2, "proofs": 4, "refreshed": false}
}"#;

fn json(b: &Bench, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(b.path(name)).unwrap()).unwrap()
}

/// The shell game's part: every judge, with an interval around its share, and every comparison.
fn assert_game(cups: &Value, seeds: usize) {
    let table = cups["table"].as_array().unwrap();
    assert_eq!(table.len(), 6, "{table:?}");
    for line in table {
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{line}"));
        let (low, high) = (number(&line["interval"][0]), number(&line["interval"][1]));
        assert!(0.0 <= low && low <= number(&line["accuracy"]) && number(&line["accuracy"]) <= high && high <= 1.0);
        let each = line["seeds"].as_array().unwrap();
        let mean = each.iter().map(|seed| number(&seed["accuracy"])).sum::<f64>() / seeds as f64;
        assert!(each.len() == seeds && (mean - number(&line["accuracy"])).abs() < 1e-9, "{line}");
        // Equal steps for all but the first judge.
        let steps = if line["judge"].as_str().unwrap().starts_with("first") { 120 } else { 122 };
        assert!(each.iter().all(|seed| seed["steps"] == steps), "{line}");
    }
    let names: Vec<&str> =
        cups["comparisons"].as_array().unwrap().iter().map(|c| c["against"].as_str().unwrap()).collect();
    assert_eq!(names, ["label_only", "first_judge", "same_steps", "with_reasons", "votes"]);
    for seed in cups["seeds"].as_array().unwrap() {
        let data = seed["data"].as_array().unwrap();
        assert_eq!((data[0]["pairs"].as_u64(), data[1]["pairs"].as_u64()), (Some(20), Some(20)), "{data:?}");
    }
}

#[test]
fn both_chapters_are_told_and_written() {
    let b = Bench::new();
    let said = b.ok(&["demo", "--sizes", TINY, "--out", "out", "--threads", "1"]);
    for words in ["HILLS", "CUPS", "control: same steps, no new pairs", "control: the reasons too", "self-train.toml"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let demo = json(&b, "out/demo.json");
    assert!(demo["gain"].is_f64() && demo["pretrained"]["accuracy"].is_f64());
    assert_game(&demo["cups"], 1);
    let page = fs::read_to_string(b.path("out/report.html")).unwrap();
    for words in ["Hills: judges", "Cups: judges", "Cups: what became of the pairs", "<svg"] {
        assert!(page.contains(words), "{words}");
    }
    // What it says to do next works.
    let model = demo["cups"]["seeds"][0]["model"].as_str().unwrap();
    let template = "out/cups/world/reasoning.txt";
    let input = "out/cups/world/test.jsonl";
    let judge =
        ["judge", "--rationale", "--model", model, "--template", template, "--input", input, "--max-tokens", "9"];
    assert_eq!(b.ok(&judge).lines().count(), 15);
    b.ok(&["self-train", "--print-config", "out/cups/self-train.toml"]);
}

#[test]
fn the_full_one_runs_over_seeds_and_goes_on_where_it_was() {
    let b = Bench::new();
    let rates = TINY.replacen("\"swaps\"", "\"label_rates\": [1e-3, 3e-3], \"swaps\"", 1);
    let args = ["demo", "--full", "--seeds", "2", "--seed", "5", "--sizes", &rates, "--out", "out", "--threads", "1"];
    let first = b.ok(&args);
    assert!(first.contains("seed 5") && first.contains("seed 6") && !first.contains("HILLS"), "{first}");
    let demo = json(&b, "out/demo.json");
    assert_game(&demo["cups"], 2);
    for seed in demo["cups"]["seeds"].as_array().unwrap() {
        let rates = seed["label_only_rates_on_validation"].as_array().unwrap();
        let best = rates.iter().map(|rate| rate[1].as_f64().unwrap()).fold(0.0, f64::max);
        let chosen = rates.iter().find(|rate| rate[0] == seed["label_only_rate"]).unwrap();
        assert_eq!(chosen[1].as_f64().unwrap(), best, "{seed}");
    }
    b.ok(&args);
    assert_eq!(json(&b, "out/demo.json")["cups"]["table"], demo["cups"]["table"], "the same judges, not trained again");
}

#[test]
fn sizes_that_are_none_are_refused() {
    let b = Bench::new();
    b.fails(&["demo", "--sizes", "{\"cups\": {\"cup\": 1}}"], 2, &["sizes", "cup"]);
    b.fails(&["demo", "--seeds", "2"], 2, &["--full"]);
    assert!(!b.path("gramophone-demo").exists());
}
