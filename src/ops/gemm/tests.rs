use super::*;
use crate::base::simd::Level;
use crate::ops::check::normals;

/// The levels that this machine (and `GRAMOPHONE_SIMD`) allows.
fn levels() -> impl Iterator<Item = Level> {
    [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= level())
}

fn numbers<E: Elem<Acc = f32>>(key: u64, n: usize) -> Vec<E> {
    normals(key, n).into_iter().map(|x| E::put(x as f32)).collect()
}

/// A tensor with unused columns to the right of each row, so that strides differ from widths.
struct Padded<E> {
    data: Vec<E>,
    rows: usize,
    cols: usize,
}
const PAD: usize = 3;

impl<E: Elem<Acc = f32>> Padded<E> {
    fn new(key: u64, rows: usize, cols: usize) -> Padded<E> {
        Padded { data: numbers(key, rows * (cols + PAD)), rows, cols }
    }
    fn view(&mut self) -> View<'_> {
        View::of(&mut self.data).reshape(self.rows, self.cols + PAD).cols_in(0..self.cols)
    }
    /// Everything, padding included: what must not change does not.
    fn bits(&self) -> Vec<u32> {
        self.data.iter().map(|x| x.get().to_bits()).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Nt,
    Nn,
    Tn,
}

/// One product by the oracle and by the tiles of every level on 1 and 2 threads: the same bits everywhere.
fn compare<E: Elem<Acc = f32>, O: Elem<Acc = f32>>(pools: &[Pool], form: Form, [m, n, k]: [usize; 3], extras: usize) {
    let (along, shapes) = match form {
        Form::Nt => ([Along::Summed, Along::Summed], [[m, k], [n, k]]),
        Form::Nn => ([Along::Summed, Along::Free], [[m, k], [k, n]]),
        Form::Tn => ([Along::Free, Along::Free], [[k, m], [k, n]]),
    };
    let mut left = Padded::<E>::new(1, shapes[0][0], shapes[0][1]);
    let mut right = Padded::<E>::new(2, shapes[1][0], shapes[1][1]);
    let mut bias = numbers::<E>(3, n);
    let mut residual = Padded::<E>::new(4, m, n);
    let (left, right, bias, residual) = (left.view(), right.view(), View::of(&mut bias), residual.view());
    let into = if extras & 1 == 0 { Into::Store } else { Into::Add };
    let bias = (extras & 2 != 0).then_some(bias);
    let own_residual = extras & 8 != 0;
    let residual = (extras & 4 != 0).then_some(residual);
    let run = |f: &dyn Fn(Side, Side, Output)| {
        let mut y = Padded::<O>::new(5, m, n);
        let out = y.view();
        // The output may be its own residual where the types agree.
        let residual = if own_residual && E::DTYPE == O::DTYPE { Some(out) } else { residual };
        f((left, along[0]), (right, along[1]), Output { y: out, into, bias, residual });
        y.bits()
    };
    let want = run(&|l, r, out| oracle::<E, O>(&pools[1], l, r, k, out));
    for level in levels() {
        for pool in pools {
            let got = run(&|l, r, out| {
                let operand = |(view, along): Side| Operand::<E>::of(view, along);
                product::<E, O>(pool, Kernel::at(level), operand(l), operand(r), k, out)
            });
            let wrong = got.iter().zip(&want).position(|(a, b)| a != b);
            let what = || format!("{form:?} m {m} n {n} k {k} extras {extras:b} {level:?} {} threads", pool.threads());
            assert!(wrong.is_none(), "{}: differs at {} of {}", what(), wrong.unwrap(), got.len());
        }
    }
}

#[test]
fn every_shape_has_the_oracles_bits() {
    let pools = [Pool::new(1), Pool::new(2)];
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for m in [1, 2, 3, 16, 17, 64, 65, 300] {
            for n in [1, 2, 16, 64, 512] {
                for (case, k) in [5, 64, 300].into_iter().enumerate() {
                    if m * n * k < 3_000_000 || (m, k) == (300, 300) {
                        compare::<f32, f32>(&pools, form, [m, n, k], (m + n + case) % 2);
                    }
                }
            }
        }
    }
}

#[test]
fn ragged_shapes_extras_and_types_have_the_oracles_bits() {
    let pools = [Pool::new(1), Pool::new(2)];
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for extras in 0..16 {
            for shape in [[1, 1, 0], [3, 7, 1], [19, 45, 33], [40, 3, 530], [2, 100, 257]] {
                compare::<f32, f32>(&pools, form, shape, extras);
                compare::<bf16, bf16>(&pools, form, shape, extras);
                compare::<bf16, f32>(&pools, form, shape, extras);
                compare::<f32, bf16>(&pools, form, shape, extras);
            }
        }
    }
}

#[test]
fn many_chunks_and_jobs_have_the_oracles_bits() {
    let pools = [Pool::new(1), Pool::new(2)];
    // 16 panels of a chunk are at most 224 rows, however deep the sum.
    compare::<f32, f32>(&pools, Form::Nn, [300, 9, 20_000], 0);
    compare::<bf16, bf16>(&pools, Form::Tn, [1100, 40, 70], 0);
}

#[test]
fn bias_gradient_adds_the_rows_in_order() {
    let (mut dy, mut db) = (numbers::<bf16>(1, 5 * 130), numbers::<f32>(2, 130));
    let mut want = db.clone();
    for (i, dy) in dy.iter().enumerate() {
        want[i % 130] += dy.get();
    }
    bias_bwd(&Device::cpu(2), View::of(&mut db), View::of(&mut dy).reshape(5, 130));
    assert_eq!(db, want);
}

#[test]
fn the_definition_in_f64() {
    let (x, w, bias, residual) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [0.5, 0.25], [1.0, 2.0, 3.0, 4.0]);
    let dev = Device::cpu(1);
    let product = |op: &dyn Fn(View, View, View)| {
        let (mut y, mut x, mut w) = ([100.0; 4], x, w);
        op(View::of(&mut y).reshape(2, 2), View::of(&mut x).reshape(2, 2), View::of(&mut w).reshape(2, 2));
        y
    };
    let nt = product(&|y, x, w| {
        let (mut bias, mut residual) = (bias, residual);
        let residual = View::of(&mut residual).reshape(2, 2);
        gemm_nt(&dev, y, x, w, Some(View::of(&mut bias)), Some(residual))
    });
    assert_eq!(nt, [17.0 + 1.5, 23.0 + 2.25, 39.0 + 3.5, 53.0 + 4.25]);
    assert_eq!(product(&|y, x, w| gemm_nn(&dev, y, x, w, Into::Store)), [19.0, 22.0, 43.0, 50.0]);
    assert_eq!(product(&|y, x, w| gemm_tn(&dev, y, x, w, Into::Add)), [126.0, 130.0, 138.0, 144.0]);
}
