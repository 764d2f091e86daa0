//! What the tests of the ops share: reproducible inputs, central differences in f64, and the comparison of devices.
//!
//! [`agree`] runs a case on the CPU and on the GPUs that the run covers. `GRAMOPHONE_TEST_DEVICES` names them, separated by
//! commas: `emulated` (the default) or `cuda:N`.

use crate::base::dtype::{Dtype, Elem, Pod, Real, bf16};
use crate::base::rng::{Rng, Stream};
use crate::device::{Arena, Device, Layout, View};
use gramophone_emu::Settings;
use std::cell::RefCell;

/// `n` standard normal numbers; another `key`, other numbers.
pub fn normals(key: u64, n: usize) -> Vec<f64> {
    let rng = Rng::new(0x5eed, Stream::Test, key);
    (0..n as u64).map(|i| rng.normal(i)).collect()
}

/// Asserts that `analytic` is the gradient of `f` at `x`, coordinate by coordinate, by central differences:
/// `|difference| <= 1e-6 * max(1, |gradient|)`.
pub fn gradient(name: &str, x: &[f64], analytic: &[f64], mut f: impl FnMut(&[f64]) -> f64) {
    assert_eq!(x.len(), analytic.len(), "{name}: one derivative per coordinate");
    let mut at = x.to_vec();
    for i in 0..x.len() {
        let h = 1e-5 * x[i].abs().max(1.0);
        at[i] = x[i] + h;
        let up = f(&at);
        at[i] = x[i] - h;
        let down = f(&at);
        at[i] = x[i];
        let numeric = (up - down) / (2.0 * h);
        let error = (numeric - analytic[i]).abs() / numeric.abs().max(1.0);
        assert!(error < 1e-6, "{name}[{i}]: analytic {} numeric {numeric}", analytic[i]);
    }
}

/// `sum_i a_i b_i`: turns a vector output into the scalar that [`gradient`] differentiates.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Host data as a matrix of this many rows.
pub fn matrix<T: Pod>(data: &mut [T], rows: usize) -> View<'_> {
    let cols = data.len() / rows;
    View::of(data).reshape(rows, cols)
}

/// The numbers rounded to a storage type.
pub fn stored<E: Elem>(x: &[f64]) -> Vec<E> {
    x.iter().map(|&x| E::put(E::Acc::of(x))).collect()
}

/// Asserts that `got` is `want` up to `bound * max(1, |want|)`, element by element.
pub fn close<E: Elem>(name: &str, got: &[E], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{name}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.get().f64();
        assert!((got - want).abs() <= bound * want.abs().max(1.0), "{name}[{i}]: {got}, expected {want}");
    }
}

/// How close a GPU must come to the CPU: docs/numerics.md lists the classes.
#[derive(Clone, Copy, Debug)]
pub enum Within {
    /// The same bits: copies, integers, and sums taken in the same order.
    Bits,
    /// Relative L2 distance of a whole tensor: sums in another order, other approximations of functions.
    Distance(f64),
}
/// f32 results whose sums are taken in another order.
pub const F32: Within = Within::Distance(2e-6);
/// f32 gradients that add up many rows or pass through several sums.
pub const F32_GRADIENT: Within = Within::Distance(5e-6);
/// bf16 results: where a sum in another order crosses a rounding boundary, one unit in the last place.
pub const BF16: Within = Within::Distance(1e-3);
/// bf16 results of attention on matrix units, where probabilities are rounded to bf16 between the two products.
pub const BF16_ATTENTION: Within = Within::Distance(5e-3);
/// Sums of f64 in another order.
pub const F64_SUM: Within = Within::Distance(1e-14);
/// Distance for each unit of a logit's size: a large logit is rounded relative to itself, and its probability by as much.
const OF_A_LOGIT: f64 = 1e-7;
/// f32 results of attention where logits are as large as this.
pub fn of_logits(size: f64) -> Within {
    if size > 1.0 { Within::Distance(OF_A_LOGIT * size) } else { F32 }
}
/// The class of results stored as this type.
pub fn within(dtype: Dtype) -> Within {
    if dtype == Dtype::Bf16 { BF16 } else { F32 }
}

/// One device and the tensors of one case on it. What lies behind a tensor, up to the next stretch, holds NaN: who reads it spoils
/// the result, and who writes it is found at the end of the case.
pub struct Bed {
    pub dev: Device,
    arenas: RefCell<Vec<(Arena, usize)>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (arena, len) in self.arenas.borrow().iter() {
            let all = arena.flat();
            let untouched = |x: &f64| x.is_nan() || *x == f64::from(i32::MIN) || *x == f64::from(POISON);
            let behind = self.get(all.cols_in(*len..all.len()));
            assert!(behind.iter().all(untouched), "a tensor of {len} elements was written past its end: {behind:?}");
        }
    }
}

/// The byte that lies behind a tensor of bytes.
const POISON: u8 = 0xa5;

impl Bed {
    pub fn new(dev: Device) -> Bed {
        Bed { dev, arenas: RefCell::default() }
    }

    /// A tensor of zeros.
    pub fn zeros(&self, dtype: Dtype, rows: usize, cols: usize) -> View<'_> {
        let mut layout = Layout::new();
        let slot = layout.buffer("case", dtype, rows, cols);
        let arena = Arena::new(&self.dev, "a case", &layout).unwrap();
        // SAFETY: the arena's memory does not move with the arena, and lives as long as `self`.
        let view = unsafe { std::mem::transmute::<View<'_>, View<'_>>(arena.at(&slot)) };
        self.poison(arena.flat().cols_in(slot.len()..arena.flat().len()));
        self.arenas.borrow_mut().push((arena, slot.len()));
        view
    }
    fn poison(&self, behind: View) {
        let n = behind.len();
        match behind.dtype() {
            Dtype::F64 => self.dev.write(behind, &vec![f64::NAN; n]),
            Dtype::F32 => self.dev.write(behind, &vec![f32::NAN; n]),
            Dtype::Bf16 => self.dev.write(behind, &vec![bf16::NAN; n]),
            Dtype::I32 => self.dev.write(behind, &vec![i32::MIN; n]),
            Dtype::U8 => self.dev.write(behind, &vec![POISON; n]),
        }
    }
    /// A tensor of these numbers, rounded to the type.
    pub fn put(&self, dtype: Dtype, rows: usize, cols: usize, data: &[f64]) -> View<'_> {
        let view = self.zeros(dtype, rows, cols);
        match dtype {
            Dtype::F64 => self.dev.write(view, data),
            Dtype::F32 => self.dev.write(view, &stored::<f32>(data)),
            Dtype::Bf16 => self.dev.write(view, &stored::<bf16>(data)),
            Dtype::I32 => self.dev.write(view, &data.iter().map(|x| *x as i32).collect::<Vec<_>>()),
            Dtype::U8 => self.dev.write(view, &data.iter().map(|x| *x as u8).collect::<Vec<_>>()),
        }
        view
    }
    /// A tensor of integers.
    pub fn ints(&self, rows: usize, cols: usize, data: &[i32]) -> View<'_> {
        let view = self.zeros(Dtype::I32, rows, cols);
        self.dev.write(view, data);
        view
    }
    /// Standard normal numbers times `scale`.
    pub fn normals(&self, dtype: Dtype, rows: usize, cols: usize, key: u64, scale: f64) -> View<'_> {
        let data: Vec<f64> = normals(key, rows * cols).iter().map(|x| x * scale).collect();
        self.put(dtype, rows, cols, &data)
    }
    /// Standard normal numbers in rows that all start on a boundary of 16 bytes; or, `off`, all one element behind one. Kernels
    /// that move whole vectors where they can must look at each operand.
    pub fn placed(&self, dtype: Dtype, rows: usize, cols: usize, key: u64, off: bool) -> View<'_> {
        let first = usize::from(off);
        self.normals(dtype, rows, cols.next_multiple_of(8) + 8, key, 1.0).cols_in(first..first + cols)
    }
    /// The tensor's numbers, row by row where it is a window of a wider one.
    pub fn get(&self, view: View) -> Vec<f64> {
        if !view.is_contiguous() {
            return (0..view.rows()).flat_map(|i| self.get(view.rows_in(i..i + 1))).collect();
        }
        let dev = &self.dev;
        let widen = |x: Vec<f32>| x.into_iter().map(f64::from).collect();
        match view.dtype() {
            Dtype::F64 => dev.read(view).unwrap(),
            Dtype::F32 => widen(dev.read(view).unwrap()),
            Dtype::Bf16 => widen(dev.read::<bf16>(view).unwrap().into_iter().map(|x| x.get()).collect()),
            Dtype::I32 => dev.read::<i32>(view).unwrap().into_iter().map(f64::from).collect(),
            Dtype::U8 => dev.read::<u8>(view).unwrap().into_iter().map(f64::from).collect(),
        }
    }
}

thread_local! {
    // Opening a GPU costs more than a small case; a test's cases share its own.
    static GPUS: Vec<(String, Device)> = open_gpus();
}

/// The GPUs that this run covers, each with what to call it. The emulated GPU comes under three schedules, fast and checked.
pub fn gpus() -> Vec<(String, Device)> {
    GPUS.with(Clone::clone)
}

fn open_gpus() -> Vec<(String, Device)> {
    let names = std::env::var("GRAMOPHONE_TEST_DEVICES").unwrap_or_else(|_| "emulated".into());
    let mut all = Vec::new();
    for name in names.split(',').filter(|name| *name != "cpu") {
        if name == "emulated" {
            let mut add = |called: String, settings: Settings| {
                let ordinal = gramophone_emu::open(settings);
                all.push((called, Device::open(&format!("cuda:{ordinal}"), 0).unwrap()));
            };
            add("emulated, fast".into(), Settings::fast());
            for seed in [0, 2, 3] {
                add(format!("emulated, checked, seed {seed}"), Settings::checked(seed));
            }
            for seed in [2, 3] {
                add(format!("emulated, fast, seed {seed}"), Settings { seed, ..Settings::fast() });
            }
        } else {
            all.push((name.to_string(), Device::open(name, 0).unwrap()));
        }
    }
    all
}

/// Runs a case on the CPU and on every GPU that the run covers. The case gives its results by name; each GPU's must come as
/// close to the CPU's as the class says, and all schedules of the emulated GPU must give the same bits.
pub fn agree(name: &str, case: impl Fn(&Bed) -> Vec<(&'static str, Within, Vec<f64>)>) {
    let want = case(&Bed::new(Device::cpu(2)));
    let mut first: Option<(String, Vec<Vec<u64>>)> = None;
    for (called, dev) in gpus() {
        let got = case(&Bed::new(dev));
        assert_eq!(got.len(), want.len());
        for ((what, within, got), (_, _, want)) in got.iter().zip(&want) {
            let place = format!("{name}: {what} on {called}");
            assert_eq!(got.len(), want.len(), "{place}");
            compare(&place, *within, got, want);
        }
        let bits: Vec<Vec<u64>> = got.iter().map(|(_, _, x)| x.iter().map(|x| x.to_bits()).collect()).collect();
        match &first {
            Some((other, same)) if called.starts_with("emulated") => {
                assert!(*same == bits, "{name}: {called} gives other bits than {other}");
            }
            _ => first = Some((called, bits)),
        }
    }
}

fn compare(place: &str, within: Within, got: &[f64], want: &[f64]) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.is_finite() == w.is_finite(), "{place}[{i}]: {g}, expected {w}");
        assert!(w.is_finite() || g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()), "{place}[{i}]: {g} not {w}");
    }
    match within {
        Within::Bits => {
            let other = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
            assert!(
                other.is_none(),
                "{place}[{0}]: {1}, expected {2}",
                other.unwrap(),
                got[other.unwrap()],
                want[other.unwrap()]
            );
        }
        Within::Distance(most) => {
            let finite = || got.iter().zip(want).filter(|(_, w)| w.is_finite());
            let apart = finite().map(|(g, w)| (g - w).powi(2)).sum::<f64>().sqrt();
            let size = finite().map(|(_, w)| w * w).sum::<f64>().sqrt();
            assert!(
                apart <= most * size.max(1e-30),
                "{place}: relative distance {:.3e}, at most {most:.1e}",
                apart / size
            );
        }
    }
}

/// The document lists the classes of ops with the widths that they have.
#[test]
fn the_document_lists_the_classes_of_ops() {
    let text = include_str!("../../docs/numerics.md");
    let (_, after) = text.split_once("| op class | ").expect("the table of classes of ops");
    let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
    let listed: Vec<(&str, f64)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1], cells[2].parse().unwrap_or_else(|e| panic!("{e}: {row}")))
        })
        .collect();
    let most = |within| match within {
        Within::Bits => 0.0,
        Within::Distance(most) => most,
    };
    let known = [
        ("bits", Within::Bits),
        ("f32", F32),
        ("f32 gradient", F32_GRADIENT),
        ("f32 of logits", Within::Distance(OF_A_LOGIT)),
        ("f64 sum", F64_SUM),
        ("bf16", BF16),
        ("bf16 attention", BF16_ATTENTION),
    ];
    assert_eq!(listed, known.map(|(name, within)| (name, most(within))));
}
