use super::*;
use crate::base::dtype::Dtype;
use crate::base::rng::{Rng, Stream};
use crate::infer::engine::tests::{alone, tasks};
use crate::infer::generator::{self, Generator};
use crate::infer::scorer::tests::{CONTEXT, LABELS, model, text};
use crate::model::adapter::Start;
use crate::model::adapter::peft::{Peft, Targets};
use crate::model::config::{Family, HeadKind};
use crate::ops::check::gpus;
use std::collections::BTreeMap;

const SHAPE: Shape = Shape { context: CONTEXT, pass: 64, kept: 1000, patience: 100_000 };

fn started(queue: usize) -> (Arc<Model>, Service) {
    let model = Arc::new(model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let setup = Setup { queue, ..Setup::new(Device::cpu(1), model.clone(), SHAPE) };
    (model, Service::start(setup).unwrap())
}

fn verdict(seed: u64) -> Task {
    Task::Labels { ids: text(seed, 20), labels: LABELS.to_vec() }
}

#[test]
fn many_threads_get_the_answers_of_one() {
    let (model, service) = started(usize::MAX);
    let tasks = tasks(48);
    let want: Vec<Answer> = tasks.iter().map(|t| Answer::Read(alone(&Device::cpu(1), &model, t))).collect();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (handle, tasks, want) = (service.handle(), &tasks, &want);
            scope.spawn(move || {
                let wish = Wish { client, priority: client as u32 % 2, within: None };
                let pending: Vec<_> = (client as usize..tasks.len())
                    .step_by(3)
                    .map(|i| (i, handle.ask(tasks[i].clone(), wish)))
                    .collect();
                for (turn, (i, pending)) in pending.into_iter().enumerate() {
                    // Every fifth is not waited for.
                    if turn % 5 != 4 {
                        assert_eq!(pending.wait().unwrap(), want[i]);
                    }
                }
            });
        }
    });
    let handle = service.handle();
    service.drain();
    let status = handle.status();
    assert_eq!((status.waiting, status.unused), (0, 1000));
    assert_eq!(status.counts.submitted, status.counts.answered + status.counts.cancelled);
    assert!(matches!(handle.ask(verdict(0), Wish::default()).wait(), Err(Failure::Stopped)));
}

#[test]
fn deadlines_pass_and_the_queue_fills_while_a_service_is_paused() {
    let (model, service) = started(45);
    let handle = service.handle();
    handle.pause(true);
    let late = handle.ask(verdict(1), Wish { within: Some(Duration::from_millis(1)), ..Wish::default() });
    assert!(matches!(late.wait(), Err(Failure::Expired)));
    let [kept, dropped] = [2, 3].map(|seed| handle.ask(verdict(seed), Wish::default()));
    assert!(matches!(handle.ask(verdict(4), Wish::default()).wait(), Err(Failure::Full { .. })));
    assert_eq!(handle.load().queued, 40);
    drop(dropped);
    assert_eq!(handle.load().queued, 20);
    assert!(matches!(
        handle.ask(Task::Reward { ids: vec![1; 46] }, Wish::default()).wait(),
        Err(Failure::Large { .. })
    ));
    let after = handle.ask(verdict(5), Wish::default());
    assert!(kept.wait_for(Duration::from_millis(30)).is_none() && handle.status().paused);
    assert_eq!(handle.status().waiting, 2);
    handle.pause(false);
    for (pending, seed) in [(kept, 2), (after, 5)] {
        assert_eq!(pending.wait().unwrap(), alone_of(&model, seed));
    }
}

#[test]
fn a_service_that_ends_tells_those_who_wait() {
    let (_, service) = started(usize::MAX);
    let handle = service.handle();
    handle.pause(true);
    let waiting = handle.ask(verdict(1), Wish::default());
    assert!(waiting.wait_for(Duration::from_millis(1)).is_none());
    drop(service);
    assert!(matches!(waiting.wait(), Err(Failure::Stopped)));
    let (_, service) = started(usize::MAX);
    let handle = service.handle();
    handle.pause(true);
    let waiting = handle.ask(verdict(1), Wish::default());
    service.drain();
    assert!(waiting.wait().is_ok(), "draining finishes what waits");
    let bad = Model::random(model(Family::Llama, HeadKind::LanguageModel, Dtype::F32).config, Dtype::F32, 1).unwrap();
    let service = Service::start(Setup::new(Device::cpu(1), Arc::new(bad), SHAPE)).unwrap();
    let refused = service.handle().ask(Task::Reward { ids: vec![1] }, Wish::default());
    assert!(matches!(refused.wait(), Err(Failure::Refused(_))));
}

#[test]
fn text_is_written_beside_scores_on_gpus_too() {
    write_beside_scores(&Device::cpu(1));
    for (_, dev) in gpus().into_iter().take(1) {
        write_beside_scores(&dev);
    }
}

fn write_beside_scores(dev: &Device) {
    let model = Arc::new(model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32).on(dev).unwrap());
    let request = |seed: u64| {
        let settings = generator::Settings { temperature: 1.0, max_tokens: 12, seed, ..Default::default() };
        Request { prompt: text(seed % 2, 70), settings }
    };
    let requests: Vec<Request> = (0..6).map(request).collect();
    let shape = generator::Shape { sequences: 1, context: CONTEXT };
    let mut generator = Generator::new(dev, &model, shape, &[7]).unwrap();
    generator.watch(Some(LABELS));
    let want = generator.generate(&requests, |_, _| ()).unwrap();
    let writing = Writing { sequences: 3, pages: usize::MAX, stop: vec![7] };
    let setup = Setup { writing: Some(writing), ..Setup::new(dev.clone(), model.clone(), SHAPE) };
    let service = Service::start(setup).unwrap();
    let handle = service.handle();
    let draft = |r: &Request| Draft { watch: Some(LABELS), ..r.clone().into() };
    let written: Vec<Pending> = requests.iter().map(|r| handle.ask(draft(r), Wish::default())).collect();
    let dropped = handle.ask(request(9), Wish::default());
    let read: Vec<Pending> = (0..6).map(|seed| handle.ask(verdict(seed), Wish::default())).collect();
    drop(dropped);
    for (pending, made) in written.into_iter().zip(want) {
        assert_eq!(pending.wait().unwrap(), Answer::Written(made));
    }
    for (pending, seed) in read.into_iter().zip(0..) {
        assert_eq!(pending.wait().unwrap(), Answer::Read(alone(dev, &model, &verdict(seed))));
    }
    service.drain();
    assert_eq!((handle.status().waiting, handle.status().writing), (0, 0));
    let (_, reader) = started(usize::MAX);
    let refused = reader.handle().ask(request(0), Wish::default()).wait();
    assert!(matches!(refused, Err(Failure::Refused(e)) if e.to_string().contains("not started to write")));
}

fn alone_of(model: &Model, seed: u64) -> Answer {
    Answer::Read(alone(&Device::cpu(1), model, &verdict(seed)))
}

/// A base, or other weights, with an adapter beside it that changes everything.
fn with_adapter(seed: u64) -> Vec<Arc<Model>> {
    let config = model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32).config;
    let base = Model::random(config, Dtype::F32, seed).unwrap();
    let peft = Peft {
        rank: 3,
        alpha: 6.0,
        rslora: false,
        targets: Targets::AllLinear,
        rank_pattern: Vec::new(),
        alpha_pattern: Vec::new(),
        score: false,
        dropout: 0.0,
        head: None,
        base: None,
        source: Default::default(),
    };
    let dev = Device::cpu(1);
    let adapted = base.adapted(&dev, peft, Start::New { seed }).unwrap();
    let (layout, weights) = adapted.trained();
    for (i, slot) in layout.slots().iter().enumerate() {
        let rng = Rng::new(seed, Stream::Test, i as u64);
        let numbers = (0..slot.rows * slot.cols).map(|k| rng.below(k as u64, 2001) as f32 / 5000.0 - 0.2);
        dev.write(weights.at(slot), &numbers.collect::<Vec<f32>>());
    }
    vec![Arc::new(base), Arc::new(adapted)]
}

/// Reads and drafts of two adapters that share beginnings, some of them equal.
fn works(n: u64) -> Vec<Work> {
    let rng = Rng::new(11, Stream::Test, 0);
    let work = |i: u64| {
        let (adapter, cut) = (rng.below(4 * i, 2) as usize, rng.below(4 * i + 1, 90) as usize);
        let ids = [&text(rng.below(4 * i + 2, 2), 100)[..cut], &text(i % 9, 6)].concat();
        match rng.below(4 * i + 3, 3) {
            0 => {
                let settings =
                    generator::Settings { temperature: 1.0, max_tokens: 5, seed: i % 4, ..Default::default() };
                Work::Write(Draft { adapter, request: Request { prompt: ids, settings }, watch: Some(LABELS), top: 0 })
            }
            1 => Asked { adapter, task: Task::Logprobs { from: ids.len() / 2, ids } }.into(),
            _ => Asked { adapter, task: Task::Labels { ids, labels: LABELS.to_vec() } }.into(),
        }
    };
    (0..n).map(work).collect()
}

/// What these models say to work that is done by itself.
fn said(models: &[Arc<Model>], work: &Work) -> Answer {
    let dev = Device::cpu(1);
    match work {
        Work::Read(Asked { adapter, task }) => Answer::Read(alone(&dev, &models[*adapter], task)),
        Work::Write(draft) => {
            let shape = generator::Shape { sequences: 1, context: CONTEXT };
            let mut generator = Generator::new(&dev, &models[draft.adapter], shape, &[7]).unwrap();
            generator.watch(draft.watch);
            Answer::Written(generator.generate(std::slice::from_ref(&draft.request), |_, _| ()).unwrap().remove(0))
        }
    }
}

#[test]
fn nothing_is_lost_or_mixed_whatever_happens() {
    let versions: [(&str, Vec<Arc<Model>>); 2] = [("one", with_adapter(1)), ("two", with_adapter(2))];
    let works = works(60);
    let want: Vec<Vec<Answer>> =
        versions.iter().map(|(_, models)| works.iter().map(|work| said(models, work)).collect()).collect();
    let writing = Writing { sequences: 3, pages: 6, stop: vec![7] };
    let service = Service::start(Setup {
        models: versions[0].1.clone(),
        writing: Some(writing),
        version: "one".into(),
        ..Setup::new(Device::cpu(1), versions[0].1[0].clone(), Shape { pass: 24, kept: 0, ..SHAPE })
    })
    .unwrap();
    std::thread::scope(|scope| {
        for client in 0..4u64 {
            let (handle, works, want, versions) = (service.handle(), &works, &want, &versions);
            scope.spawn(move || {
                let rng = Rng::new(client, Stream::Test, 9);
                let (to, heard) = mpsc::channel();
                let mut tickets = BTreeMap::new();
                for i in (0..works.len()).filter(|i| i % 4 == client as usize || i % 7 == 0) {
                    let draw = |k: u64, n: u64| rng.below(8 * i as u64 + k, n);
                    let within = (draw(0, 6) == 0).then(|| Duration::from_micros(draw(1, 3000)));
                    let wish = Wish { client, priority: draw(2, 2) as u32, within };
                    let to = to.clone();
                    let reply: Reply = Box::new(move |event| {
                        if let Event::End(end) = event {
                            // Nobody listens to what was dropped.
                            let _ = to.send((i, within.is_some(), end));
                        }
                    });
                    let ticket = handle.submit(vec![(works[i].clone(), reply)], wish).remove(0);
                    if draw(3, 6) == 0 {
                        std::thread::sleep(Duration::from_micros(draw(4, 2000)));
                        drop(ticket);
                    } else {
                        tickets.insert(i, ticket);
                    }
                }
                while !tickets.is_empty() {
                    let Ok((i, hurried, end)) = heard.recv_timeout(Duration::from_secs(60)) else {
                        panic!("client {client} waits for {:?}", tickets.keys());
                    };
                    // One that was dropped may have been answered before.
                    tickets.remove(&i);
                    match end.outcome {
                        Ok(answer) => {
                            let version = versions.iter().position(|(name, _)| **name == *end.version).unwrap();
                            assert!(answer == want[version][i], "work {i}: {:?}", works[i]);
                        }
                        Err(Failure::Expired) => assert!(hurried),
                        Err(failure) => panic!("{failure}"),
                    }
                }
            });
        }
        let handle = service.handle();
        let versions = &versions;
        scope.spawn(move || {
            for turn in 0..6 {
                std::thread::sleep(Duration::from_millis(3));
                let (name, models) = &versions[(turn + 1) % 2];
                match turn % 3 {
                    0 => handle.swap(models.clone(), (*name).into()).unwrap(),
                    1 => {
                        handle.sleep().unwrap();
                        assert!(handle.status().asleep);
                        handle.swap(models.clone(), (*name).into()).unwrap();
                        handle.wake(models.clone()).unwrap();
                    }
                    _ => {
                        handle.pause(true);
                        handle.swap(models.clone(), (*name).into()).unwrap();
                        std::thread::sleep(Duration::from_millis(2));
                        handle.pause(false);
                    }
                }
            }
        });
    });
    let handle = service.handle();
    service.drain();
    let (status, load) = (handle.status(), handle.load());
    assert_eq!((status.waiting, status.writing, load.queued, load.running), (0, 0, 0, 0));
    assert_eq!(status.unused, CONTEXT + 24, "every row is free or idle");
    let counts = status.counts;
    assert_eq!(counts.submitted, counts.answered + counts.expired + counts.cancelled);
}
