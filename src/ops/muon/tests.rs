use super::*;
use crate::base::dtype::{Dtype, bf16};
use crate::ops::check::{BF16, Bed, F32_GRADIENT, Within, agree, close, dot, gpus, matrix, normals, stored};

/// Orthonormal rows from random ones, by Gram and Schmidt, twice for accuracy.
fn orthonormal(key: u64, rows: usize, cols: usize) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in normals(key, rows * cols).chunks(cols) {
        let mut row = row.to_vec();
        for _ in 0..2 {
            for b in &basis {
                let along = dot(&row, b);
                row.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
            }
            let length = dot(&row, &row).sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
        basis.push(row);
    }
    basis
}

/// `U^T diag(s) V`, from rows of singular vectors.
fn compose(u: &[Vec<f64>], s: &[f64], v: &[Vec<f64>]) -> Vec<f64> {
    let (rows, cols) = (u[0].len(), v[0].len());
    let at = |i: usize, j: usize| (0..s.len()).map(|k| u[k][i] * s[k] * v[k][j]).sum::<f64>();
    (0..rows * cols).map(|e| at(e / cols, e % cols)).collect()
}

fn settings() -> Muon {
    Muon { lr: 0.1, momentum: 0.95, decay: 0.3, clip: 0.5, step: 1, seed: 7 }
}

fn step<P: Rounded>(threads: usize, rows: usize, p: &mut [P], m: &mut [P::Acc], g: &[f64]) {
    let n = rows.min(p.len() / rows);
    let mut g = g.to_vec();
    let [mut x, mut y] = [(); 2].map(|()| vec![P::Acc::ZERO; p.len()]);
    let [mut gram, mut poly] = [(); 2].map(|()| vec![P::Acc::of(f64::NAN); n * n]);
    let (mut partials, mut sum) = (vec![0.0; blocks(p.len())], [f64::NAN]);
    let scratch = MuonScratch {
        x: matrix(&mut x, rows),
        y: matrix(&mut y, rows),
        gram: matrix(&mut gram, n),
        poly: matrix(&mut poly, n),
        partials: View::of(&mut partials),
        sum: View::of(&mut sum),
    };
    let (p, m, g) = (matrix(p, rows), matrix(m, rows), matrix(&mut g, rows));
    muon(&Device::cpu(threads), &settings(), p, m, g, scratch, 100);
}

/// In the basis of singular vectors the iteration is a polynomial of each singular value.
#[test]
fn it_moves_singular_values_and_nothing_else() {
    for (rows, cols) in [(6, 9), (9, 6), (5, 5), (1, 4), (200, 150), (140, 260)] {
        let n = rows.min(cols);
        let (u, v) = (orthonormal(1, n, rows), orthonormal(2, n, cols));
        let s: Vec<f64> = (0..n).map(|i| 0.3 + i as f64 / n as f64).collect();
        let g = compose(&u, &s, &v);
        let (p0, mut m) = (normals(3, rows * cols), vec![0.0; rows * cols]);
        let mut p = p0.clone();
        step(2, rows, &mut p, &mut m, &g);
        let hp = settings();
        let length = dot(&s, &s).sqrt();
        let moved = |s: &f64| {
            let mut x = s / length;
            for _ in 0..STEPS {
                x = 3.4445 * x - 4.7750 * x.powi(3) + 2.0315 * x.powi(5);
            }
            assert!((0.3..1.3).contains(&x), "{x}");
            x
        };
        let update = compose(&u, &s.iter().map(moved).collect::<Vec<_>>(), &v);
        let factor = hp.lr * 0.2 * (rows.max(cols) as f64).sqrt();
        let want: Vec<f64> = p0.iter().zip(&update).map(|(p, x)| p * (1.0 - hp.lr * hp.decay) - factor * x).collect();
        close("p", &p, &want, 1e-6);
        close("m", &m, &g.iter().map(|g| 0.05 * 0.5 * g).collect::<Vec<_>>(), 1e-12);
    }
}

#[test]
fn momentum_accumulates() {
    let (g1, g2) = (normals(1, 12), normals(2, 12));
    let (mut p, mut m) = (normals(3, 12), vec![0.0; 12]);
    step(1, 3, &mut p, &mut m, &g1);
    step(1, 3, &mut p, &mut m, &g2);
    let want: Vec<f64> = g1.iter().zip(&g2).map(|(a, b)| 0.5 * (0.95 * 0.05 * a + 0.05 * b)).collect();
    close("m", &m, &want, 1e-12);
}

#[test]
fn stored_types_follow_f64_and_threads_change_no_bit() {
    let (rows, cols) = (150, 140);
    let (p0, g) = (normals(3, rows * cols), normals(4, rows * cols));
    let (mut exact, mut m) = (p0.clone(), vec![0.0; rows * cols]);
    step(1, rows, &mut exact, &mut m, &g);
    let run = |threads| {
        let (mut p, mut m): (Vec<f32>, _) = (stored(&p0), vec![0f32; rows * cols]);
        step(threads, rows, &mut p, &mut m, &g);
        p
    };
    let single = run(1);
    close("f32", &single, &exact, 1e-4);
    assert_eq!(run(2), single);
    let (mut half, mut m): (Vec<bf16>, _) = (stored(&p0), vec![0f32; rows * cols]);
    step(2, rows, &mut half, &mut m, &g);
    close("bf16", &half, &exact, 0.02);
    let lean = half.iter().zip(&exact).map(|(h, e)| h.to_f32() as f64 - e).sum::<f64>() / exact.len() as f64;
    assert!(lean.abs() < 1e-4, "random rounding leans by {lean}");
}

#[test]
fn a_zero_gradient_only_decays() {
    let mut p = vec![1.0f32; 6];
    step(1, 2, &mut p, &mut [0.0; 6], &[0.0; 6]);
    assert!(p.iter().all(|p| (p - 0.97).abs() < 1e-6));
}

/// Wide, tall, tails of vectors and tiles.
const SHAPES: [[usize; 2]; 4] = [[1, 5], [33, 70], [100, 40], [64, 64]];

#[test]
fn gpus_agree_on_the_parts_around_the_products() {
    for [rows, cols] in SHAPES {
        for gradients in [Dtype::F32, Dtype::Bf16] {
            agree(&format!("muon's averages of {gradients} [{rows}, {cols}]"), |bed| {
                let [u, y] = [(); 2].map(|()| bed.zeros(Dtype::F32, rows, cols));
                let (m, g) = (bed.normals(Dtype::F32, rows, cols, 1, 1.0), bed.normals(gradients, rows, cols, 2, 1e4));
                average(&bed.dev, &settings(), u, m, g);
                scale(&bed.dev, y, u, Factor::OneOverRoot(bed.put(Dtype::F64, 1, 1, &[7.3])));
                scale(&bed.dev, y, y, Factor::Of(1.7));
                combine(&bed.dev, m, y, 0.3, -2.0);
                [("u", u), ("y", y), ("m", m)].map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
            });
        }
        for (dtype, first) in [(Dtype::F32, 0), (Dtype::Bf16, 256), (Dtype::Bf16, 1003)] {
            agree(&format!("muon's step of {dtype} [{rows}, {cols}] from element {first} on"), |bed| {
                let p = bed.normals(dtype, rows, cols, 1, 1.0);
                apply(&bed.dev, &settings(), p, bed.normals(Dtype::F32, rows, cols, 2, 0.01), first);
                vec![("p", Within::Bits, bed.get(p))]
            });
        }
    }
    agree("mirroring a lower half", |bed| {
        let out = bed.zeros(Dtype::F32, 70, 80).cols_in(3..73);
        let lower = bed.normals(Dtype::F32, 70, 70, 1, 1.0);
        symmetric(&bed.dev, out, |block, rows, cols| {
            gemm_nt(&bed.dev, block, lower.rows_in(rows), lower.rows_in(cols), None, None);
        });
        vec![("out", Within::Bits, (0..70).flat_map(|i| bed.get(out.rows_in(i..i + 1))).collect())]
    });
}

/// `symmetric` computes whole blocks of [`GPU_ROWS`] on a GPU, so only larger matrices than tests have need the kernel.
#[test]
fn gpus_mirror_everything_above_the_diagonal() {
    for (_, dev) in gpus() {
        let (bed, n) = (Bed::new(dev), 70);
        let out = bed.normals(Dtype::F32, n, n + 9, 1, 1.0).cols_in(3..n + 3);
        let before = bed.get(out);
        let Device::Cuda(gpu) = &bed.dev else { panic!("a GPU") };
        let tiles = n.div_ceil(TILE);
        launch::muon_mirror(gpu, Grid::new(tiles, tiles, 1), out, n as i32, out.stride() as i32);
        let lower = |e: usize| before[(e / n).max(e % n) * n + (e / n).min(e % n)];
        assert!(bed.get(out) == (0..n * n).map(lower).collect::<Vec<_>>());
    }
}

#[test]
fn gpus_agree() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for [rows, cols] in SHAPES {
            agree(&format!("muon of {dtype} [{rows}, {cols}]"), |bed| {
                let (p, g) = (bed.normals(dtype, rows, cols, 1, 1.0), bed.normals(Dtype::F32, rows, cols, 2, 3.0));
                let (m, n) = (bed.zeros(Dtype::F32, rows, cols), rows.min(cols));
                let [x, y] = [(); 2].map(|()| bed.zeros(Dtype::F32, rows, cols));
                let [gram, poly] = [(); 2].map(|()| bed.zeros(Dtype::F32, n, n));
                let (partials, sum) = (bed.zeros(Dtype::F64, 1, blocks(p.len())), bed.zeros(Dtype::F64, 1, 1));
                let scratch = MuonScratch { x, y, gram, poly, partials, sum };
                for step in 1..=2 {
                    muon(&bed.dev, &Muon { step, ..settings() }, p, m, g, scratch, 512);
                }
                // A sum of squares in another order may cross a rounding boundary of a bf16 parameter.
                let class = if dtype == Dtype::F32 { F32_GRADIENT } else { BF16 };
                vec![("p", class, bed.get(p)), ("m", Within::Bits, bed.get(m))]
            });
        }
    }
}
