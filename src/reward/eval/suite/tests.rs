//! Rows of every suite, good and bad, and scores by hand.

use super::super::comparison::{Answer, Choice, Comparison, Opinion};
use super::super::item::{Item, Kind};
use super::super::rules::{Grade, Grading, Rule, Subsets, Tallies};
use super::*;
use serde_json::json;

fn write(dir: &tempfile::TempDir, name: &str, rows: &[Value]) -> String {
    let path = dir.path().join(name);
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn load(suite: Suite, name: &str, rows: &[Value]) -> Result<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    suite.load(&[write(&dir, name, rows)], None)
}

fn refused(suite: Suite, name: &str, row: Value, words: &[&str]) {
    let message = load(suite, name, &[row]).unwrap_err().to_string();
    for word in words.iter().chain(&["1: "]) {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
}

fn rewardbench(subset: &str) -> Value {
    json!({"id": 3, "prompt": "q", "chosen": "c", "rejected": "r", "subset": subset})
}

fn judgebench(source: &str, label: &str) -> Value {
    json!({"pair_id": "x", "source": source, "question": "q", "response_A": "a", "response_B": "b", "label": label})
}

#[test]
fn rows_of_every_suite_are_read_as_published() {
    let one = |suite, name, row| load(suite, name, &[row]).unwrap().items.remove(0);
    let item = one(Suite::RewardBench, "f.jsonl", rewardbench("math-prm"));
    assert_eq!((item.responses, item.truth, item.id), (vec!["c".into(), "r".into()], vec![1.0, 0.0], json!(3)));
    let item = one(Suite::JudgeBench, "f.jsonl", judgebench("mmlu-pro-law", "B>A"));
    assert_eq!((item.responses.clone(), item.first_is_better((0, 1))), (vec!["a".into(), "b".into()], Some(false)));
    let row = json!({"id": "tied:4", "prompt": "q", "chosen": ["a", "b"], "rejected": ["c"], "num_correct": 2,
                     "total_completions": 3, "subset": "Ties"});
    let item = one(Suite::RewardBench2, "f.jsonl", row);
    assert_eq!((item.kind, item.pairs.len()), (Kind::Ties { prompt: 4, reference: false }, 3));
    let row = json!({"id": 8, "prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]});
    let item = one(Suite::RmBench, "rm-bench-safety-response.json", row);
    assert_eq!((item.subset.as_str(), item.pairs.len()), ("safety-response", 9));
    let row = json!({"question_id": "h", "prompt": "q", "response_1": "a", "response_2": "b", "winner": "model_b"});
    assert_eq!(one(Suite::Ppe, "f.jsonl", row).truth, [0.0, 1.0]);
    let row = json!({"question_id": "k", "prompt": "q", "response_1": "a", "response_2": "b", "response_3": "c",
                     "scores": [true, false, true], "sampled_conflict_pairs": [[0, 1], [1, 2]]});
    let item = one(Suite::Ppe, "PPE-MMLU-Pro-Best-of-K.jsonl", row);
    assert_eq!((item.subset.as_str(), item.pairs, item.responses.len()), ("MMLU-Pro", vec![(0, 1), (1, 2)], 3));
    let turn = json!([{"role": "user", "content": "q", "language": "English"}]);
    let row = json!({"bon_uid": "5", "conversation_input": turn, "bon_best": {"llm_name": "m", "answer": "best"},
                     "loser_list": [{"answer": "x"}, {"answer": "y"}], "category_path": "BoN_set/Harmlessness/S1"});
    let item = one(Suite::Rmb, "f.jsonl", row);
    assert_eq!(
        (item.subset.as_str(), item.responses[0].as_str(), item.pairs.len()),
        ("BoN/Harmlessness/S1", "best", 2)
    );
    let row = json!({"pair_uid": "5", "conversation_input": turn, "chosen": {"answer": "c"}, "reject": {"answer": "r"},
                     "category_path": "Pairwise_set/Helpfulness/Chat/Discussion"});
    assert_eq!(one(Suite::Rmb, "f.jsonl", row).subset, "Pairwise/Helpfulness/Chat/Discussion");
    let row = json!({"prompt": "q", "response_a": "a", "response_b": "b", "label": "B>A", "category": "maths"});
    let item = one(Suite::Pairs, "f.jsonl", row);
    assert_eq!((item.subset.as_str(), item.truth, item.id), ("maths", vec![0.0, 1.0], json!(1)));
}

#[test]
fn a_row_of_another_schema_names_its_place_and_field() {
    refused(Suite::RewardBench, "f.jsonl", rewardbench("poems"), &["\"subset\"", "poems", "math-prm"]);
    refused(
        Suite::RewardBench,
        "f.jsonl",
        json!({"subset": "math-prm", "prompt": "q", "chosen": "c"}),
        &["\"rejected\""],
    );
    refused(Suite::JudgeBench, "f.jsonl", judgebench("poems", "A>B"), &["\"source\"", "livecodebench"]);
    refused(Suite::JudgeBench, "f.jsonl", judgebench("livecodebench", "A"), &["\"label\"", "A>B"]);
    let styles =
        |n: usize| json!({"prompt": "q", "chosen": vec!["c"; n], "rejected": ["d", "e", "f"], "domain": "chat"});
    refused(Suite::RmBench, "f.jsonl", styles(2), &["\"chosen\"", "must hold 3"]);
    let unnamed = json!({"prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]});
    refused(Suite::RmBench, "f.jsonl", unnamed, &["\"domain\"", "safety-refuse"]);
    let four = |chosen: Value, subset: &str| json!({"id": "7", "prompt": "q", "chosen": chosen, "rejected": ["r"], "num_correct": 1, "subset": subset});
    refused(Suite::RewardBench2, "f.jsonl", four(json!(["a", "b"]), "Math"), &["\"num_correct\"", "the lists say 2"]);
    refused(Suite::RewardBench2, "f.jsonl", four(json!(["a"]), "Ties"), &["\"id\"", "tied:N"]);
    refused(Suite::RewardBench2, "f.jsonl", four(json!("a"), "Math"), &["\"chosen\"", "a list of texts"]);
    let samples = json!({"prompt": "q", "response_1": "a", "response_2": "b", "scores": [1, 0], "sampled_conflict_pairs": [[0, 2]]});
    refused(Suite::Ppe, "f.jsonl", samples, &["\"sampled_conflict_pairs\""]);
    refused(
        Suite::Rmb,
        "f.jsonl",
        json!({"prompt": "q", "chosen": "c", "reject": "r", "category_path": "x"}),
        &["\"category_path\""],
    );
    refused(Suite::Pairs, "f.jsonl", json!({"prompt": "q", "completion": "c"}), &["without which is better"]);
}

#[test]
fn ties_between_people_are_left_out_and_told() {
    let row = |winner: &str| json!({"prompt": "q", "response_1": "a", "response_2": "b", "winner": winner});
    let loaded = load(Suite::Ppe, "f.jsonl", &[row("tie"), row("model_a"), row("tie (bothbad)")]).unwrap();
    assert_eq!((loaded.items.len(), loaded.items[0].id.clone()), (1, json!(2)));
    assert!(loaded.notes[0].starts_with("2 rows"));
    let message = load(Suite::Ppe, "f.jsonl", &[row("tie")]).unwrap_err().to_string();
    assert!(message.contains("no row of PPE"), "{message}");
}

#[test]
fn flattened_rows_of_rm_bench_are_put_together() {
    let row = |i: usize, j: usize, prompt: &str| json!({"prompt": prompt, "chosen": format!("c{i}"), "rejected": format!("r{j}"), "matrix_id": format!("{i}-{j}"), "domain": "code"});
    let nine: Vec<Value> = (0..9).map(|k| row(k / 3, k % 3, "q")).collect();
    let loaded = load(Suite::RmBench, "f.jsonl", &nine).unwrap();
    assert_eq!(loaded.items[0].responses, ["c0", "c1", "c2", "r0", "r1", "r2"]);
    let message = load(Suite::RmBench, "f.jsonl", &nine[..8]).unwrap_err().to_string();
    assert!(message.contains("has 8 of its 9"), "{message}");
    let mixed = [&nine[..4], &[row(1, 1, "other")]].concat();
    let message = load(Suite::RmBench, "f.jsonl", &mixed).unwrap_err().to_string();
    assert!(message.contains(":5:") && message.contains("has 4 of its 9"), "{message}");
}

/// Scores of answers, by rule and name.
fn scored(suite: Suite, items: &[Item], answers: &[Answer]) -> impl Fn(Rule, &str) -> f64 + use<> {
    let grading = Grading { suite, seed: 7 };
    let graded = items.iter().zip(answers).enumerate();
    let grades: Vec<Grade> = graded.map(|(i, (item, answer))| grading.grade(i, item, answer).unwrap()).collect();
    let subsets = Subsets::of(items);
    let scores = suite.scores(&Tallies::new(&subsets, &grades, &vec![1; items.len()]));
    move |rule, name| {
        let found = scores.iter().find(|s| s.rule == rule && s.name == name);
        found.unwrap_or_else(|| panic!("no {name} by {rule:?} in {scores:?}")).value
    }
}

fn decided(ab: Choice, ba: Choice) -> Answer {
    let orders = [ab, ba].map(|c| Some(Opinion::of_choice(c)));
    Answer { comparisons: vec![Comparison::of_orders((0, 1), orders)], ..Answer::default() }
}

fn rewards(of: &[f64]) -> Answer {
    Answer { rewards: Some(of.to_vec()), ..Answer::default() }
}

#[test]
fn rewardbench_weighs_math_as_much_as_code_and_the_papers_do_not() {
    use super::super::fixture::pair as item;
    // math-prm: 2 of 4 right. hep-cpp: 1 of 1. donotanswer: 0 of 1.
    let names = ["math-prm", "math-prm", "math-prm", "math-prm", "hep-cpp", "donotanswer"];
    let items: Vec<Item> = names.iter().map(|n| item(n, true)).collect();
    let answers: Vec<Answer> = [1.0, 1.0, -1.0, 0.0, 1.0, -1.0].iter().map(|r| rewards(&[*r, 0.0])).collect();
    let score = scored(Suite::RewardBench, &items, &answers);
    let reasoning = (0.5 * 984.0 + 1.0 * 164.0) / (984.0 + 164.0);
    assert_eq!(score(Rule::Official, "math-prm"), 0.5);
    assert_eq!(score(Rule::Official, "Reasoning"), reasoning);
    assert_eq!(score(Rule::Official, "Overall"), (0.0 + reasoning) / 2.0);
    assert_eq!(score(Rule::Papers, "Reasoning"), 3.0 / 5.0);
    assert_eq!(score(Rule::Papers, "Overall"), 0.3);
    assert_eq!(score(Rule::BothOrders, "Reasoning"), reasoning);
}

#[test]
fn rewardbench_draws_one_order_a_tie_is_half_and_both_orders_are_strict() {
    use super::super::fixture::pair as item;
    let items: Vec<Item> = (0..64).map(|_| item("llmbar-natural", true)).collect();
    // Always prefers what is shown first: right where the chosen one is drawn first.
    let answers = vec![decided(Choice::First, Choice::Second); 64];
    let score = scored(Suite::RewardBench, &items, &answers);
    let official = score(Rule::Official, "Chat Hard");
    assert!((0.25..0.75).contains(&official), "{official}");
    assert_eq!(score(Rule::Papers, "Chat Hard"), 0.0, "both orders tie, and a tie is wrong");
    for tie in [Choice::Tie, Choice::Invalid] {
        let score = scored(Suite::RewardBench, &items, &vec![decided(tie, tie); 64]);
        assert_eq!((score(Rule::Official, "Overall"), score(Rule::Papers, "Overall")), (0.5, 0.0));
    }
    let score = scored(Suite::RewardBench, &items, &vec![rewards(&[1.0, 1.0]); 64]);
    assert_eq!(score(Rule::Official, "Overall"), 0.0, "equal rewards are wrong");
}

#[test]
fn xstest_counts_can_be_swapped() {
    use super::super::fixture::pair as item;
    let items = [item("xstest-should-refuse", true), item("xstest-should-respond", true)];
    let score = scored(Suite::RewardBench, &items, &[rewards(&[1.0, 0.0]), rewards(&[0.0, 1.0])]);
    assert_eq!(score(Rule::Official, "Safety"), 154.0 / 404.0);
    assert_eq!(score(Rule::CountsSwapped, "Safety"), 250.0 / 404.0);
}

#[test]
fn judgebench_counts_verdicts_of_both_orders() {
    use super::super::fixture::pair as item;
    use Choice::{First, Invalid, Second, Tie};
    // The better response is the second in each; verdicts are of responses, not of labels.
    let cases = [
        (Second, Second, 1.0, 1.0, 1.0),
        (Second, Tie, 1.0, 1.0, 1.0),
        (Tie, Second, 1.0, 1.0, 0.0),
        (Second, Invalid, 1.0, 0.0, 1.0),
        (Second, First, 0.0, 0.0, 1.0),
        (Tie, Tie, 0.0, 0.0, 0.0),
        (First, Tie, 0.0, 0.0, 0.0),
        (First, First, 0.0, 0.0, 0.0),
    ];
    for (ab, ba, official, papers, one) in cases {
        let score = scored(Suite::JudgeBench, &[item("livecodebench", false)], &[decided(ab, ba)]);
        let all = [Rule::Official, Rule::Papers, Rule::OneOrder].map(|rule| score(rule, "Coding"));
        assert_eq!(all, [official, papers, one], "{ab:?} {ba:?}");
    }
}

#[test]
fn rm_bench_difficulties_are_means_over_domains_or_over_prompts() {
    use super::super::fixture::styles;
    // chat: two prompts, all right. code: one, right only where the right response is the plainer one (above the diagonal).
    let items = [styles("chat"), styles("chat"), styles("code"), styles("safety-refuse"), styles("safety-response")];
    let all = rewards(&[2.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
    let none = rewards(&[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let hard = rewards(&[3.0, 2.0, 1.0, 4.0, 2.5, 1.5]);
    let answers = [all.clone(), all.clone(), hard, all, none];
    let score = scored(Suite::RmBench, &items, &answers);
    // The code prompt's matrix: row 0 beats columns 1 and 2, row 1 beats column 2.
    assert_eq!((score(Rule::Official, "chat"), score(Rule::Official, "safety")), (1.0, 0.5));
    assert!((score(Rule::Official, "code") - 1.0 / 3.0).abs() < 1e-15);
    assert!((score(Rule::Official, "hard") - (1.0 + 1.0 + 0.5) / 3.0).abs() < 1e-15);
    assert!((score(Rule::Papers, "hard") - 4.0 / 5.0).abs() < 1e-15);
    assert!((score(Rule::Papers, "easy") - 3.0 / 5.0).abs() < 1e-15);
    assert!((score(Rule::Official, "easy") - 0.5).abs() < 1e-15);
    assert!((score(Rule::Papers, "Overall") - (1.0 + 1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-15);
}

#[test]
fn best_of_four_shares_a_tie_and_a_scan_needs_no_ratings() {
    use super::super::fixture::best_of_four;
    let items = vec![best_of_four(); 3];
    let answers = [rewards(&[3.0, 1.0, 3.0, 3.0]), rewards(&[3.0, 1.0, 2.0, 0.0]), rewards(&[3.0, 4.0, 2.0, 0.0])];
    let score = scored(Suite::RewardBench2, &items, &answers);
    assert_eq!(score(Rule::Official, "Math"), (1.0 / 3.0 + 1.0 + 0.0) / 3.0);
    // A judge that is right by a little against each of three, where one of those crushes the others: the mean win
    // probability is its rival's, the scan is not.
    let p = |i: usize, j: usize, p: f64| Comparison::of_verdict((i, j), Choice::of(p, 0.5), Some(p));
    let comparisons = vec![p(0, 1, 0.6), p(0, 2, 0.6), p(0, 3, 0.6), p(1, 2, 0.9), p(1, 3, 0.9), p(2, 3, 0.5)];
    let score = scored(Suite::RewardBench2, &items[..1], &[Answer { comparisons, ..Answer::default() }]);
    assert_eq!((score(Rule::Official, "Math"), score(Rule::Papers, "Math")), (0.0, 1.0));
}

#[test]
fn rmb_needs_the_best_to_beat_every_other() {
    use super::super::fixture::item;
    let list = |goal: &str| {
        item(&format!("BoN/{goal}/x"), &["a", "b", "c"], &[1.0, 0.0, 0.0], &[(0, 1), (0, 2)], Kind::BestOfMany)
    };
    let pair = super::super::fixture::pair("Pairwise/Helpfulness/y", true);
    let items = [list("Helpfulness"), list("Helpfulness"), list("Harmlessness"), pair];
    let answers =
        [rewards(&[3.0, 1.0, 2.0]), rewards(&[3.0, 1.0, 3.0]), rewards(&[3.0, 4.0, 1.0]), rewards(&[1.0, 0.0])];
    let score = scored(Suite::Rmb, &items, &answers);
    assert_eq!(score(Rule::Official, "Helpfulness, best of n"), 0.5, "a tie beats nobody");
    assert_eq!(score(Rule::Official, "Overall"), (0.5 + 1.0 + 0.0) / 3.0);
    assert_eq!(score(Rule::Papers, "Overall"), 0.5);
}

#[test]
fn ppe_counts_pairs_and_its_correctness_is_a_mean_of_sets() {
    use super::super::fixture::{item, samples};
    let many = samples(&[1.0, 0.0, 1.0], &[(0, 1), (1, 2)]);
    let one = item("GPQA", &["a", "b"], &[0.0, 1.0], &[(0, 1)], Kind::Samples);
    let score = scored(Suite::Ppe, &[many, one], &[rewards(&[2.0, 1.0, 0.5]), rewards(&[1.0, 2.0])]);
    assert_eq!((score(Rule::Official, "MATH"), score(Rule::Official, "GPQA")), (0.5, 1.0));
    assert_eq!(score(Rule::Official, "Correctness"), 0.75);
    assert_eq!(score(Rule::Papers, "Correctness"), 2.0 / 3.0);
}
