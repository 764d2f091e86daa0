//! What one queue is worth, as ratios of one run, on a random model of 23.1M parameters: 64 clients that ask a service for one pair at a
//! time, against the library with all pairs in hand; and 64 clients against one, on short pairs.
//! `cargo run --release --example batching -- [CLIENTS] [PAIRS] [PROMPT TOKENS] [ANSWER TOKENS] [ROUNDS]`

use gramophone::base::dtype::Dtype;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::infer::scorer::Shape;
use gramophone::model::Model;
use gramophone::model::config::{Config, Family, preset};
use gramophone::reward::judge::{EncodedPair, Judge, Judgment, Prompts};
use gramophone::reward::service::{Judged, Options, PairWork, Service, Setup, Sizes, Texts};
use gramophone::text::chat::Chat;
use gramophone::text::template::JudgeTemplate;
use gramophone::text::tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The words that begin every judge prompt, and those that close it.
const OPEN: usize = 60;
const CLOSE: usize = 12;
const SHAPE: Shape = Shape { context: 4096, pass: 4096 };

fn main() -> gramophone::Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let of = |i: usize, default: usize| given.get(i).copied().unwrap_or(default);
    let (clients, n, prompt, answer, rounds) = (of(0, 64), of(1, 256), of(2, 200), of(3, 100), of(4, 5));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3");
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir)?))?;
    let prompts = Prompts::new(chat, JudgeTemplate::verdict())?;
    let long = pairs(n, prompt, answer);
    let short = pairs(n, 16, 8);
    let model = model()?;
    let dev = Device::cpu(0);
    let mut judge = Judge::new(&dev, &model, prompts.clone(), SHAPE)?;

    let (mut packed, mut many) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let clock = Clock::start();
        let want = judge.judge(&long)?;
        let library = clock.read();
        let all = served(&prompts, &long, clients, &want)?;
        println!("round {round}: library {library}; {clients} clients {all}");
        packed.push(library.over(&all));

        let want = judge.judge(&short)?;
        let one = served(&prompts, &short, 1, &want)?;
        let all = served(&prompts, &short, clients, &want)?;
        println!("         short pairs: one client {one}; {clients} clients {all}");
        many.push(one.over(&all));
    }
    let median = |mut ratios: Vec<[f64; 2]>, k: usize| {
        ratios.sort_by(|x, y| x[k].total_cmp(&y[k]));
        ratios[ratios.len() / 2][k]
    };
    let report = |what: &str, ratios: Vec<[f64; 2]>| {
        let (clock, processor) = (median(ratios.clone(), 0), median(ratios, 1));
        println!("{what}: median {clock:.3}x by the clock, {processor:.3}x of the processor's time");
    };
    report(&format!("{clients} clients against the library's packed passes"), packed);
    report(&format!("{clients} clients against one on short pairs"), many);
    Ok(())
}

/// All pairs through a service of their own, by clients that have one pair in flight each. The answers are checked.
fn served(prompts: &Prompts, pairs: &[EncodedPair], clients: usize, want: &[Judgment]) -> gramophone::Result<Clock> {
    let service = Service::start(Setup {
        dev: Device::cpu(0),
        model: model()?,
        texts: Texts::Pairwise(prompts.clone()),
        sizes: Sizes { context: SHAPE.context, pass: SHAPE.pass, sequences: 1, queue: 1 << 24, stop: Vec::new() },
        loader: Box::new(|dir| Model::open(dir, |stored| stored)),
        dir: "".into(),
        version: "1".into(),
    })?;
    let next = AtomicUsize::new(0);
    let clock = Clock::start();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pair) = pairs.get(i) else { break };
                    let ticket = service.judge(PairWork::Orders(pair.clone()), Options::default()).expect("room");
                    assert_eq!(ticket.wait().expect("an answer").answer, Judged::Judgment(want[i]), "the same bits");
                }
            });
        }
    });
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = service.counters();
    Ok(Clock { passes: read(&counters.passes), tokens: read(&counters.computed_tokens), ..clock.read() })
}

/// Questions of their own with two answers each, in both orders, between common words.
fn pairs(n: usize, prompt: usize, answer: usize) -> Vec<EncodedPair> {
    let text = |key: usize, len: usize| -> Vec<i32> {
        let rng = Rng::new(1, Stream::Test, key as u64);
        (0..len as u64).map(|t| rng.below(t, 8192) as i32).collect()
    };
    let (open, close) = (text(1, OPEN), text(2, CLOSE));
    let pair = |i: usize| {
        let [question, a, b] = [(0, prompt), (1, answer), (2, answer)].map(|(k, len)| text(10 + 3 * i + k, len));
        let join = |x: &[i32], y: &[i32]| [&open, &question[..], x, &[9], y, &close].concat();
        EncodedPair { ab: join(&a, &b), ba: join(&b, &a) }
    };
    (0..n).map(pair).collect()
}

fn model() -> gramophone::Result<Model> {
    let sizes = preset::Shape {
        vocab: Some(8192),
        width: Some(512),
        ffn: Some(1536),
        layers: Some(6),
        heads: Some(8),
        kv_heads: Some(4),
        head_size: Some(64),
        max_positions: Some(4096),
        tied: Some(true),
        ..Default::default()
    };
    Model::random(Config::family_shape(Family::Qwen3, &sizes)?, Dtype::F32, 1)
}

/// Seconds by the clock, and hundredths of a second of the processor: what this process waited for others does not count.
#[derive(Clone, Copy)]
struct Clock {
    begun: Instant,
    seconds: f64,
    processor: f64,
    passes: u64,
    tokens: u64,
}

impl Clock {
    fn start() -> Clock {
        Clock { begun: Instant::now(), seconds: 0.0, processor: processor(), passes: 0, tokens: 0 }
    }
    fn read(self) -> Clock {
        Clock { seconds: self.begun.elapsed().as_secs_f64(), processor: processor() - self.processor, ..self }
    }
    fn over(&self, other: &Clock) -> [f64; 2] {
        [self.seconds / other.seconds, self.processor / other.processor]
    }
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.2} s ({:.2} s of the processor)", self.seconds, self.processor / 100.0)?;
        if self.passes > 0 {
            write!(f, " in {} passes of {} tokens", self.passes, self.tokens / self.passes)?;
        }
        Ok(())
    }
}

fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}
