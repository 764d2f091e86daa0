use super::*;
use crate::base::dtype::Dtype;
use crate::base::rng::{Rng, Stream};
use crate::infer::scheduler::{Terms, Waiter};
use crate::infer::scorer::tests::{CONTEXT, LABELS, model, round_robin, text};
use crate::infer::scorer::{LabelLogits, write_prompts};
use crate::infer::trie::Trie;
use crate::model::config::{Family, HeadKind};
use crate::ops::check::gpus;
use std::sync::Arc;

/// One sequence by itself in a plain forward, which shares nothing and continues nothing.
pub(in crate::infer) fn alone(dev: &Device, model: &Model, task: &Task) -> Answer {
    let cut = match task {
        Task::Reward { ids } => model.config.scored(ids),
        other => other.ids().len(),
    };
    let ids = &task.ids()[..cut];
    let capacity =
        Capacity { tokens: cut, sequences: 1, rows: cut, positions: cut, keep: Keep::Nothing, ranks: model.ranks() };
    let acts = Acts::new(dev, &model.config, model.dtype, capacity).unwrap();
    let extent = write_prompts(dev, &acts, std::iter::once(ids));
    forward(dev, model, &acts, extent, Attend::Packed);
    let rows: Vec<i32> = match task {
        Task::Logprobs { from, .. } => (*from as i32 - 1..cut as i32 - 1).collect(),
        _ => vec![cut as i32 - 1],
    };
    let n = rows.len();
    let targets: Vec<i32> = rows.iter().map(|r| ids.get(*r as usize + 1).copied().unwrap_or(0)).collect();
    dev.write(acts.at(&acts.inputs.rows).cols_in(0..n), &rows);
    dev.write(acts.at(&acts.inputs.targets).cols_in(0..n), &targets);
    let head = Head::gather(dev, model, &acts, extent, n);
    match task {
        Task::Labels { labels, .. } => {
            head.vocab_lse();
            let lse = read_f32(dev, acts.at(&acts.head.lse).cols_in(0..1)).unwrap()[0];
            let logit = |label: &i32| {
                head.verdict([*label, 299]);
                read_f32(dev, acts.at(&acts.head.verdict).top(1)).unwrap()[0]
            };
            Answer::Labels(LabelLogits { logits: labels.iter().map(logit).collect(), lse })
        }
        Task::Prompt { .. } => Answer::Prompt,
        Task::Reward { .. } => {
            head.score();
            Answer::Reward(read_f32(dev, acts.at(&acts.head.score).top(1)).unwrap()[0])
        }
        Task::Logprobs { .. } => {
            head.vocab_loss();
            let nll = read_f32(dev, acts.at(&acts.head.nll).cols_in(0..n)).unwrap();
            Answer::Logprobs(nll.into_iter().map(|x| -x).collect())
        }
    }
}

/// Logits at several labels and log-probabilities, of sequences that share beginnings; some are equal.
pub(in crate::infer) fn tasks(n: usize) -> Vec<Task> {
    let rng = Rng::new(3, Stream::Test, 1);
    (0..n as u64)
        .map(|i| {
            let (cut, end) = (rng.below(4 * i, 150) as usize, 1 + rng.below(4 * i + 1, 40) as usize);
            let ids = [&text(rng.below(4 * i + 2, 2), 200)[..cut], &text(i % 11, end)].concat();
            match rng.below(4 * i + 3, 4) {
                0 if ids.len() > 1 => Task::Logprobs { from: 1 + i as usize % (ids.len() - 1), ids },
                1 => Task::Labels { ids, labels: vec![7, 40, 8] },
                _ => Task::Labels { ids, labels: LABELS.to_vec() },
            }
        })
        .collect()
}

fn shape(pass: usize, kept: usize) -> Shape {
    Shape { context: CONTEXT, pass, kept, patience: 1000 }
}

/// An engine and its queue.
pub(in crate::infer) struct Both<'m> {
    pub engine: Engine<'m>,
    pub queue: Scheduler<Asked>,
}

impl<'m> Both<'m> {
    pub fn new(dev: &'m Device, models: &[&'m Model], shape: Shape) -> Both<'m> {
        let limits = shape.limits(&models[0].config, models.len());
        Both { engine: Engine::new(dev, models, limits).unwrap(), queue: Scheduler::new(limits) }
    }

    fn submit(&mut self, now: Micros, terms: Terms, asked: impl Into<Asked>) -> Waiter {
        let Asked { adapter, task } = asked.into();
        let task = task.checked(&self.engine.models[adapter].config, CONTEXT).unwrap();
        self.queue.submit(now, terms, Arc::new(Asked { adapter, task })).unwrap()
    }

    fn step(&mut self, now: Micros) -> Vec<(Waiter, Answer)> {
        let step = self.queue.step(now);
        if step.pieces.is_empty() {
            return Vec::new();
        }
        let answers = self.engine.run(&step, &self.queue).unwrap();
        let done = self.queue.complete(&step).into_iter().zip(answers);
        done.flat_map(|(waiters, answer)| waiters.into_iter().map(move |w| (w, answer.clone().unwrap()))).collect()
    }

    fn finish(&mut self) -> BTreeMap<Waiter, Answer> {
        let mut heard = BTreeMap::new();
        while self.queue.waiting() > 0 {
            heard.extend(self.step(0));
        }
        heard
    }
}

#[test]
fn answers_depend_on_the_task_alone_whoever_comes_and_goes() {
    let tasks = tasks(70);
    for (family, dtype) in [(Family::Qwen3, Dtype::F32), (Family::Llama, Dtype::Bf16)] {
        let model = model(family, HeadKind::LanguageModel, dtype);
        let want: Vec<Answer> = tasks.iter().map(|t| alone(&Device::cpu(1), &model, t)).collect();
        for (seed, threads, pass, kept) in [(0, 1, 37, 0), (1, 2, 64, 400), (2, 2, 300, 5000), (3, 1, 8, 0)] {
            let (rng, dev) = (Rng::new(seed, Stream::Test, 2), Device::cpu(threads));
            let mut engine = Both::new(&dev, &[&model], shape(pass, kept));
            let (mut asked, mut cancelled, mut next) = (BTreeMap::new(), Vec::new(), 0);
            let mut heard: BTreeMap<usize, Answer> = BTreeMap::new();
            for turn in 0.. {
                let draw = |k: u64, n: u64| rng.below(8 * turn + k, n);
                // A few come, one may go.
                for k in 0..draw(0, 7) {
                    if next < tasks.len() {
                        let terms = Terms { client: draw(1, 3), priority: draw(k + 1, 3) as u32, deadline: None };
                        asked.insert(engine.submit(turn, terms, tasks[next].clone()), next);
                        next += 1;
                    }
                }
                if draw(7, 3) == 0
                    && let Some(waiter) = asked.keys().nth(draw(6, 5) as usize).copied()
                {
                    engine.queue.cancel(waiter);
                    cancelled.extend(asked.remove(&waiter));
                }
                for (waiter, answer) in engine.step(turn) {
                    let task = asked.remove(&waiter).expect("one outcome for each who waits");
                    assert!(heard.insert(task, answer).is_none());
                }
                if next == tasks.len() && engine.queue.waiting() == 0 {
                    break;
                }
            }
            assert!(asked.is_empty() && !cancelled.is_empty());
            assert_eq!(heard.len() + cancelled.len(), tasks.len());
            for (task, answer) in &heard {
                assert!(*answer == want[*task], "{family:?} {dtype}, passes of {pass}: {:?}", tasks[*task]);
            }
            assert_eq!(engine.queue.unused_rows(), kept.max(CONTEXT + pass), "every row is free or idle");
            let begun = &engine.engine.begun;
            assert!(begun.keys().all(|job| !engine.queue.lives(*job)), "what was cancelled last, at most");
            let counts = engine.queue.counts();
            assert!(counts.computed < counts.tokens, "beginnings are shared");
        }
    }
}

#[test]
fn a_ranking_costs_what_its_trie_does_and_nothing_the_second_time() {
    let (dev, model) = (Device::cpu(2), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let prompts = round_robin(6, 100);
    let mut engine = Both::new(&dev, &[&model], shape(200, 100_000));
    let mut run = || {
        let before = engine.queue.counts();
        for ids in &prompts {
            engine.submit(0, Terms::default(), Task::Labels { ids: ids.clone(), labels: LABELS.to_vec() });
        }
        let answers: Vec<Answer> = engine.finish().into_values().collect();
        (answers, (engine.queue.counts().computed - before.computed) as usize)
    };
    let (first, second) = (run(), run());
    assert_eq!(first.1, Trie::new(&prompts).tokens().computed);
    assert_eq!(second.1, prompts.len(), "the last token of each");
    assert!(first.0 == second.0);
}

#[test]
fn rewards_are_answered_and_what_a_model_cannot_do_is_refused() {
    let dev = Device::cpu(2);
    let scalar = model(Family::Qwen2, HeadKind::Scalar, Dtype::F32);
    let mut engine = Both::new(&dev, &[&scalar], shape(20, 0));
    let tasks: Vec<Task> = (0..5).map(|i| Task::Reward { ids: [text(1, 30), text(i, 4)].concat() }).collect();
    let waiters: Vec<Waiter> = tasks.iter().map(|t| engine.submit(0, Terms::default(), t.clone())).collect();
    let heard = engine.finish();
    for (waiter, task) in waiters.iter().zip(&tasks) {
        assert_eq!(heard[waiter], alone(&dev, &scalar, task));
    }
    let labels = |ids: Vec<i32>, labels: &[i32]| Task::Labels { ids, labels: labels.to_vec() };
    let refusal = |config, task: Task| task.checked(config, 300).unwrap_err().to_string();
    let config = &scalar.config;
    assert!(refusal(config, labels(vec![1], &LABELS)).contains("scalar head"));
    assert!(refusal(config, Task::Prompt { ids: vec![1] }).contains("scalar head"));
    assert!(refusal(config, Task::Reward { ids: vec![] }).contains("no tokens"));
    assert!(refusal(config, Task::Reward { ids: vec![1; 301] }).contains("at most 300"));
    assert!(refusal(config, Task::Reward { ids: vec![1, 300] }).contains("token 300"));
    let language = model(Family::Llama, HeadKind::LanguageModel, Dtype::F32);
    let config = &language.config;
    assert!(refusal(config, Task::Reward { ids: vec![1] }).contains("without a reward head"));
    assert!(refusal(config, labels(vec![1], &[1, 300])).contains("label 300"));
    assert!(refusal(config, labels(vec![1], &[])).contains("no labels"));
    assert!(refusal(config, Task::Logprobs { ids: vec![1, 2], from: 0 }).contains("position 0"));
    assert!(refusal(config, Task::Logprobs { ids: vec![1, 2], from: 2 }).contains("position 2"));
}

#[test]
fn answers_on_gpus_depend_on_the_task_alone() {
    for (called, dev) in gpus().into_iter().take(2) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = model(Family::Qwen3, HeadKind::LanguageModel, dtype).on(&dev).unwrap();
            let tasks = tasks(8);
            let mut engine = Both::new(&dev, &[&model], shape(90, 0));
            let waiters: Vec<Waiter> = tasks.iter().map(|t| engine.submit(0, Terms::default(), t.clone())).collect();
            let heard = engine.finish();
            for (waiter, task) in waiters.iter().zip(&tasks) {
                assert!(heard[waiter] == alone(&dev, &model, task), "{called} {dtype} {task:?}");
            }
        }
    }
}
