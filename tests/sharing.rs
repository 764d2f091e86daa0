//! Requests with equal prompts share them: whatever runs together, each gets the bits that it gets alone, and a prompt is read once.

use crate::devices::gpus;
use crate::invariance::model;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::infer::generator::{Counts, Generation, Generator, Request, Settings, Shape};
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::config::{Family, HeadKind};

const CONTEXT: usize = 192;
/// Pages that the longest sequence needs.
const LONGEST: usize = 3;
const LABELS: [i32; 2] = [40, 41];

fn prompt(len: usize) -> Vec<i32> {
    (0..len as u64).map(|t| Rng::new(11, Stream::Test, len as u64).below(t, 280) as i32).collect()
}

/// `k` requests for a prompt, the first greedy, the others with seeds of their own.
fn votes(len: usize, k: usize) -> Vec<Request> {
    let request = |i: usize| {
        let temperature = if i == 0 { 0.0 } else { 1.0 };
        let settings = Settings { temperature, max_tokens: 40 + 10 * i, seed: i as u64, ..Settings::default() };
        Request { prompt: prompt(len), settings }
    };
    (0..k).map(request).collect()
}

/// Prompts around the edges of pages, three requests each, one prompt's never side by side.
fn mixed() -> Vec<Request> {
    let lens = [63, 64, 65, 1, 127, 128, 129];
    (0..3).flat_map(|i| lens.map(|len| votes(len, 3)[i].clone())).collect()
}

struct Run<'a> {
    dev: &'a Device,
    model: &'a Model,
    sequences: usize,
    pages: usize,
}

impl Run<'_> {
    fn write(&self, requests: &[Request], labels: Option<[i32; 2]>) -> (Vec<Generation>, Counts) {
        let shape = Shape { sequences: self.sequences, context: CONTEXT };
        let mut generator = Generator::with_pages(self.dev, &[self.model], shape, &[7, 8, 9], self.pages).unwrap();
        generator.watch(labels);
        let made = generator.generate(requests, |_, _| ()).unwrap();
        (made, generator.counts())
    }
}

fn alone(dev: &Device, model: &Model, requests: &[Request]) -> Vec<Generation> {
    let run = Run { dev, model, sequences: 1, pages: usize::MAX };
    requests.iter().flat_map(|r| run.write(std::slice::from_ref(r), Some(LABELS)).0).collect()
}

#[test]
fn shared_prompts_give_the_bits_of_separate_ones() {
    for family in [Family::Qwen3, Family::Llama] {
        let model = model(family, HeadKind::LanguageModel);
        let (one, two) = (Device::cpu(1), Device::cpu(2));
        let requests = mixed();
        let reference = alone(&one, &model, &requests);
        let page = |r: &Request, more: usize| (r.prompt.len() - 1 + more) / 64;
        let crossing = requests.iter().zip(&reference).filter(|(r, g)| page(r, 0) != page(r, g.tokens.len()));
        assert!(crossing.count() > 3, "some go on to another page");
        for (dev, sequences, pages) in [
            (&one, 32, usize::MAX),
            (&two, 5, usize::MAX),
            (&two, 2, 1),
            (&one, 4, LONGEST + 1),
            (&two, 3, 2 * LONGEST),
        ] {
            let (made, _) = Run { dev, model: &model, sequences, pages }.write(&requests, Some(LABELS));
            assert_eq!(reference, made, "{family:?}, {}, {sequences} sequences, {pages} pages", dev.name());
        }
    }
}

#[test]
fn a_prompt_is_read_once_for_all_its_votes() {
    let (dev, model) = (Device::cpu(2), model(Family::Qwen3, HeadKind::LanguageModel));
    let requests = votes(130, 16);
    let reference = alone(&dev, &model, &requests);
    for sequences in [16, 4, 1] {
        let (made, counts) =
            Run { dev: &dev, model: &model, sequences, pages: usize::MAX }.write(&requests, Some(LABELS));
        assert_eq!(reference, made);
        let written: usize = made.iter().map(|g| g.tokens.len() + usize::from(g.finish.name() == "stop")).sum();
        assert_eq!(counts, Counts { asked: 16 * 130, computed: 130, generated: written }, "{sequences} at a time");
    }
    // Where the held prompt and one more sequence do not fit, it is read again, with the same bits.
    let requests: Vec<Request> = votes(65, 4)
        .into_iter()
        .map(|mut r| {
            r.settings.max_tokens = 120;
            r
        })
        .collect();
    let (made, counts) = Run { dev: &dev, model: &model, sequences: 4, pages: LONGEST }.write(&requests, Some(LABELS));
    assert_eq!((counts.asked, counts.computed), (4 * 65, 4 * 65));
    assert_eq!(alone(&dev, &model, &requests), made);
}

#[test]
fn thousands_of_requests_finish_each_with_its_own() {
    let (dev, model) = (Device::cpu(2), model(Family::Qwen2, HeadKind::LanguageModel));
    let request = |i: usize| Request {
        prompt: prompt(1 + i % 7),
        settings: Settings { temperature: 1.0, max_tokens: 1 + i % 3, seed: i as u64, ..Settings::default() },
    };
    let requests: Vec<Request> = (0..3000).map(request).collect();
    let mut finished = vec![0; requests.len()];
    let shape = Shape { sequences: 64, context: CONTEXT };
    let mut generator = Generator::new(&dev, &model, shape, &[]).unwrap();
    let made = generator.generate(&requests, |i, _| finished[i] += 1).unwrap();
    assert!(finished.iter().all(|n| *n == 1));
    assert!(made.iter().enumerate().all(|(i, g)| g.tokens.len() == 1 + i % 3 && g.verdicts.is_empty()));
    assert_eq!(generator.counts().computed, (1..=7).sum::<usize>());
    for i in [0, 1, 1500, 2999] {
        assert_eq!(made[i], generator.generate(&requests[i..=i], |_, _| ()).unwrap()[0]);
    }
}

#[test]
fn watched_logits_are_those_that_the_token_was_drawn_from() {
    let (dev, model) = (Device::cpu(2), model(Family::Llama, HeadKind::LanguageModel));
    let run = Run { dev: &dev, model: &model, sequences: 8, pages: usize::MAX };
    let requests = votes(65, 8);
    let (plain, _) = run.write(&requests, None);
    assert!(plain.iter().all(|g| g.verdicts.is_empty()));
    // Tokens that were drawn, at the prompt's end and while decoding.
    let labels = [plain[1].tokens[0], plain[2].tokens[3]];
    let (watched, _) = run.write(&requests, Some(labels));
    let mut seen = [0; 2];
    for (made, plain) in watched.iter().zip(&plain) {
        assert_eq!((&made.tokens, &made.logprobs), (&plain.tokens, &plain.logprobs));
        assert_eq!(made.verdicts.len(), made.tokens.len());
        for ((token, logprob), verdict) in made.tokens.iter().zip(&made.logprobs).zip(&made.verdicts) {
            for (i, _) in labels.iter().enumerate().filter(|(_, l)| *l == token) {
                assert_eq!(logprob.to_bits(), (verdict.logits[i] - verdict.lse).to_bits());
                seen[i] += 1;
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    // The one-pass judge sums the same products in another order.
    let shape = scorer::Shape { context: CONTEXT, pass: 1000 };
    let scored = Scorer::new(&dev, &model, shape).unwrap().verdicts(&[prompt(65)], labels).unwrap()[0];
    let first = watched[0].verdicts[0];
    assert_eq!(first.lse.to_bits(), scored.lse.to_bits());
    for (a, b) in first.logits.into_iter().zip(scored.logits) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn on_gpus_shared_prompts_give_the_bits_of_separate_ones() {
    let here = model(Family::Qwen3, HeadKind::LanguageModel);
    let mut requests: Vec<Request> = [63, 64, 65].into_iter().flat_map(|len| votes(len, 3)).collect();
    requests.iter_mut().for_each(|r| r.settings.max_tokens = 6);
    let cpu = alone(&Device::cpu(2), &here, &requests);
    for (name, dev) in gpus() {
        let there = model(Family::Qwen3, HeadKind::LanguageModel).on(&dev).unwrap();
        let reference = alone(&dev, &there, &requests);
        for (sequences, pages) in [(9, usize::MAX), (2, LONGEST)] {
            let (made, counts) = Run { dev: &dev, model: &there, sequences, pages }.write(&requests, Some(LABELS));
            assert_eq!(reference, made, "{name}, {sequences} sequences");
            assert_eq!(counts.computed, 63 + 64 + 65, "{name}");
        }
        for (i, (got, want)) in reference.iter().zip(&cpu).enumerate() {
            assert_eq!((&got.tokens, got.finish), (&want.tokens, want.finish), "{name}, request {i}");
            for (got, want) in got.verdicts.iter().zip(&want.verdicts) {
                assert!((got.margin() - want.margin()).abs() < 1e-3, "{name}, request {i}");
            }
        }
    }
}
