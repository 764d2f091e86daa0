//! Does the emulated GPU mean by each instruction what a real one does?
//!
//! Every instruction of `kernels/base/ptx.cuh` has a kernel in `kernels/conformance*.cu` that dumps what it produced. Each is
//! held to the formula that we take it to follow, and to the recording of a real GPU in `tests/golden/conformance` where there
//! is one. `GRAMOPHONE_CONFORMANCE=DIR` writes the outputs of a real GPU into DIR.

use crate::base::dtype::{Dtype, Elem, bf16};
use crate::device::cuda::launch::{self, Grid};
use crate::device::cuda::{Swizzle, TensorMap};
use crate::device::{Device, Gpu};
use crate::ops::check::{Bed, gpus, normals};
use std::path::{Path, PathBuf};

/// What may differ from the recording and the formula.
#[derive(Clone, Copy)]
enum Same {
    Bits,
    /// f32 values up to this relative difference.
    Near(f32),
    /// f32 sums of terms about 1, up to this difference: the order in which a chip adds is its own.
    Sum(f32),
}

struct Outcome {
    name: &'static str,
    same: Same,
    got: Vec<u32>,
    /// By the formula.
    want: Vec<u32>,
}

fn words(bed: &Bed, view: crate::device::View) -> Vec<u32> {
    match view.dtype() {
        Dtype::F32 => bed.dev.read::<f32>(view).unwrap().into_iter().map(f32::to_bits).collect(),
        _ => bed.dev.read::<i32>(view).unwrap().into_iter().map(|x| x as u32).collect(),
    }
}

/// Some 32-bit words, each another.
fn numbers(n: usize) -> Vec<i32> {
    (0..n as u32).map(|i| i.wrapping_mul(0x9E37_79B9) as i32).collect()
}

fn approximations(bed: &Bed, gpu: &Gpu) -> Outcome {
    let mut x: Vec<f64> = normals(1, 248).iter().map(|x| x * 20.0).collect();
    x.extend([f64::NEG_INFINITY, -126.0, -127.5, -1e30, 0.0, 127.9, 1e-39, 3e38]);
    let (out, given) = (bed.zeros(Dtype::F32, 3, x.len()), bed.put(Dtype::F32, 1, x.len(), &x));
    launch::conformance_approximations(gpu, Grid::cover(x.len(), 128), out, given, x.len() as i32);
    // Subnormal numbers count as 0, whether they go in or come out.
    let flushed = |y: f64| if (y as f32).is_subnormal() { 0.0_f64.copysign(y) } else { y };
    let x: Vec<f64> = x.into_iter().map(|x| flushed(f64::from(x as f32))).collect();
    let each = |f: fn(f64) -> f64| x.iter().map(move |x| (flushed(f(*x)) as f32).to_bits()).collect::<Vec<u32>>();
    let want = [each(f64::exp2), each(f64::recip), each(f64::sqrt)].concat();
    Outcome { name: "approximations", same: Same::Near(2.5e-7), got: words(bed, out), want }
}

fn cp_async(bed: &Bed, gpu: &Gpu) -> Outcome {
    let data = numbers(640);
    let (out, given) = (bed.zeros(Dtype::I32, 1, 640), bed.ints(1, 640, &data));
    launch::conformance_cp_async(gpu, Grid::rows(1), out, given);
    let wide = (0..512).map(|i| if i / 4 % 3 != 2 { data[i] } else { 0 });
    let narrow = (0..128).map(|i| 127 - i).map(|i| if i % 3 != 1 { data[512 + i] } else { 0 });
    let want = wide.chain(narrow).map(|x| x as u32).collect();
    Outcome { name: "cp_async", same: Same::Bits, got: words(bed, out), want }
}

fn ldmatrix(bed: &Bed, gpu: &Gpu) -> Outcome {
    let data = numbers(128);
    let (out, given) = (bed.zeros(Dtype::I32, 1, 256), bed.ints(1, 128, &data));
    launch::conformance_ldmatrix(gpu, Grid::rows(1), out, given);
    // Matrix m, row r, column c of 16-bit elements: row 8 m + r of the 32 rows of 16 bytes.
    let element = |m: usize, r: usize, c: usize| (data[4 * (8 * m + r) + c / 2] as u32) >> (16 * (c % 2)) & 0xffff;
    let lane = |l: usize| {
        let plain = (0..4).map(move |m| element(m, l / 4, 2 * (l % 4)) | element(m, l / 4, 2 * (l % 4) + 1) << 16);
        let transposed = (0..4).map(move |m| element(m, 2 * (l % 4), l / 4) | element(m, 2 * (l % 4) + 1, l / 4) << 16);
        plain.chain(transposed).collect::<Vec<u32>>()
    };
    Outcome { name: "ldmatrix", same: Same::Bits, got: words(bed, out), want: (0..32).flat_map(lane).collect() }
}

fn mma_bf16(bed: &Bed, gpu: &Gpu) -> Outcome {
    let pair = |i: usize| {
        let half = |key: u64| <bf16 as Elem>::put(normals(key, 256)[i] as f32).to_bits() as u32;
        (half(1) | half(2) << 16) as i32
    };
    let fragments: Vec<i32> = (0..192).map(pair).collect();
    let sums: Vec<f64> = normals(3, 128).iter().map(|x| *x as f32 as f64).collect();
    let (out, given) = (bed.zeros(Dtype::F32, 1, 128), bed.ints(1, 192, &fragments));
    launch::conformance_mma_bf16(gpu, Grid::rows(1), out, given, bed.put(Dtype::F32, 1, 128, &sums));
    let half = |word: i32, high: usize| f32::from_bits((word as u32 >> (16 * high)) << 16) as f64;
    let a = |row: usize, k: usize| {
        let (lane, register) = (4 * (row % 8) + k % 8 / 2, row / 8 + 2 * (k / 8));
        half(fragments[6 * lane + register], k % 2)
    };
    let b = |k: usize, col: usize| half(fragments[6 * (4 * col + k % 8 / 2) + 4 + k / 8], k % 2);
    let want = (0..128).map(|i| {
        let (lane, j) = (i / 4, i % 4);
        let (row, col) = (lane / 4 + 8 * (j / 2), 2 * (lane % 4) + j % 2);
        let sum = (0..16).map(|k| a(row, k) * b(k, col)).sum::<f64>() + sums[i];
        (sum as f32).to_bits()
    });
    Outcome { name: "mma_bf16", same: Same::Sum(2e-5), got: words(bed, out), want: want.collect() }
}

fn named_barrier(bed: &Bed, gpu: &Gpu) -> Outcome {
    let data = numbers(128);
    let (out, given) = (bed.zeros(Dtype::I32, 1, 128), bed.ints(1, 128, &data));
    launch::conformance_named_barrier(gpu, Grid::rows(1), out, given);
    let want = (0..128).map(|i| if i < 64 { data[127 - i] } else { data[i] } as u32).collect();
    Outcome { name: "named_barrier", same: Same::Bits, got: words(bed, out), want }
}

fn last_arriver(bed: &Bed, gpu: &Gpu) -> Outcome {
    let data: Vec<i32> = (0..300).collect();
    let (out, counter, left) =
        (bed.zeros(Dtype::I32, 1, 1), bed.zeros(Dtype::I32, 1, 1), bed.zeros(Dtype::I32, 1, 300));
    let given = bed.ints(1, 300, &data);
    for _ in 0..2 {
        launch::conformance_last_arriver(gpu, Grid::rows(300), out, counter, left, given);
    }
    let got = [words(bed, out), words(bed, counter)].concat();
    Outcome { name: "last_arriver", same: Same::Bits, got, want: vec![300 * 299 / 2, 0] }
}

fn tma(bed: &Bed, gpu: &Gpu) -> Outcome {
    // A box that sticks out of the tensor on two sides: rows 40 to 104 of 90, columns 48 to 112 of 104.
    let (rows, cols, x, y) = (90, 104, 48, 40);
    let data: Vec<f64> = (0..rows * cols).map(|i| (1 + i % 251) as f64).collect();
    let (from, to) = (bed.put(Dtype::Bf16, rows, cols, &data), bed.put(Dtype::Bf16, rows, cols, &data));
    let map = |view| TensorMap::new(view, 64, 64, Swizzle::Bytes128).unwrap();
    let out = bed.zeros(Dtype::I32, 1, 64 * 32);
    let grid = Grid::rows(1).shared(64 * 128 + 1024);
    launch::conformance_tma(gpu, grid, out, &map(from), &map(to), x as i32, y as i32);
    let element = |r: usize, c: usize| match (y + r < rows, x + c < cols) {
        (true, true) => <bf16 as Elem>::put(data[(y + r) * cols + x + c] as f32).to_bits() as u32,
        _ => 0,
    };
    // 16-byte piece p of row r lies at place p ^ (r % 8).
    let word = |i: usize| {
        let (r, place, within) = (i / 32, i % 32 / 4, i % 4);
        let c = 8 * (place ^ (r % 8)) + 2 * within;
        element(r, c) | element(r, c + 1) << 16
    };
    let mut got = words(bed, out);
    got.extend(bed.get(to).into_iter().map(|v| (v as f32).to_bits()));
    let stored = (0..rows * cols).map(|i| {
        let inside = i / cols >= y && i % cols >= x;
        (if inside { -data[i] } else { data[i] } as f32).to_bits()
    });
    Outcome { name: "tma", same: Same::Bits, got, want: (0..64 * 32).map(word).chain(stored).collect() }
}

fn mbarrier(bed: &Bed, gpu: &Gpu) -> Outcome {
    let rounds = 7;
    let data = numbers(32 * rounds);
    let (out, given) = (bed.zeros(Dtype::I32, 1, 128), bed.ints(1, data.len(), &data));
    launch::conformance_mbarrier(gpu, Grid::rows(1), out, given, rounds as i32);
    let sum = |i: usize| match i / 32 {
        0 => 0,
        warp => (0..rounds).fold(0u32, |sum, r| sum.wrapping_add(data[32 * r + (i + warp) % 32] as u32)),
    };
    Outcome { name: "mbarrier", same: Same::Bits, got: words(bed, out), want: (0..128).map(sum).collect() }
}

/// 64 rows of 64 elements.
fn tile(key: u64) -> Vec<f32> {
    normals(key, 64 * 64).iter().map(|x| round(*x)).collect()
}

/// Rows of 64 elements as they lie in shared memory: 16-byte piece p of row r at place p ^ (r % 8).
fn swizzled(rows: &[f32]) -> Vec<i32> {
    let element = |r: usize, c: usize| <bf16 as Elem>::put(rows[64 * r + c]).to_bits() as u32;
    let word = |i: usize| {
        let (r, place, within) = (i / 32, i % 32 / 4, i % 4);
        let c = 8 * (place ^ (r % 8)) + 2 * within;
        (element(r, c) | element(r, c + 1) << 16) as i32
    };
    (0..rows.len() / 2).map(word).collect()
}

/// A sum over 64.
fn product(a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> u32 {
    ((0..64).map(|k| a(k) as f64 * b(k) as f64).sum::<f64>() as f32).to_bits()
}

fn wgmma(bed: &Bed, gpu: &Gpu) -> Outcome {
    let [left, right] = [1, 2].map(tile);
    let out = bed.zeros(Dtype::F32, 128, 96);
    let [a, b] = [&left, &right].map(|tile| bed.ints(1, 64 * 32, &swizzled(tile)));
    launch::conformance_wgmma(gpu, Grid::rows(1).shared(2 * 64 * 128 + 1024), out, a, b);
    let want = (0..128 * 96).map(|i| {
        let (t, which, register) = (i / 96, i % 96 / 32, i % 32);
        let row = 16 * (t / 32) + t % 32 / 4 + 8 * (register / 2 % 2);
        let col = 8 * (register / 4) + 2 * (t % 4) + register % 2;
        match which {
            1 => product(|k| left[64 * k + row], |k| right[64 * k + col]),
            _ => product(|k| left[64 * row + k], |k| right[64 * col + k]),
        }
    });
    Outcome { name: "wgmma", same: Same::Sum(2e-4), got: words(bed, out), want: want.collect() }
}

fn wgmma_widths(bed: &Bed, gpu: &Gpu) -> Outcome {
    // The columns, and whether the summed index runs across the rows that lie in shared memory.
    const WIDTHS: [(usize, bool); 5] = [(32, false), (128, false), (128, true), (256, false), (256, true)];
    let (left, right) = (tile(1), (2..6).flat_map(tile).collect::<Vec<f32>>());
    let out = bed.zeros(Dtype::F32, 128, 16 + 2 * 64 + 2 * 128);
    let [a, b] = [&left, &right].map(|rows| bed.ints(1, rows.len() / 2, &swizzled(rows)));
    launch::conformance_wgmma_widths(gpu, Grid::rows(5).shared(5 * 64 * 128 + 1024), out, a, b);
    let sum = |t: usize, register: usize, across: bool| {
        let row = 16 * (t / 32) + t % 32 / 4 + 8 * (register / 2 % 2);
        let col = 8 * (register / 4) + 2 * (t % 4) + register % 2;
        match across {
            // Four tiles side by side.
            true => product(|k| left[64 * k + row], |k| right[64 * (64 * (col / 64) + k) + col % 64]),
            false => product(|k| left[64 * row + k], |k| right[64 * col + k]),
        }
    };
    let of = |t: usize| WIDTHS.iter().flat_map(move |&(n, across)| (0..n / 2).map(move |r| (t, r, across)));
    let want = (0..128).flat_map(of).map(|(t, register, across)| sum(t, register, across)).collect();
    Outcome { name: "wgmma_widths", same: Same::Sum(2e-4), got: words(bed, out), want }
}

/// To the nearest bf16.
fn round(x: f64) -> f32 {
    <bf16 as Elem>::put(x as f32).get()
}

/// What only sm_90a has.
const HOPPER: &[fn(&Bed, &Gpu) -> Outcome] = &[tma, mbarrier, wgmma, wgmma_widths];
const ALL: &[fn(&Bed, &Gpu) -> Outcome] = &[approximations, cp_async, ldmatrix, mma_bf16, named_barrier, last_arriver];

/// The first word that differs, and how many do.
fn differs(place: &str, same: Same, got: &[u32], want: &[u32]) -> Option<String> {
    assert_eq!(got.len(), want.len(), "{place}");
    let alike = |g: u32, w: u32| {
        let (x, y) = (f32::from_bits(g), f32::from_bits(w));
        match same {
            Same::Bits => g == w,
            Same::Sum(most) => (x - y).abs() <= most,
            // Infinities and NaN are what they are.
            Same::Near(most) => {
                g == w || x.is_nan() && y.is_nan() || (x - y).abs() <= most * y.abs().max(f32::MIN_POSITIVE)
            }
        }
    };
    let mut others = got.iter().zip(want).enumerate().filter(|(_, (g, w))| !alike(**g, **w));
    let (i, (g, w)) = others.next()?;
    let (more, of) = (others.count(), got.len());
    let (x, y) = (f32::from_bits(*g), f32::from_bits(*w));
    Some(format!("{place}: word {i} is {g:#010x} ({x:e}), expected {w:#010x} ({y:e}); {more} more of {of}"))
}

fn recording(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.bin"))
}

#[test]
fn conformance() {
    let root =
        std::env::var_os("GRAMOPHONE_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let golden = root.join("tests/golden/conformance");
    let (mut replayed, mut faults) = (0, Vec::new());
    for (called, dev) in gpus() {
        let bed = Bed::new(dev.clone());
        let Device::Cuda(gpu) = &dev else { panic!("{called} is not a GPU") };
        let hopper = if gpu.capability() == (9, 0) { HOPPER } else { &[] };
        for case in ALL.iter().chain(hopper) {
            let Outcome { name, same, got, want } = case(&bed, gpu);
            // First of all: a chip that means something else is what the recording is for.
            if let Some(folder) = std::env::var_os("GRAMOPHONE_CONFORMANCE").filter(|_| !called.starts_with("emulated"))
            {
                std::fs::create_dir_all(&folder).unwrap();
                let bytes: Vec<u8> = got.iter().flat_map(|w| w.to_le_bytes()).collect();
                std::fs::write(recording(Path::new(&folder), name), bytes).unwrap();
            }
            faults.extend(differs(&format!("{name} on {called}, by its formula"), same, &got, &want));
            if let Ok(bytes) = std::fs::read(recording(&golden, name)) {
                let recorded: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
                faults.extend(differs(&format!("{name} on {called}, as recorded"), same, &got, &recorded));
                replayed += 1;
            }
        }
    }
    assert!(faults.is_empty(), "the chip and our reading of its manual differ:\n{}", faults.join("\n"));
    if replayed == 0 {
        println!("no recording of a real GPU exists yet: see {}", golden.join("README.md").display());
    }
}
