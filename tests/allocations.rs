//! Nothing is allocated inside a step: once every thread has warmed up, training steps and judge batches take no large block from
//! the heap and map no memory. What is left are lists of ids and of results, a few bytes a token.
//!
//! Counters are global, so the measurement runs in a process of its own: this test starts itself again.

use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Config, Family, preset};
use gramophone::text::encode::Item;
use gramophone::text::example::Side;
use gramophone::train::objective::{self, Over, Reduction};
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator with two counters.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    LARGEST.fetch_max(bytes, Relaxed);
    TOTAL.fetch_add(bytes, Relaxed);
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Set in the process that measures.
const MEASURING: &str = "GRAMOPHONE_TEST_ALLOCATIONS";
/// Tokens of a step. The residual stream alone has thirty times the bytes that one block may have.
const TOKENS: usize = 1200;
/// A token id, its position, its row, its target, its weight and their like may be in lists of the host's.
const BYTES_A_TOKEN: usize = 100;

#[test]
fn nothing_is_allocated_inside_a_step() {
    if std::env::var_os(MEASURING).is_some() {
        return measure();
    }
    let name = format!("{}::nothing_is_allocated_inside_a_step", module_path!().split_once("::").unwrap().1);
    let mut again = Command::new(std::env::current_exe().unwrap());
    let out = again.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(MEASURING, "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

fn measure() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for threads in [1, 2] {
            training(dtype, threads);
            judging(dtype, threads);
        }
    }
}

fn training(dtype: Dtype, threads: usize) {
    let dev = Device::cpu(threads);
    let settings =
        optim::Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    for over in [Over::Candidates, Over::Vocabulary] {
        let objective =
            objective::Settings { labels: [5, 6], smoothing: 0.05, over, reduction: Reduction::Mean, pad: None };
        let shape = Shape { micro_tokens: TOKENS / 2, keep: Keep::Costly, objective };
        let mut trainer = Trainer::new(&dev, model(dtype), settings, shape).unwrap();
        let verdict = |ids| Item::Verdict { ids, label: Side::A };
        let text = |ids| Item::Tokens { ids, start: 1 };
        let items: Vec<Item> = match over {
            Over::Candidates => prompts().into_iter().map(text).collect(),
            Over::Vocabulary => prompts().into_iter().map(verdict).collect(),
        };
        within_bounds(&dev, &format!("training in {dtype}, {threads} threads, {over:?}"), || {
            trainer.step(&items, 1e-3).unwrap();
        });
    }
}

fn judging(dtype: Dtype, threads: usize) {
    let (dev, model) = (Device::cpu(threads), model(dtype));
    let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: 301, pass: TOKENS / 2 }).unwrap();
    let prompts = prompts();
    within_bounds(&dev, &format!("judging in {dtype}, {threads} threads"), || {
        scorer.verdicts(&prompts, [5, 6]).unwrap();
    });
}

/// Runs two steps on every thread, whose scratch grows to what it needs, then five that are counted.
fn within_bounds(dev: &Device, what: &str, mut step: impl FnMut() + Send) {
    let first = Mutex::new(&mut step);
    dev.install(|| {
        rayon::broadcast(|_| {
            let mut step = first.lock().unwrap();
            (0..2).for_each(|_| step());
        })
    });
    step();
    let mapped = mapped();
    for counter in [&LARGEST, &TOTAL] {
        counter.store(0, Relaxed);
    }
    (0..5).for_each(|_| step());
    let (largest, total) = (LARGEST.load(Relaxed), TOTAL.load(Relaxed) / 5);
    assert!(largest <= 8 * TOKENS, "{what}: a block of {largest} bytes");
    assert!(total <= BYTES_A_TOKEN * TOKENS, "{what}: {total} bytes a step");
    assert_eq!(mapped, self::mapped(), "{what}: pages of the process");
    println!("{what}: largest block {largest} bytes, {total} bytes a step");
}

/// Pages of address space that the process has.
fn mapped() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse().unwrap()
}

fn model(dtype: Dtype) -> Model {
    let shape = preset::Shape {
        vocab: Some(3000),
        width: Some(128),
        layers: Some(2),
        heads: Some(4),
        kv_heads: Some(2),
        ffn: Some(300),
        ..Default::default()
    };
    Model::random(Config::family_shape(Family::Qwen3, &shape).unwrap(), dtype, 1).unwrap()
}

/// Six sequences with [`TOKENS`] tokens in all.
fn prompts() -> Vec<Vec<i32>> {
    let lengths = [100, 300, 50, 150, 299, 301];
    assert_eq!(lengths.iter().sum::<usize>(), TOKENS);
    lengths.map(|n| (0..n as i32).map(|i| 7 * i % 2999).collect()).to_vec()
}
