//! The products of GPUs: held to the CPU's, to each other's, and to what is promised of rows.

use super::gpu::{self, Tile};
use super::*;
use crate::device::Gpu;
use crate::device::cuda::library_present;
use crate::ops::check::{BF16, Bed, F32, F32_GRADIENT, Within, agree, gpus};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Nt,
    Nn,
    Tn,
}
const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

/// One product: `rows x cols` outputs over `depth` summed indices.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    rows: usize,
    cols: usize,
    depth: usize,
    /// Unused columns to the left of every tensor: 0 and 8 keep rows aligned to 16 bytes if their widths do, 2 keeps pairs.
    shift: usize,
    of: Dtype,
    to: Dtype,
    into: Into,
    /// Bias and residual; products of form NT alone have them.
    extras: bool,
}

struct Operands<'a> {
    left: View<'a>,
    right: View<'a>,
    bias: Option<View<'a>>,
    residual: Option<View<'a>>,
    /// The output, and the tensor whose right part it is.
    y: View<'a>,
    whole: View<'a>,
}

impl Case {
    fn operands<'a>(&self, bed: &'a Bed, scale: f64) -> Operands<'a> {
        let Case { rows, cols, depth, shift, of, to, .. } = *self;
        let window = |dtype, [rows, cols]: [usize; 2], key, scale| {
            let whole = bed.normals(dtype, rows, cols + shift, key, scale);
            (whole, whole.cols_in(shift..shift + cols))
        };
        let [left, right] = match self.form {
            Form::Nt => [[rows, depth], [cols, depth]],
            Form::Nn => [[rows, depth], [depth, cols]],
            Form::Tn => [[depth, rows], [depth, cols]],
        };
        let extras = self.extras && self.form == Form::Nt;
        let (whole, y) = window(to, [rows, cols], 5, scale);
        Operands {
            left: window(of, left, 1, scale).1,
            right: window(of, right, 2, 1.0).1,
            bias: extras.then(|| window(of, [1, cols], 3, scale).1),
            residual: extras.then(|| window(of, [rows, cols], 4, scale).1),
            y,
            whole,
        }
    }

    fn run(&self, dev: &Device, o: &Operands) {
        match self.form {
            Form::Nt => gemm_nt(dev, o.y, o.left, o.right, o.bias, o.residual),
            Form::Nn => gemm_nn(dev, o.y, o.left, o.right, self.into),
            Form::Tn => gemm_tn(dev, o.y, o.left, o.right, self.into),
        }
    }

    fn run_tile(&self, gpu: &Gpu, tile: Tile, o: &Operands) {
        match self.form {
            Form::Nt => gpu::nt_tiled(gpu, tile, o.y, o.left, o.right, o.bias, o.residual),
            Form::Nn => gpu::nn_tiled(gpu, tile, o.y, o.left, o.right, self.into),
            Form::Tn => gpu::tn_tiled(gpu, tile, o.y, o.left, o.right, self.into),
        }
    }

    fn tiles(&self) -> &'static [Tile] {
        if self.form == Form::Nt { &Tile::ALL } else { &Tile::ALL[1..] }
    }
}

/// Tails of every kind: one element, no summed index, edges of vectors, tiles and stages.
const SHAPES: [[usize; 3]; 7] =
    [[1, 1, 1], [2, 3, 0], [3, 7, 5], [16, 32, 64], [20, 72, 136], [65, 130, 33], [129, 40, 200]];

/// Every form, alignment, pair of types and epilogue at some shape.
fn cases(of: Dtype) -> impl Iterator<Item = Case> {
    let all = FORMS.into_iter().flat_map(|form| SHAPES.into_iter().enumerate().map(move |(i, shape)| (form, i, shape)));
    all.flat_map(move |(form, i, [rows, cols, depth])| {
        [Dtype::F32, Dtype::Bf16].into_iter().enumerate().map(move |(j, to)| Case {
            form,
            rows,
            cols,
            depth,
            shift: [0, 3, 8, 2][(i + 2 * j) % 4],
            of,
            to,
            into: if (i + j) % 2 == 0 { Into::Store } else { Into::Add },
            extras: (i + j) % 3 != 0,
        })
    })
}

/// Runs all cases on one device after the other.
fn all_agree(name: &str, cases: &[Case], class: impl Fn(&Case) -> Within, run: impl Fn(&Bed, &Case) -> Vec<f64>) {
    agree(name, |bed| {
        let one = |case: &Case| (&*format!("{case:?}").leak(), class(case), run(bed, case));
        cases.iter().map(one).collect()
    });
}

/// The whole tensor that the output is a part of, by the public op.
fn by_op(bed: &Bed, case: &Case, scale: f64) -> Vec<f64> {
    let o = case.operands(bed, scale);
    case.run(&bed.dev, &o);
    bed.get(o.whole)
}

/// The same by every way there is on a GPU, which must give the same bits.
fn by_each<T: Copy + std::fmt::Debug>(bed: &Bed, case: &Case, ways: &[T], run: impl Fn(T, &Operands)) -> Vec<f64> {
    let mut all = ways.iter().map(|way| {
        let o = case.operands(bed, 1.0);
        run(*way, &o);
        bed.get(o.whole)
    });
    let first = all.next().unwrap();
    for (i, y) in all.enumerate() {
        let other = y.iter().zip(&first).position(|(a, b)| a.to_bits() != b.to_bits());
        let values = other.map(|at| (at, y[at], first[at]));
        assert!(other.is_none(), "{case:?}: {:?} gives other bits than {:?}: {values:?}", ways[i + 1], ways[0]);
    }
    first
}

fn bf16_class(case: &Case) -> Within {
    if case.to == Dtype::Bf16 { BF16 } else { F32 }
}

#[test]
fn gpus_give_the_cpus_bits_of_f32_products() {
    let cases: Vec<Case> = cases(Dtype::F32).collect();
    all_agree("f32 products", &cases, |_| Within::Bits, |bed, case| by_op(bed, case, 1.0));
}

#[test]
fn gpus_agree_on_bf16_products_in_every_tile() {
    let cases: Vec<Case> = cases(Dtype::Bf16).collect();
    all_agree("bf16 products", &cases, bf16_class, |bed, case| match &bed.dev {
        Device::Cuda(gpu) => by_each(bed, case, case.tiles(), |tile, o| case.run_tile(gpu, tile, o)),
        Device::Cpu(_) => by_op(bed, case, 1.0),
    });
}

/// Rows of operands that TMA can read; more tiles than blocks, stages that go round the ring, outputs that TMA cannot write.
fn hopper_cases() -> Vec<Case> {
    let nt = [[1, 1, 8], [3, 150, 64], [65, 33, 200], [300, 300, 328]].map(|shape| (Form::Nt, shape));
    let nn = [[1, 8, 8], [65, 136, 200], [300, 304, 80]].map(|shape| (Form::Nn, shape));
    let tn = [[8, 8, 1], [136, 72, 200], [304, 304, 65]].map(|shape| (Form::Tn, shape));
    let all = nt.into_iter().chain(nn).chain(tn).enumerate();
    all.flat_map(|(i, (form, [rows, cols, depth]))| {
        [Dtype::F32, Dtype::Bf16].into_iter().enumerate().map(move |(j, to)| Case {
            form,
            rows,
            cols,
            depth,
            shift: [0, 8][(i + j) % 2],
            of: Dtype::Bf16,
            to,
            into: if (i + j) % 2 == 0 { Into::Add } else { Into::Store },
            extras: (i + j) % 3 != 0,
        })
    })
    .collect()
}

#[test]
fn gpus_agree_on_hoppers_products_in_every_tile() {
    let run = |gpu: &Gpu, case: &Case, tile, o: &Operands| match case.form {
        Form::Nt => hopper::nt(gpu, tile, o.y, o.left, o.right, o.bias, o.residual),
        Form::Nn => hopper::nn(gpu, tile, o.y, o.left, o.right, case.into),
        Form::Tn => hopper::tn(gpu, tile, o.y, o.left, o.right, case.into),
    };
    all_agree("products on Hopper", &hopper_cases(), bf16_class, |bed, case| {
        let tiles = if case.form == Form::Nt { &hopper::Tile::ALL[..] } else { &hopper::Tile::ALL[1..] };
        match &bed.dev {
            Device::Cuda(gpu) if gpu.capability() == (9, 0) => {
                by_each(bed, case, tiles, |tile, o| run(gpu, case, tile, o))
            }
            _ => by_op(bed, case, 1.0),
        }
    });
}

/// One launch or two: the same bits, in every tile, whether TMA can write the output or not.
#[test]
fn gated_products_of_gpus_are_the_product_and_its_swiglu() {
    for (i, [m, f, k]) in [[1, 5, 8], [3, 150, 64], [65, 33, 200], [300, 260, 328]].into_iter().enumerate() {
        agree(&format!("gated product [{m}, {f}, {k}]"), |bed| {
            let (x, w) = (bed.normals(Dtype::Bf16, m, k, 1, 1.0), bed.normals(Dtype::Bf16, 2 * f, k, 2, 1.0));
            let shift = [0, 8, 3, 8][i];
            let window = || bed.normals(Dtype::Bf16, m, f + shift, 3, 1.0);
            let (apart, between) = (window(), bed.zeros(Dtype::Bf16, m, 2 * f));
            if let Device::Cuda(gpu) = &bed.dev
                && gpu.capability() == (9, 0)
            {
                hopper::nt(gpu, hopper::Tile::T128x128, between, x, w, None, None);
                swiglu_fwd(&bed.dev, apart.cols_in(shift..shift + f), between.cols_in(0..f), between.cols_in(f..2 * f));
                for tile in hopper::Tile::ALL {
                    let whole = window();
                    hopper::gated(gpu, tile, whole.cols_in(shift..shift + f), x, w);
                    assert!(bed.get(whole) == bed.get(apart), "{tile:?} of [{m}, {f}, {k}]");
                }
            } else {
                gemm_gated(&bed.dev, apart.cols_in(shift..shift + f), between, x, w);
            }
            vec![("all", BF16, bed.get(apart))]
        });
    }
}

#[test]
fn gated_products_of_gpus_have_the_bits_of_the_two_ops() {
    for (called, dev) in gpus() {
        let bed = Bed::new(dev);
        // f32, a weight that is too small for Hopper's own, and one that is not.
        for (dtype, f, k) in [(Dtype::F32, 20, 33), (Dtype::Bf16, 20, 40), (Dtype::Bf16, 136, 128)] {
            for m in [1, 70] {
                let (x, w) = (bed.normals(dtype, m, k, 1, 1.0), bed.normals(dtype, 2 * f, k, 2, 1.0));
                let [y, apart] = [(); 2].map(|()| bed.zeros(dtype, m, f));
                let [scratch, between] = [(); 2].map(|()| bed.zeros(dtype, m, 2 * f));
                gemm_gated(&bed.dev, y, scratch, x, w);
                gemm_nt(&bed.dev, between, x, w, None, None);
                swiglu_fwd(&bed.dev, apart, between.cols_in(0..f), between.cols_in(f..2 * f));
                assert!(bed.get(y) == bed.get(apart), "{dtype} [{m}, {f}, {k}] on {called}");
            }
        }
    }
}

#[test]
fn gpus_pass_large_numbers_through_their_products() {
    let [rows, cols, depth] = [17, 136, 128];
    let case = |form, of| Case { form, rows, cols, depth, shift: 0, of, to: of, into: Into::Add, extras: true };
    let cases: Vec<Case> =
        FORMS.into_iter().flat_map(|form| [case(form, Dtype::F32), case(form, Dtype::Bf16)]).collect();
    let class = |case: &Case| if case.of == Dtype::F32 { Within::Bits } else { BF16 };
    all_agree("products of large numbers", &cases, class, |bed, case| by_op(bed, case, 1e4));
}

/// The bits of products of `m` rows with a weight of `n` rows.
fn rows_of(dev: &Device, dtype: Dtype, m: usize, n: usize) -> [Vec<f64>; 2] {
    let bed = Bed::new(dev.clone());
    let (x, w) = (bed.normals(dtype, 300, 136, 1, 1.0), bed.normals(dtype, n, 136, 2, 1.0));
    let (bias, residual) = (bed.normals(dtype, 1, n, 3, 1.0), bed.normals(dtype, 300, n, 4, 1.0));
    let (y, dx) = (bed.zeros(dtype, m, n), bed.zeros(dtype, m, 136));
    gemm_nt(dev, y, x.top(m), w, Some(bias), Some(residual.top(m)));
    gemm_nn(dev, dx, y, w, Into::Store);
    [bed.get(y), bed.get(dx)]
}

#[test]
fn gpus_give_a_row_the_same_bits_whatever_lies_beside_it() {
    for (called, dev) in gpus() {
        // The second weight is one of Hopper's own kernels where the GPU is a Hopper.
        for (dtype, n) in [(Dtype::F32, 72), (Dtype::Bf16, 72), (Dtype::Bf16, 136)] {
            let [all_y, all_dx] = rows_of(&dev, dtype, 300, n);
            for m in [1, 2, 3, 16, 17, 64, 65] {
                let [y, dx] = rows_of(&dev, dtype, m, n);
                assert!(y == all_y[..m * n], "{dtype}: y of {m} rows, weight [{n}, 136], on {called}");
                assert!(dx == all_dx[..m * 136], "{dtype}: dx of {m} rows, weight [{n}, 136], on {called}");
            }
        }
    }
}

#[test]
fn gpus_agree_where_the_output_is_its_own_residual() {
    let sum = |bed: &Bed, dtype, [m, n, k]: [usize; 3]| {
        let (x, w) = (bed.normals(dtype, m, k, 1, 1.0), bed.normals(dtype, n, k, 2, 1.0));
        let y = bed.normals(dtype, m, n, 3, 1.0);
        gemm_nt(&bed.dev, y, x, w, None, Some(y));
        bed.get(y)
    };
    agree("y += x w^T", |bed| {
        vec![
            ("f32", Within::Bits, sum(bed, Dtype::F32, [18, 33, 40])),
            ("bf16", BF16, sum(bed, Dtype::Bf16, [18, 33, 40])),
            ("bf16, on Hopper its own", BF16, sum(bed, Dtype::Bf16, [70, 136, 128])),
            // The second tile has rows for one of two consumers.
            ("bf16, a tile that is half empty", BF16, sum(bed, Dtype::Bf16, [150, 136, 128])),
        ]
    });
}

#[test]
fn gpus_agree_on_bias_gradients() {
    let gradient = |bed: &Bed, of, to, [m, n, shift]: [usize; 3]| {
        let dy = bed.normals(of, m, n + shift, 1, 1.0).cols_in(shift..shift + n);
        let db = bed.normals(to, 1, n, 2, 1.0);
        bias_bwd(&bed.dev, db, dy);
        bed.get(db)
    };
    agree("bias_bwd", |bed| {
        let mut all = Vec::new();
        for shape in [[1, 1, 0], [3, 130, 3], [600, 24, 8]] {
            all.push(("f32", F32_GRADIENT, gradient(bed, Dtype::F32, Dtype::F32, shape)));
            all.push(("f32 of bf16", F32_GRADIENT, gradient(bed, Dtype::Bf16, Dtype::F32, shape)));
            all.push(("bf16", BF16, gradient(bed, Dtype::Bf16, Dtype::Bf16, shape)));
        }
        all
    });
}

#[test]
fn gpus_run_the_products_that_are_chosen() {
    for (called, dev) in gpus() {
        let Device::Cuda(gpu) = &dev else { unreachable!("gpus() gives GPUs") };
        let bed = Bed::new(dev.clone());
        let [x, w] = [1, 2].map(|key| bed.normals(Dtype::Bf16, 128, 128, key, 1.0));
        let hoppers = || hopper::serves(gpu, w.shape(), x, w);
        assert_eq!(hoppers(), gpu.capability() == (9, 0), "{called}");
        gpu.use_products(Products::Portable).unwrap();
        assert!(!hoppers(), "{called}");
        if !library_present() {
            let message = gpu.use_products(Products::CublasLt).unwrap_err().to_string();
            assert!(message.contains("libcublasLt.so was not found"), "{message}");
            assert_eq!(gpu.products(), Products::Portable, "a choice that fails changes nothing");
        }
        gpu.use_products(Products::Own).unwrap();
        assert_eq!(hoppers(), gpu.capability() == (9, 0), "{called}");
    }
}
