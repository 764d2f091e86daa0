use super::*;
use crate::base::dtype::Dtype;
use crate::base::rng::{Rng, Stream};
use crate::device::Device;
use crate::infer::engine::tests::Both;
use crate::infer::engine::{self, Asked, Task};
use crate::infer::generator::{Settings, Shape};
use crate::infer::scorer::tests::{model, text};
use crate::model::config::{Family, HeadKind};
use crate::ops::check::gpus;

const SHAPE: Shape = Shape { sequences: 4, context: 200 };

fn requests(n: u64) -> Vec<Request> {
    let request = |i: u64| {
        let settings = Settings {
            temperature: (i % 3) as f32,
            max_tokens: 3 + 5 * (i % 7) as usize,
            seed: i,
            ..Settings::default()
        };
        Request { prompt: text(i / 3 % 4, 30 + 40 * (i / 3 % 4) as usize), settings }
    };
    (0..n).map(request).collect()
}

/// A writer with what it needs to write.
struct Room<'m> {
    both: Both<'m>,
    generator: Generator<'m>,
    writer: Writer,
    models: Vec<&'m Model>,
    passes: usize,
}

impl<'m> Room<'m> {
    /// Prompts are read in passes of this many tokens.
    fn new(dev: &'m Device, model: &'m Model, generator: Generator<'m>, pass: usize) -> Room<'m> {
        let both = Both::new(dev, &[model], engine::Shape { context: 200, pass, kept: 0, patience: 1000 });
        Room { both, generator, writer: Writer::new(1000), models: vec![model], passes: 0 }
    }

    fn submit(&mut self, now: Micros, terms: Terms, request: &Request) -> Pen {
        self.writer.submit(now, terms, request.clone().into()).0
    }

    fn step(&mut self, now: Micros) -> Vec<News> {
        let queue = &mut self.both.queue;
        self.writer.dropped().into_iter().for_each(|waiter| queue.cancel(waiter));
        let read = |draft: &Draft, terms: Terms| {
            let task = Task::Prompt { ids: draft.request.prompt.clone() };
            queue.submit(now, terms, Arc::new(Asked { adapter: draft.adapter, task })).unwrap()
        };
        self.writer.seat(now, &mut self.generator, &self.models, read).unwrap();
        let (step, mut news) = (queue.step(now), Vec::new());
        if !step.pieces.is_empty() {
            self.passes += 1;
            self.both.engine.run(&step, queue).unwrap();
            for (i, waiters) in queue.complete(&step).into_iter().enumerate() {
                if let Some(prompt) = self.both.engine.prompt(&step, i) {
                    news.extend(self.writer.begin(&waiters, &prompt, &mut self.generator).unwrap());
                }
            }
        }
        news.extend(self.writer.step(&mut self.generator).unwrap());
        news
    }
}

#[test]
fn what_is_written_depends_on_the_draft_alone_on_gpus_too() {
    drafts_come_and_go(Device::cpu(2), 30);
    // Where steps are launched ahead: a sequence may end, leave or join while one is under way.
    for (_, dev) in gpus().into_iter().take(1) {
        drafts_come_and_go(dev, 16);
    }
}

/// Some watch labels, some the likeliest tokens.
fn drafts(n: u64) -> Vec<Draft> {
    let watched = |i: usize| (i % 4 == 1).then_some([5, 11]);
    let draft = |(i, request)| Draft { adapter: 0, request, watch: watched(i), top: usize::from(i % 5 == 2) };
    requests(n).into_iter().enumerate().map(draft).collect()
}

fn drafts_come_and_go(dev: Device, n: u64) {
    let model = model(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32).on(&dev).unwrap();
    let (stop, drafts) = ([7, 8, 9], drafts(n));
    let mut alone = Generator::new(&dev, &model, Shape { sequences: 1, ..SHAPE }, &stop).unwrap();
    let written = |draft: &Draft| {
        alone.watch(draft.watch);
        alone.generate(std::slice::from_ref(&draft.request), |_, _| ()).unwrap().remove(0)
    };
    let want: Vec<Generation> = drafts.iter().map(written).collect();
    for (pages, pass) in [(4, 13), (100, 200)] {
        let generator = Generator::with_pages(&dev, &[&model], SHAPE, &stop, pages).unwrap();
        let free = generator.free_pages();
        let mut room = Room::new(&dev, &model, generator, pass);
        let rng = Rng::new(pages as u64, Stream::Test, 5);
        let (mut asked, mut next, mut gone, mut heard) = (BTreeMap::new(), 0, 0, 0);
        let mut tokens: BTreeMap<Pen, Vec<i32>> = BTreeMap::new();
        for turn in 0.. {
            let draw = |k: u64, n: u64| rng.below(8 * turn + k, n) as usize;
            for _ in 0..draw(0, 3) {
                if next < drafts.len() {
                    let terms = Terms { client: draw(1, 2) as u64, priority: draw(2, 2) as u32, deadline: None };
                    asked.insert(room.writer.submit(turn, terms, drafts[next].clone()).0, next);
                    next += 1;
                }
            }
            if draw(3, 6) == 0
                && let Some(pen) = asked.keys().nth(draw(4, 5)).copied()
            {
                room.writer.cancel(pen);
                asked.remove(&pen);
                gone += 1;
            }
            if draw(5, 20) == 0 {
                // As before other weights come in.
                room.writer.unseat();
            }
            for item in room.step(turn) {
                match item {
                    News::Token(pen, token) => {
                        let Draft { top, request, .. } = &drafts[asked[&pen]];
                        assert_eq!(token.top.len(), *top);
                        if request.settings.temperature == 0.0 {
                            assert!(token.top.iter().all(|(id, _)| *id == token.id), "logits of another step");
                        }
                        tokens.entry(pen).or_default().push(token.id);
                    }
                    News::Done(pen, made) => {
                        let draft = asked.remove(&pen).expect("one outcome for each");
                        assert!(made == want[draft], "draft {draft}, {pages} pages, {}", dev.name());
                        assert_eq!(tokens.remove(&pen).unwrap_or_default(), made.tokens, "told as they came");
                        heard += 1;
                    }
                }
            }
            if next == drafts.len() && room.writer.waiting() == 0 {
                break;
            }
        }
        assert!(asked.is_empty() && gone > 0 && heard + gone == drafts.len(), "{heard} heard, {gone} gone");
        room.step(u64::MAX);
        assert_eq!(room.generator.free_pages(), free, "every page comes back");
        assert_eq!((room.both.queue.waiting(), room.generator.places_taken()), (0, 0));
        assert!(room.writer.given.is_empty());
    }
}

#[test]
fn clients_take_turns_and_deadlines_pass() {
    let (dev, model) = (Device::cpu(1), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let generator = Generator::new(&dev, &model, Shape { sequences: 1, ..SHAPE }, &[]).unwrap();
    let mut room = Room::new(&dev, &model, generator, 50);
    let request = |seed| Request { prompt: text(seed, 5), settings: Settings { max_tokens: 4, ..Settings::default() } };
    let by = |client, deadline| Terms { client, priority: 0, deadline };
    let mut large: Vec<Pen> = (0..3).map(|i| room.submit(0, by(1, None), &request(i))).collect();
    let mut news = room.step(0);
    let small = room.submit(0, by(2, None), &request(5));
    let late = room.submit(0, by(3, Some(10)), &request(6));
    assert_eq!(room.writer.deadline(), Some(10));
    assert_eq!(room.writer.expire(10), [late]);
    while room.writer.waiting() > 0 {
        news.extend(room.step(20));
    }
    large.insert(2, small);
    let done = news.into_iter().filter_map(|item| match item {
        News::Done(pen, made) => Some((pen, made.tokens.len())),
        News::Token(..) => None,
    });
    assert_eq!(done.collect::<Vec<_>>(), large.into_iter().map(|pen| (pen, 4)).collect::<Vec<_>>());
}

#[test]
fn equal_drafts_are_written_once_and_who_joins_late_misses_nothing() {
    let (dev, model) = (Device::cpu(1), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let generator = Generator::new(&dev, &model, SHAPE, &[]).unwrap();
    let mut room = Room::new(&dev, &model, generator, 50);
    let settings = Settings { temperature: 1.0, max_tokens: 6, seed: 3, ..Settings::default() };
    let draft = Draft { top: 2, ..Request { prompt: text(1, 9), settings }.into() };
    let (first, joined) = room.writer.submit(0, Terms::default(), draft.clone());
    assert_eq!(joined, None);
    let mut news = room.step(0);
    assert!(room.writer.started(first));
    let (second, joined) = room.writer.submit(0, Terms::default(), draft.clone());
    let so_far = joined.expect("it is being written");
    assert!(!so_far.is_empty() && so_far.iter().all(|token| token.top.len() == 2));
    let other = room.writer.submit(0, Terms::default(), Draft { top: 1, ..draft });
    assert_eq!(other.1, None, "it asks for something else");
    room.writer.cancel(first);
    while room.writer.waiting() > 0 {
        news.extend(room.step(0));
    }
    let told = |pen: Pen| {
        let of = |item: &News| match item {
            News::Token(p, token) if *p == pen => Some(token.id),
            _ => None,
        };
        news.iter().filter_map(of).collect::<Vec<i32>>()
    };
    let whole = told(other.0);
    let late: Vec<i32> = so_far.iter().map(|token| token.id).chain(told(second)).collect();
    assert_eq!((late.len(), &late), (6, &whole), "the same seed writes the same");
    assert_eq!(room.generator.counts().generated, 12);
}

#[test]
fn a_long_prompt_is_read_in_pieces_and_shared_prompts_once() {
    let (dev, model) = (Device::cpu(1), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let generator = Generator::new(&dev, &model, SHAPE, &[]).unwrap();
    let mut room = Room::new(&dev, &model, generator, 16);
    let request = |seed: u64, prompt: Vec<i32>| {
        let settings = Settings { temperature: 1.0, max_tokens: 30, seed, ..Settings::default() };
        Request { prompt, settings }
    };
    room.submit(0, Terms::default(), &request(0, text(0, 10)));
    room.step(0);
    // Three votes on a long prompt: while it is read, the short one goes on.
    let long = text(1, 150);
    let votes: Vec<Pen> = (1..4).map(|seed| room.submit(0, Terms::default(), &request(seed, long.clone()))).collect();
    let (mut steps, mut short) = (0, 0);
    while room.writer.writing() < 4 {
        let news = room.step(0);
        short += news.iter().filter(|n| matches!(n, News::Token(pen, _) if !votes.contains(pen))).count();
        steps += 1;
        assert!(steps < 50);
    }
    assert!(steps >= 150 / 16 && short >= steps, "{steps} steps, {short} tokens meanwhile");
    assert_eq!(room.both.queue.counts().computed, 160, "the prompt of the votes was read once");
    while room.writer.waiting() > 0 {
        room.step(0);
    }
}

#[test]
fn the_likeliest_tokens_come_in_order_and_ties_by_id() {
    let top = likeliest(&[1.0, 3.0, 2.0, 3.0], 3);
    assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
    let all: f64 = likeliest(&[1.0, 3.0, 2.0, 3.0], 9).iter().map(|t| (t.1 as f64).exp()).sum();
    assert!((all - 1.0).abs() < 1e-6, "{all}");
}
