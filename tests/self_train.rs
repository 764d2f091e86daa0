//! Self-training on a tiny world: the whole of it, stopped at every unit and killed in the middle, and what goes wrong.

use crate::cli::{Bench, json_lines};
use crate::prove::World;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::error::Kind;
use gramophone::reward::selftrain::config::SelfTrain;
use gramophone::reward::selftrain::{Entry, Finished, Measured, self_train};
use gramophone::text::bpe::Recipe;
use gramophone::text::tokenizer::Tokenizer;
use gramophone::train::log::{Record, Sink};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn record(&mut self, _: &Record, _: &str) {}
    fn note(&mut self, _: &str) {}
}

/// The world's files and a self-training file of two rounds, small enough for seconds.
fn furnish(b: &Bench) -> String {
    World::furnish(b);
    b.write("human.jsonl", &World::rows(0..60, World::reasoned));
    b.write("labelled.jsonl", &World::rows((0..90).step_by(3), World::labelled));
    b.write("unlabelled.jsonl", &World::rows((0..90).filter(|i| i % 3 == 1), World::labelled));
    b.write("held-out.jsonl", &World::rows((0..90).filter(|i| i % 3 == 2), World::labelled));
    let (model, train) = (World::MODEL, World::TRAIN);
    let text = format!(
        "[pipeline]\ndir = \"out\"\nunit = 10\n\
         [data]\nrationales = \"human.jsonl\"\nlabelled = \"labelled.jsonl\"\nunlabelled = \"unlabelled.jsonl\"\n\
         held_out = \"held-out.jsonl\"\n\
         [forms]\njudge = \"judge.txt\"\nproving = \"proving.txt\"\nrationale = \"rationale.form\"\nproof = \"proof.form\"\n\
         [prover]\nproofs = 2\nmax_tokens = 24\ncontext = 100\n\
         [prover.model]\n{model}[prover.data]\nmax_tokens = 128\n[prover.train]\nsteps = 160\n{train}\
         [reward]\nvotes = 2\nmax_tokens = 24\ncontext = 100\nagreement = 0.5\ntau = 0.5\nwith_rationales = true\n\
         [reward.model]\n{model}[reward.data]\nmax_tokens = 128\n[reward.train]\nsteps = 120\n{train}\
         [rounds]\ncount = 2\nstart = \"previous\"\n[rounds.train]\nsteps = 20\n\
         [final.train]\nsteps = 20\n[reward.checkpoint]\nevery = 40\n[reward.log]\ntensorboard = false\n"
    );
    // Paths are relative to where the program runs; the library runs here.
    let here = b.dir.path().display();
    let names = [
        "out",
        "human.jsonl",
        "labelled.jsonl",
        "unlabelled.jsonl",
        "held-out.jsonl",
        "judge.txt",
        "proving.txt",
        "rationale.form",
        "proof.form",
        "tokenizer",
    ];
    let text =
        names.iter().fold(text, |text, name| text.replace(&format!("\"{name}\""), &format!("\"{here}/{name}\"")));
    b.write("run.toml", &text);
    text
}

fn run(text: &str, overrides: &[&str], stop: &dyn Fn() -> bool) -> gramophone::Result<(Finished, Vec<usize>)> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    let file = SelfTrain::parse(text, "run.toml", &overrides).unwrap();
    let mut told = Vec::new();
    let mut hear = |entries: &[Entry]| {
        told.push(entries.len());
        Ok(())
    };
    let finished = self_train(&Device::cpu(1), &file, &mut Deaf, stop, &mut hear)?;
    Ok((finished, told))
}

/// Everything that a self-training must end with, byte by byte: data and weights.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for path in fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let kept = path.extension().is_some_and(|e| e == "jsonl" || e == "safetensors") || name == "stats.json";
            if path.is_dir() {
                open.push(path);
            } else if kept && name != "trainer_log.jsonl" {
                found.insert(path.strip_prefix(dir).unwrap().into(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn assert_same(one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (path, bytes) in one {
        assert!(*bytes == other[path], "{} differs", path.display());
    }
}

fn units(dir: &Path) -> usize {
    let text = fs::read_to_string(dir.join("manifest.json")).unwrap_or("{}".into());
    serde_json::from_str::<Value>(&text).unwrap()["units"].as_array().map_or(0, Vec::len)
}

#[test]
fn the_whole_of_it_straight_and_stopped_at_every_unit_and_within_training() {
    let b = Bench::new();
    let text = furnish(&b);
    let (straight, told) = run(&text, &[], &|| false).unwrap();
    let names: Vec<&str> = straight.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(
        (names.as_slice(), told.as_slice()),
        (&["labelled", "round 1", "round 2", "final"][..], &[1, 2, 3, 4][..])
    );
    assert!(straight.model.unwrap().ends_with("out/final/checkpoint-000020"));
    counts_agree(&b.path("out"), &straight.entries);
    let expected = bytes(&b.path("out"));
    let total = units(&b.path("out"));
    assert!(total > 30 && expected.contains_key(Path::new("round-2/data.jsonl")), "{total}: {:?}", expected.keys());

    // One unit a start, in another directory; the files say nothing about where they lie. Each unit that asks often enough, which all
    // do that train or write, is left in its middle twice before it may end: early, and late.
    let (other, here) = (b.path("again"), format!("pipeline.dir={}/again", b.dir.path().display()));
    let (mut starts, mut halves, mut visits) = (0, 0, BTreeMap::<usize, usize>::new());
    let finished = loop {
        let (before, asked) = (units(&other), Cell::new(0));
        let visit = visits.entry(before).or_default();
        let limit = [5, 40].get(*visit).copied().unwrap_or(usize::MAX);
        *visit += 1;
        let stop = || {
            asked.set(asked.get() + 1);
            units(&other) > before || asked.get() == limit
        };
        let (finished, _) = run(&text, &[&here], &stop).unwrap();
        starts += 1;
        assert!(starts < 4 * total, "it goes on");
        if finished.model.is_some() {
            break finished;
        }
        halves += usize::from(units(&other) == before);
    };
    assert!(halves > 15, "{halves} units were left in their middle");
    assert!(starts > total, "{starts} starts for {total} units");
    let elsewhere = |entry: &Entry| Entry { model: entry.model.strip_prefix(&other).unwrap().into(), ..entry.clone() };
    let here =
        |entry: &Entry| Entry { model: entry.model.strip_prefix(b.path("out")).unwrap().into(), ..entry.clone() };
    let [again, straight] =
        [finished.entries.iter().map(elsewhere).collect(), straight.entries.iter().map(here).collect::<Vec<Entry>>()];
    assert_eq!(again, straight);
    let mut again = bytes(&other);
    let mut expected = expected;
    // Checkpoints within a training are made at stops, too; the last ones are what counts.
    let passing =
        |path: &PathBuf| path.components().any(|c| c.as_os_str().to_string_lossy().starts_with("checkpoint-"));
    let last = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
        let all: Vec<PathBuf> = files.keys().filter(|p| passing(p)).cloned().collect();
        all.into_iter().filter(|p| p.ends_with("model.safetensors")).collect()
    };
    let weights: Vec<PathBuf> = last(&expected).into_iter().filter(|p| again.contains_key(p)).collect();
    assert!(weights.len() >= 5, "every training's last: {weights:?}");
    for path in &weights {
        assert!(expected[path] == again[path], "{} differs", path.display());
    }
    expected.retain(|p, _| !passing(p));
    again.retain(|p, _| !passing(p));
    assert_same(&expected, &again);
}

/// The numbers of the report are those of the files.
fn counts_agree(out: &Path, entries: &[Entry]) {
    let rows = |name: &str| json_lines(&fs::read_to_string(out.join(name)).unwrap());
    for (entry, dir) in entries.iter().zip(["labelled", "round-1", "round-2"]) {
        let (stats, data, rejects) =
            (entry.stats.as_ref().unwrap(), rows(&format!("{dir}/data.jsonl")), rows(&format!("{dir}/rejects.jsonl")));
        assert_eq!((stats.accepted, stats.labelled), (data.len(), data.len() + rejects.len()), "{dir}");
        assert!(stats.accepted > 0 && stats.proofs == 2 * stats.labelled, "{stats:?}");
        assert_eq!(stats.proofs, stats.sound + stats.flaws.values().sum::<usize>());
        let left: usize = stats.reasons.values().sum();
        assert_eq!(stats.pairs, stats.accepted + left, "{stats:?}");
        if dir == "labelled" {
            assert_eq!((stats.pairs, stats.labelled, stats.learned.known), (30, 30, 0));
            continue;
        }
        assert_eq!((stats.pairs, stats.agreement.0.iter().sum::<usize>()), (15, 15), "{dir}: shared out, two rounds");
        assert_eq!((stats.kept.known, stats.learned.known), (stats.labelled, stats.accepted));
        let right = data.iter().filter(|row| row["label"] == row["truth"]).count();
        assert_eq!(stats.learned.right, right);
        for row in &data {
            let i = row["id"].as_u64().unwrap() as usize;
            assert_eq!(row["truth"], World::label(i), "the truth goes along, and is only measured against");
        }
    }
    let learned: Vec<usize> = entries.iter().map(|e| e.learned).collect();
    let accepted: Vec<usize> = entries[..3].iter().map(|e| e.stats.as_ref().unwrap().accepted).collect();
    let merged = 60 + accepted[0];
    assert_eq!(learned, [merged, merged + accepted[1], merged + accepted[1] + accepted[2], 60]);
    for (entry, dir) in entries.iter().zip(["reward", "round-1", "round-2", "final"]) {
        let votes = (0..3).flat_map(|unit| rows(&format!("{dir}/held-out-{unit:05}.jsonl")));
        let mut counted = Measured { pairs: 30, ..Measured::default() };
        for (i, vote) in (0..90).filter(|i| i % 3 == 2).zip(votes) {
            let number = |name: &str| vote[name].as_u64().unwrap() as usize;
            let p_a = vote["p_a"].as_f64().unwrap();
            assert_eq!(vote["id"], i);
            counted.right += usize::from(p_a != 0.5 && (if p_a > 0.5 { "A" } else { "B" }) == World::label(i));
            counted.consistent += usize::from(number("votes_a") == 2 || number("votes_b") == 2);
            counted.invalid += number("invalid");
        }
        assert_eq!(entry.measured, Some(counted), "{dir}");
    }
    // It learned something: a third of these pairs is in no training data.
    assert!(entries[3].measured.unwrap().right >= 18, "{:?}", entries[3].measured);
}

/// How often a run is killed: a few times, of a short one; with `GRAMOPHONE_KILLS=20` so often, of one that goes to the end.
fn kills() -> usize {
    std::env::var("GRAMOPHONE_KILLS").map_or(5, |n| n.parse().expect("GRAMOPHONE_KILLS is a number"))
}

#[test]
fn killed_at_random_points_it_ends_in_the_same_bytes() {
    let b = Bench::new();
    furnish(&b);
    let here = b.dir.path().display().to_string();
    let kills = kills();
    let whole = kills >= 20;
    // Too little to prove anything that one could count on; what is written must be the same all the same.
    let short = ["prover.train.steps=60", "reward.train.steps=40", "rounds.count=1", "rules.max_tokens=100"];
    let args = |dir: &str| {
        let mut args: Vec<String> = ["self-train", "run.toml", "--threads", "1"].map(String::from).to_vec();
        args.extend(short.iter().filter(|_| !whole).map(|s| s.to_string()));
        args.extend(["reward.checkpoint.every=10", "prover.checkpoint.every=10"].map(String::from));
        args.push(format!("pipeline.dir={here}/{dir}"));
        args
    };
    let start = |dir: &str| {
        let args = args(dir);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = b.command(&args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let begun = Instant::now();
    let straight = start("straight").wait().unwrap();
    assert!(!whole || straight.success());
    // Points spread over all of it: each start gets on by about its share.
    let share = begun.elapsed().as_secs_f64() * 1.2 / kills as f64;
    let (rng, mut alive) = (Rng::new(11, Stream::Test, 0), 0);
    for kill in 0..kills {
        let mut child = start("killed");
        std::thread::sleep(Duration::from_secs_f64(share * (0.5 + rng.uniform(kill as u64))));
        alive += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill(); // SIGKILL
        child.wait().unwrap();
    }
    assert!(2 * alive > kills, "{alive} of {kills} starts were killed before they ended");
    let killed = start("killed").wait().unwrap();
    assert_eq!(straight.code(), killed.code());
    let (one, other) = (bytes(&b.path("straight")), bytes(&b.path("killed")));
    assert!(one.keys().any(|p| p.ends_with("model.safetensors")));
    assert_same(&one, &other);
}

/// The switches that the test of the whole leaves alone.
#[test]
fn provers_are_refreshed_and_rounds_may_forget_and_begin_anew() {
    let b = Bench::new();
    let text = furnish(&b);
    let switched =
        ["prover.teacher=refreshed", "rounds.keep=latest", "reward.with_rationales=false", "pipeline.fine_tune=false"];
    let (finished, _) = run(&text, &switched, &|| false).unwrap();
    let accepted: Vec<usize> = finished.entries.iter().map(|e| e.stats.as_ref().unwrap().accepted).collect();
    let learned: Vec<usize> = finished.entries.iter().map(|e| e.learned).collect();
    assert_eq!(learned, [accepted[0], accepted[0] + accepted[1], accepted[0] + accepted[2]]);
    let weights =
        |dir: &str, step: usize| fs::read(b.path(dir).join(format!("checkpoint-{step:06}/model.safetensors"))).unwrap();
    assert!(!b.path("out/round-1/prover").exists(), "the first round has the first prover");
    assert!(weights("out/prover", 160) != weights("out/round-2/prover", 160));
    // At a rate of 0 a round's judge is what it started from.
    let still = |start: &str| {
        let set = [format!("pipeline.dir={}/{start}", b.dir.path().display()), format!("rounds.start={start}")];
        let small = ["rounds.count=1", "rounds.train.lr=0", "rounds.train.steps=1", "pipeline.fine_tune=false"];
        run(&text, &[&[set[0].as_str(), &set[1]][..], &small].concat(), &|| false).unwrap();
        weights(&format!("{start}/reward"), 120) == weights(&format!("{start}/round-1/reward"), 1)
    };
    assert_eq!((still("previous"), still("backbone")), (true, false));
}

/// Between prover and judge there is text: each encodes it with its own tokenizer.
#[test]
fn prover_and_judge_may_have_different_tokenizers() {
    let b = Bench::new();
    let text = furnish(&b);
    let texts = World::rows(0..90, World::reasoned);
    let other = Tokenizer::train(texts.lines(), &Recipe::new(290)).unwrap();
    fs::create_dir(b.path("other")).unwrap();
    other.save(&b.path("other")).unwrap();
    let set = format!("reward.model.tokenizer={}", b.path("other").display());
    let small = ["reward.train.steps=3", "rounds.count=0", "pipeline.fine_tune=false"];
    let (finished, _) = run(&text, &[&[set.as_str()][..], &small].concat(), &|| false).unwrap();
    let of = |dir: &Path| Tokenizer::open(dir).unwrap().vocab_size();
    let prover = b.path("out/prover/checkpoint-000160");
    assert_eq!((of(&finished.model.unwrap()), of(&prover)), (other.vocab_size(), of(&b.path("tokenizer"))));
    assert_ne!(of(&prover), other.vocab_size());
    let (data, learned) = (fs::read_to_string(b.path("out/labelled/data.jsonl")).unwrap(), finished.entries[0].learned);
    assert_eq!(learned, 60 + data.lines().count());
}

#[test]
fn empty_rounds_and_leaks_stop_with_histograms_and_advice() {
    let b = Bench::new();
    let text = furnish(&b);
    let refused = |overrides: &[&str], words: &[&str]| {
        let error = run(&text, overrides, &|| false).unwrap_err();
        for word in words {
            assert!(error.to_string().contains(word), "no {word:?} in {error}");
        }
        assert_eq!(error.kind(), Kind::Data);
        assert!(!error.to_string().contains('\n'));
    };
    let (one, other) = (b.path("leaks").display().to_string(), b.path("empty").display().to_string());
    // A prover that leaks.
    refused(&[&format!("pipeline.dir={one}"), "rules.leaks=beats"], &["labelled: none of 30", "leak", "[rules]"]);
    let stats: Value = serde_json::from_slice(&fs::read(b.path("leaks/labelled/stats.json")).unwrap()).unwrap();
    assert_eq!((stats["accepted"].as_u64(), stats["pairs"].as_u64()), (Some(0), Some(30)));
    assert!(stats["flaws"]["leak"].as_u64().unwrap() > 20, "{stats}");
    // A judge that is never sure enough.
    refused(
        &[&format!("pipeline.dir={other}"), "reward.tau=1.0", "reward.agreement=1.0", "reward.temperature=3"],
        &["round 1: none of 15", "agreement of the votes", "confidence", "lower reward.tau"],
    );
}

#[test]
fn what_is_wrong_with_the_file_is_told_before_anything_is_trained() {
    let b = Bench::new();
    furnish(&b);
    let fails = |code: i32, set: &[&str], words: &[&str]| {
        let args = [&["self-train", "run.toml"], set].concat();
        b.fails(&args, code, words);
        assert!(!b.path("out").exists(), "{set:?}");
    };
    fails(2, &["reward.trian.lr=1"], &["reward.trian", "did you mean"]);
    fails(2, &["prover.train.stepz=1"], &["prover.train.stepz", "prover.train.steps"]);
    fails(2, &["rounds.model.path=x"], &["[reward.model]"]);
    b.write("no-label.txt", "{prompt} {response_a} {response_b}");
    fails(2, &["forms.proving=no-label.txt"], &["no-label.txt", "{label}"]);
    b.write("no-answer.txt", "{prompt} {response_a} {response_b}");
    fails(2, &["forms.judge=no-answer.txt"], &["<answer>"]);
    b.write("no-reply.form", "{why}: {label}");
    fails(2, &["forms.rationale=no-reply.form"], &["no-reply.form", "<answer>"]);
    b.fails(&["self-train", "nowhere.toml"], 2, &["nowhere.toml"]);

    let config = b.ok(&["self-train", "run.toml", "--print-config", "rounds.train.lr=3e-4"]);
    for line in ["[pipeline]", "[prover.train]", "[final.model]"] {
        assert_eq!(config.contains(line), line != "[final.model]", "{line} in {config}");
    }
    assert!(
        config.contains("lr = 0.0003") && config.contains("command line") && config.contains("run.toml:"),
        "{config}"
    );

    // A wrong schema is told by file, row and field; nothing half is left.
    b.write("wrong.jsonl", "{\"prompt\": \"q\", \"response_a\": \"x\", \"response_b\": \"y\", \"label\": 7}\n");
    b.fails(&["self-train", "run.toml", "data.labelled=wrong.jsonl"], 1, &["wrong.jsonl:1", "\"label\""]);
    assert!(!b.path("out/data/labelled.jsonl").exists());
    b.write("plain.jsonl", &World::rows(0..3, World::labelled));
    let set = ["self-train", "run.toml", "data.rationales=plain.jsonl", "pipeline.dir=other"];
    b.fails(&set, 1, &["rationales: none of the rows", "3 without a rationale"]);
    // Another file, the same directory.
    b.fails(&["self-train", "run.toml", "rounds.count=1"], 2, &["other settings", "pipeline.dir"]);
}

#[test]
fn labels_that_are_not_one_token_are_refused() {
    let b = Bench::new();
    furnish(&b);
    // A tokenizer that knows whole tags: the label never stands alone.
    let path = b.path("tokenizer/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (i, text) in ["<answer>\nA", "<answer>A", "<answer> A"].iter().enumerate() {
        added.push(serde_json::json!({"id": 320 + i, "content": text, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": false}));
    }
    fs::write(&path, json.to_string()).unwrap();
    b.fails(&["self-train", "run.toml"], 1, &["tokenizer", "\"A\"", "one token"]);
    assert!(!b.path("out").exists());
}

/// The part of `docs/formats.md` that is made from the table of keys. `GRAMOPHONE_WRITE=1` writes it.
#[test]
fn the_reference_of_self_training_files_is_current() {
    let path = crate::architecture::root().join("docs/formats.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- made from the table of self-training keys -->\n", "<!-- end of self-training keys -->");
    let (head, rest) = text.split_once(begin).expect("the marker where the reference begins");
    let (old, tail) = rest.split_once(end).expect("the marker where it ends");
    let new = gramophone::reward::selftrain::config::reference();
    if std::env::var_os("GRAMOPHONE_WRITE").is_some() {
        fs::write(&path, format!("{head}{begin}{new}{end}{tail}")).unwrap();
    } else {
        assert!(old == new, "docs/formats.md is stale: run this test with GRAMOPHONE_WRITE=1");
    }
}
