//! The shapes that recorded answers come in, and what is refused.

use super::super::comparison::{Choice, Opinion};
use super::super::fixture;
use super::super::output::rows;
use super::super::rules::Grading;
use super::super::suite::Suite;
use super::{Answer, Comparison, Item, Recorded, Result, Value, read};
use crate::reward::rationale::Reasoned;
use crate::reward::vote::{Order, Rule, Tally, Vote, Votes};
use crate::text::answer::Invalid;
use crate::text::example::Side as Label;
use proptest::prelude::*;
use serde_json::json;

fn pairs(n: usize) -> Vec<Item> {
    let item = |i: usize| Item { id: json!(format!("r{i}")), ..fixture::pair("donotanswer", i.is_multiple_of(2)) };
    (0..n).map(item).collect()
}

fn read_text(items: &[Item], text: &str, partial: bool) -> Result<Recorded> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("verdicts.json");
    std::fs::write(&path, text).unwrap();
    read(items, &[path.display().to_string()], partial)
}

fn read_rows(items: &[Item], rows: &[Value]) -> Result<Recorded> {
    read_text(items, &rows.iter().map(|r| format!("{r}\n")).collect::<String>(), false)
}

fn verdicts(items: &[Item], rows: &[Value]) -> Vec<Choice> {
    let answers = read_rows(items, rows).unwrap().answers;
    answers.iter().map(|(i, a)| a.find(items[*i].pairs[0]).unwrap().verdict).collect()
}

fn refused(items: &[Item], rows: &[Value], words: &[&str]) {
    let message = read_rows(items, rows).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
}

#[test]
fn every_shape_of_a_pair_is_read() {
    use Choice::{First, Invalid, Second, Tie};
    let item = pairs(1);
    for (row, verdict) in [
        (json!({"judgments": [{"decision": "A>B"}, {"decision": "B>A"}]}), First),
        (json!({"judgments": [{"decision": "A>B"}, {"decision": "A>B"}]}), Tie),
        (json!({"judgments": [{"decision": "B>A"}], "label": "A>B"}), Second),
        (json!({"judgments": [null, {"decision": "B>A"}]}), Invalid),
        (json!({"p_a": 0.2, "margin_ab": -1.0, "margin_ba": 1.5, "verdict": "B"}), Second),
        (json!({"margin_ab": 1.0, "margin_ba": -1.5}), First),
        (json!({"margin_ab": 1.0, "margin_ba": null}), Invalid),
        // A judge that reasons: the order with a valid vote decides; a majority may go against the margins.
        (json!({"p_a": 0.7, "margin_ab": 1.0, "margin_ba": null, "verdict": "A"}), First),
        (json!({"p_a": 0.7, "margin_ab": 1.0, "margin_ba": -1.0, "verdict": "B"}), Second),
        (json!({"p_a": null, "margin_ab": null, "margin_ba": null, "verdict": "invalid"}), Invalid),
        (json!({"p_ab": 0.9, "p_ba": 0.3}), First),
        (json!({"p_ab": 0.9, "p_ba": null}), Invalid),
        (json!({"p_ab": 0.9}), First),
        (json!({"verdict_ab": "A", "verdict_ba": "tie"}), First),
        (json!({"p": 0.5}), Tie),
        (json!({"verdict": "B>A"}), Second),
        (json!({"verdict": null}), Invalid),
        (json!({"reward_a": 1.5, "reward_b": 2.0}), Second),
        (json!({"rewards": [1.5, 0.0]}), First),
        (json!({"scores": [[1.0], [1.0]]}), Tie),
        (json!({"score_chosen": 3.0, "score_rejected": 4.0}), Second),
        (json!({"scores_chosen": [3.5], "scores_rejected": [3.0]}), First),
        (json!({"chosen": 1.0, "rejected": 2.0}), Second),
        (json!({"chosen_reward": -1.0, "reject_reward": -2.0}), First),
    ] {
        assert_eq!(verdicts(&item, std::slice::from_ref(&row)), [verdict], "{row}");
    }
    for (value, result) in [(json!(true), 1.0), (json!(0), 0.0), (json!(0.5), 0.5)] {
        assert_eq!(read_rows(&item, &[json!({"results": value})]).unwrap().answers[0].1.result, Some(result));
    }
}

#[test]
fn scores_belong_to_the_better_response_wherever_it_stands() {
    let rows = [
        json!({"id": "r1", "score_chosen": 5.0, "score_rejected": 1.0}),
        json!({"id": "r0", "score_chosen": 5.0, "score_rejected": 1.0}),
    ];
    let found = read_rows(&pairs(2), &rows).unwrap();
    let rewards: Vec<Vec<f64>> = found.answers.into_iter().map(|(_, a)| a.rewards.unwrap()).collect();
    assert_eq!(rewards, [[5.0, 1.0], [1.0, 5.0]]);
}

#[test]
fn scores_that_add_up_to_one_are_probabilities() {
    let rows: Vec<Value> = [0.75, 0.4]
        .iter()
        .enumerate()
        .map(|(i, p)| json!({"id": format!("r{i}"), "score_chosen": p, "score_rejected": 1.0 - p}))
        .collect();
    let (items, found) = (pairs(2), read_rows(&pairs(2), &rows).unwrap());
    assert!(found.notes[0].contains("read as probabilities"));
    let p: Vec<f64> = found.answers.iter().map(|(i, a)| a.find(items[*i].pairs[0]).unwrap().p.unwrap()).collect();
    assert!((p[0] - 0.75).abs() < 1e-12 && (p[1] - 0.6).abs() < 1e-12, "{p:?}");
    let mixed = [rows[0].clone(), json!({"id": "r1", "score_chosen": 0.2, "score_rejected": 0.1})];
    assert!(read_rows(&items, &mixed).unwrap().notes.is_empty());
}

#[test]
fn files_are_lines_arrays_columns_or_pretty_objects() {
    let items = pairs(2);
    let lines = "{\"id\": \"r0\", \"correct\": true}\n{\"id\": \"r1\", \"correct\": false}\n";
    let pretty = "{\n  \"id\": \"r0\",\n  \"correct\": true\n}\n{\n  \"id\": \"r1\",\n  \"correct\": false\n}\n";
    let array = "[{\"id\": \"r0\", \"correct\": true},\n{\"id\": \"r1\", \"correct\": false}]";
    let columns =
        "{\"id\": [\"r0\", \"r1\"], \"results\": [1, 0], \"scores_chosen\": [null, null], \"model\": \"org/m\"}";
    let spread = columns.replace(", ", ",\n    ");
    for (text, model) in
        [(lines, None), (pretty, None), (array, None), (columns, Some("org/m")), (&spread, Some("org/m"))]
    {
        let found = read_text(&items, text, false).unwrap();
        let results: Vec<f64> = found.answers.iter().map(|(_, a)| a.result.unwrap()).collect();
        assert_eq!((results, found.model.as_deref()), (vec![1.0, 0.0], model), "{text}");
    }
}

#[test]
fn what_does_not_match_is_named() {
    let items = pairs(2);
    let good = json!({"id": "r0", "verdict": "A"});
    refused(&items, std::slice::from_ref(&good), &["1 of 2 rows have no answer", "id r1", "--partial"]);
    refused(&items, &[good.clone(), good.clone()], &["verdicts.json:2", "second answer"]);
    refused(&items, &[good.clone(), json!({"id": "x", "verdict": "A"})], &["verdicts.json:2", "id x"]);
    refused(&items, &[json!({"id": "r0", "verdict": "yes"})], &["verdicts.json:1", "\"verdict\"", "yes"]);
    refused(&items, &[json!({"id": "r0", "p_ab": 1.5})], &["\"p_ab\"", "1.5"]);
    refused(&items, &[json!({"id": "r0", "text": "A"})], &["no verdict or score", "id, text"]);
    refused(&items, &[json!({"verdict": "A"})], &["have no ids", "data has 2 rows"]);
    refused(&items, &[json!({"id": "r0", "judgments": [null], "label": "B>A"})], &["\"label\"", "otherwise"]);
    refused(&items, &[json!({"id": "r0", "rewards": [1.0]})], &["\"rewards\"", "2 numbers"]);
    let partial = read_text(&items, &good.to_string(), true).unwrap();
    assert_eq!((partial.answers.len(), partial.answers[0].0), (1, 0));
    assert!(partial.notes[0].starts_with("1 of 2 rows have no answer"));
}

#[test]
fn rows_without_ids_are_taken_in_order_and_repeated_ids_too() {
    assert_eq!(
        verdicts(&pairs(2), &[json!({"verdict": "A"}), json!({"verdict": "B"})]),
        [Choice::First, Choice::Second]
    );
    let same: Vec<Item> = ["chat", "code"].iter().map(|d| fixture::pair(d, true)).collect();
    let row = |domain: &str, verdict: &str| json!({"id": 1, "domain": domain, "verdict": verdict});
    assert_eq!(verdicts(&same, &[row("code", "A"), row("chat", "B")]), [Choice::Second, Choice::First]);
    let row = |verdict: &str| json!({"id": 1, "verdict": verdict});
    assert_eq!(verdicts(&same, &[row("A"), row("B")]), [Choice::First, Choice::Second]);
}

#[test]
fn matrices_come_whole_or_cell_by_cell() {
    let items = vec![fixture::styles("chat")];
    let whole = json!({"id": 1, "score_chosen": [3.0, 2.0, 1.0], "score_rejected": [2.5, [1.5], 0.5]});
    let cells: Vec<Value> = (0..9)
        .map(|k| {
            let (i, j) = (k / 3, k % 3);
            json!({"id": 1, "matrix_id": format!("{i}-{j}"), "score_chosen": 3 - i, "score_rejected": 2.5 - f64::from(j)})
        })
        .collect();
    let of = |rows: &[Value]| {
        let found = read_rows(&items, rows).unwrap();
        super::super::rules::Grading { suite: Suite::RmBench, seed: 1 }
            .grade(0, &items[0], &found.answers[0].1)
            .unwrap()
            .cells
    };
    assert_eq!(of(&[whole]), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(of(&cells), of(&[json!({"id": 1, "rewards": [3.0, 2.0, 1.0, 2.5, 1.5, 0.5]})]));
    let again = [&cells[..], &cells[..1]].concat();
    refused(&items, &again, &["verdicts.json:10", "second answer"]);
}

#[test]
fn what_a_judge_that_reasons_wrote_is_kept() {
    let row = json!({"id": "r0", "p_a": 0.75, "margin_ab": 2.0, "margin_ba": null, "verdict": "A", "rationale": "so", "rationale_order": "ba",
                     "votes": {"a": 2, "b": 1, "ab": {"a": 2, "b": 1, "invalid": 0}, "ba": {"a": 0, "b": 0, "invalid": 3}},
                     "invalid": 3, "tokens": {"prompt": 70, "generated": 30}});
    let found = read_rows(&pairs(1), &[row]).unwrap().answers.remove(0).1;
    let c = &found.comparisons[0];
    assert_eq!((found.tokens, c.tokens, c.written, c.p), (100, 100, 30, Some(0.75)));
    assert_eq!(c.replies, Some([Tally { a: 2, b: 1, invalid: 0 }, Tally { a: 0, b: 0, invalid: 3 }]));
    assert_eq!((c.rationale.as_deref(), c.rationale_order), (Some("so"), Some(Order::Ba)));
    assert_eq!(c.orders.map(|o| o.unwrap().choice), [Choice::First, Choice::Invalid]);
    refused(
        &pairs(1),
        &[json!({"p_a": 1.5, "margin_ab": 1.0, "margin_ba": 0.0})],
        &["verdicts.json:1", "\"p_a\"", "1.5"],
    );
    refused(&pairs(1), &[json!({"p_ab": 0.5, "p_ba": 0.5, "verdict": "perhaps"})], &["\"verdict\"", "perhaps"]);
}

fn votes() -> impl Strategy<Value = Reasoned> {
    let vote = (any::<bool>(), any::<bool>(), -4i32..5).prop_map(|(ab, a, margin)| Vote {
        order: if ab { Order::Ab } else { Order::Ba },
        label: if a { Label::A } else { Label::B },
        margin: margin as f32 * 0.75,
        logprob: -1.0 / (1 + margin.abs()) as f32,
        label_mass: 0.5,
        rationale: format!("thought {margin}"),
    });
    let (valid, invalid) = (prop::collection::vec(vote, 0..7), prop::collection::vec(any::<bool>(), 0..4));
    (valid, invalid, any::<bool>(), 1usize..99).prop_map(|(valid, invalid, soft, generated_tokens)| {
        let order = |ab: bool| (if ab { Order::Ab } else { Order::Ba }, Invalid::CutOff);
        let votes = Votes { valid, invalid: invalid.into_iter().map(order).collect() };
        let rule = if soft { Rule::Soft } else { Rule::Majority };
        Reasoned { votes, rule, prompt_tokens: 80, generated_tokens }
    })
}

proptest! {
    /// Rows that were written say the same when they are read.
    #[test]
    fn votes_go_through_a_row_and_back(reasoned in votes(), first in any::<bool>()) {
        let item = fixture::pair("s", first);
        let said = Comparison::of_reasoned((0, 1), &reasoned);
        let answer = Answer { comparisons: vec![said.clone()], tokens: said.tokens, ..Answer::default() };
        let grade = Grading { suite: Suite::Pairs, seed: 1 }.grade(0, &item, &answer).unwrap();
        let row = Value::Object(rows(std::slice::from_ref(&item), std::slice::from_ref(&answer), &[grade]).remove(0));
        let read = read_rows(&[item], std::slice::from_ref(&row)).unwrap().answers.remove(0).1.comparisons.remove(0);
        // Margins stand in a row only if both are there.
        let both = said.orders.iter().all(|o| o.unwrap().margin.is_some());
        let orders = said.orders.map(|o| o.map(|o| Opinion { margin: o.margin.filter(|_| both), ..o }));
        prop_assert_eq!(read, Comparison { orders, ..said }, "{}", row);
    }
}
