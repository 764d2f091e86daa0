use super::*;
use crate::base::dtype::{Dtype, bf16};
use crate::ops::check::{Bed, F32, Within, agree, matrix, normals, stored};

const PLAIN: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

fn draw<E: Elem>(threads: usize, logits: &[E], settings: &[Sampling]) -> (Vec<i32>, Vec<E::Acc>) {
    let r = settings.len();
    let (mut logits, mut ids, mut logprobs) = (logits.to_vec(), vec![-1; r], vec![E::Acc::ZERO; r]);
    let (ids_view, logprobs_view) = (View::of(&mut ids), View::of(&mut logprobs));
    let mut table: Vec<i32> = settings.iter().flat_map(Sampling::row).collect();
    let (logits, table) = (matrix(&mut logits, r), matrix(&mut table, r));
    sample(&Device::cpu(threads), ids_view, logprobs_view, logits, table);
    (ids, logprobs)
}

/// How often each of the tokens is drawn in `n` steps.
fn frequencies(logits: &[f32], s: Sampling, n: usize) -> Vec<f64> {
    let settings: Vec<Sampling> = (0..n as u64).map(|step| Sampling { step, ..s }).collect();
    let (ids, _) = draw(2, &logits.repeat(n), &settings);
    (0..logits.len()).map(|v| ids.iter().filter(|id| **id == v as i32).count() as f64 / n as f64).collect()
}

/// The distribution by sorting and summing, as the header defines it.
fn distribution(logits: &[f32], s: Sampling) -> Vec<f64> {
    let q: Vec<f64> = logits.iter().map(|x| (*x as f64 / s.temperature as f64).exp()).collect();
    let mut order: Vec<usize> = (0..q.len()).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    let total: f64 = order.iter().map(|i| q[*i]).sum();
    let mut before = 0.0;
    order.retain(|i| {
        let keep = before < s.top_p as f64 * total || s.top_p == 1.0;
        before += q[*i];
        keep
    });
    let largest = q[order[0]];
    order.retain(|i| q[*i] >= s.min_p as f64 * largest);
    let total: f64 = order.iter().map(|i| q[*i]).sum();
    (0..q.len()).map(|i| if order.contains(&i) { q[i] / total } else { 0.0 }).collect()
}

#[test]
fn draws_follow_the_filtered_distribution() {
    let logits = [1.0f32, 2.5, -1.0, 2.0, 0.3, 1.9, -4.0];
    let n = 20_000;
    for s in [
        PLAIN,
        Sampling { temperature: 0.6, seed: 1, ..PLAIN },
        Sampling { temperature: 1.7, top_k: 3, ..PLAIN },
        Sampling { top_p: 0.8, seed: 2, ..PLAIN },
        Sampling { min_p: 0.3, ..PLAIN },
        Sampling { temperature: 1.3, top_k: 5, top_p: 0.9, min_p: 0.2, seed: 3, ..PLAIN },
    ] {
        for (got, want) in frequencies(&logits, s, n).iter().zip(distribution(&logits, s)) {
            let deviation = (want * (1.0 - want) / n as f64).sqrt();
            assert!((got - want).abs() <= 4.5 * deviation, "{s:?}: {got} for {want}");
        }
    }
}

#[test]
fn the_edges_are_those_of_sorting() {
    // Rounded to halves, so that many logits tie.
    let logits: Vec<f32> = normals(1, 700).iter().map(|x| (x * 4.0).round() as f32 / 2.0).collect();
    let row = Row { logits: &logits, largest: logits.iter().copied().fold(f32::MIN, f32::max), inverse: 1.0 };
    for (top_k, top_p) in [(1, 1.0), (7, 1.0), (699, 1.0), (0, 0.1), (0, 0.5), (0, 0.999), (40, 0.37), (3, 0.9)] {
        let s = Sampling { top_k, top_p, ..PLAIN };
        let cut = row.cut(&s);
        let mut kept = Vec::new();
        row.each_kept(&cut, |i, _| kept.push(i));
        let want: Vec<usize> = (0..700).filter(|i| distribution(&logits, s)[*i] > 0.0).collect();
        assert_eq!(kept, want, "{s:?}");
        assert!((0..700).all(|i| row.keeps(&cut, i) == want.contains(&i)));
    }
}

#[test]
fn greedy_takes_the_lowest_id_of_the_largest() {
    let logits = [0.0f32, 3.0, -1.0, 3.0, 5.0, 5.0, 5.0, 1.0];
    let (ids, logprobs) = draw(1, &logits, &[Sampling::GREEDY; 2]);
    assert_eq!(ids, [1, 0]);
    let sum: f32 = logits[..4].iter().map(|x| x.exp()).sum();
    assert!((logprobs[0] - (3.0 - sum.ln())).abs() < 1e-6);
    assert_eq!(draw::<bf16>(1, &stored(&[-2.0, -1.0, -1.0]), &[Sampling::GREEDY]).0, [1]);
    // A very small temperature is greedy too, and does not overflow.
    assert_eq!(draw(1, &[-1e4f32, 1e4, 9.9e3], &[Sampling { temperature: 1e-6, ..PLAIN }]).0, [1]);
}

#[test]
fn a_draw_depends_on_its_row_and_settings_alone() {
    let logits: Vec<f32> = stored(&normals(4, 900));
    let settings = |row: u64| Sampling { temperature: 0.9, top_k: 200, top_p: 0.95, seed: row, step: 5, ..PLAIN };
    let many: Vec<Sampling> = (0..3).map(settings).collect();
    let together = draw(1, &logits, &many);
    assert_eq!(draw(2, &logits, &many), together);
    let reversed = [&logits[600..], &logits[300..600], &logits[..300]].concat();
    let (ids, _) = draw(1, &reversed, &[many[2], many[1], many[0]]);
    assert_eq!(ids.into_iter().rev().collect::<Vec<_>>(), together.0);
    let steps: Vec<Sampling> = (0..50).map(|step| Sampling { step, ..settings(0) }).collect();
    let (ids, _) = draw(1, &logits[..300].repeat(50), &steps);
    assert!(ids.iter().any(|id| *id != ids[0]), "steps draw anew");
}

#[test]
fn masked_tokens_are_never_drawn() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
    let p = frequencies(&logits, Sampling { top_p: 0.99, ..PLAIN }, 400);
    assert_eq!((p[0], p[2]), (0.0, 0.0));
    assert!(p[1] > 0.3 && p[3] > 0.3);
}

#[test]
fn settings_survive_their_table() {
    let s =
        Sampling { temperature: 0.7, top_k: 3_000_000_000, top_p: 0.9, min_p: 0.1, seed: u64::MAX - 5, step: 1 << 40 };
    assert_eq!(Sampling::of(&s.row()), s);
}

/// Every kind of row in one batch.
fn every_kind(rows: usize) -> Vec<Sampling> {
    let kinds = [
        Sampling::GREEDY,
        PLAIN,
        Sampling { temperature: 0.6, top_k: 1, ..PLAIN },
        Sampling { temperature: 1.5, top_k: 40, ..PLAIN },
        Sampling { top_p: 0.9, ..PLAIN },
        Sampling { top_p: 1e-6, ..PLAIN },
        Sampling { min_p: 0.05, ..PLAIN },
        Sampling { temperature: 2.0, top_k: 60, top_p: 0.7, min_p: 0.02, ..PLAIN },
        Sampling { temperature: 1e-6, top_k: 7, ..PLAIN },
    ];
    (0..rows).map(|i| Sampling { seed: 1 << 40 | i as u64, step: i as u64 / 2, ..kinds[i % kinds.len()] }).collect()
}

fn table<'a>(bed: &'a Bed, settings: &[Sampling]) -> View<'a> {
    let words: Vec<i32> = settings.iter().flat_map(Sampling::row).collect();
    bed.ints(settings.len(), Sampling::WORDS, &words)
}

#[test]
fn gpus_draw_the_tokens_of_the_cpu() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        // bf16 logits tie by themselves.
        for (rows, v, scale) in
            [(9, 1, 1.0), (9, 3, 1.0), (27, 700, 3.0), (9, 4100, 1e4), (18, 9001, 0.01), (72, 3, 0.5)]
        {
            agree(&format!("sample {rows} of {v} {dtype} times {scale}"), |bed| {
                let logits = bed.normals(dtype, rows, v, 5, scale);
                let (ids, logprobs) = (bed.zeros(Dtype::I32, 1, rows), bed.zeros(Dtype::F32, 1, rows));
                sample(&bed.dev, ids, logprobs, logits, table(bed, &every_kind(rows)));
                vec![("ids", Within::Bits, bed.get(ids)), ("logprobs", F32, bed.get(logprobs))]
            });
        }
    }
}

#[test]
fn gpus_break_ties_as_the_cpu_does() {
    // Rounded to halves, so that edges fall among many equal logits; some are masked.
    let logits: Vec<f64> = normals(1, 27 * 2500)
        .iter()
        .enumerate()
        .map(|(i, x)| if i % 7 == 0 { f64::NEG_INFINITY } else { (x * 2.0).round() / 2.0 })
        .collect();
    agree("sample among ties, rows apart", |bed| {
        let logits = bed.put(Dtype::F32, 27, 2500, &logits).cols_in(1..2400);
        let (ids, logprobs) = (bed.zeros(Dtype::I32, 1, 27), bed.zeros(Dtype::F32, 1, 27));
        sample(&bed.dev, ids, logprobs, logits, table(bed, &every_kind(27)));
        vec![("ids", Within::Bits, bed.get(ids)), ("logprobs", F32, bed.get(logprobs))]
    });
}

#[test]
fn gpus_give_a_row_with_nan_some_token_and_say_so() {
    agree("sample of NaN", |bed| {
        let mut x = normals(1, 9 * 50);
        (0..9).for_each(|row| x[row * 50 + 20 + row] = f64::NAN);
        let logits = bed.put(Dtype::F32, 9, 50, &x);
        let (ids, logprobs) = (bed.zeros(Dtype::I32, 1, 9), bed.zeros(Dtype::F32, 1, 9));
        sample(&bed.dev, ids, logprobs, logits, table(bed, &every_kind(9)));
        assert!(bed.get(ids).iter().all(|id| (0.0..50.0).contains(id)));
        vec![("logprobs", F32, bed.get(logprobs))]
    });
}
