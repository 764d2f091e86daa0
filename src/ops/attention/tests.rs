use super::*;
use crate::base::simd::Level;
use crate::ops::check::{F32, F32_GRADIENT, Within, agree, dot, gradient, normals};

/// One buffer `[T, (H+2G) K]` seen as q, k and v.
fn windows<'a, E: Elem>(qkv: &'a mut [E], heads: Heads) -> [View<'a>; 3] {
    let (q, kv) = (heads.query * heads.size, heads.kv * heads.size);
    let view = View::of(qkv);
    let view = view.reshape(view.len() / (q + 2 * kv), q + 2 * kv);
    [view.cols_in(0..q), view.cols_in(q..q + kv), view.cols_in(q + kv..q + 2 * kv)]
}

fn forward(dev: &Device, qkv: &[f64], starts: &[i32], heads: Heads, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut qkv, mut starts) = (qkv.to_vec(), starts.to_vec());
    let [q, k, v] = windows(&mut qkv, heads);
    let t = q.rows();
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; t * heads.query]);
    let out = View::of(&mut o).reshape(t, q.cols());
    let stat = View::of(&mut lse).reshape(t, heads.query);
    attention_fwd(dev, out, stat, q, k, v, View::of(&mut starts), heads, scale);
    (o, lse)
}

fn backward(dev: &Device, d_o: &[f64], qkv: &[f64], starts: &[i32], heads: Heads, scale: f64) -> Vec<f64> {
    let (mut o, mut lse) = forward(dev, qkv, starts, heads, scale);
    let (mut qkv, mut starts, mut d_o) = (qkv.to_vec(), starts.to_vec(), d_o.to_vec());
    let (mut d_qkv, mut delta) = (vec![f64::NAN; qkv.len()], vec![f64::NAN; lse.len()]);
    let [q, k, v] = windows(&mut qkv, heads);
    let [dq, dk, dv] = windows(&mut d_qkv, heads);
    let t = q.rows();
    attention_bwd(
        dev,
        dq,
        dk,
        dv,
        View::of(&mut delta).reshape(t, heads.query),
        View::of(&mut d_o).reshape(t, q.cols()),
        View::of(&mut o).reshape(t, q.cols()),
        View::of(&mut lse).reshape(t, heads.query),
        q,
        k,
        v,
        View::of(&mut starts),
        heads,
        scale,
    );
    d_qkv
}

#[test]
fn backward_is_the_derivative() {
    let dev = Device::cpu(2);
    let cases: [(usize, usize, usize, &[i32]); 3] =
        [(1, 1, 1, &[0, 1]), (4, 2, 3, &[0, 3, 3, 4, 9]), (3, 1, 8, &[0, 5, 7])];
    for (query, kv, size, starts) in cases {
        let heads = Heads { query, kv, size };
        let t = *starts.last().unwrap() as usize;
        let qkv = normals(1, t * (query + 2 * kv) * size);
        let d_o = normals(2, t * query * size);
        let analytic = backward(&dev, &d_o, &qkv, starts, heads, 0.7);
        gradient("dqkv", &qkv, &analytic, |x| dot(&forward(&dev, x, starts, heads, 0.7).0, &d_o));
    }
}

#[test]
fn one_key_gives_its_value_and_equal_keys_give_the_mean() {
    let heads = Heads { query: 1, kv: 1, size: 2 };
    let qkv = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 0.5, 3.0, 4.0, 7.0, -6.0]].concat();
    let (o, lse) = forward(&Device::cpu(1), &qkv, &[0, 2], heads, 0.5);
    assert_eq!(o, [5.0, 6.0, 6.0, 0.0]);
    assert_eq!(lse, [5.5, 1.75 + 2f64.ln()]);
}

#[test]
#[should_panic(expected = "attention_fwd: the sequences must cover the 3 rows in order")]
fn offsets_must_cover_the_rows() {
    forward(&Device::cpu(1), &[0.0; 9], &[0, 2], Heads { query: 1, kv: 1, size: 1 }, 1.0);
}

/// Everything one forward and backward give, rounded to the storage type, as numbers.
struct Results {
    o: Vec<f32>,
    lse: Vec<f32>,
    d_qkv: Vec<f32>,
}

enum Way {
    Oracle,
    Flash(Level),
}

fn run<E: Elem<Acc = f32>>(way: &Way, pool: &Pool, qkv: &[f64], d_o: &[f64], starts: &[i32], heads: Heads) -> Results {
    let round = |x: &[f64]| x.iter().map(|x| E::put(*x as f32)).collect::<Vec<E>>();
    let (mut qkv, mut d_o) = (round(qkv), round(d_o));
    let (mut o, mut d_qkv) = (vec![E::put(f32::NAN); d_o.len()], vec![E::put(f32::NAN); qkv.len()]);
    let t = *starts.last().unwrap() as usize;
    let (mut lse, mut delta) = (vec![f32::NAN; t * heads.query], vec![f32::NAN; t * heads.query]);
    let packed = Packed { starts, heads, scale: 1.0 / (heads.size as f64).sqrt() };
    {
        let [q, k, v] = windows(&mut qkv, heads);
        let [dq, dk, dv] = windows(&mut d_qkv, heads);
        let width = heads.query * heads.size;
        let (o, d_o) = (View::of(&mut o).reshape(t, width), View::of(&mut d_o).reshape(t, width));
        let (lse, delta) = (View::of(&mut lse).reshape(t, heads.query), View::of(&mut delta).reshape(t, heads.query));
        let (out, saved) = ([dq, dk, dv, delta], [d_o, o, lse, q, k, v]);
        match way {
            Way::Oracle => {
                fwd_oracle::<E>(pool, o, lse, q, k, v, &packed);
                bwd_oracle::<E>(pool, out, saved, &packed);
            }
            Way::Flash(level) => {
                flash::forward::<E>(pool, Kernel::at(*level), o, lse, q, k, v, &packed);
                flash::backward::<E>(pool, Kernel::at(*level), out, saved, &packed);
            }
        }
    }
    let numbers = |x: Vec<E>| x.into_iter().map(|x| x.get()).collect();
    Results { o: numbers(o), lse, d_qkv: numbers(d_qkv) }
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got - want).abs() / want.abs().max(1.0);
        assert!(error <= tolerance, "{what}[{i}]: {got}, oracle {want}");
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn levels() -> impl Iterator<Item = Level> {
    [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= level())
}

/// Lengths that fill panels and blocks, miss them by one, and an empty sequence.
const RAGGED: [i32; 9] = [0, 1, 34, 34, 66, 194, 323, 340, 640];

#[test]
fn flash_agrees_with_the_oracle_and_every_level_and_thread_count_with_each_other() {
    // The backward goes whole sequences at a time with few threads, block by block with many.
    let pools = [Pool::new(1), Pool::new(2), Pool::new(16)];
    for (query, kv, size) in [(4, 2, 64), (2, 2, 16), (3, 1, 80), (2, 1, 8), (1, 1, 5), (2, 1, 128), (1, 1, 96)] {
        let heads = Heads { query, kv, size };
        let t = RAGGED[RAGGED.len() - 1] as usize;
        let (qkv, d_o) = (normals(1, t * (query + 2 * kv) * size), normals(2, t * query * size));
        let want = run::<f32>(&Way::Oracle, &pools[1], &qkv, &d_o, &RAGGED, heads);
        let first = run::<f32>(&Way::Flash(level()), &pools[0], &qkv, &d_o, &RAGGED, heads);
        close("o", &first.o, &want.o, 3e-6);
        close("lse", &first.lse, &want.lse, 3e-6);
        close("d_qkv", &first.d_qkv, &want.d_qkv, 2e-5);
        let packed = Packed { starts: &RAGGED, heads, scale: 1.0 };
        let ways = [1, 16].map(|threads| flash::by_sequence(Kernel::at(level()), &packed, threads));
        assert_eq!(ways, [true, false], "{heads:?}");
        for (level, pool) in levels().flat_map(|level| pools.iter().map(move |pool| (level, pool))) {
            let other = run::<f32>(&Way::Flash(level), pool, &qkv, &d_o, &RAGGED, heads);
            assert!(bits(&first.o) == bits(&other.o) && bits(&first.lse) == bits(&other.lse), "{heads:?} {level:?}");
            assert!(bits(&first.d_qkv) == bits(&other.d_qkv), "{heads:?} {level:?} {} threads", pool.threads());
        }
    }
}

#[test]
fn bf16_agrees_with_the_oracle_to_its_rounding() {
    let (heads, pool) = (Heads { query: 4, kv: 2, size: 64 }, Pool::new(2));
    let (qkv, d_o) = (normals(1, 640 * 8 * 64), normals(2, 640 * 4 * 64));
    let want = run::<bf16>(&Way::Oracle, &pool, &qkv, &d_o, &RAGGED, heads);
    let got = run::<bf16>(&Way::Flash(level()), &pool, &qkv, &d_o, &RAGGED, heads);
    // One unit in the last place of bf16, for sums that fall to either side of a rounding boundary.
    close("o", &got.o, &want.o, 1.0 / 128.0);
    close("lse", &got.lse, &want.lse, 3e-6);
    close("d_qkv", &got.d_qkv, &want.d_qkv, 1.0 / 64.0);
}

#[test]
fn a_sequence_has_the_same_bits_alone_in_a_batch_and_as_a_prefix() {
    let (heads, pool) = (Heads { query: 4, kv: 2, size: 16 }, Pool::new(2));
    let (wide, out) = (8 * 16, 4 * 16);
    let (qkv, d_o) = (normals(1, 640 * wide), normals(2, 640 * out));
    let all = run::<f32>(&Way::Flash(level()), &pool, &qkv, &d_o, &RAGGED, heads);
    for w in RAGGED.windows(2) {
        let (first, last) = (w[0] as usize, w[1] as usize);
        let alone = |n: usize| {
            let (qkv, d_o) = (&qkv[first * wide..(first + n) * wide], &d_o[first * out..(first + n) * out]);
            run::<f32>(&Way::Flash(level()), &pool, qkv, d_o, &[0, n as i32], heads)
        };
        let whole = alone(last - first);
        assert_eq!(bits(&whole.o), bits(&all.o[first * out..last * out]), "{w:?}");
        assert_eq!(bits(&whole.lse), bits(&all.lse[first * 4..last * 4]), "{w:?}");
        assert_eq!(bits(&whole.d_qkv), bits(&all.d_qkv[first * wide..last * wide]), "{w:?} backward");
        for n in [1, 15, 33, 128, 129, 250].into_iter().filter(|n| *n <= last - first) {
            let prefix = alone(n);
            assert_eq!(bits(&prefix.o), bits(&whole.o[..n * out]), "{w:?} prefix {n}");
            assert_eq!(bits(&prefix.lse), bits(&whole.lse[..n * 4]), "{w:?} prefix {n}");
        }
    }
}

/// bf16 results on matrix units, where probabilities are rounded to bf16 between the two products.
const ROUNDED: Within = Within::Distance(5e-3);

struct Shape {
    heads: Heads,
    lens: &'static [usize],
    /// The standard deviation of the logits.
    logits: f64,
    /// Columns in front of q, k and v in the buffer that holds them.
    edge: usize,
}

/// A buffer's columns between these.
fn columns(buffer: View<'_>, at: [usize; 4]) -> [View<'_>; 3] {
    std::array::from_fn(|i| buffer.cols_in(at[i]..at[i + 1]))
}

/// Forward and backward on the GPUs against the CPU. The backward starts from the CPU's output and statistics: where logits are
/// so large that one key has all the probability, a gradient is what is left of two equal numbers, and the forward's last bit
/// would stand for it.
fn agree_on(dtype: Dtype, shape: &Shape) {
    let Shape { heads, lens, logits, edge } = shape;
    let starts: Vec<i32> = (0..=lens.len()).map(|n| lens[..n].iter().sum::<usize>() as i32).collect();
    let (t, scale) = (starts[lens.len()] as usize, heads.scale());
    let (out, kv) = (heads.query * heads.size, heads.kv * heads.size);
    let wide = edge + out + 2 * kv;
    let mut qkv = normals(1, t * wide);
    for row in qkv.chunks_exact_mut(wide) {
        row[..edge + out].iter_mut().for_each(|q| *q *= logits);
    }
    let at = [*edge, edge + out, edge + out + kv, wide];
    let saved = std::cell::RefCell::<Option<[Vec<f64>; 2]>>::default();
    agree(&format!("attention {dtype} {heads:?} {lens:?} logits of {logits} at column {edge}"), |bed| {
        let [q, k, v] = columns(bed.put(dtype, t, wide, &qkv), at);
        let starts = bed.ints(1, starts.len(), &starts);
        let (o, lse) = (bed.zeros(dtype, t, out), bed.zeros(Dtype::F32, t, heads.query));
        attention_fwd(&bed.dev, o, lse, q, k, v, starts, *heads, scale);
        let forward = [bed.get(o), bed.get(lse)];
        let saved = &mut *saved.borrow_mut();
        let [of, log_total] = saved.get_or_insert_with(|| forward.clone()); // The CPU's: it comes first.
        let (of, log_total) = (bed.put(dtype, t, out, of), bed.put(Dtype::F32, t, heads.query, log_total));
        let d_o = bed.normals(dtype, t, out, 2, 1.0);
        let d_qkv = bed.zeros(dtype, t, wide);
        let [dq, dk, dv] = columns(d_qkv, at);
        let delta = bed.zeros(Dtype::F32, t, heads.query);
        attention_bwd(&bed.dev, dq, dk, dv, delta, d_o, of, log_total, q, k, v, starts, *heads, scale);
        let [o, lse] = forward;
        let (value, gradient) = if dtype == Dtype::Bf16 { (ROUNDED, ROUNDED) } else { (F32, F32_GRADIENT) };
        let gradients = bed.get(d_qkv);
        let part = |i: usize| gradients.chunks_exact(wide).flat_map(|row| row[at[i]..at[i + 1]].to_vec()).collect();
        vec![
            ("o", value, o),
            ("lse", F32, lse),
            ("delta", F32_GRADIENT, bed.get(delta)),
            ("dq", gradient, part(0)),
            ("dk", gradient, part(1)),
            ("dv", gradient, part(2)),
        ]
    });
}

const fn shape(query: usize, kv: usize, size: usize, lens: &'static [usize], logits: f64, edge: usize) -> Shape {
    Shape { heads: Heads { query, kv, size }, lens, logits, edge }
}

#[test]
fn gpus_agree_at_the_borders_of_tiles() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, &shape(2, 1, 64, &[63, 64, 65, 1], 1.0, 0));
        agree_on(dtype, &shape(1, 1, 96, &[127, 1, 128], 1.0, 0));
        agree_on(dtype, &shape(1, 1, 128, &[129, 2], 1.0, 8));
    }
}

#[test]
fn gpus_agree_on_long_and_on_many_short_sequences() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, &shape(1, 1, 64, &[600], 1.0, 0));
        agree_on(dtype, &shape(2, 1, 16, &[1, 2, 3, 0, 1, 1, 7, 5, 4, 1, 1, 9, 33, 1, 0, 2], 1.0, 0));
        // More sequences than a warp has lanes.
        agree_on(dtype, &shape(1, 1, 8, &[1; 40], 1.0, 0));
    }
}

#[test]
fn gpus_agree_on_large_logits() {
    for logits in [1e2, 1e3, 1e4] {
        agree_on(Dtype::F32, &shape(2, 1, 64, &[70, 1], logits, 0));
        agree_on(Dtype::Bf16, &shape(1, 1, 64, &[70, 1], logits, 0));
    }
}

#[test]
fn gpus_agree_on_other_head_sizes_groups_and_windows() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, &shape(7, 1, 32, &[20, 3], 1.0, 16));
        agree_on(dtype, &shape(3, 3, 80, &[18, 1], 1.0, 0));
        agree_on(dtype, &shape(2, 1, 40, &[33], 1.0, 0));
        // Neither whole vectors nor aligned, and heads that no matrix kernel takes.
        agree_on(dtype, &shape(2, 1, 5, &[35, 2], 1.0, 3));
        agree_on(dtype, &shape(2, 1, 64, &[35], 1.0, 1));
        agree_on(dtype, &shape(2, 1, 256, &[33, 34], 1.0, 0));
    }
}
