use super::*;
use crate::base::dtype::Dtype;
use crate::infer::engine::tests::{alone, tasks};
use crate::infer::generator::{self, Generator};
use crate::infer::scorer::tests::{CONTEXT, LABELS, model, text};
use crate::model::config::{Family, HeadKind};

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
fn text_is_written_beside_scores() {
    let model = Arc::new(model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32));
    let dev = Device::cpu(1);
    let request = |seed: u64| {
        let settings = generator::Settings { temperature: 1.0, max_tokens: 12, seed, ..Default::default() };
        Request { prompt: text(seed % 2, 70), settings }
    };
    let requests: Vec<Request> = (0..6).map(request).collect();
    let shape = generator::Shape { sequences: 1, context: CONTEXT };
    let mut alone = Generator::new(&dev, &model, shape, &[7]).unwrap();
    alone.watch(Some(LABELS));
    let want = alone.generate(&requests, |_, _| ()).unwrap();
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
        assert_eq!(pending.wait().unwrap(), alone_of(&model, seed));
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
