//! The products of GPUs: held to the CPU's, to each other's, and to what is promised of rows.

use super::gpu::{self, Tile};
use super::*;
use crate::device::Gpu;
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

#[test]
fn f32_products_of_gpus_have_the_cpus_bits() {
    for case in cases(Dtype::F32) {
        agree(&format!("{case:?}"), |bed| {
            let o = case.operands(bed, 1.0);
            case.run(&bed.dev, &o);
            vec![("y", Within::Bits, bed.get(o.whole))]
        });
    }
}

#[test]
fn bf16_products_of_gpus_agree_in_every_tile() {
    for case in cases(Dtype::Bf16) {
        let class = if case.to == Dtype::Bf16 { BF16 } else { F32 };
        agree(&format!("{case:?}"), |bed| {
            let o = case.operands(bed, 1.0);
            let Device::Cuda(gpu) = &bed.dev else {
                case.run(&bed.dev, &o);
                return vec![("y", class, bed.get(o.whole))];
            };
            let mut all = case.tiles().iter().map(|tile| {
                let o = case.operands(bed, 1.0);
                case.run_tile(gpu, *tile, &o);
                (tile, bed.get(o.whole))
            });
            let (_, first) = all.next().unwrap();
            for (tile, y) in all {
                assert!(y == first, "{case:?}: {tile:?} gives other bits");
            }
            vec![("y", class, first)]
        });
    }
}

#[test]
fn large_numbers_pass_through_the_products_of_gpus() {
    for (of, class) in [(Dtype::F32, Within::Bits), (Dtype::Bf16, BF16)] {
        for form in FORMS {
            let [rows, cols, depth] = [17, 24, 80];
            let case = Case { form, rows, cols, depth, shift: 0, of, to: of, into: Into::Add, extras: true };
            agree(&format!("{case:?} times 1e4"), |bed| {
                let o = case.operands(bed, 1e4);
                case.run(&bed.dev, &o);
                vec![("y", class, bed.get(o.whole))]
            });
        }
    }
}

/// The bits of the products of the first `m` rows.
fn rows_of(dev: &Device, dtype: Dtype, m: usize) -> Vec<f64> {
    let bed = Bed::new(dev.clone());
    let (x, w) = (bed.normals(dtype, 300, 136, 1, 1.0), bed.normals(dtype, 72, 136, 2, 1.0));
    let (bias, residual) = (bed.normals(dtype, 1, 72, 3, 1.0), bed.normals(dtype, 300, 72, 4, 1.0));
    let (y, dx) = (bed.zeros(dtype, m, 72), bed.zeros(dtype, m, 136));
    gemm_nt(dev, y, x.top(m), w, Some(bias), Some(residual.top(m)));
    gemm_nn(dev, dx, y, w, Into::Store);
    [bed.get(y), bed.get(dx)].concat()
}

#[test]
fn a_rows_bits_do_not_depend_on_the_rows_beside_it() {
    for (called, dev) in gpus() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let all = rows_of(&dev, dtype, 300);
            for m in [1, 2, 3, 16, 17, 64, 65] {
                let some = rows_of(&dev, dtype, m);
                let (y, dx) = some.split_at(m * 72);
                assert!(y == &all[..m * 72], "{dtype}: y of {m} rows on {called}");
                assert!(dx == &all[300 * 72..][..m * 136], "{dtype}: dx of {m} rows on {called}");
            }
        }
    }
}

#[test]
fn the_output_may_be_its_own_residual() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree(&format!("{dtype} y += x w^T"), |bed| {
            let (x, w) = (bed.normals(dtype, 18, 40, 1, 1.0), bed.normals(dtype, 33, 40, 2, 1.0));
            let y = bed.normals(dtype, 18, 33, 3, 1.0);
            gemm_nt(&bed.dev, y, x, w, None, Some(y));
            vec![("y", if dtype == Dtype::F32 { Within::Bits } else { BF16 }, bed.get(y))]
        });
    }
}

#[test]
fn bias_gradients_agree() {
    for of in [Dtype::F32, Dtype::Bf16] {
        for (to, class) in [(Dtype::F32, F32_GRADIENT), (Dtype::Bf16, BF16)] {
            for [m, n, shift] in [[1, 1, 0], [3, 130, 3], [600, 24, 8]] {
                agree(&format!("bias_bwd {of} to {to} [{m}, {n}]"), |bed| {
                    let dy = bed.normals(of, m, n + shift, 1, 1.0).cols_in(shift..shift + n);
                    let db = bed.normals(to, 1, n, 2, 1.0);
                    bias_bwd(&bed.dev, db, dy);
                    vec![("db", class, bed.get(db))]
                });
            }
        }
    }
}
