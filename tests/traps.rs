//! The known faults of the papers' own code, each with a test that this program does not have it.
//!
//! | fault of that code | test |
//! |---|---|
//! | 1. the demo's softmax is over the two orders, not over A and B | `trap_01_..` |
//! | 2. JudgeBench's overall averages items and group means together | `trap_02_..` |
//! | 3. the verdict is looked for behind `</answer>`, where there is nothing | `trap_03_..` |
//! | 4. a list is sorted by indices, the result thrown away, the best would come last | `trap_04_..` |
//! | 5. a vote names its winner `response1` or `response-1` | `trap_05_..` |
//! | 6. cleaning drops every text with a brace, writes `\n` as two signs, forgets a line end | `trap_06_..` |
//! | 7. the file's label smoothing is twice the paper's epsilon | `trap_07_..` |
//! | 8. labels have a leading space unless a recipe says otherwise | `trap_08_..` |
//! | 9. gradients are summed over micro-batches, so the step depends on how a batch is cut | `trap_09_..` |
//! | 10. texts that are too long lose their end, the question to the judge with it | `trap_10_..` |
//! | 11. servers listen on other ports than clients ask | `trap_11_..` |
//! | 12. the conversion of RewardBench's rows does not parse | `trap_12_..` |
//! | 13. one suite's result is written over another's | `trap_13_..` |
//! | 14. the batch size is a text, and the last batch breaks | `trap_14_..` |
//! | the demo's prompt lacks the line `#Preferred:` of training; a template prints today's date | `trap_prompt_..` |
//! | failures are written down as scores of -9999 | `trap_failures_..` |

use crate::cli::{Bench, golden, json_lines, utf8};
use crate::eval::{judgebench, lines, read, suites};
use crate::rationale::{TAUGHT, TEMPLATE, pair};
use gramophone::infer::scorer::Verdict;
use gramophone::reward::judge::Judgment;
use gramophone::reward::rank::{Method, Outcome, Rules, rank};
use gramophone::reward::rationale;
use gramophone::text::answer::{Invalid, reply};
use gramophone::text::chat::Chat;
use gramophone::text::example::Side;
use gramophone::text::template::JudgeTemplate;
use gramophone::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;

#[test]
fn trap_01_the_softmax_is_over_the_labels_of_one_order() {
    let verdict = |logits: [f32; 2]| Verdict { logits, lse: 3.0 };
    // The first response is shown as A, then as B: each order has a probability of its own.
    let judged = Judgment::of(verdict([2.0, 0.0]), verdict([1.0, 0.5]));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    assert!((judged.p_a - 0.5 * (sigmoid(2.0) + sigmoid(-0.5))).abs() < 1e-7, "{}", judged.p_a);
    // Over the orders instead, A and B of one order would not add up to 1.
    let over_orders = 0.5 * (sigmoid(2.0 - 1.0) + sigmoid(0.5 - 0.0));
    assert!((judged.p_a - over_orders).abs() > 0.04);
}

#[test]
fn trap_02_the_overall_of_judgebench_is_no_mean_of_items_and_groups_together() {
    let b = Bench::new();
    let (rows, right) = (judgebench(), [true, false, true, true, true]);
    b.write("jb.jsonl", &lines(&rows));
    let recorded: Vec<Value> =
        rows.iter().zip(right).map(|(r, c)| json!({"pair_id": r["pair_id"], "correct": c})).collect();
    b.write("c.jsonl", &lines(&recorded));
    b.ok(&["eval", "score", "judgebench", "--data", "jb.jsonl", "--verdicts", "c.jsonl", "--out", "o"]);
    let scores = &read(&b.path("o/summary.json"))["rules"]["papers"]["scores"];
    assert_eq!((&scores["all rows"]["value"], &scores["mean of groups"]["value"]), (&json!(0.8), &json!(0.75)));
    assert_eq!(scores["Overall"]["value"], 0.75, "neither (4 + 3) / 9 nor anything else");
}

#[test]
fn trap_03_the_verdict_is_read_inside_its_tag() {
    let tokenizer = Arc::new(Tokenizer::open(TAUGHT.path()).unwrap());
    let template = JudgeTemplate::parse("warm", TEMPLATE).unwrap();
    let (_, grammar) = rationale::prompts(Chat::of(tokenizer.clone()).unwrap(), template).unwrap();
    let found = |text: &str| grammar.read(&tokenizer.encode(text).unwrap(), true).unwrap();
    for side in [Side::A, Side::B] {
        let text = reply("A warm tea, B cold sea.", side);
        assert_eq!(found(&text).unwrap().side, side, "well-formed is never nothing");
        // What stands behind the tag is no verdict, also where it is a letter.
        assert_eq!(found(&(text + " B")).unwrap_err(), Invalid::TextAfterAnswer);
    }
}

#[test]
fn trap_04_lists_are_texts_ranked_best_first() {
    let quality = [1.0, 3.0, 0.0, 2.0];
    for method in [Method::Linear, Method::Knockout, Method::RoundRobin, Method::Swiss] {
        let judge = |pairs: &[(usize, usize)]| {
            let outcome = |(i, j): &(usize, usize)| {
                let margin: f64 = quality[*i] - quality[*j];
                Outcome { p: 1.0 / (1.0 + (-margin).exp()), margin }
            };
            Ok(pairs.iter().map(outcome).collect())
        };
        let ranking = rank(4, Rules::new(method, None).unwrap(), judge).unwrap();
        assert_eq!(ranking.order[0], 1, "{method:?}");
        if matches!(method, Method::Linear | Method::RoundRobin) {
            assert_eq!(ranking.order, [1, 3, 0, 2], "{method:?}");
        }
    }
    // The texts decide, not their places: the same responses in another order are ranked the same.
    let (b, model) = (Bench::new(), golden("qwen3"));
    let texts = ["Yes.", "No, never.", "Perhaps so"];
    let best = |order: [usize; 3]| {
        let responses: Vec<&str> = order.iter().map(|i| texts[*i]).collect();
        b.write("g.jsonl", &json!({"prompt": "Is it?", "responses": responses}).to_string());
        let row = json_lines(&b.ok(&["rank", "--model", utf8(&model), "--input", "g.jsonl"])).remove(0);
        responses[row["order"][0].as_u64().unwrap() as usize].to_string()
    };
    assert!(best([0, 1, 2]) == best([2, 0, 1]) && best([0, 1, 2]) == best([1, 2, 0]));
}

#[test]
fn trap_05_votes_name_the_response_that_they_are_for() {
    let b = Bench::new();
    for (i, row) in json_lines(&reasoned(&b, 4, &["--votes", "3", "--vote", "majority"])).iter().enumerate() {
        let winner = if pair(i).1 { "A" } else { "B" };
        let (a, b) = (row["votes"]["a"].as_u64(), row["votes"]["b"].as_u64());
        assert_eq!((row["verdict"].as_str(), a > b), (Some(winner), winner == "A"), "{row}");
    }
}

/// What the taught judge says of the first pairs of its world.
fn reasoned(b: &Bench, n: usize, more: &[&str]) -> String {
    let row = |i: usize| {
        let (pair, _) = pair(i);
        let prompt = gramophone::text::message::transcript(&pair.prompt).unwrap();
        json!({"id": i, "prompt": prompt, "response_a": pair.a, "response_b": pair.b})
    };
    b.write("rows.jsonl", &lines(&(0..n).map(row).collect::<Vec<Value>>()));
    let (model, template) = (TAUGHT.path(), TAUGHT.path().join("judge.txt"));
    let base = ["judge", "--rationale", "--model", utf8(model), "--template", utf8(&template), "--input", "rows.jsonl"];
    b.ok(&[&base[..], &["--max-tokens", "60"], more].concat())
}

#[test]
fn trap_06_braces_and_line_ends_are_read_as_they_are() {
    let (b, model) = (Bench::new(), golden("qwen3"));
    let row = json!({"prompt": "q {x}", "chosen": "fn f() { 1 }", "rejected": "a\nb {response_b}"});
    b.write("p.jsonl", &lines(&[row]));
    let said = b.ok(&["eval", "pairs", "--data", "p.jsonl", "--model", utf8(&model)]);
    assert!(said.contains("1 rows, 1 comparisons"), "{said}");
    for stage in ["pretrain", "finetune"] {
        let shown = b.ok(&["data", "inspect", "--tokenizer", utf8(&model), "--stage", stage, "p.jsonl"]);
        for text in ["fn f() { 1 }\n", "q {x}\n", "b {response_b}\n"] {
            assert!(shown.contains(text), "{stage}: no {text:?} in {shown}");
        }
        let text: Vec<&str> = shown.lines().filter(|line| line.starts_with("  |")).collect();
        assert!(!text.iter().any(|line| line.contains("\\n")), "{stage}: a line end as two signs in {shown}");
        // Every marker begins a line of its own, the one after the first answer too.
        for marker in ["[The End of Assistant A's Answer]", "[The End of Assistant B's Answer]"] {
            let line = text.iter().find(|line| line.contains(marker)).expect(marker);
            assert!(line.trim_start_matches(['|', ' ']).starts_with(marker), "{stage}: {line}");
        }
    }
}

#[test]
fn trap_07_smoothing_has_both_names_and_one_meaning() {
    let b = Bench::new();
    b.run_file();
    let config = b.ok(&["train", "run.toml", "--print-config", "train.label_smoothing_torch=0.1"]);
    assert!(config.contains("epsilon = 0.05"), "{config}");
}

#[test]
fn trap_08_labels_have_no_leading_space() {
    let b = Bench::new();
    b.run_file();
    let config = b.ok(&["train", "run.toml", "--print-config"]);
    for line in ["labels = [\"A\", \"B\"]", "verdict = \"candidates\""] {
        assert!(config.contains(line), "{line} in {config}");
    }
}

#[test]
fn trap_09_a_step_is_the_same_however_its_batch_is_cut() {
    let b = Bench::new();
    b.run_file();
    // One example at a time, or all four.
    let logged = |micro: &str, reduction: &str| {
        let set = [
            format!("train.micro_tokens={micro}"),
            format!("train.reduction={reduction}"),
            format!("checkpoint.dir={micro}"),
        ];
        let args =
            ["train", "run.toml", "train.steps=2", "log.every=1", "data.max_tokens=640", &set[0], &set[1], &set[2]];
        b.ok(&args);
        let rows = json_lines(&fs::read_to_string(b.path(micro).join("trainer_log.jsonl")).unwrap());
        fs::remove_dir_all(b.path(micro)).unwrap();
        rows.iter().filter_map(|row| Some([row["loss"].as_f64()?, row["grad_norm"].as_f64()?])).collect::<Vec<_>>()
    };
    let (whole, cut) = (logged("8192", "mean"), logged("640", "mean"));
    assert!(whole.len() >= 2 && whole.len() == cut.len(), "{whole:?} {cut:?}");
    for (whole, cut) in whole.iter().zip(&cut) {
        assert!((0..2).all(|k| (whole[k] / cut[k] - 1.0).abs() < 1e-3), "{whole:?} {cut:?}");
    }
    // Asked for by name, the papers' way to count is there: the norm grows with the number of pieces.
    let theirs = logged("640", "gram_compat");
    assert!(theirs[0][1] > 1.5 * whole[0][1], "{theirs:?} {whole:?}");
}

#[test]
fn trap_10_what_is_too_long_is_left_out_or_refused_and_never_cut() {
    let (b, model) = (Bench::new(), golden("qwen3"));
    b.run_file();
    let long = json!({"prompt": "Is it?", "chosen": "yes ".repeat(3000), "rejected": "no"});
    let pairs = fs::read_to_string(b.path("pairs.jsonl")).unwrap();
    b.write("pairs.jsonl", &format!("{pairs}{long}\n"));
    let shown = b.ok(&["data", "inspect", "--config", "run.toml", "-n", "9"]);
    assert!(shown.contains("1 too long") && shown.contains("6 examples"), "{shown}");
    b.write("p.jsonl", &lines(&[long]));
    b.fails(&["eval", "pairs", "--data", "p.jsonl", "--model", utf8(&model)], 1, &["p.jsonl:1", "nothing is cut"]);
}

#[test]
fn trap_11_clients_are_told_where_servers_listen() {
    let b = Bench::new();
    let listens = b.ok(&["serve", "--help"]);
    let asks = b.ok(&["wait", "--help"]);
    assert!(
        listens.contains("[default: 127.0.0.1:8000]") && asks.contains("http://127.0.0.1:8000"),
        "{listens} {asks}"
    );
}

#[test]
fn trap_12_rows_of_every_suite_are_read_as_they_were_published() {
    let b = Bench::new();
    for (suite, file, rows) in suites() {
        b.write(file, &lines(&rows));
        let said = |rows: &Value| {
            ["pair_id", "pair_uid", "bon_uid", "question_id", "id"]
                .iter()
                .find_map(|id| Some((*id, rows.get(*id)?.clone())))
        };
        let verdict = |row: &Value| {
            let (name, id) = said(row).unwrap_or(("id", json!(1)));
            let n = match suite {
                "rewardbench2" => row["chosen"].as_array().unwrap().len() + row["rejected"].as_array().unwrap().len(),
                "rm-bench" => 6,
                "ppe" => 3,
                "rmb" => row.get("loser_list").map_or(2, |l| l.as_array().unwrap().len() + 1),
                _ => 2,
            };
            json!({name: id, "rewards": (0..n).rev().collect::<Vec<usize>>()})
        };
        b.write("v.jsonl", &lines(&rows.iter().map(verdict).collect::<Vec<Value>>()));
        let said = b.ok(&["eval", "score", suite, "--data", file, "--verdicts", "v.jsonl"]);
        assert!(said.contains(&format!("{} rows", rows.len())), "{suite}: {said}");
    }
}

#[test]
fn trap_13_one_suite_never_overwrites_the_result_of_another() {
    let b = Bench::new();
    let model = golden("qwen3");
    b.write("rb.jsonl", &lines(&suites()[0].2));
    b.write("chat_filtered.json", &lines(&suites()[2].2));
    b.ok(&["eval", "rewardbench", "--data", "rb.jsonl", "--model", utf8(&model), "--out", "result"]);
    let rm = ["eval", "rm-bench", "--data", "chat_filtered.json", "--model", utf8(&model), "--out", "result"];
    b.fails(&rm, 2, &["--out result", "the result of rewardbench"]);
    b.ok(&["eval", "rewardbench", "--data", "rb.jsonl", "--model", utf8(&model), "--out", "result"]);
}

#[test]
fn trap_14_any_batch_gives_the_same_answers_the_last_one_too() {
    let b = Bench::new();
    let one = reasoned(&b, 5, &["--batch", "1"]);
    assert_eq!(one.lines().count(), 5);
    for batch in ["2", "3", "7"] {
        assert_eq!(one, reasoned(&b, 5, &["--batch", batch]));
    }
    b.fails(
        &["judge", "--rationale", "--model", "m", "--input", "rows.jsonl", "--batch", "two"],
        2,
        &["--batch", "two"],
    );
}

#[test]
fn trap_prompt_of_judging_is_that_of_training_and_does_not_know_the_day() {
    let (b, model) = (Bench::new(), golden("llama"));
    b.write("p.jsonl", &lines(&[json!({"prompt": "q", "chosen": "c", "rejected": "r"})]));
    let shown = b.ok(&["data", "inspect", "--tokenizer", utf8(&model), "--stage", "finetune", "p.jsonl"]);
    assert!(shown.contains("#Preferred:"), "{shown}");
    let run = |more: &[&'static str]| {
        let args = ["eval", "pairs", "--data", "p.jsonl", "--model", utf8(&model), "--out", "o"];
        b.ok(&[&args[..], more].concat());
        json_lines(&fs::read_to_string(b.path("o/rows.jsonl")).unwrap())[0]["margin_ab"].clone()
    };
    assert_eq!(run(&[]), run(&["--template-date", "2024-07-26"]));
    assert_ne!(run(&[]), run(&["--template-date", "2024-07-27"]), "the template does print a date");
    // The help says the form that is read.
    assert!(b.ok(&["judge", "--help"]).contains("such as 2024-07-26"));
}

#[test]
fn trap_failures_are_no_scores() {
    let b = Bench::new();
    b.write("jb.jsonl", &lines(&judgebench()[..1]));
    b.write("v.jsonl", "{\"pair_id\": \"p0\", \"p_ab\": -9999, \"p_ba\": 0.5}\n");
    let score = ["eval", "score", "judgebench", "--data", "jb.jsonl", "--verdicts", "v.jsonl"];
    b.fails(&score, 1, &["v.jsonl:1", "\"p_ab\"", "-9999"]);
}
