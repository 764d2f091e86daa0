use super::*;
use crate::base::dtype::Dtype;
use crate::infer::generator::{Generator, Settings, Shape};
use crate::infer::scorer;
use crate::model::adapter::Start;
use crate::model::adapter::peft::{Peft, Targets};
use crate::reward::judge::{Judge, Pair, Prompts};
use crate::reward::rank::{Method, Rules};
use crate::text::chat::Chat;
use crate::text::message::Message;
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use std::collections::BTreeMap;

fn dir(case: &str) -> PathBuf {
    let root =
        std::env::var_os("GRAMOPHONE_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root.join("tests/golden").join(case)
}

fn open(dir: &Path) -> Result<Model, Error> {
    Model::open(dir, |stored| stored)
}

fn texts(case: &str) -> Texts {
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir(case)).unwrap())).unwrap();
    match open(&dir(case)).unwrap().config.head {
        HeadKind::Scalar => Texts::Scalar(chat),
        HeadKind::LanguageModel => Texts::Pairwise(Prompts::new(chat, JudgeTemplate::verdict()).unwrap()),
    }
}

const SIZES: scorer::Shape = scorer::Shape { context: 2048, pass: 3000 };

fn service(case: &str, queue: usize) -> Service {
    let model = open(&dir(case)).unwrap();
    let texts = texts(case);
    let mut stop = model.config.eos.clone();
    stop.extend(texts.chat().tokenizer().stop());
    Service::start(Setup {
        dev: Device::cpu(1),
        model,
        texts,
        sizes: Sizes { context: SIZES.context, pass: SIZES.pass, sequences: 3, queue, stop },
        loader: Box::new(open),
        dir: dir(case),
        version: "1".into(),
    })
    .unwrap()
}

fn pair(i: usize) -> Pair {
    Pair { prompt: vec![Message::user(format!("Say {i}"))], a: format!("{i}"), b: "no ".repeat(i % 7 + 1) }
}

fn alone(case: &str) -> impl FnMut(&Pair) -> Judged {
    let (dev, model) = (Device::cpu(1), open(&dir(case)).unwrap());
    let Texts::Pairwise(prompts) = texts(case) else { panic!("a judge") };
    move |pair| {
        let mut judge = Judge::new(&dev, &model, prompts.clone(), SIZES).unwrap();
        let encoded = prompts.pair(pair).unwrap();
        Judged::Judgment(judge.judge(&[encoded]).unwrap()[0])
    }
}

fn rules(method: Method) -> Rules {
    Rules::new(method, None).unwrap()
}

fn judge(service: &Service, i: usize) -> Ticket<Answered<Judged>> {
    service.judge(service.texts().pair(&pair(i)).unwrap(), Options::default()).unwrap()
}

/// Everything gone: no token counted, nothing in flight.
fn assert_idle(service: &Service) {
    let load = service.load();
    assert_eq!((load.queued_tokens, load.running_tokens, load.in_flight), (0, 0, 0), "{load:?}");
}

#[test]
fn many_threads_get_the_answers_of_a_judge_alone() {
    let service = service("qwen3", 1 << 20);
    let mut alone = alone("qwen3");
    let expected: Vec<Judged> = (0..12).map(|i| alone(&pair(i))).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (service, expected) = (service.clone(), &expected);
            scope.spawn(move || {
                for i in 0..12 {
                    let i = (i * 5 + thread) % 12;
                    assert_eq!(judge(&service, i).wait().unwrap().answer, expected[i]);
                }
            });
        }
    });
    assert_idle(&service);
}

#[test]
fn equal_prompts_in_flight_are_computed_once_and_dropped_tickets_cost_nothing() {
    let service = service("qwen3", 1 << 20);
    service.pause(true);
    let tickets: Vec<_> = (0..6).map(|i| judge(&service, i % 2)).collect();
    let dropped = judge(&service, 5);
    let before = service.load().queued_tokens;
    drop(dropped);
    assert!(service.load().queued_tokens < before, "the dropped pair left the queue at once");
    service.pause(false);
    let answers: Vec<_> = tickets.into_iter().map(|t| t.wait().unwrap().answer).collect();
    assert_eq!((answers[0], answers[1]), (answers[2], answers[5]));
    assert_ne!(answers[0], answers[1]);
    let counters = service.counters();
    let read = |c: &std::sync::atomic::AtomicU64| c.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((read(&counters.prompts), read(&counters.shared), read(&counters.cancelled)), (4, 8, 1));
    assert_idle(&service);
}

#[test]
fn groups_rank_as_a_judge_ranks_them() {
    let service = service("qwen2", 1 << 20);
    let (dev, model) = (Device::cpu(1), open(&dir("qwen2")).unwrap());
    let Texts::Pairwise(prompts) = texts("qwen2") else { panic!("a judge") };
    let mut judge = Judge::new(&dev, &model, prompts, SIZES).unwrap();
    let responses: Vec<String> = (0..5).map(|i| "word ".repeat(i + 1)).collect();
    let prompt = vec![Message::user("Which?")];
    for method in [
        Method::RoundRobin,
        Method::Linear,
        Method::Knockout,
        Method::Swiss,
        Method::Anchor { anchors: 2 },
        Method::Adaptive { confidence: 0.9 },
    ] {
        let group = Group { prompt: prompt.clone(), responses: responses.clone(), rules: rules(method) };
        let ranked = service.rank(group, Options::default()).unwrap().wait().unwrap().answer;
        let Ranked::Compared { ranking, wins } = ranked else { panic!("{ranked:?}") };
        assert_eq!(ranking, judge.rank(&prompt, &responses, method).unwrap());
        assert_eq!(wins.len(), ranking.comparisons);
    }
    let one = Group { prompt: prompt.clone(), responses: vec!["only".into()], rules: rules(Method::Linear) };
    assert_eq!(service.rank(one, Options::default()).unwrap().wait().unwrap().answer.order(), [0]);
    // The scan meets the long one last; it fails alone.
    let long = vec!["a".to_string(), "b".to_string(), "long ".repeat(2000)];
    let group = Group { prompt: prompt.clone(), responses: long, rules: rules(Method::Linear) };
    let other = self::judge(&service, 1);
    let failed = service.rank(group, Options::default()).unwrap().wait();
    assert!(matches!(failed, Err(Failure::TooLong { most: 2048, .. })), "{failed:?}");
    other.wait().unwrap();
    let none = Group { prompt, responses: Vec::new(), rules: rules(Method::Linear) };
    assert!(matches!(service.rank(none, Options::default()), Err(Failure::Invalid(_))));
    assert_idle(&service);
}

#[test]
fn scalar_models_give_rewards_and_orders() {
    let service = service("qwen3_scalar", 1 << 20);
    let (dev, model, texts) = (Device::cpu(1), open(&dir("qwen3_scalar")).unwrap(), texts("qwen3_scalar"));
    let PairWork::Conversations(both) = texts.pair(&pair(3)).unwrap() else { panic!("conversations") };
    let rewards = scorer::Scorer::new(&dev, &model, SIZES).unwrap().rewards(&both).unwrap();
    let judged = judge(&service, 3).wait().unwrap().answer;
    assert_eq!(judged, Judged::Rewards { a: rewards[0], b: rewards[1] });
    let group =
        Group { prompt: pair(3).prompt, responses: vec![pair(3).a, pair(3).b], rules: rules(Method::RoundRobin) };
    let ranked = service.rank(group, Options::default()).unwrap().wait().unwrap().answer;
    assert_eq!(ranked, Ranked::Rewards(rewards));
    assert!(matches!(service.labels(vec![1], vec![2], Options::default()), Err(Failure::Invalid(_))));
}

#[test]
fn labels_of_any_number_are_read_beside_each_other() {
    let service = service("llama", 1 << 20);
    let (dev, model) = (Device::cpu(1), open(&dir("llama")).unwrap());
    let mut scorer = scorer::Scorer::new(&dev, &model, SIZES).unwrap();
    let prompts: Vec<Vec<i32>> = (1..9).map(|n| (1..=n * 3).collect()).collect();
    let labels = |i: usize| (0..i as i32 + 1).map(|k| 5 + 7 * k).collect::<Vec<i32>>();
    let all = prompts.iter().enumerate();
    let tickets: Vec<_> = all.map(|(i, p)| service.labels(p.clone(), labels(i), Options::default()).unwrap()).collect();
    for (i, ticket) in tickets.into_iter().enumerate() {
        let read = ticket.wait().unwrap().answer;
        assert_eq!(read.logits.len(), i + 1);
        for (label, logit) in labels(i).into_iter().zip(&read.logits) {
            let verdict = scorer.verdicts(&prompts[i..i + 1], [label, 9]).unwrap()[0];
            assert_eq!((verdict.logits[0], verdict.lse), (*logit, read.lse));
        }
    }
}

fn request(i: usize) -> Request {
    let settings = Settings { temperature: 1.0, max_tokens: 4 + i, seed: i as u64, ..Settings::default() };
    Request { prompt: (1..=i as i32 + 3).collect(), settings }
}

fn read(ticket: &Ticket<Event>) -> (Vec<i32>, Finish) {
    let mut ids = Vec::new();
    loop {
        match ticket.next().unwrap().unwrap() {
            Event::Token { id, .. } => ids.push(id),
            Event::End { finish, .. } => return (ids, finish),
        }
    }
}

#[test]
fn texts_are_written_while_pairs_are_judged() {
    let service = service("qwen3", 1 << 20);
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let shape = Shape { sequences: 1, context: SIZES.context };
    let mut generator = Generator::new(&dev, &model, shape, &service.sizes().stop).unwrap();
    // More than fit together, one of them twice, one not to its end.
    let tickets: Vec<_> =
        (0..7).map(|i| service.write(request(i % 6), 2 * (i % 2), Options::default()).unwrap()).collect();
    let left = service.write(request(9), 0, Options::default()).unwrap();
    let judged = judge(&service, 1);
    assert!(left.next().is_some());
    drop(left);
    for (i, ticket) in tickets.iter().enumerate() {
        let alone = generator.generate(&[request(i % 6)], |_, _| ()).unwrap().remove(0);
        assert_eq!(read(ticket), (alone.tokens, alone.finish), "sequence {i}");
    }
    assert_eq!(judged.wait().unwrap().answer, self::alone("qwen3")(&pair(1)));
    drop(tickets);
    assert_idle(&service);
}

#[test]
fn what_does_not_fit_is_refused_with_its_lengths() {
    let service = service("qwen3", 400);
    let long = Pair { a: "long ".repeat(2000), ..pair(1) };
    let work = service.texts().pair(&long).unwrap();
    assert!(matches!(service.judge(work, Options::default()), Err(Failure::TooLong { most: 2048, .. })));
    let ids = |n: usize| vec![3; n];
    let labels = |n| service.labels(ids(n), vec![1], Options::default());
    assert!(matches!(labels(401), Err(Failure::TooLarge { tokens: 401, most: 400 })));
    assert!(matches!(service.labels(vec![-1], vec![1], Options::default()), Err(Failure::Invalid(_))));
    assert!(matches!(service.labels(vec![1], vec![1 << 30], Options::default()), Err(Failure::Invalid(_))));
    assert!(matches!(service.reward(ids(2), Options::default()), Err(Failure::Invalid(_))));
    assert!(matches!(labels(0), Err(Failure::Invalid(_))));
    service.pause(true);
    let held = labels(300).unwrap();
    // An equal one is another request, and counts as much until it is known to be the same.
    let Err(Failure::Full { retry_after }) = labels(101) else { panic!("there is no room") };
    assert!(retry_after.as_secs() >= 1);
    service.pause(false);
    held.wait().unwrap();
    labels(101).unwrap().wait().unwrap();
    assert_idle(&service);
}

#[test]
fn deadlines_pass_and_aborts_end_what_waits() {
    let service = service("qwen3", 1 << 20);
    service.pause(true);
    let options = Options { deadline: Some(Instant::now() + Duration::from_millis(20)), priority: 0 };
    let late = service.labels(vec![1, 2], vec![1], options).unwrap();
    assert!(matches!(late.wait(), Err(Failure::Late)));
    let waiting = (judge(&service, 1), service.write(request(1), 0, Options::default()).unwrap());
    assert_eq!(service.abort(), 2);
    assert!(matches!(waiting.0.wait(), Err(Failure::Stopped)));
    assert!(matches!(waiting.1.next(), Some(Err(Failure::Stopped))));
    assert_idle(&service);
    // Late work is not computed either when its client has not noticed yet.
    let options = Options { deadline: Some(Instant::now()), priority: 0 };
    let _late = service.labels(vec![1, 2, 3], vec![1], options).unwrap();
    service.pause(false);
    judge(&service, 1).wait().unwrap();
    assert_eq!(service.counters().late.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert_idle(&service);
}

#[test]
fn weights_change_between_passes_and_what_fails_to_load_changes_nothing() {
    let service = service("qwen3", 1 << 20);
    let other = tempfile::tempdir().unwrap();
    let mut config = open(&dir("qwen3")).unwrap().config;
    Model::random(config.clone(), Dtype::F32, 7).unwrap().save(other.path()).unwrap();
    let before = judge(&service, 1).wait().unwrap();
    assert_eq!(&*before.version, "1");

    assert!(service.reload(Path::new("/nowhere"), "2").is_err());
    config.vocab += 1;
    let wrong = tempfile::tempdir().unwrap();
    Model::random(config, Dtype::F32, 7).unwrap().save(wrong.path()).unwrap();
    assert!(service.reload(wrong.path(), "2").unwrap_err().to_string().contains("vocabulary"));
    assert_eq!(judge(&service, 1).wait().unwrap().answer, before.answer);

    service.pause(true);
    let waiting = judge(&service, 1);
    service.reload(other.path(), "2").unwrap();
    service.pause(false);
    let after = waiting.wait().unwrap();
    assert_eq!(&*after.version, "2");
    assert_ne!(after.answer, before.answer);

    service.sleep().unwrap();
    assert!(service.load().asleep);
    let waiting = judge(&service, 1);
    service.wake().unwrap();
    let awake = waiting.wait().unwrap();
    assert_eq!((awake.answer, awake.version), (after.answer, after.version));
    service.reload(&dir("qwen3"), "3").unwrap();
    assert_eq!(judge(&service, 1).wait().unwrap().answer, before.answer);
    assert_idle(&service);
}

/// A random base on disk with the tokenizer of the golden one.
fn base(seed: u64) -> tempfile::TempDir {
    let other = tempfile::tempdir().unwrap();
    let config = open(&dir("qwen3")).unwrap().config;
    Model::random(config, Dtype::F32, seed).unwrap().save(other.path()).unwrap();
    other
}

/// What a judge says of the first pairs, alone.
fn judgments(model: &Model, n: usize) -> Vec<Judged> {
    let dev = Device::cpu(1);
    let Texts::Pairwise(prompts) = texts("qwen3") else { panic!("a judge") };
    let pairs: Vec<EncodedPair> = (0..n).map(|i| prompts.pair(&pair(i)).unwrap()).collect();
    let mut judge = Judge::new(&dev, model, prompts, SIZES).unwrap();
    judge.judge(&pairs).unwrap().into_iter().map(Judged::Judgment).collect()
}

#[test]
fn no_answer_combines_what_old_and_new_weights_say() {
    let service = service("qwen3", 1 << 20);
    let other = base(7);
    let want: BTreeMap<&str, Vec<Judged>> =
        [("old", judgments(&open(&dir("qwen3")).unwrap(), 6)), ("new", judgments(&open(other.path()).unwrap(), 6))]
            .into();
    service.reload(&dir("qwen3"), "old").unwrap();
    let wins = |answers: &[Judged]| answers.iter().map(Judged::p_a).collect::<Vec<f64>>();
    assert_ne!(wins(&want["old"]), wins(&want["new"]));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (service, want) = (service.clone(), &want);
            scope.spawn(move || {
                for i in 0..30 {
                    let i = (i + thread) % 6;
                    let said = judge(&service, i).wait().unwrap();
                    assert_eq!(said.answer, want[&*said.version][i], "{} weights", said.version);
                }
            });
        }
        for turn in 0..8 {
            let (from, version) =
                if turn % 2 == 0 { (other.path().to_path_buf(), "new") } else { (dir("qwen3"), "old") };
            service.reload(&from, version).unwrap();
        }
    });
    assert_idle(&service);
}

#[test]
fn adapters_answer_beside_each_other_and_stay_through_sleep() {
    let bare = base(7);
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
    let adapter = |seed: u64| {
        let base = open(bare.path()).unwrap();
        let adapted = base.adapted(&dev, peft.clone(), Start::New { seed }).unwrap();
        let (layout, weights) = adapted.trained();
        for slot in layout.slots() {
            let numbers = (0..slot.rows * slot.cols).map(|k| ((k as u64 * 37 + seed * 11) % 101) as f32 / 200.0 - 0.25);
            dev.write(weights.at(slot), &numbers.collect::<Vec<f32>>());
        }
        let place = tempfile::tempdir().unwrap();
        adapted.save(place.path()).unwrap();
        (judgments(&adapted, 4), place)
    };
    let [(one, first), (two, second)] = [1, 2].map(adapter);
    let plain = judgments(&open(bare.path()).unwrap(), 4);
    assert!(one != two && one != plain);
    let named = |name: &str, place: &tempfile::TempDir| Adapter { name: Some(name.into()), dir: place.path().into() };
    let started = |adapters: Vec<Adapter>, named_only: bool| {
        let texts = texts("qwen3");
        let setup = Setup {
            dev: Device::cpu(1),
            model: open(bare.path()).unwrap(),
            texts,
            sizes: Sizes { context: SIZES.context, pass: 300, sequences: 2, queue: 1 << 20, stop: vec![0] },
            loader: Box::new(open),
            dir: bare.path().into(),
            version: "1".into(),
        };
        Service::with(setup, Extras { adapters, named_only, ..Extras::default() })
    };
    let service = started(vec![named("one", &first), named("two", &second)], false).unwrap();
    assert_eq!(service.adapters().collect::<Vec<_>>(), ["one", "two"]);
    assert!(service.adapter("three").is_none());
    let handles = [service.clone(), service.adapter("one").unwrap(), service.adapter("two").unwrap()];
    let check = || {
        let all: Vec<_> = (0..4).flat_map(|i| handles.iter().map(move |h| (i, h))).collect();
        let tickets: Vec<_> = all.iter().map(|(i, handle)| judge(handle, *i)).collect();
        for (k, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.wait().unwrap().answer, [&plain, &one, &two][k % 3][k / 3], "pair {}", k / 3);
        }
    };
    check();
    service.sleep().unwrap();
    service.wake().unwrap();
    check();
    // They were made for this base.
    assert!(service.reload(&dir("qwen3"), "2").is_err());
    check();
    assert_eq!(&*service.version(), "1");
    let only = started(vec![named("one", &first)], true).unwrap();
    let work = only.texts().pair(&pair(1)).unwrap();
    assert!(matches!(only.judge(work, Options::default()), Err(Failure::Invalid(e)) if e.to_string().contains("one")));
    let default = started(vec![Adapter { name: None, dir: second.path().into() }], false).unwrap();
    assert_eq!(judge(&default, 2).wait().unwrap().answer, two[2]);
    assert!(started(vec![named("one", &first), named("one", &second)], false).is_err());
}
