//! The judge that reasons, on a model that was taught to: it learns within seconds to say which of two answers is the warm one, in
//! a thought and an answer tag, and is then asked of pairs that it has not seen.

use crate::cli::{Bench, golden, json_lines, utf8};
use gramophone::base::dtype::Dtype;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::infer::generator::{Finish, Generator, Request, Settings as Sampling, Shape};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Config, Family, preset};
use gramophone::reward::judge::{EncodedPair, Pair, Prompts, Side};
use gramophone::reward::rationale::{self, RationaleJudge, Reasoned, Settings, vote_seed};
use gramophone::reward::service::{Extras, Options, PairWork, Service, Setup, Sizes, Texts};
use gramophone::reward::vote::{Order, Rule};
use gramophone::text::answer::{Grammar, reply};
use gramophone::text::bpe::Recipe;
use gramophone::text::chat::Chat;
use gramophone::text::encode::{Encoder, Stage};
use gramophone::text::example::{self, Example};
use gramophone::text::message::Message;
use gramophone::text::template::JudgeTemplate;
use gramophone::text::tokenizer::Tokenizer;
use gramophone::train::objective::{self, Over, Reduction};
use gramophone::train::optim;
use gramophone::train::trainer::{self, Trainer};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// The judge prompt that the model was taught with.
pub const TEMPLATE: &str = "Which is warm? Think, then <answer>.\n{prompt}\nA {response_a}\nB {response_b}\n";
const THINGS: [&str; 8] = ["tea", "sea", "sun", "ice", "day", "hat", "cup", "pan"];
const CONTEXT: usize = 128;

/// A model directory that the tests share; its judge prompt is in `judge.txt`.
pub static TAUGHT: LazyLock<tempfile::TempDir> = LazyLock::new(teach);

/// Pair `i`: the warm thing, the cold one, and whether the warm one comes first.
pub fn pair(i: usize) -> (Pair, bool) {
    let draw = |what: u64, n: usize| Rng::new(3, Stream::Test, i as u64).below(what, n as u64) as usize;
    let [x, y, z] = [0, 1, 2].map(|k| THINGS[draw(k, THINGS.len())]);
    let (warm, cold) = (format!("warm {x}"), format!("cold {y}"));
    let first = draw(3, 2) == 0;
    let (a, b) = if first { (warm, cold) } else { (cold, warm) };
    (Pair { prompt: vec![Message::user(z)], a, b }, first)
}

/// What is to be written of two answers as they are shown.
fn thought(a: &str, b: &str) -> String {
    format!("A {a}, B {b}.")
}

fn template() -> JudgeTemplate {
    JudgeTemplate::parse("warm", TEMPLATE).unwrap()
}

fn completion(pair: &Pair, a_is_warm: bool) -> Example {
    let side = if a_is_warm { example::Side::A } else { example::Side::B };
    let question = gramophone::text::message::transcript(&pair.prompt).unwrap();
    let prompt = template().messages(&question, &pair.a, &pair.b);
    Example::Completion { prompt, completion: reply(&thought(&pair.a, &pair.b), side) }
}

fn teach() -> tempfile::TempDir {
    let texts: Vec<String> = (0..300)
        .map(|i| {
            let (pair, first) = pair(i);
            let side = if first { example::Side::A } else { example::Side::B };
            template().fill("tea", &pair.a, &pair.b) + &reply(&thought(&pair.a, &pair.b), side)
        })
        .collect();
    let tokenizer = Arc::new(Tokenizer::train(texts.iter().map(String::as_str), &Recipe::new(360)).unwrap());
    let sizes = preset::Shape {
        vocab: Some(tokenizer.vocab_size().next_multiple_of(16)),
        width: Some(64),
        layers: Some(2),
        heads: Some(4),
        kv_heads: Some(2),
        head_size: Some(16),
        ffn: Some(128),
        max_positions: Some(CONTEXT),
        tied: Some(true),
        rope_theta: Some(1e4),
        init_std: Some(0.125),
        ..preset::Shape::default()
    };
    let mut config = Config::family_shape(Family::Qwen3, &sizes).unwrap();
    config.eos = tokenizer.stop().to_vec();
    let chat = Chat::of(tokenizer.clone()).unwrap();
    let encoder = Encoder { chat, template: template(), stage: Stage::Sft };
    let dev = Device::cpu(2);
    let model = Model::random(config, Dtype::F32, 4).unwrap();
    let adamw =
        optim::Settings { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    let (over, reduction) = (Over::Candidates, Reduction::Mean);
    let objective = objective::Settings { labels: [0, 1], smoothing: 0.0, over, reduction, pad: None };
    let shape = trainer::Shape { micro_tokens: 2048, keep: Keep::All, objective };
    let mut trainer = Trainer::new(&dev, model, adamw, shape).unwrap();
    let steps = 160;
    for step in 0..steps {
        // Pairs from 1000 on; those below are for judging.
        let item = |k: usize| {
            let (mut pair, mut first) = pair(1000 + 16 * step + k);
            if k % 2 == 1 {
                (pair.a, pair.b, first) = (pair.b, pair.a, !first);
            }
            encoder.item(&completion(&pair, first), example::Side::A).unwrap().unwrap()
        };
        let items: Vec<_> = (0..16).map(item).collect();
        let rate = 4e-3 * ((step + 1) as f64 / 20.0).min(1.0) * (1.0 - 0.9 * step as f64 / steps as f64);
        trainer.step(&items, rate).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    trainer.into_model().save(dir.path()).unwrap();
    tokenizer.save(dir.path()).unwrap();
    std::fs::write(dir.path().join("judge.txt"), TEMPLATE).unwrap();
    dir
}

struct Taught {
    model: Model,
    tokenizer: Arc<Tokenizer>,
}

impl Taught {
    fn open() -> Taught {
        let dir = TAUGHT.path();
        let model = Model::open(dir, |stored| stored).unwrap();
        Taught { model, tokenizer: Arc::new(Tokenizer::open(dir).unwrap()) }
    }
    fn prompts(&self) -> (Prompts, Grammar) {
        rationale::prompts(Chat::of(self.tokenizer.clone()).unwrap(), template()).unwrap()
    }
    fn judge<'m>(&'m self, dev: &'m Device, settings: Settings, sequences: usize) -> RationaleJudge<'m> {
        let shape = Shape { sequences, context: CONTEXT };
        RationaleJudge::new(dev, &self.model, self.prompts(), settings, shape, self.tokenizer.stop()).unwrap()
    }
    fn encoded(&self, n: usize) -> Vec<EncodedPair> {
        let (prompts, _) = self.prompts();
        (0..n).map(|i| prompts.pair(&pair(i).0).unwrap()).collect()
    }
}

/// Sampled hot enough for replies to differ, and some to be invalid.
fn hot(votes: usize) -> Settings {
    Settings { votes, temperature: 1.6, max_tokens: 60, ..Settings::default() }
}

/// Cooler: most replies are valid.
fn warm(votes: usize) -> Settings {
    Settings { temperature: 1.2, ..hot(votes) }
}

#[test]
fn a_taught_judge_thinks_and_is_right() {
    let (taught, dev) = (Taught::open(), Device::cpu(2));
    let found =
        taught.judge(&dev, Settings { max_tokens: 60, ..Settings::default() }, 16).judge(&taught.encoded(30)).unwrap();
    for (i, r) in found.iter().enumerate() {
        let (pair, a_is_warm) = pair(i);
        assert_eq!(r.verdict(), Some(if a_is_warm { Side::A } else { Side::B }), "{pair:?} {r:?}");
        assert!(r.consistent() && r.votes.invalid.is_empty() && r.votes.label_mass().unwrap() > 0.9, "{r:?}");
        assert_eq!((r.votes.p_a().unwrap() > 0.9, r.votes.p_a().unwrap() < 0.1), (a_is_warm, !a_is_warm), "{r:?}");
        let typical = r.typical().unwrap();
        assert_eq!((typical.order, &typical.rationale), (Order::Ab, &thought(&pair.a, &pair.b)));
        let warm = |order| r.votes.margin(order).unwrap() > 0.0;
        assert_eq!((warm(Order::Ab), warm(Order::Ba)), (a_is_warm, !a_is_warm));
    }
}

#[test]
fn votes_depend_on_the_pair_alone() {
    let taught = Taught::open();
    let pairs = taught.encoded(8);
    let judge = |threads: usize, sequences: usize, batch: usize, reversed: bool| -> Vec<Reasoned> {
        let dev = Device::cpu(threads);
        let mut judge = taught.judge(&dev, warm(4), sequences);
        let mut order = pairs.clone();
        if reversed {
            order.reverse();
        }
        let mut found: Vec<Reasoned> = order.chunks(batch).flat_map(|p| judge.judge(p).unwrap()).collect();
        if reversed {
            found.reverse();
        }
        found
    };
    let reference = judge(1, 16, 8, false);
    let outcomes = |r: &Reasoned| {
        let valid = r.votes.valid.iter().map(|v| format!("{:?} {}", v.order, v.margin));
        let invalid = r.votes.invalid.iter().map(|(order, reason)| format!("{order:?} {reason}"));
        valid.chain(invalid).collect::<std::collections::BTreeSet<String>>().len()
    };
    assert!(reference.iter().any(|r| outcomes(r) > 2), "votes of one order differ");
    assert!(reference.iter().any(|r| !r.votes.valid.is_empty()));
    for (threads, sequences, batch, reversed) in [(2, 16, 8, true), (1, 1, 1, false), (2, 5, 3, true)] {
        assert_eq!(reference, judge(threads, sequences, batch, reversed), "{threads} {sequences} {batch} {reversed}");
    }
    // The same pair with its responses swapped gets the same votes in mirrored roles.
    let dev = Device::cpu(2);
    let swapped: Vec<EncodedPair> = pairs.iter().map(|p| EncodedPair { ab: p.ba.clone(), ba: p.ab.clone() }).collect();
    for (r, s) in reference.iter().zip(taught.judge(&dev, warm(4), 16).judge(&swapped).unwrap()) {
        let [a, b] = r.votes.counts();
        assert_eq!(s.votes.counts(), [b, a]);
        assert_eq!(r.votes.reasons(), s.votes.reasons());
        assert_eq!(r.votes.margin(Order::Ab).map(f32::to_bits), s.votes.margin(Order::Ba).map(f32::to_bits));
    }
    let other = taught.judge(&dev, Settings { seed: 1, ..warm(4) }, 16).judge(&pairs).unwrap();
    assert_ne!(reference, other, "another seed votes otherwise");
}

/// A service that many ask at once gives what the judge gives by itself.
#[test]
fn a_service_under_load_reasons_as_the_judge_does() {
    let (taught, dev) = (Taught::open(), Device::cpu(2));
    let pairs = taught.encoded(6);
    let all = [
        Settings { max_tokens: 60, ..Settings::default() },
        warm(4),
        Settings { rule: Rule::Majority, adaptive: Some(0.95), seed: 5, ..warm(8) },
    ];
    let want: Vec<Vec<Reasoned>> = all.iter().map(|s| taught.judge(&dev, *s, 16).judge(&pairs).unwrap()).collect();
    assert!(want[1].iter().any(|r| !r.votes.invalid.is_empty()) && want[1].iter().any(|r| r.verdict().is_some()));
    let (prompts, grammar) = taught.prompts();
    let stop = taught.tokenizer.stop().to_vec();
    let setup = Setup {
        dev: Device::cpu(1),
        model: Model::open(TAUGHT.path(), |stored| stored).unwrap(),
        texts: Texts::Pairwise(prompts.clone()),
        // Prompts take several passes, and wait for places.
        sizes: Sizes { context: CONTEXT, pass: 48, sequences: 5, queue: 1 << 20, stop },
        loader: Box::new(|dir| Model::open(dir, |stored| stored)),
        dir: TAUGHT.path().into(),
        version: "1".into(),
    };
    let service = Service::with(setup, Extras { reasoning: Some((prompts, grammar)), ..Extras::default() }).unwrap();
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (service, pairs, want, all) = (service.clone(), &pairs, &want, &all);
            scope.spawn(move || {
                let mut tickets = Vec::new();
                for i in 0..pairs.len() {
                    let kind = (i + client) % all.len();
                    let work = PairWork::Orders(pairs[(i + 1) % pairs.len()].clone());
                    // Others read at once, and some change their minds.
                    let read = service.judge(work, Options::default()).unwrap();
                    if i % 3 == 1 {
                        drop(service.judge_by_rationale(pairs[i].clone(), warm(3), Options::default()).unwrap());
                    }
                    let asked = service.judge_by_rationale(pairs[i].clone(), all[kind], Options::default()).unwrap();
                    tickets.push((kind, i, asked, read));
                }
                for (kind, i, asked, read) in tickets {
                    let said = asked.wait().unwrap();
                    assert_eq!(said.answer, want[kind][i], "settings {kind}, pair {i}");
                    assert_eq!(said.tokens, want[kind][i].prompt_tokens);
                    read.wait().unwrap();
                }
            });
        }
    });
    assert_eq!((service.load().in_flight, service.load().queued_tokens, service.load().running_tokens), (0, 0, 0));
    let greedy = Settings { votes: 3, ..Settings::default() };
    assert!(service.judge_by_rationale(pairs[0].clone(), greedy, Options::default()).is_err());
}

/// Sixteen votes are sixteen separate runs, for the price of one prompt.
#[test]
fn votes_share_their_prompt_and_are_those_of_separate_runs() {
    let (taught, dev) = (Taught::open(), Device::cpu(2));
    let pairs = taught.encoded(1);
    let prompt_tokens = |votes: usize| {
        let mut judge = taught.judge(&dev, hot(votes), 32);
        let found = judge.judge(&pairs).unwrap().remove(0);
        assert_eq!(judge.counts().generated, found.generated_tokens);
        assert_eq!(judge.counts().computed, found.prompt_tokens);
        (found, judge.counts().computed as f64)
    };
    let ((_, one), (found, sixteen)) = (prompt_tokens(1), prompt_tokens(16));
    assert!(sixteen <= 1.5 * one, "{sixteen} prompt tokens for sixteen votes, {one} for one");
    let (_, grammar) = taught.prompts();
    let labels = [grammar.labels().a, grammar.labels().b];
    let (mut valid, mut invalid) = (found.votes.valid.iter(), found.votes.invalid.iter());
    for (order, prompt) in [(Order::Ab, &pairs[0].ab), (Order::Ba, &pairs[0].ba)] {
        for vote in 0..16 {
            let seed = vote_seed(0, prompt, vote);
            let settings = Sampling { temperature: 1.6, max_tokens: 60, seed, ..Sampling::default() };
            let shape = Shape { sequences: 1, context: CONTEXT };
            let mut generator = Generator::new(&dev, &taught.model, shape, taught.tokenizer.stop()).unwrap();
            generator.watch(Some(labels));
            let request = Request { prompt: prompt.clone(), settings };
            let made = generator.generate(&[request], |_, _| ()).unwrap().remove(0);
            match grammar.read(&made.tokens, made.finish == Finish::Stop).unwrap() {
                Ok(answer) => {
                    let vote = valid.next().unwrap();
                    let (got, want) = (vote, made.verdicts[answer.position]);
                    assert_eq!((got.order, got.label, &got.rationale), (order, answer.side, &answer.rationale));
                    assert_eq!(got.margin.to_bits(), want.margin().to_bits());
                    assert_eq!(got.logprob.to_bits(), made.logprobs[answer.position].to_bits());
                    let label = if answer.side == example::Side::A { labels[0] } else { labels[1] };
                    assert_eq!(made.tokens[answer.position], label);
                }
                Err(reason) => assert_eq!(invalid.next(), Some(&(order, reason))),
            }
        }
    }
    assert!(valid.next().is_none() && invalid.next().is_none());
}

#[test]
fn adaptive_voting_stops_when_it_is_settled_and_casts_the_same_first_votes() {
    let (taught, dev) = (Taught::open(), Device::cpu(2));
    let pairs = taught.encoded(6);
    let cool = Settings { votes: 8, temperature: 0.75, max_tokens: 60, ..Settings::default() };
    let run = |adaptive| taught.judge(&dev, Settings { adaptive, ..cool }, 16).judge(&pairs).unwrap();
    let (all, soon, sure) = (run(None), run(Some(0.95)), run(Some(1.0)));
    for ((all, soon), sure) in all.iter().zip(&soon).zip(&sure) {
        assert_eq!(all.votes.valid.len() + all.votes.invalid.len(), 16);
        let cast = |r: &Reasoned| r.votes.valid.len() + r.votes.invalid.len();
        assert!(cast(soon) <= cast(sure) && cast(sure) <= 16);
        for order in Order::BOTH {
            let of = |r: &Reasoned| r.votes.valid.iter().filter(|v| v.order == order).cloned().collect::<Vec<_>>();
            assert!(of(all).starts_with(&of(soon)));
        }
        assert_eq!(sure.verdict(), all.verdict());
        if soon.votes.settled(Rule::Soft, 8, 0.95) && cast(soon) == 4 {
            assert_eq!(soon.prompt_tokens, all.prompt_tokens, "one round reads it once");
        }
    }
    assert!(soon.iter().any(|r| r.votes.valid.len() == 4), "two unanimous votes of each order are 0.969");
}

#[test]
fn invalid_replies_abstain_and_are_counted() {
    let (taught, dev) = (Taught::open(), Device::cpu(2));
    let pairs = taught.encoded(4);
    // Too hot to write anything; then cut before the answer.
    let noise = taught.judge(&dev, Settings { temperature: 50.0, ..hot(2) }, 16).judge(&pairs).unwrap();
    let cut = taught.judge(&dev, Settings { max_tokens: 5, ..Settings::default() }, 16).judge(&pairs).unwrap();
    for (r, votes) in noise.iter().map(|r| (r, 4)).chain(cut.iter().map(|r| (r, 2))) {
        assert_eq!((r.votes.invalid.len(), r.verdict(), r.votes.p_a(), r.typical()), (votes, None, None, None));
        assert!(!r.consistent());
    }
    assert!(cut.iter().all(|r| r.generated_tokens == 10));
    // In between, both kinds occur, and add up.
    let warm = taught.judge(&dev, hot(16), 16).judge(&pairs).unwrap();
    let (valid, invalid) = warm.iter().fold((0, 0), |(v, i), r| (v + r.votes.valid.len(), i + r.votes.invalid.len()));
    assert!(valid > 0 && invalid > 0 && valid + invalid == 4 * 32, "{valid} {invalid}");
}

fn rows(b: &Bench, n: usize) -> std::path::PathBuf {
    let row = |i: usize| {
        let (pair, _) = pair(i);
        let prompt = gramophone::text::message::transcript(&pair.prompt).unwrap();
        serde_json::json!({"id": i, "prompt": prompt, "response_a": pair.a, "response_b": pair.b}).to_string() + "\n"
    };
    b.write("rows.jsonl", &(0..n).map(row).collect::<String>())
}

#[test]
fn the_program_judges_with_rationales() {
    let b = Bench::new();
    let (model, rows) = (TAUGHT.path(), rows(&b, 5));
    let template = model.join("judge.txt");
    let base = ["judge", "--rationale", "--model", utf8(model), "--input", utf8(&rows), "--template", utf8(&template)];
    let run = |more: &[&str]| b.ok(&[&base[..], &["--max-tokens", "60"], more].concat());
    for (i, row) in json_lines(&run(&[])).iter().enumerate() {
        let (pair, a_is_warm) = pair(i);
        assert_eq!(row["verdict"], if a_is_warm { "A" } else { "B" }, "{row}");
        assert_eq!(row["rationale"], thought(&pair.a, &pair.b).as_str());
        assert_eq!(
            (&row["rationale_order"], &row["invalid"], &row["consistent"]),
            (&"ab".into(), &0.into(), &true.into())
        );
        assert_eq!(row["votes"]["ab"]["a"].as_u64().unwrap(), u64::from(a_is_warm));
        assert!(row["tokens"]["prompt"].as_u64().unwrap() > 20 && row["tokens"]["generated"].as_u64().unwrap() > 10);
        assert!(row["margin_ab"].is_f64() && row["p_a"].is_f64() && row["label_mass"].is_f64());
    }
    let voting = ["--votes", "5", "--vote", "majority", "--temperature", "1.6", "--seed", "3"];
    let with = |more: &[&str]| run(&[&voting[..], more].concat());
    let reference = with(&[]);
    assert_eq!(reference, with(&["--batch", "3", "--threads", "1"]));
    for row in json_lines(&reference) {
        let n = |v: &Value| v.as_u64().unwrap();
        let votes = &row["votes"];
        assert_eq!(n(&votes["a"]) + n(&votes["b"]) + n(&row["invalid"]), 10);
        assert_eq!(n(&votes["a"]), n(&votes["ab"]["a"]) + n(&votes["ba"]["a"]));
        assert_eq!(n(&row["invalid"]), n(&votes["ab"]["invalid"]) + n(&votes["ba"]["invalid"]));
        let reasons = row["invalid_reasons"].as_object().unwrap().values().map(n).sum::<u64>();
        assert_eq!(reasons, n(&row["invalid"]));
    }
    let adaptive = json_lines(&run(&["--votes", "16", "--adaptive"]));
    let cast = |row: &Value| row["votes"]["a"].as_u64().unwrap() + row["votes"]["b"].as_u64().unwrap();
    assert!(adaptive.iter().any(|row| cast(row) == 4) && adaptive.iter().all(|row| cast(row) <= 32));
}

#[test]
fn models_that_write_noise_are_invalid_and_flags_that_mean_nothing_are_refused() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = |model: &Path, more: &[&'static str]| -> Vec<String> {
        let base = ["judge", "--model", utf8(model), "--input", utf8(&rows)].map(String::from);
        base.into_iter().chain(more.iter().map(|s| s.to_string())).collect()
    };
    let strs = |args: &[String]| -> Vec<&'static str> { args.iter().map(|s| &*s.clone().leak()).collect() };
    let noise = b.ok(&strs(&args(&model, &["--rationale", "--max-tokens", "8", "--votes", "3"])));
    let noise = json_lines(&noise);
    assert_eq!(noise.len(), 3);
    for row in noise {
        assert_eq!((&row["verdict"], &row["p_a"], &row["invalid"]), (&"invalid".into(), &Value::Null, &6.into()));
        assert_eq!((&row["rationale"], &row["consistent"]), (&Value::Null, &false.into()));
    }
    let fails = |model: &Path, more: &[&'static str], code: i32, words: &[&str]| {
        b.fails(&strs(&args(model, more)), code, words);
    };
    fails(&model, &["--votes", "3"], 2, &["--rationale"]);
    fails(&model, &["--rationale", "--votes", "0"], 2, &["--votes"]);
    fails(&model, &["--rationale", "--scalar"], 2, &["--scalar"]);
    fails(&model, &["--rationale", "--votes", "3", "--temperature", "0"], 2, &["greedy"]);
    fails(&model, &["--rationale", "--votes", "8", "--adaptive", "0.3"], 2, &["confidence"]);
    fails(&model, &["--rationale", "--adaptive"], 2, &["nothing to save"]);
    fails(&golden("qwen3_scalar"), &["--rationale"], 1, &["scalar", "--rationale"]);
    b.write("plain.txt", "{prompt} {response_a} {response_b} Which?");
    fails(&model, &["--rationale", "--template", "plain.txt"], 2, &["does not ask for a rationale"]);
    b.write("asks.txt", "{prompt} {response_a} {response_b} Write <think> and <answer>.");
    fails(&model, &["--template", "asks.txt"], 2, &["asks for a rationale", "--rationale"]);
}
