use super::*;
use crate::ops::check::{Bed, Within, agree, close, normals, stored};

fn settings(step: u64) -> AdamW {
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step, clip: 0.5, seed: 11 }
}

/// The formula of the header, in f64, element by element.
fn oracle(hp: &AdamW, p: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64]) {
    for i in 0..p.len() {
        let g = g[i] * hp.clip;
        p[i] *= 1.0 - hp.lr * hp.decay;
        m[i] = hp.beta1 * m[i] + (1.0 - hp.beta1) * g;
        v[i] = hp.beta2 * v[i] + (1.0 - hp.beta2) * g * g;
        let (m, v) = (m[i] / (1.0 - hp.beta1.powi(hp.step as i32)), v[i] / (1.0 - hp.beta2.powi(hp.step as i32)));
        p[i] -= hp.lr * m / (v.sqrt() + hp.eps);
    }
}

const N: usize = 700;

/// Gradients of three sizes side by side, ten times apart, some always zero.
fn gradient(step: u64) -> Vec<f64> {
    let scale = |i: usize| if i.is_multiple_of(10) { 0.0 } else { 10f64.powi((i % 3) as i32 - 1) };
    normals(step, N).iter().enumerate().map(|(i, x)| (x + 0.3) * scale(i)).collect()
}

/// Parameters after `steps` steps by the oracle.
fn expected(steps: u64) -> Vec<f64> {
    let (mut p, mut m, mut v) = (normals(99, N), vec![0.0; N], vec![0.0; N]);
    for step in 1..=steps {
        oracle(&settings(step), &mut p, &mut m, &mut v, &gradient(step));
    }
    p
}

fn run<P: Elem, S: Pod + Default>(
    states: usize,
    steps: u64,
    op: impl Fn(&AdamW, View, &[View], View, View),
) -> (Vec<P>, Vec<Vec<S>>) {
    let mut p: Vec<P> = stored(&normals(99, N));
    let mut state = vec![vec![S::default(); N]; states];
    for step in 1..=steps {
        let (mut g, mut decays): (Vec<f32>, _) = (stored(&gradient(step)), [1u8; N.div_ceil(BLOCK)]);
        let views: Vec<View> = state.iter_mut().map(|s| View::of(s)).collect();
        op(&settings(step), View::of(&mut p), &views, View::of(&mut g), View::of(&mut decays));
    }
    (p, state)
}

#[test]
fn f32_and_f64_follow_the_formula() {
    let dev = Device::cpu(2);
    let (wide, _) = run::<f64, f64>(2, 30, |hp, p, s, g, d| adamw_f32(&dev, hp, p, s[0], s[1], g, d));
    // Gradients come in f32 here.
    close("f64", &wide, &expected(30), 1e-6);
    let (single, _) = run::<f32, f32>(2, 30, |hp, p, s, g, d| adamw_f32(&dev, hp, p, s[0], s[1], g, d));
    close("f32", &single, &expected(30), 5e-6);
    let one = Device::cpu(1);
    assert_eq!(run::<f32, f32>(2, 30, |hp, p, s, g, d| adamw_f32(&one, hp, p, s[0], s[1], g, d)).0, single);
}

#[test]
fn decay_applies_to_the_stretches_that_say_so() {
    let (mut p, mut m, mut v, mut g) = (vec![1f32; N], vec![0f32; N], vec![0f32; N], vec![0f32; N]);
    let mut decays = [0u8, 1, 0];
    let [p_view, m, v, g] = [&mut p, &mut m, &mut v, &mut g].map(|x| View::of(x));
    adamw_f32(&Device::cpu(1), &settings(1), p_view, m, v, g, View::of(&mut decays));
    assert!(p.iter().enumerate().all(|(i, p)| *p == if (256..512).contains(&i) { 0.999 } else { 1.0 }));
}

#[test]
fn the_master_copy_is_f32_training_and_bf16_follows_it() {
    let dev = Device::cpu(2);
    let (single, _) = run::<f32, f32>(2, 20, |hp, p, s, g, d| adamw_f32(&dev, hp, p, s[0], s[1], g, d));
    let mut master: Vec<f32> = stored(&normals(99, N));
    let place = View::of(&mut master);
    let (p, _) = run::<bf16, f32>(2, 20, |hp, p, s, g, d| adamw_master(&dev, hp, p, place, s[0], s[1], g, d));
    assert_eq!(master, single);
    assert_eq!(p, single.iter().map(|x| bf16::put(*x)).collect::<Vec<_>>());
}

#[test]
fn random_rounding_keeps_small_updates_and_depends_on_no_thread() {
    let n = 40_000;
    let train = |dev: &Device| {
        let (mut p, mut m, mut v) = (vec![bf16::ONE; n], vec![0f32; n], vec![0f32; n]);
        for step in 1..=10 {
            let (mut g, mut decays) = (vec![1f32; n], vec![0u8; n.div_ceil(BLOCK)]);
            let [m, v, g] = [&mut m, &mut v, &mut g].map(|x| View::of(x));
            let hp = AdamW { lr: 1e-4, ..settings(step) };
            adamw_sr(dev, &hp, View::of(&mut p), m, v, g, View::of(&mut decays), 0);
        }
        p
    };
    let whole = train(&Device::cpu(2));
    // Ten steps of 1e-4 are a fourth of the distance from 1 down to the next bf16, so rounding to nearest would lose them all.
    let mean = whole.iter().map(|p| p.to_f32() as f64).sum::<f64>() / n as f64;
    assert!((mean - (1.0 - 10.0 * 1e-4)).abs() < 5e-5, "mean {mean}");
    assert_eq!(train(&Device::cpu(1)), whole);
}

#[test]
fn eight_bit_states_train_like_f32() {
    let blocks = N.div_ceil(BLOCK);
    let train = |dev: &Device| {
        let (mut m_scale, mut v_scale) = (vec![0f32; blocks], vec![0f32; blocks]);
        let (ms, vs) = (View::of(&mut m_scale), View::of(&mut v_scale));
        run::<f32, u8>(2, 60, |hp, p, s, g, d| adamw_8bit(dev, hp, p, s[0], s[1], ms, vs, g, d)).0
    };
    let (p, want, start) = (train(&Device::cpu(2)), expected(60), normals(99, N));
    assert_eq!(train(&Device::cpu(1)), p);
    let moved: f64 = want.iter().zip(&start).map(|(w, s)| (w - s).powi(2)).sum();
    let apart: f64 = want.iter().zip(&p).map(|(w, p)| (w - *p as f64).powi(2)).sum();
    // Where a gradient is always zero only decay moves.
    assert!((apart / moved).sqrt() < 0.1, "relative distance {}", (apart / moved).sqrt());
    assert!(p.iter().zip(&want).step_by(10).all(|(p, w)| (*p as f64 - w).abs() < 1e-5));
    assert!(p.iter().all(|p| p.is_finite()));
}

#[test]
fn eight_bit_states_of_bf16_parameters_stay_close() {
    let (dev, blocks) = (Device::cpu(2), N.div_ceil(BLOCK));
    let (mut m_scale, mut v_scale) = (vec![0f32; blocks], vec![0f32; blocks]);
    let (ms, vs) = (View::of(&mut m_scale), View::of(&mut v_scale));
    let (p, _) = run::<bf16, u8>(2, 60, |hp, p, s, g, d| adamw_8bit(&dev, hp, p, s[0], s[1], ms, vs, g, d));
    let apart = p.iter().zip(expected(60)).map(|(p, w)| (p.to_f32() as f64 - w).powi(2)).sum::<f64>();
    assert!((apart / N as f64).sqrt() < 0.05, "root mean square distance {}", (apart / N as f64).sqrt());
}

/// Less than a run of four, a whole stretch, tails, several blocks.
const LENGTHS: [usize; 5] = [1, 256, 259, 700, 5000];

/// The tensors of one case on a device; three steps, the gradients ten thousand times larger in one of them.
struct Case<'a> {
    bed: &'a Bed,
    n: usize,
    decays: View<'a>,
}

impl<'a> Case<'a> {
    fn new(bed: &'a Bed, n: usize) -> Case<'a> {
        let flags: Vec<f64> = (0..n.div_ceil(BLOCK)).map(|b| (b % 3 != 1) as u8 as f64).collect();
        Case { bed, n, decays: bed.put(Dtype::U8, 1, flags.len(), &flags) }
    }
    fn state(&self, dtype: Dtype) -> View<'a> {
        self.bed.zeros(dtype, 1, self.n)
    }
    fn parameters(&self, dtype: Dtype) -> View<'a> {
        self.bed.normals(dtype, 1, self.n, 99, 1.0)
    }
    fn steps(&self, gradients: Dtype, op: impl Fn(&AdamW, View)) {
        for (step, scale) in [(1, 1.0), (2, 1e4), (3, 1e-3)] {
            op(&settings(step), self.bed.normals(gradients, 1, self.n, step, scale));
        }
    }
}

#[test]
fn gpus_agree_with_f32_moments() {
    for n in LENGTHS {
        agree(&format!("adamw_f32 of {n}"), |bed| {
            let case = Case::new(bed, n);
            let (p, m, v) = (case.parameters(Dtype::F32), case.state(Dtype::F32), case.state(Dtype::F32));
            case.steps(Dtype::F32, |hp, g| adamw_f32(&bed.dev, hp, p, m, v, g, case.decays));
            [("p", p), ("m", m), ("v", v)].map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
        });
        for gradients in [Dtype::F32, Dtype::Bf16] {
            agree(&format!("adamw_master of {n}, {gradients} gradients"), |bed| {
                let case = Case::new(bed, n);
                let (p, master) = (case.parameters(Dtype::Bf16), case.parameters(Dtype::F32));
                let (m, v) = (case.state(Dtype::F32), case.state(Dtype::F32));
                case.steps(gradients, |hp, g| adamw_master(&bed.dev, hp, p, master, m, v, g, case.decays));
                [("p", p), ("master", master)].map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
            });
            agree(&format!("adamw_sr of {n}, {gradients} gradients"), |bed| {
                let case = Case::new(bed, n);
                let (p, m, v) = (case.parameters(Dtype::Bf16), case.state(Dtype::F32), case.state(Dtype::F32));
                case.steps(gradients, |hp, g| adamw_sr(&bed.dev, hp, p, m, v, g, case.decays, 0));
                [("p", p), ("m", m), ("v", v)].map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
            });
        }
    }
}

#[test]
fn gpus_agree_with_eight_bit_moments() {
    let types = [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)];
    for (n, (parameters, gradients)) in LENGTHS.into_iter().flat_map(|n| types.map(|t| (n, t))) {
        agree(&format!("adamw_8bit of {n}, {parameters} with {gradients} gradients"), |bed| {
            let case = Case::new(bed, n);
            let (p, m, v) = (case.parameters(parameters), case.state(Dtype::U8), case.state(Dtype::U8));
            let [ms, vs] = [(); 2].map(|()| bed.zeros(Dtype::F32, 1, n.div_ceil(BLOCK)));
            case.steps(gradients, |hp, g| adamw_8bit(&bed.dev, hp, p, m, v, ms, vs, g, case.decays));
            let results = [("p", p), ("m", m), ("v", v), ("m scales", ms), ("v scales", vs)];
            results.map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
        });
    }
}

#[test]
fn gpus_take_operands_of_any_alignment() {
    agree("adamw_sr of operands from element 3 on, in an arena from element 1024 on", |bed| {
        let (case, n) = (Case::new(bed, 600), 600);
        let [m, v] = [(); 2].map(|()| bed.zeros(Dtype::F32, 1, n + 3).cols_in(3..n + 3));
        let p = bed.normals(Dtype::Bf16, 1, n + 3, 99, 1.0).cols_in(3..n + 3);
        case.steps(Dtype::Bf16, |hp, g| adamw_sr(&bed.dev, hp, p, m, v, g, case.decays, 1024));
        [("p", p), ("m", m), ("v", v)].map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
    });
}
