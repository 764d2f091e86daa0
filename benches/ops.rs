//! Products, attention and norms on the CPU, 1 thread and all of them: `cargo bench --bench ops [filter]`.
//!
//! Throughput of products and attention is floating-point operations (a multiply-add is two), so `Gelem/s` reads as GFLOP/s;
//! attention counts what the causal half of the square needs. Throughput of norms is the bytes that one pass over the
//! tensors reads and writes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gramophone::base::dtype::{Dtype, Elem, bf16};
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::{Arena, Device, Init, Layout, View};
use gramophone::ops::Heads;
use gramophone::ops::attention::{attention_bwd, attention_fwd};
use gramophone::ops::gemm::{Into, gemm_nn, gemm_nt, gemm_tn};
use gramophone::ops::rmsnorm::{rmsnorm_bwd, rmsnorm_fwd};
use std::time::Duration;

/// Tensors of these shapes, filled with normal numbers, each starting on a cache line.
struct Tensors {
    arena: Arena,
    slots: Vec<gramophone::device::Slot>,
}

impl Tensors {
    fn new(dtype: Dtype, shapes: &[[usize; 2]]) -> Tensors {
        let mut layout = Layout::new();
        let slots: Vec<_> =
            shapes.iter().map(|[rows, cols]| layout.matrix("bench", dtype, *rows, *cols, Init::Zeros)).collect();
        let arena = Arena::new(&Device::cpu(1), "the benchmark", &layout).expect("memory for the benchmark");
        for (key, slot) in slots.iter().enumerate() {
            let rng = Rng::new(7, Stream::Test, key as u64);
            match dtype {
                Dtype::Bf16 => fill::<bf16>(arena.at(slot), &rng),
                _ => fill::<f32>(arena.at(slot), &rng),
            }
        }
        Tensors { arena, slots }
    }
    fn view(&self, i: usize) -> View<'_> {
        self.arena.at(&self.slots[i])
    }
}

fn fill<E: Elem<Acc = f32>>(view: View, rng: &Rng) {
    for (i, x) in view.slice_mut::<E>().iter_mut().enumerate() {
        *x = E::put(rng.normal(i as u64) as f32);
    }
}

/// One thread, and every core where there are more.
fn devices() -> Vec<(usize, Device)> {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut threads = vec![1, all];
    threads.dedup();
    threads.into_iter().map(|t| (t, Device::cpu(t))).collect()
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    let shapes = [
        ("nt", Dtype::F32, [1024, 1024, 1024]),
        ("nt", Dtype::F32, [2048, 4096, 1024]),
        ("nt", Dtype::F32, [16, 4096, 4096]),
        ("nt", Dtype::F32, [1, 4096, 4096]),
        ("nt", Dtype::F32, [2048, 512, 512]),
        ("nt", Dtype::F32, [2048, 1536, 512]),
        ("nt", Dtype::F32, [2048, 512, 1536]),
        ("nn", Dtype::F32, [2048, 512, 1536]),
        ("tn", Dtype::F32, [512, 1536, 2048]),
        ("nt", Dtype::F32, [256, 32000, 512]),
        ("nt", Dtype::F32, [2000, 64, 64]),
        ("nt", Dtype::F32, [2000, 1, 512]),
        ("nt", Dtype::Bf16, [2048, 1536, 512]),
        ("nt", Dtype::Bf16, [1, 4096, 4096]),
    ];
    for (form, dtype, [m, n, k]) in shapes {
        let operands = match form {
            "nt" => [[m, k], [n, k]],
            "nn" => [[m, k], [k, n]],
            _ => [[k, m], [k, n]],
        };
        let tensors = Tensors::new(dtype, &[[m, n], operands[0], operands[1]]);
        let (y, a, b) = (tensors.view(0), tensors.view(1), tensors.view(2));
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        for (threads, dev) in devices() {
            let id = BenchmarkId::new(format!("{form}/{dtype}/{m}x{n}x{k}"), format!("{threads} threads"));
            group.bench_function(id, |bench| {
                dev.install(|| {
                    bench.iter(|| match form {
                        "nt" => gemm_nt(&dev, y, a, b, None, None),
                        "nn" => gemm_nn(&dev, y, a, b, Into::Store),
                        _ => gemm_tn(&dev, y, a, b, Into::Store),
                    })
                })
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let cases = [
        (4, 512, Heads { query: 8, kv: 4, size: 64 }),
        (1, 4096, Heads { query: 8, kv: 2, size: 128 }),
        // The demo's rows, and its heads over long ones.
        (64, 64, Heads { query: 4, kv: 4, size: 16 }),
        (1, 4096, Heads { query: 4, kv: 4, size: 16 }),
        (1, 4096, Heads { query: 4, kv: 2, size: 32 }),
    ];
    for (sequences, length, heads) in cases {
        let (t, width, wide) =
            (sequences * length, heads.query * heads.size, (heads.query + 2 * heads.kv) * heads.size);
        let tensors = Tensors::new(Dtype::F32, &[[t, wide], [t, wide], [t, width], [t, width]]);
        let stats = Tensors::new(Dtype::F32, &[[t, heads.query], [t, heads.query]]);
        let mut starts: Vec<i32> = (0..=sequences).map(|b| (b * length) as i32).collect();
        let (starts, scale) = (View::of(&mut starts), 1.0 / (heads.size as f64).sqrt());
        let (qkv, d_qkv, o, d_o) = (tensors.view(0), tensors.view(1), tensors.view(2), tensors.view(3));
        let parts = [(0, heads.query), (heads.query, heads.kv), (heads.query + heads.kv, heads.kv)];
        let [q, k, v] = parts.map(|(first, n)| qkv.cols_in(first * heads.size..(first + n) * heads.size));
        let [dq, dk, dv] = parts.map(|(first, n)| d_qkv.cols_in(first * heads.size..(first + n) * heads.size));
        let (lse, delta) = (stats.view(0), stats.view(1));
        // One product over the causal pairs.
        let product = (sequences * length * (length + 1) * width) as u64;
        for (threads, dev) in devices() {
            let shape = format!("{sequences}x{length} H{} G{} K{}", heads.query, heads.kv, heads.size);
            group.throughput(Throughput::Elements(2 * product));
            group.bench_function(BenchmarkId::new(format!("fwd/{shape}"), format!("{threads} threads")), |bench| {
                dev.install(|| bench.iter(|| attention_fwd(&dev, o, lse, q, k, v, starts, heads, scale)))
            });
            group.throughput(Throughput::Elements(5 * product));
            group.bench_function(BenchmarkId::new(format!("bwd/{shape}"), format!("{threads} threads")), |bench| {
                let backward = || attention_bwd(&dev, dq, dk, dv, delta, d_o, o, lse, q, k, v, starts, heads, scale);
                dev.install(|| bench.iter(backward))
            });
        }
    }
}

fn norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("rmsnorm");
    for (dtype, rows, width) in [(Dtype::F32, 2048, 512), (Dtype::F32, 2048, 4096), (Dtype::Bf16, 2048, 4096)] {
        let tensors = Tensors::new(dtype, &[[rows, width], [rows, width], [rows, width], [1, width]]);
        let stats = Tensors::new(Dtype::F32, &[[1, rows], [1, width]]);
        let (x, y, dx, w) = (tensors.view(0), tensors.view(1), tensors.view(2), tensors.view(3));
        let (rstd, dw) = (stats.view(0), stats.view(1));
        let tensor = (rows * width * dtype.size()) as u64;
        for (threads, dev) in devices() {
            let id = |way| BenchmarkId::new(format!("{way}/{dtype}/{rows}x{width}"), format!("{threads} threads"));
            group.throughput(Throughput::Bytes(2 * tensor));
            group.bench_function(id("fwd"), |bench| {
                dev.install(|| bench.iter(|| rmsnorm_fwd(&dev, y, rstd, x, w, 1e-6)))
            });
            group.throughput(Throughput::Bytes(4 * tensor));
            group.bench_function(id("bwd"), |bench| {
                dev.install(|| bench.iter(|| rmsnorm_bwd(&dev, dx, Some(dw), y, x, rstd, w)))
            });
        }
    }
}

criterion_group! {
    name = ops;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = products, attention, norms
}
criterion_main!(ops);
