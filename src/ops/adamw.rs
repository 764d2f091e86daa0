//! AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay, over flat arenas.
//!
//! ```text
//! g' = clip g
//! p' = p (1 - lr decay)
//! m' = m + (1 - beta1) (g' - m)
//! v' = beta2 v + (1 - beta2) g'^2
//! p  = p' - lr / (1 - beta1^step) m' / (sqrt(v') / sqrt(1 - beta2^step) + eps)
//! ```
//! Operands are whole arenas, each as one row ([`Arena::flat`](crate::device::Arena::flat)), so that all parameters are one call:
//! contiguous and of one length `n`. `decays` u8 `[ceil(n / 256)]` says for each stretch of 256 elements whether weight decay applies
//! (not zero) or not. Gradients may have any floating-point type. Four ways to keep the state, bytes per parameter beside the gradient:
//!
//! | function | parameter | also kept | bytes |
//! |---|---|---|---|
//! | [`adamw_f32`] | f32 (or f64) | `m`, `v` of the same type | 12 |
//! | [`adamw_master`] | bf16, the nearest to the master | f32 `master`, `m`, `v` | 14 |
//! | [`adamw_sr`] | bf16, rounded at random | f32 `m`, `v` | 10 |
//! | [`adamw_8bit`] | f32, or bf16 rounded at random | one byte each for `m` and `sqrt(v)`, two f32 scales per 256 elements | 4 + 1/32 |
//!
//! The 8-bit codes are described in `codes.rs`; codes and scales are zero at first.
//!
//! Random rounding draws from (seed, step, element of the arena), so it does not depend on threads. A GPU gives the bits of
//! the CPU: every operation is rounded by itself on both.

use super::codes::{decode_signed, decode_unsigned, encode_signed, encode_unsigned};
use super::rounding::{BLOCK, Draws, Rounded};
use super::softmax::max_by;
use crate::base::dtype::{Dtype, Elem, Pod, Real, bf16};
use crate::base::par::Pool;
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, STRETCH, View, disjoint};
use crate::ops::cost::Cost;
use std::ops::Range;

/// The settings of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Weight decay, decoupled: the parameter shrinks by `lr * decay` a step.
    pub decay: f64,
    /// Counted from 1.
    pub step: u64,
    /// What gradients are multiplied with first; 1 where nothing is clipped.
    pub clip: f64,
    /// Of random rounding.
    pub seed: u64,
}

/// Elements of work that one thread takes at a time; a multiple of [`BLOCK`].
const GRAIN: usize = 1 << 14;
/// Elements that a block of a GPU's threads takes: 8 in each.
const COVERED: usize = 8 * launch::ADAMW_STEP_F32_THREADS as usize;
const _: () = assert!(BLOCK == STRETCH, "a stretch is what shares random words and scales");

/// f32 (or f64) parameters and moments.
pub fn adamw_f32(dev: &Device, hp: &AdamW, p: View, m: View, v: View, g: View, decays: View) {
    let [p, m, v, g] = flat("adamw_f32", [p, m, v, g], decays);
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(p.len(), COVERED), p.len() as u64);
            let [clip, shrink, new_m, keep_v, new_v, step, unbias, eps] = Rates::of(hp).all();
            launch::adamw_step_f32(
                gpu, grid, p, m, v, g, decays, n, clip, shrink, new_m, keep_v, new_v, step, unbias, eps,
            );
        }
        Device::Cpu(pool) => {
            by_stat!(p.dtype(), A => by_dtype!(g.dtype(), G => plain::<A, G>(pool, hp, p, m, v, g, decays)))
        }
    }
}

/// bf16 parameters that follow an f32 master copy.
pub fn adamw_master(dev: &Device, hp: &AdamW, p: View, master: View, m: View, v: View, g: View, decays: View) {
    let [p, master, m, v, g] = flat("adamw_master", [p, master, m, v, g], decays);
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(p.len(), COVERED), p.len() as u64);
            let [clip, shrink, new_m, keep_v, new_v, step, unbias, eps] = Rates::of(hp).all();
            launch::adamw_master_step(
                gpu,
                g.dtype(),
                grid,
                p,
                master,
                m,
                v,
                g,
                decays,
                n,
                clip,
                shrink,
                new_m,
                keep_v,
                new_v,
                step,
                unbias,
                eps,
            );
        }
        Device::Cpu(pool) => by_dtype!(g.dtype(), G => {
            plain::<f32, G>(pool, hp, master, m, v, g, decays);
            pool.ranges(p.len(), GRAIN, |range| vectorize(#[inline(always)] || {
                let master = part::<f32>(master, &range);
                for (p, master) in part_mut::<bf16>(p, &range).iter_mut().zip(master) {
                    *p = bf16::put(*master);
                }
            }));
        }),
    }
}

/// bf16 parameters rounded at random; `first` is the index of element 0 in the whole arena, a multiple of 256.
pub fn adamw_sr(dev: &Device, hp: &AdamW, p: View, m: View, v: View, g: View, decays: View, first: u64) {
    let [p, m, v, g] = flat("adamw_sr", [p, m, v, g], decays);
    assert_eq!(p.dtype(), Dtype::Bf16, "adamw_sr: only bf16 parameters need it");
    assert!(first.is_multiple_of(BLOCK as u64), "adamw_sr: element {first} is no start of a tensor");
    let (rates, draws) = (Rates::<f32>::of(hp), Draws::new(hp.seed, hp.step));
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(p.len(), COVERED), p.len() as u64);
            let [clip, shrink, new_m, keep_v, new_v, step, unbias, eps] = rates.all();
            let [key0, key1, stream, number] = draws.key();
            launch::adamw_sr_step(
                gpu,
                g.dtype(),
                grid,
                p,
                m,
                v,
                g,
                decays,
                n,
                first,
                clip,
                shrink,
                new_m,
                keep_v,
                new_v,
                step,
                unbias,
                eps,
                key0,
                key1,
                stream,
                number,
            );
        }
        Device::Cpu(pool) => {
            by_dtype!(g.dtype(), G => pool.ranges(p.len(), GRAIN, |range| vectorize(#[inline(always)] || {
                let (m, v, g) = (part_mut::<f32>(m, &range), part_mut::<f32>(v, &range), part::<G>(g, &range));
                random(&rates, &draws, part_mut::<bf16>(p, &range), m, v, g, decays_from(decays, &range), first + range.start as u64);
            })))
        }
    }
}

/// 8-bit moments: `m_code`, `v_code` u8 `[n]`, `m_scale`, `v_scale` f32 `[ceil(n / 256)]`, all zero at first.
pub fn adamw_8bit(
    dev: &Device,
    hp: &AdamW,
    p: View,
    m_code: View,
    v_code: View,
    m_scale: View,
    v_scale: View,
    g: View,
    decays: View,
) {
    let [p, m_code, v_code, g] = flat("adamw_8bit", [p, m_code, v_code, g], decays);
    let blocks = p.len().div_ceil(BLOCK);
    let [m_scale, v_scale] = [m_scale, v_scale].map(|scale| {
        assert!(scale.len() == blocks, "adamw_8bit: scales {:?} for {:?} elements", scale.shape(), p.shape());
        disjoint("adamw_8bit", scale, &[p, m_code, v_code, g, decays]);
        scale.reshape(1, blocks)
    });
    disjoint("adamw_8bit", m_scale, &[v_scale]);
    let (rates, draws) = (Rates::<f32>::of(hp), Draws::new(hp.seed, hp.step));
    match dev {
        Device::Cuda(gpu) => {
            launch_8bit(gpu, &rates, &draws, p, m_code, v_code, m_scale, v_scale, g, decays);
        }
        Device::Cpu(pool) => by_dtype!(g.dtype(), G => pool.each(blocks, GRAIN / BLOCK, |b| {
            let cols = b * BLOCK..((b + 1) * BLOCK).min(p.len());
            let (g, first) = (part::<G>(g, &cols), cols.start as u64);
            let rates = if decays_from(decays, &cols)[0] != 0 { rates } else { rates.without_decay() };
            let state = State { m: Moment::of(m_code, m_scale, &cols), v: Moment::of(v_code, v_scale, &cols) };
            match p.dtype() {
                Dtype::F32 => block_8bit(&rates, &draws, part_mut::<f32>(p, &cols), state, g, first),
                Dtype::Bf16 => block_8bit(&rates, &draws, part_mut::<bf16>(p, &cols), state, g, first),
                other => panic!("adamw_8bit: {other} parameters"),
            }
        })),
    }
}

fn launch_8bit(
    gpu: &Gpu,
    rates: &Rates<f32>,
    draws: &Draws,
    p: View,
    m_code: View,
    v_code: View,
    m_scale: View,
    v_scale: View,
    g: View,
    decays: View,
) {
    let (grid, n) = (Grid::cover(p.len(), COVERED), p.len() as u64);
    let [clip, shrink, new_m, keep_v, new_v, step, unbias, eps] = rates.all();
    let [key0, key1, stream, number] = draws.key();
    match p.dtype() {
        Dtype::F32 => launch::adamw_8bit_step_f32(
            gpu, grid, p, m_code, v_code, m_scale, v_scale, g, decays, n, clip, shrink, new_m, keep_v, new_v, step,
            unbias, eps, key0, key1, stream, number,
        ),
        _ => launch::adamw_8bit_sr_step(
            gpu,
            g.dtype(),
            grid,
            p,
            m_code,
            v_code,
            m_scale,
            v_scale,
            g,
            decays,
            n,
            clip,
            shrink,
            new_m,
            keep_v,
            new_v,
            step,
            unbias,
            eps,
            key0,
            key1,
            stream,
            number,
        ),
    }
}

/// The constants of one step, rounded once to the type of the arithmetic.
#[derive(Clone, Copy)]
struct Rates<A> {
    clip: A,
    shrink: A,
    new_m: A,
    keep_v: A,
    new_v: A,
    step: A,
    unbias: A,
    eps: A,
}

impl<A: Real> Rates<A> {
    fn of(hp: &AdamW) -> Rates<A> {
        assert!(hp.step >= 1, "AdamW counts steps from 1");
        let power = |beta: f64| beta.powf(hp.step as f64);
        Rates {
            clip: A::of(hp.clip),
            shrink: A::of(1.0 - hp.lr * hp.decay),
            new_m: A::of(1.0 - hp.beta1),
            keep_v: A::of(hp.beta2),
            new_v: A::of(1.0 - hp.beta2),
            step: A::of(hp.lr / (1.0 - power(hp.beta1))),
            unbias: A::of(1.0 / (1.0 - power(hp.beta2)).sqrt()),
            eps: A::of(hp.eps),
        }
    }

    /// In the order in which kernels take them.
    fn all(&self) -> [A; 8] {
        let Rates { clip, shrink, new_m, keep_v, new_v, step, unbias, eps } = *self;
        [clip, shrink, new_m, keep_v, new_v, step, unbias, eps]
    }

    #[inline(always)]
    fn without_decay(&self) -> Rates<A> {
        Rates { shrink: A::ONE, ..*self }
    }

    /// The new parameter; the moments are updated in place.
    #[inline(always)]
    fn update(&self, p: A, m: &mut A, v: &mut A, g: A) -> A {
        let g = g * self.clip;
        *m = self.new_m.fma(g - *m, *m);
        *v = self.keep_v * *v + self.new_v * g * g;
        p * self.shrink - self.step * *m / (v.sqrt() * self.unbias + self.eps)
    }
}

/// The views as one row each, after checks: one length, no overlap, a flag for each stretch.
fn flat<'a, const N: usize>(op: &str, views: [View<'a>; N], decays: View) -> [View<'a>; N] {
    let n = views[0].len();
    assert!(views.iter().all(|v| v.len() == n), "{op}: operands of shapes {:?}", views.map(|v| v.shape()));
    assert!(decays.len() == n.div_ceil(BLOCK), "{op}: {} flags of decay for {n} elements", decays.len());
    for (i, view) in views.iter().enumerate() {
        disjoint(op, *view, &views[i + 1..]);
        disjoint(op, *view, &[decays]);
    }
    views.map(|v| v.reshape(1, n))
}

/// The flags from the stretch on in which `range` starts.
#[inline(always)]
fn decays_from<'a>(decays: View<'a>, range: &Range<usize>) -> &'a [u8] {
    &decays.slice::<u8>()[range.start / BLOCK..]
}

#[inline(always)]
fn part<'a, T: Pod>(view: View<'a>, range: &Range<usize>) -> &'a [T] {
    view.cols_in(range.clone()).row(0)
}

#[inline(always)]
fn part_mut<'a, T: Pod>(view: View<'a>, range: &Range<usize>) -> &'a mut [T] {
    view.cols_in(range.clone()).row_mut(0)
}

fn plain<A: Real, G: Elem>(pool: &Pool, hp: &AdamW, p: View, m: View, v: View, g: View, decays: View) {
    let rates = Rates::<A>::of(hp);
    pool.ranges(p.len(), GRAIN, |range| {
        let (p, g, decays) = (part_mut::<A>(p, &range), part::<G>(g, &range), decays_from(decays, &range));
        let (m, v) = (part_mut::<A>(m, &range), part_mut::<A>(v, &range));
        vectorize(
            #[inline(always)]
            || {
                let blocks = p.chunks_mut(BLOCK).zip(m.chunks_mut(BLOCK)).zip(v.chunks_mut(BLOCK)).zip(g.chunks(BLOCK));
                for ((((p, m), v), g), decay) in blocks.zip(decays) {
                    let rates = if *decay != 0 { rates } else { rates.without_decay() };
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        *p = rates.update(*p, m, v, A::of(g.get().f64()));
                    }
                }
            },
        );
    });
}

/// Parameters that are rounded at random, with their flags of decay; `first` is the index of `p[0]`.
#[inline(always)]
fn random<G: Elem>(
    rates: &Rates<f32>,
    draws: &Draws,
    p: &mut [bf16],
    m: &mut [f32],
    v: &mut [f32],
    g: &[G],
    decays: &[u8],
    first: u64,
) {
    let blocks = p.chunks_mut(BLOCK).zip(m.chunks_mut(BLOCK)).zip(v.chunks_mut(BLOCK)).zip(g.chunks(BLOCK));
    for (b, ((((p, m), v), g), decay)) in blocks.zip(decays).enumerate() {
        let rates = if *decay != 0 { *rates } else { rates.without_decay() };
        let [words] = draws.block(first + (b * BLOCK) as u64);
        for ((((p, m), v), g), word) in p.iter_mut().zip(m).zip(v).zip(g).zip(&words) {
            *p = bf16::put_random(rates.update(p.get(), m, v, g.get().f64() as f32), *word);
        }
    }
}

/// The 8-bit states of at most [`BLOCK`] elements.
struct State<'a> {
    m: Moment<'a>,
    v: Moment<'a>,
}

/// The codes of one moment and their scale.
struct Moment<'a> {
    codes: &'a mut [u8],
    scale: &'a mut f32,
}

impl<'a> Moment<'a> {
    fn of(codes: View<'a>, scales: View<'a>, cols: &Range<usize>) -> Moment<'a> {
        let block = cols.start / BLOCK;
        Moment { codes: part_mut(codes, cols), scale: &mut part_mut(scales, &(block..block + 1))[0] }
    }
}

/// One block of parameters with their states and gradients; `first` is the index of `p[0]`.
fn block_8bit<P: Rounded<Acc = f32>, G: Elem>(
    rates: &Rates<f32>,
    draws: &Draws,
    p: &mut [P],
    state: State,
    g: &[G],
    first: u64,
) {
    let words: [[u32; BLOCK]; 2] = draws.block(first);
    let (mut new, mut gradient) = ([0f32; BLOCK], [0f32; BLOCK]);
    vectorize(
        #[inline(always)]
        || {
            for (((new, gradient), p), g) in new.iter_mut().zip(&mut gradient).zip(&*p).zip(g) {
                (*new, *gradient) = (p.get(), g.get().f64() as f32);
            }
        },
    );
    state.update(rates, &mut new, &gradient, &words);
    vectorize(
        #[inline(always)]
        || {
            for ((p, new), word) in p.iter_mut().zip(&new).zip(&words[0]) {
                *p = P::put_random(*new, *word);
            }
        },
    );
}

impl State<'_> {
    /// Decodes, takes the step, encodes. The upper half of the first word is the parameter's.
    fn update(self, rates: &Rates<f32>, p: &mut [f32; BLOCK], g: &[f32; BLOCK], words: &[[u32; BLOCK]; 2]) {
        // Full blocks, whatever is in use of them, so that every loop has a constant length; zeros change no scale.
        let (mut m_codes, mut v_codes) = ([0u8; BLOCK], [0u8; BLOCK]);
        let n = self.m.codes.len();
        m_codes[..n].copy_from_slice(self.m.codes);
        v_codes[..n].copy_from_slice(self.v.codes);
        let mut scales = [*self.m.scale, *self.v.scale];
        vectorize(
            #[inline(always)]
            || step_8bit(rates, p, g, [&mut m_codes, &mut v_codes], &mut scales, words),
        );
        [*self.m.scale, *self.v.scale] = scales;
        self.m.codes.copy_from_slice(&m_codes[..n]);
        self.v.codes.copy_from_slice(&v_codes[..n]);
    }
}

#[inline(always)]
fn step_8bit(
    rates: &Rates<f32>,
    p: &mut [f32; BLOCK],
    g: &[f32; BLOCK],
    [m_codes, v_codes]: [&mut [u8; BLOCK]; 2],
    scales: &mut [f32; 2],
    words: &[[u32; BLOCK]; 2],
) {
    let (mut m, mut root) = ([0f32; BLOCK], [0f32; BLOCK]);
    for i in 0..BLOCK {
        m[i] = decode_signed(m_codes[i], scales[0]);
        root[i] = decode_unsigned(v_codes[i], scales[1]);
    }
    for i in 0..BLOCK {
        let mut v = root[i] * root[i];
        p[i] = rates.update(p[i], &mut m[i], &mut v, g[i]);
        root[i] = v.sqrt();
    }
    *scales = [max_by(BLOCK, |i| m[i].abs()), max_by(BLOCK, |i| root[i])];
    let inverses = scales.map(|scale| if scale > 0.0 { 1.0 / scale } else { 0.0 });
    for i in 0..BLOCK {
        m_codes[i] = encode_signed(m[i] * inverses[0], words[0][i] << 16);
        v_codes[i] = encode_unsigned(root[i] * inverses[1], words[1][i]);
    }
}

/// Operations of one element's step.
const FLOPS: usize = 16;

/// What [`adamw_f32`] of `n` elements costs.
pub fn adamw_f32_cost(n: usize) -> Cost {
    Cost::of(7 * n, Dtype::F32, FLOPS * n)
}
/// What [`adamw_master`] of `n` elements costs.
pub fn adamw_master_cost(gradient: Dtype, n: usize) -> Cost {
    Cost::of(6 * n, Dtype::F32, FLOPS * n).and(n, Dtype::Bf16).and(n, gradient)
}
/// What [`adamw_sr`] of `n` elements costs.
pub fn adamw_sr_cost(gradient: Dtype, n: usize) -> Cost {
    Cost::of(4 * n, Dtype::F32, FLOPS * n).and(2 * n, Dtype::Bf16).and(n, gradient)
}
/// What [`adamw_8bit`] of `n` elements costs.
pub fn adamw_8bit_cost(parameter: Dtype, gradient: Dtype, n: usize) -> Cost {
    let scales = 4 * n.div_ceil(BLOCK);
    Cost::of(4 * n, Dtype::U8, FLOPS * n).and(2 * n, parameter).and(n, gradient).and(scales, Dtype::F32)
}

#[cfg(test)]
mod tests;
