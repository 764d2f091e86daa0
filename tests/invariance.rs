//! What results must not depend on: batch, order, threads, the cut of a pass or of a step, what is kept for the
//! backward, and (within its class) the storage type. The golden models are too small for the blocked products, so
//! most of this runs on larger random ones.

use crate::fixture::{self, Case, Language, language};
use crate::tolerance::{BF16, BF16_LOSS, REGROUPED, agree};
use gramophone::base::dtype::Dtype;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::infer::generator::{self, Generation, Generator, Request};
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Config, Family, HeadKind, preset};
use gramophone::reward::judge::{EncodedPair, Judge, Judgment};
use gramophone::text::encode::Item;
use gramophone::text::example::Side;
use gramophone::train::objective::{self, Over, Reduction};
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};

pub const CONTEXT: usize = 200;
/// No id is outside the vocabulary of the golden tokenizers.
const VOCAB: usize = 300;

#[test]
fn judgments_depend_on_the_pair_alone() {
    let prompts = Case::<Language>::open("llama").judge_prompts();
    let texts = texts(128, 1);
    let pairs: Vec<EncodedPair> = texts.chunks(2).map(|t| EncodedPair { ab: t[0].clone(), ba: t[1].clone() }).collect();
    for model in [model(Family::Llama, HeadKind::LanguageModel), model(Family::Qwen3, HeadKind::LanguageModel)] {
        let judge = |threads: usize, pass: usize, batch: usize, order: &[usize]| -> Vec<[u64; 5]> {
            let dev = Device::cpu(threads);
            let mut judge =
                Judge::new(&dev, &model, prompts.clone(), scorer::Shape { context: CONTEXT, pass }).unwrap();
            let mut found = vec![[0; 5]; pairs.len()];
            for batch in order.chunks(batch) {
                let encoded: Vec<EncodedPair> = batch.iter().map(|i| pairs[*i].clone()).collect();
                for (i, judgment) in batch.iter().zip(judge.judge(&encoded).unwrap()) {
                    found[*i] = bits(&judgment);
                }
            }
            found
        };
        let given: Vec<usize> = (0..pairs.len()).collect();
        let shuffled: Vec<usize> = shuffle(pairs.len());
        let reference = judge(1, 4096, 64, &given);
        assert!(reference[1..].iter().all(|j| *j != reference[0]), "the pairs are told apart");
        for (threads, pass, batch, order) in [
            (1, 4096, 1, &given),
            (1, 4096, 3, &given),
            (2, 4096, 64, &given),
            (2, 4096, 1, &shuffled),
            (1, 4096, 64, &shuffled),
            (2, 60, 64, &given),
            (1, 1000, 3, &shuffled),
            (2, 100_000, 64, &shuffled),
        ] {
            let place = format!("{} threads, passes of {pass}, batches of {batch}", threads);
            assert_eq!(reference, judge(threads, pass, batch, order), "{:?}, {place}", model.config.family);
        }
    }
}

#[test]
fn rewards_depend_on_the_conversation_alone() {
    let texts = texts(64, 2);
    let model = model(Family::Qwen2, HeadKind::Scalar);
    let rewards = |threads: usize, pass: usize, batch: usize| -> Vec<u32> {
        let dev = Device::cpu(threads);
        let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass }).unwrap();
        texts.chunks(batch).flat_map(|t| scorer.rewards(t).unwrap()).map(f32::to_bits).collect()
    };
    let reference = rewards(1, 4096, 64);
    for (threads, pass, batch) in [(1, 4096, 1), (2, 4096, 3), (2, 60, 64), (2, 100_000, 64)] {
        assert_eq!(reference, rewards(threads, pass, batch), "{threads} threads, passes of {pass}, batches of {batch}");
    }
}

#[test]
fn log_probabilities_depend_on_the_text_alone() {
    let texts: Vec<(Vec<i32>, usize)> =
        texts(64, 3).into_iter().enumerate().map(|(i, t)| (t.clone(), 1 + i % t.len().max(2).div_euclid(2))).collect();
    let model = model(Family::Qwen3, HeadKind::LanguageModel);
    let sums = |threads: usize, pass: usize, batch: usize| -> Vec<(u64, usize)> {
        let dev = Device::cpu(threads);
        let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass }).unwrap();
        let read = texts.chunks(batch).flat_map(|t| scorer.logprobs(t).unwrap());
        read.map(|l| (l.sum.to_bits(), l.tokens)).collect()
    };
    let reference = sums(1, 4096, 64);
    for ((ids, start), (sum, tokens)) in texts.iter().zip(&reference) {
        assert_eq!(ids.len() - start, *tokens);
        assert!(*tokens == 0 || f64::from_bits(*sum) < 0.0);
    }
    // A pass of 60 tokens has room for 8 rows of the head at a time.
    for (threads, pass, batch) in [(1, 4096, 1), (2, 4096, 3), (2, 60, 64), (2, 100_000, 64)] {
        assert_eq!(reference, sums(threads, pass, batch), "{threads} threads, passes of {pass}, batches of {batch}");
    }
    let dev = Device::cpu(1);
    let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass: 60 }).unwrap();
    for (ids, start) in [(vec![1, 2], 0), (vec![1, 2], 3), (vec![], 1)] {
        assert!(scorer.logprobs(&[(ids, start)]).is_err());
    }
}

#[test]
fn generation_depends_on_the_request_alone() {
    let model = model(Family::Qwen3, HeadKind::LanguageModel);
    let requests = requests();
    let write = |threads: usize, sequences: usize, requests: &[Request]| -> Vec<Generation> {
        let dev = Device::cpu(threads);
        let shape = generator::Shape { sequences, context: CONTEXT };
        Generator::new(&dev, &model, shape, &[7, 8, 9]).unwrap().generate(requests, |_, _| ()).unwrap()
    };
    let alone: Vec<Generation> = requests.iter().flat_map(|r| write(1, 1, std::slice::from_ref(r))).collect();
    for (threads, sequences) in [(1, 9), (2, 9), (2, 4), (2, 1)] {
        assert_eq!(alone, write(threads, sequences, &requests), "{threads} threads, {sequences} sequences");
    }
    let mut reseeded = requests[1].clone();
    reseeded.settings.seed += 1;
    assert_ne!(alone[1].tokens, write(1, 1, &[reseeded])[0].tokens, "another seed writes something else");
}

#[test]
fn training_gives_the_same_bits_with_any_number_of_threads() {
    for stage in Stage::ALL {
        let one = train(stage, Device::cpu(1), 500, Keep::Costly, 20);
        let two = train(stage, Device::cpu(2), 500, Keep::Costly, 20);
        assert_eq!(one, two, "{stage:?}");
        assert!(one.losses[19] < one.losses[0], "{stage:?} learns: {:?}", one.losses);
    }
}

#[test]
fn training_gives_the_same_bits_whatever_is_kept() {
    for stage in Stage::ALL {
        let all = train(stage, Device::cpu(2), 500, Keep::All, 3);
        assert_eq!(all, train(stage, Device::cpu(2), 500, Keep::Costly, 3), "{stage:?}");
        assert_eq!(all, train(stage, Device::cpu(2), 500, Keep::Doors, 3), "{stage:?}");
    }
}

#[test]
fn the_cut_of_a_step_changes_its_loss_by_rounding_alone() {
    agree("losses with other micro-batches", |check| {
        for stage in Stage::ALL {
            let whole = train(stage, Device::cpu(2), 4000, Keep::Costly, 6).losses;
            for micro_tokens in [300, 700] {
                let cut = train(stage, Device::cpu(2), micro_tokens, Keep::Costly, 6).losses;
                for (k, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
                    let place = format!("{stage:?}, micro-batches of {micro_tokens}, step {k}");
                    check.value(REGROUPED, place, *cut, *whole);
                }
            }
        }
    });
}

#[test]
fn bf16_models_judge_and_write_near_f32() {
    agree("bf16 against f32, running", |check| {
        for case in language() {
            let (name, dev) = (case.name, Device::cpu(2));
            let [narrow, wide] = [Dtype::Bf16, Dtype::F32].map(|d| Model::open(&case.dir, |_| d).unwrap());
            assert_eq!((narrow.dtype, wide.dtype), (Dtype::Bf16, Dtype::F32));
            let prompts: Vec<Vec<i32>> = case.expected.verdicts.iter().map(|v| v.ab.ids.clone()).collect();
            let labels = [case.expected.labels.a, case.expected.labels.b];
            let verdicts = |model: &Model| {
                let shape = scorer::Shape { context: 512, pass: 1024 };
                Scorer::new(&dev, model, shape).unwrap().verdicts(&prompts, labels).unwrap()
            };
            for (i, (ours, theirs)) in verdicts(&narrow).iter().zip(verdicts(&wide)).enumerate() {
                check.value(BF16, format_args!("{name} margin {i}"), ours.margin(), theirs.margin());
                check.value(BF16, format_args!("{name} log-sum-exp {i}"), ours.lse, theirs.lse);
            }
            let settings = generator::Settings { max_tokens: 5, ..Default::default() };
            let requests: Vec<Request> = prompts.into_iter().map(|prompt| Request { prompt, settings }).collect();
            let shape = generator::Shape { sequences: 2, context: 512 };
            let made = Generator::new(&dev, &narrow, shape, &[]).unwrap().generate(&requests, |_, _| ()).unwrap();
            assert!(made.iter().all(|g| g.tokens.len() == 5 && g.logprobs.iter().all(|p| p.is_finite())), "{name}");
        }
    });
}

#[test]
fn bf16_models_learn_as_f32_ones_do() {
    agree("bf16 against f32, training", |check| {
        for case in language() {
            let losses = |dtype: Dtype| {
                let (model, _) = Model::open_to_train(&case.dir, |_| dtype, HeadKind::LanguageModel, 0).unwrap();
                let item = |v: &fixture::Verdict| Item::Tokens { ids: v.ab.ids.clone(), start: 1 };
                let items = |_| case.expected.verdicts.iter().map(item).collect();
                run(model, &Device::cpu(2), shape(1000, Keep::Costly), 10, items).losses
            };
            let (narrow, wide) = (losses(Dtype::Bf16), losses(Dtype::F32));
            for (k, (ours, theirs)) in narrow.iter().zip(&wide).enumerate() {
                check.value(BF16_LOSS, format_args!("{} loss of step {k}", case.name), *ours, *theirs);
            }
            assert!(narrow[9] < 0.9 * narrow[0], "{}: {narrow:?}", case.name);
        }
    });
}

/// Nine requests, greedy and sampled, of different lengths.
pub fn requests() -> Vec<Request> {
    texts(9, 3)
        .into_iter()
        .enumerate()
        .map(|(i, prompt)| {
            let temperature = [0.0, 0.7, 1.3][i % 3];
            let (top_k, top_p, min_p) = [(0, 1.0, 0.0), (40, 0.9, 0.0), (0, 1.0, 0.05)][i / 3];
            let settings =
                generator::Settings { temperature, top_k, top_p, min_p, max_tokens: 10 + 3 * i, seed: i as u64 % 4 };
            Request { prompt, settings }
        })
        .collect()
}

pub fn bits(j: &Judgment) -> [u64; 5] {
    let small = |x: f32| u64::from(x.to_bits());
    [j.p_a.to_bits(), small(j.margin_ab), small(j.margin_ba), j.label_mass.to_bits(), j.verdict as u64]
}

/// A random model whose sizes are no multiples of any block, and large enough for several.
pub fn model(family: Family, head: HeadKind) -> Model {
    let shape = preset::Shape {
        vocab: Some(VOCAB),
        width: Some(100),
        layers: Some(2),
        heads: Some(6),
        kv_heads: Some(2),
        head_size: Some(18),
        ffn: Some(270),
        max_positions: Some(1000),
        init_std: Some(0.15),
        ..Default::default()
    };
    let mut config = Config::family_shape(family, &shape).unwrap();
    config.head = head;
    Model::random(config, Dtype::F32, 4).unwrap()
}

/// Random sequences of 1 to 130 tokens, block edges among them.
pub fn texts(count: usize, seed: u64) -> Vec<Vec<i32>> {
    let rng = |i: usize| Rng::new(seed, Stream::Test, i as u64);
    let edges = [1, 2, 16, 17, 63, 64, 65, 128];
    (0..count)
        .map(|i| {
            let len = edges.get(i).copied().unwrap_or_else(|| 1 + rng(i).below(0, 130)) as usize;
            (1..=len as u64).map(|t| rng(i).below(t, 280) as i32).collect()
        })
        .collect()
}

fn shuffle(n: usize) -> Vec<usize> {
    Rng::new(5, Stream::Test, 0).permutation(n).into_iter().map(|i| i as usize).collect()
}

#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Tokens,
    Verdict,
    Scalar,
}

impl Stage {
    pub const ALL: [Stage; 3] = [Stage::Tokens, Stage::Verdict, Stage::Scalar];

    /// A step's items; steps go round three batches.
    pub fn items(self, step: usize) -> Vec<Item> {
        let texts = texts(14, 10 + step as u64 % 3).into_iter().filter(|t| t.len() > 1);
        let sides = [Side::A, Side::B].into_iter().cycle();
        match self {
            Stage::Tokens => texts.map(|ids| Item::Tokens { ids, start: 1 }).collect(),
            Stage::Verdict => texts.zip(sides).map(|(ids, label)| Item::Verdict { ids, label }).collect(),
            Stage::Scalar => {
                let texts: Vec<Vec<i32>> = texts.collect();
                let pair = |t: &[Vec<i32>]| Item::Scalar { chosen: t[0].clone(), rejected: t[1].clone(), margin: 0.0 };
                texts.chunks_exact(2).map(pair).collect()
            }
        }
    }
}

pub fn shape(micro_tokens: usize, keep: Keep) -> Shape {
    let (over, reduction) = (Over::Candidates, Reduction::Mean);
    let objective = objective::Settings { labels: [32, 33], smoothing: 0.05, over, reduction, pad: None };
    Shape { micro_tokens, keep, objective }
}

/// What a run of training came to.
#[derive(Debug, PartialEq)]
pub struct Trained {
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    /// Every parameter's bits.
    weights: Vec<Vec<u8>>,
}

fn train(stage: Stage, dev: Device, micro_tokens: usize, keep: Keep, steps: usize) -> Trained {
    train_on(stage, &dev, micro_tokens, keep, steps)
}

pub fn train_on(stage: Stage, dev: &Device, micro_tokens: usize, keep: Keep, steps: usize) -> Trained {
    let (family, head) = match stage {
        Stage::Tokens => (Family::Qwen3, HeadKind::LanguageModel),
        Stage::Verdict => (Family::Llama, HeadKind::LanguageModel),
        Stage::Scalar => (Family::Qwen2, HeadKind::Scalar),
    };
    run(model(family, head), dev, shape(micro_tokens, keep), steps, |step| stage.items(step))
}

impl Trained {
    /// Every parameter, where they are stored in f32.
    pub fn tensors(&self) -> Vec<Vec<f32>> {
        let floats = |bytes: &Vec<u8>| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        self.weights.iter().map(floats).collect()
    }
}

fn run(model: Model, dev: &Device, shape: Shape, steps: usize, items: impl Fn(usize) -> Vec<Item>) -> Trained {
    let settings = optim::Settings { weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    run_with(settings, model, dev, shape, steps, items)
}

pub fn run_with(
    settings: optim::Settings,
    model: Model,
    dev: &Device,
    shape: Shape,
    steps: usize,
    items: impl Fn(usize) -> Vec<Item>,
) -> Trained {
    trainer_after(settings, model, dev, shape, steps, items).1
}

/// The trainer, too: its optimizer has the state of after the last step.
pub fn trainer_after<'d>(
    settings: optim::Settings,
    model: Model,
    dev: &'d Device,
    shape: Shape,
    steps: usize,
    items: impl Fn(usize) -> Vec<Item>,
) -> (Trainer<'d>, Trained) {
    let mut trainer = Trainer::new(dev, model.on(dev).unwrap(), settings, shape).unwrap();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let report = trainer.step(&items(step), 1e-3).unwrap();
        losses.push(report.tally.loss);
        norms.push(report.norm);
    }
    let model = &trainer.model;
    let weights = model.layout.slots().iter().map(|s| model.fetch(s).unwrap().into_owned()).collect();
    (trainer, Trained { losses, norms, weights })
}
