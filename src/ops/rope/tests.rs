use super::*;
use crate::base::dtype::{Dtype, bf16};
use crate::ops::check::{Bed, F32, F32_GRADIENT, agree, close, dot, gpus, gradient, matrix, normals, stored, within};
use crate::ops::pages::pages_write;

const HEADS: Heads = Heads { query: 2, kv: 1, size: 40 };
const POSITIONS: [i32; 5] = [0, 1, 2, 0, 6];
const EPS: f64 = 1e-6;

/// Queries, keys, query weights, key weights: everything the op reads.
#[derive(Clone)]
struct Case<E> {
    q: Vec<E>,
    k: Vec<E>,
    w: Option<(Vec<E>, Vec<E>)>,
}

fn case(norm: bool) -> Case<f64> {
    let Heads { query, kv, size } = HEADS;
    let t = POSITIONS.len();
    let w = norm.then(|| (normals(3, size), normals(4, size)));
    Case { q: normals(1, t * query * size), k: normals(2, t * kv * size), w }
}

fn tables<A: Real>() -> (Vec<A>, Vec<A>) {
    let (cos, sin) = rope_angles(100.0, None, HEADS.size, 7);
    let wide = |x: Vec<f32>| x.iter().map(|&x| A::of(x as f64)).collect();
    (wide(cos), wide(sin))
}

fn forward<E: Elem>(threads: usize, case: &Case<E>, places: &[i32]) -> (Vec<E>, Vec<E>, Vec<E::Acc>) {
    let (mut case, mut places, t) = (case.clone(), places.to_vec(), places.len());
    let (mut q, mut k) = (case.q.clone(), case.k.clone());
    let mut rstd = vec![E::Acc::ZERO; if case.w.is_some() { t * (HEADS.query + HEADS.kv) } else { 0 }];
    let (mut cos, mut sin) = tables::<E::Acc>();
    let table = RopeTable { cos: matrix(&mut cos, 7), sin: matrix(&mut sin, 7) };
    let norm = case.w.as_mut().map(|(q, k)| QkNorm { q: View::of(q), k: View::of(k), eps: EPS });
    let rstd_view = if norm.is_some() { matrix(&mut rstd, t) } else { View::of(&mut rstd) };
    let (raw_q, raw_k) = (matrix(&mut case.q, t), matrix(&mut case.k, t));
    let (out_q, out_k) = (matrix(&mut q, t), matrix(&mut k, t));
    let places = View::of(&mut places);
    rope_fwd(&Device::cpu(threads), out_q, out_k, rstd_view, raw_q, raw_k, norm, table, places, HEADS);
    (q, k, rstd)
}

/// Gradients of queries, keys and both weights.
fn backward<E: Elem, G: Elem>(threads: usize, case: &Case<E>, dq: &[E], dk: &[E]) -> (Vec<E>, Vec<E>, Vec<G>, Vec<G>) {
    let (mut case, mut places, t) = (case.clone(), POSITIONS, POSITIONS.len());
    let (_, _, mut rstd) = forward(threads, &case, &places);
    let (mut dq, mut dk) = (dq.to_vec(), dk.to_vec());
    let (mut dqw, mut dkw) = (vec![G::put(G::Acc::ZERO); HEADS.size], vec![G::put(G::Acc::ZERO); HEADS.size]);
    let (mut cos, mut sin) = tables::<E::Acc>();
    let table = RopeTable { cos: matrix(&mut cos, 7), sin: matrix(&mut sin, 7) };
    let norm = case.w.as_mut().map(|(q, k)| QkNorm { q: View::of(q), k: View::of(k), eps: EPS });
    let dnorm = norm.map(|_| (View::of(&mut dqw), View::of(&mut dkw)));
    let rstd = if norm.is_some() { matrix(&mut rstd, t) } else { View::of(&mut rstd) };
    let (raw_q, raw_k) = (matrix(&mut case.q, t), matrix(&mut case.k, t));
    let (dq_view, dk_view) = (matrix(&mut dq, t), matrix(&mut dk, t));
    let places = View::of(&mut places);
    rope_bwd(&Device::cpu(threads), dq_view, dk_view, dnorm, raw_q, raw_k, rstd, norm, table, places, HEADS);
    (dq, dk, dqw, dkw)
}

#[test]
fn backward_is_the_derivative() {
    for norm in [false, true] {
        let case = case(norm);
        let (dq, dk) = (normals(5, case.q.len()), normals(6, case.k.len()));
        let loss = |case: &Case<f64>| {
            let (q, k, _) = forward(2, case, &POSITIONS);
            dot(&q, &dq) + dot(&k, &dk)
        };
        let (raw_dq, raw_dk, dqw, dkw) = backward::<f64, f64>(2, &case, &dq, &dk);
        gradient("dq", &case.q, &raw_dq, |q| loss(&Case { q: q.to_vec(), ..case.clone() }));
        gradient("dk", &case.k, &raw_dk, |k| loss(&Case { k: k.to_vec(), ..case.clone() }));
        if let Some((qw, kw)) = &case.w {
            let with = |q: &[f64], k: &[f64]| Case { w: Some((q.to_vec(), k.to_vec())), ..case.clone() };
            gradient("dqw", qw, &dqw, |qw| loss(&with(qw, kw)));
            gradient("dkw", kw, &dkw, |kw| loss(&with(qw, kw)));
        }
    }
}

#[test]
fn it_rotates_pairs_of_the_two_halves() {
    let case = case(false);
    let (q, _, _) = forward(1, &case, &POSITIONS);
    let (cos, sin) = tables::<f64>();
    let (half, row) = (HEADS.size / 2, HEADS.query * HEADS.size);
    for (t, position) in POSITIONS.iter().enumerate() {
        for i in 0..half {
            let (a, b) = (case.q[t * row + HEADS.size + i], case.q[t * row + HEADS.size + half + i]);
            let (c, s) = (cos[*position as usize * half + i], sin[*position as usize * half + i]);
            assert_eq!(q[t * row + HEADS.size + i], a * c - b * s);
            assert_eq!(q[t * row + HEADS.size + half + i], b * c + a * s);
        }
    }
    // Position 0 turns nothing.
    assert_eq!(q[..row], case.q[..row]);
}

#[test]
fn in_place_without_a_norm() {
    let mut case = case(false);
    let (q, k, _) = forward(2, &case, &POSITIONS);
    let (mut cos, mut sin) = tables::<f64>();
    let table = RopeTable { cos: matrix(&mut cos, 7), sin: matrix(&mut sin, 7) };
    let (q_view, k_view) = (matrix(&mut case.q, 5), matrix(&mut case.k, 5));
    let (mut places, empty) = (POSITIONS, View::of::<f64>(&mut []));
    rope_fwd(&Device::cpu(2), q_view, k_view, empty, q_view, k_view, None, table, View::of(&mut places), HEADS);
    assert_eq!((case.q, case.k), (q, k));
}

#[test]
fn stored_types_follow_f64_and_neither_threads_nor_neighbours_change_a_bit() {
    fn narrow<E: Elem>(case: &Case<f64>) -> Case<E> {
        let w = case.w.as_ref().map(|(q, k)| (stored(q), stored(k)));
        Case { q: stored(&case.q), k: stored(&case.k), w }
    }
    let wide = case(true);
    let (exact_q, exact_k, exact_rstd) = forward(1, &wide, &POSITIONS);
    let single = narrow::<f32>(&wide);
    let (q, k, rstd) = forward(1, &single, &POSITIONS);
    close("q", &q, &exact_q, 2e-6);
    close("k", &k, &exact_k, 2e-6);
    close("rstd", &rstd, &exact_rstd, 2e-6);
    assert_eq!(forward(2, &single, &POSITIONS), (q.clone(), k.clone(), rstd));
    let (dq, dk) = (stored(&normals(5, q.len())), stored(&normals(6, k.len())));
    assert_eq!(backward::<f32, f32>(1, &single, &dq, &dk), backward::<f32, f32>(2, &single, &dq, &dk));
    let half = narrow::<bf16>(&wide);
    close("bf16 q", &forward(2, &half, &POSITIONS).0, &exact_q, 0.03);
    let (dq, dk) = (stored(&normals(5, q.len())), stored(&normals(6, k.len())));
    let (_, _, dqw, _) = backward::<bf16, f32>(2, &half, &dq, &dk);
    let (_, _, exact_dqw, _) = backward::<f64, f64>(2, &wide, &normals(5, q.len()), &normals(6, k.len()));
    close("bf16 dqw", &dqw, &exact_dqw, 0.05);
    // The last token alone.
    let tail = |x: &[f32]| x[x.len() / 5 * 4..].to_vec();
    let last = Case { q: tail(&single.q), k: tail(&single.k), w: single.w.clone() };
    let (alone, _, _) = forward(1, &last, &POSITIONS[4..]);
    assert_eq!(alone, tail(&q));
}

#[test]
#[should_panic(expected = "position 7 (number 4) is not in 0..7")]
fn a_position_beyond_the_table_is_named() {
    forward(1, &case(false), &[0, 1, 2, 3, 7]);
}

/// Query and key heads, their size, tokens: sizes of the three families, grouped and not, tails of a group of lanes, a size that is
/// no whole number of vectors.
const CASES: [(Heads, usize); 7] = [
    (Heads { query: 3, kv: 1, size: 64 }, 5),
    (Heads { query: 2, kv: 2, size: 96 }, 3),
    (Heads { query: 7, kv: 1, size: 128 }, 40),
    (Heads { query: 1, kv: 1, size: 256 }, 1),
    (Heads { query: 4, kv: 2, size: 40 }, 6),
    (Heads { query: 1, kv: 1, size: 2 }, 3),
    (Heads { query: 2, kv: 1, size: 16 }, 1030),
];

/// A table for positions 0 to 8, and `t` positions that jump about in it.
fn table_of(bed: &Bed, heads: Heads, t: usize) -> (RopeTable<'_>, View<'_>) {
    let (cos, sin) = rope_angles(100.0, None, heads.size, 9);
    let [cos, sin] = [cos, sin].map(|x| {
        let view = bed.zeros(Dtype::F32, 9, heads.size / 2);
        bed.dev.write(view, &x);
        view
    });
    let positions: Vec<i32> = (0..t as i32).map(|t| t * 5 % 9).collect();
    (RopeTable { cos, sin }, bed.ints(1, t, &positions))
}

#[test]
fn gpus_agree() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (heads, t) in CASES {
            agree(&format!("rope {dtype} {heads:?}, {t} tokens"), |bed| {
                let (table, positions) = table_of(bed, heads, t);
                let (wide, narrow) = (heads.query * heads.size, heads.kv * heads.size);
                // Queries and keys lie side by side, as in the model.
                let x = bed.normals(dtype, t, wide + narrow, 1, 1e4);
                let (q, k) = (x.cols_in(0..wide), x.cols_in(wide..wide + narrow));
                let (q_out, k_out) = (bed.zeros(dtype, t, wide), bed.zeros(dtype, t, narrow));
                let none = bed.zeros(Dtype::F32, 1, 1);
                rope_fwd(&bed.dev, q_out, k_out, none, q, k, None, table, positions, heads);
                rope_fwd(&bed.dev, q, k, none, q, k, None, table, positions, heads);
                let out = [q_out, k_out].map(|v| bed.get(v));
                rope_bwd(&bed.dev, q_out, k_out, None, q, k, none, None, table, positions, heads);
                vec![
                    ("rotated", within(dtype), out.concat()),
                    ("rotated in place", within(dtype), bed.get(x)),
                    ("turned back", within(dtype), [bed.get(q_out), bed.get(k_out)].concat()),
                ]
            });
        }
    }
}

#[test]
fn gpus_agree_with_a_norm() {
    for (dtype, gradients) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)] {
        for (heads, t) in CASES {
            agree(&format!("rope with norm {dtype} {heads:?}, {t} tokens, {gradients} gradients"), |bed| {
                let (table, positions) = table_of(bed, heads, t);
                let (wide, narrow) = (heads.query * heads.size, heads.kv * heads.size);
                let x = bed.normals(dtype, t, wide + narrow, 1, 1e4);
                let (q, k) = (x.cols_in(0..wide), x.cols_in(wide..wide + narrow));
                let [q_out, dq] = [2, 3].map(|key| bed.normals(dtype, t, wide, key, 1.0));
                let [k_out, dk] = [4, 5].map(|key| bed.normals(dtype, t, narrow, key, 1.0));
                let rstd = bed.zeros(Dtype::F32, t, heads.query + heads.kv);
                let [w_q, w_k] = [6, 7].map(|key| bed.normals(dtype, 1, heads.size, key, 1.0));
                let norm = Some(QkNorm { q: w_q, k: w_k, eps: EPS });
                let [dw_q, dw_k] = [8, 9].map(|key| bed.normals(gradients, 1, heads.size, key, 1.0));
                rope_fwd(&bed.dev, q_out, k_out, rstd, q, k, norm, table, positions, heads);
                let dw = Some((dw_q, dw_k));
                rope_bwd(&bed.dev, dq, dk, dw, q, k, rstd, norm, table, positions, heads);
                let sums = if gradients == Dtype::F32 { F32_GRADIENT } else { within(gradients) };
                vec![
                    ("queries", within(dtype), bed.get(q_out)),
                    ("keys", within(dtype), bed.get(k_out)),
                    ("rstd", F32, bed.get(rstd)),
                    ("dq", within(dtype), bed.get(dq)),
                    ("dk", within(dtype), bed.get(dk)),
                    ("queries' dw", sums, bed.get(dw_q)),
                    ("keys' dw", sums, bed.get(dw_k)),
                ]
            });
        }
    }
}

/// Keys and values that go straight to their places are those of the rotation and of `pages_write`, bit by bit.
fn paged(bed: &Bed, dtype: Dtype, heads: Heads, normed: bool, places: &[i32]) -> Vec<f64> {
    let (t, rows) = (places.len(), places.len() + 3);
    let (table, positions) = table_of(bed, heads, t);
    let (wide, narrow) = (heads.query * heads.size, heads.kv * heads.size);
    let x = bed.normals(dtype, t, wide + 2 * narrow, 1, 1e4);
    let [q, k, v] = [0..wide, wide..wide + narrow, wide + narrow..wide + 2 * narrow].map(|cols| x.cols_in(cols));
    let [w_q, w_k] = [6, 7].map(|key| bed.normals(dtype, 1, heads.size, key, 1.0));
    let norm = normed.then_some(QkNorm { q: w_q, k: w_k, eps: EPS });
    let rstd = bed.zeros(Dtype::F32, t, heads.query + heads.kv);
    let ids = bed.ints(1, t, places);
    let (q_apart, k_apart) = (bed.zeros(dtype, t, wide), bed.zeros(dtype, t, narrow));
    let apart @ [k_rows, v_rows] = [2, 3].map(|key| bed.normals(dtype, rows, narrow, key, 1.0));
    rope_fwd(&bed.dev, q_apart, k_apart, rstd, q, k, norm, table, positions, heads);
    pages_write(&bed.dev, k_rows, v_rows, k_apart, v, ids);
    let (q_out, pools) = (bed.zeros(dtype, t, wide), [2, 3].map(|key| bed.normals(dtype, rows, narrow, key, 1.0)));
    rope_pages_fwd(&bed.dev, q_out, pools, rstd, [q, k, v], ids, norm, table, positions, heads);
    let [apart, together] =
        [[q_apart, apart[0], apart[1]], [q_out, pools[0], pools[1]]].map(|all| all.map(|x| bed.get(x)));
    assert!(apart == together, "{dtype} {heads:?} norm {normed}");
    together.concat()
}

#[test]
fn gpus_agree_on_what_goes_into_pages() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (heads, t) in CASES {
            let places: Vec<i32> = (0..t as i32).map(|i| (i * 7 + 2) % (t as i32 + 3)).collect();
            let apart = places.iter().collect::<std::collections::BTreeSet<_>>().len() == t;
            let places = if apart { places } else { (0..t as i32).rev().collect() };
            for normed in [false, true] {
                agree(&format!("rope into pages, {dtype} {heads:?}, {t} tokens, norm {normed}"), |bed| {
                    vec![("all", within(dtype), paged(bed, dtype, heads, normed, &places))]
                });
            }
        }
    }
}

#[test]
fn on_gpus_what_has_no_place_goes_nowhere() {
    for (_, dev) in gpus() {
        let bed = Bed::new(dev);
        for normed in [false, true] {
            paged(&bed, Dtype::Bf16, Heads { query: 3, kv: 2, size: 16 }, normed, &[-1, 4, 8, 0, 7000, 2]);
        }
    }
}

#[test]
fn the_cpu_writes_pages_as_the_two_ops_do() {
    let bed = Bed::new(Device::cpu(2));
    for normed in [false, true] {
        paged(&bed, Dtype::F32, HEADS, normed, &[3, 7, 0, 5, 1]);
    }
}

#[test]
#[should_panic(expected = "rope_pages_fwd: place 4 is that of two tokens")]
fn two_tokens_of_one_place_are_refused() {
    paged(&Bed::new(Device::cpu(1)), Dtype::F32, HEADS, false, &[4, 1, 4]);
}

#[test]
fn gpus_see_which_operand_is_off_its_alignment() {
    let heads = Heads { query: 2, kv: 1, size: 32 };
    for (odd, normed) in (0..9).flat_map(|odd| [(odd, false), (odd, true)]) {
        agree(&format!("rope, operand {odd} off, norm {normed}"), |bed| {
            let of = |dtype, rows, cols, i| bed.placed(dtype, rows, cols, i, i == odd);
            let (q, k) = (of(Dtype::F32, 3, 64, 0), of(Dtype::F32, 3, 32, 1));
            let (q_out, k_out) = (of(Dtype::F32, 3, 64, 2), of(Dtype::F32, 3, 32, 3));
            let table = RopeTable { cos: of(Dtype::F32, 7, 16, 4), sin: of(Dtype::F32, 7, 16, 5) };
            let (w_q, w_k) = (of(Dtype::F32, 1, 32, 6), of(Dtype::F32, 1, 32, 7));
            let (positions, rstd) = (bed.ints(1, 3, &[0, 6, 2]), bed.zeros(Dtype::F32, 3, 3));
            let norm = normed.then_some(QkNorm { q: w_q, k: w_k, eps: EPS });
            rope_fwd(&bed.dev, q_out, k_out, rstd, q, k, norm, table, positions, heads);
            let turned = [bed.get(q_out), bed.get(k_out)].concat();
            rope_bwd(&bed.dev, q_out, k_out, None, q, k, rstd, norm, table, positions, heads);
            let back = [bed.get(q_out), bed.get(k_out)].concat();
            vec![("rotated", F32, turned), ("turned back", F32, back)]
        });
    }
    for (odd, normed) in (0..3).flat_map(|odd| [(odd, false), (odd, true)]) {
        agree(&format!("rope into pages, operand {odd} off, norm {normed}"), |bed| {
            let of = |rows, i| bed.placed(Dtype::F32, rows, 32, i, i == odd);
            let (pools, v) = ([of(4, 0), of(4, 1)], of(3, 2));
            let (q, k) = (bed.normals(Dtype::F32, 3, 64, 5, 1.0), bed.normals(Dtype::F32, 3, 32, 6, 1.0));
            let (q_out, rstd) = (bed.zeros(Dtype::F32, 3, 64), bed.zeros(Dtype::F32, 3, 3));
            let (table, positions) = table_of(bed, heads, 3);
            let [w_q, w_k] = [8, 9].map(|key| bed.normals(Dtype::F32, 1, 32, key, 1.0));
            let norm = normed.then_some(QkNorm { q: w_q, k: w_k, eps: EPS });
            rope_pages_fwd(
                &bed.dev,
                q_out,
                pools,
                rstd,
                [q, k, v],
                bed.ints(1, 3, &[2, 0, 3]),
                norm,
                table,
                positions,
                heads,
            );
            vec![("all", F32, [q_out, pools[0], pools[1]].map(|x| bed.get(x)).concat())]
        });
    }
}

#[test]
fn on_gpus_a_position_outside_the_table_gives_nan() {
    let heads = Heads { query: 1, kv: 1, size: 16 };
    for (_, dev) in gpus() {
        let bed = Bed::new(dev);
        let (table, _) = table_of(&bed, heads, 3);
        let (q, k, none) =
            (bed.normals(Dtype::F32, 3, 16, 1, 1.0), bed.zeros(Dtype::F32, 3, 16), bed.zeros(Dtype::F32, 1, 1));
        rope_fwd(&bed.dev, q, k, none, q, k, None, table, bed.ints(1, 3, &[9, 0, -1]), heads);
        let finite: Vec<bool> = bed.get(q).iter().map(|x| x.is_finite()).collect();
        assert_eq!(finite, [[false; 16], [true; 16], [false; 16]].concat());
    }
}
