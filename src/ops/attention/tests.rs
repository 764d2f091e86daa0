use super::*;
use crate::base::simd::Level;
use crate::ops::check::{BF16_ATTENTION, Bed, F32, F32_GRADIENT, agree, dot, gpus, gradient, normals};

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
    let packed = Packed { starts, listed: None, heads, scale: 1.0 / (heads.size as f64).sqrt() };
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
        let packed = Packed { starts: &RAGGED, listed: None, heads, scale: 1.0 };
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

/// What of the logits is large.
#[derive(Clone, Copy, Debug)]
enum Logits {
    /// Nothing: standard normal.
    Normal,
    /// All of them lie near this number, one apart.
    Around(f64),
    /// They lie this far apart, so that mostly one key has all the probability.
    Apart(f64),
}
use Logits::*;

struct Shape {
    heads: Heads,
    lens: &'static [usize],
    logits: Logits,
    /// Columns in front of q, k and v in the buffer that holds them.
    edge: usize,
}

impl Shape {
    /// Rows of q, k and v with these logits, behind `edge` columns.
    fn rows(&self, wide: usize) -> Vec<f64> {
        let (heads, size) = (self.heads, self.heads.size);
        let mut all = normals(1, self.lens.iter().sum::<usize>() * wide);
        for row in all.chunks_exact_mut(wide) {
            let (q, k) = row[self.edge..].split_at_mut(heads.query * size);
            match self.logits {
                Normal => {}
                Apart(far) => q.iter_mut().for_each(|q| *q *= far),
                Around(place) => {
                    q.chunks_exact_mut(size).for_each(|q| q[0] = place / heads.scale());
                    k.chunks_exact_mut(size).take(heads.kv).for_each(|k| k[0] = 1.0);
                }
            }
        }
        all
    }
}

/// A buffer's columns between these.
fn columns(buffer: View<'_>, at: [usize; 4]) -> [View<'_>; 3] {
    std::array::from_fn(|i| buffer.cols_in(at[i]..at[i + 1]))
}

/// Forward and backward on the GPUs against the CPU. The backward starts from the CPU's output and statistics, so that it is
/// compared by itself.
fn agree_on(dtype: Dtype, shape: Shape) {
    let Shape { heads, lens, logits, edge } = shape;
    let starts: Vec<i32> = (0..=lens.len()).map(|n| lens[..n].iter().sum::<usize>() as i32).collect();
    let (t, scale) = (starts[lens.len()] as usize, heads.scale());
    let (out, kv) = (heads.query * heads.size, heads.kv * heads.size);
    let wide = edge + out + 2 * kv;
    let at = [edge, edge + out, edge + out + kv, wide];
    let qkv = shape.rows(wide);
    let saved = std::cell::RefCell::<Option<[Vec<f64>; 2]>>::default();
    agree(&format!("attention {dtype} {heads:?} {lens:?} {logits:?} at column {edge}"), |bed| {
        let [q, k, v] = columns(bed.put(dtype, t, wide, &qkv), at);
        let starts = bed.ints(1, starts.len(), &starts);
        let (o, lse) = (bed.zeros(dtype, t, out), bed.zeros(Dtype::F32, t, heads.query));
        attention_fwd(&bed.dev, o, lse, q, k, v, starts, heads, scale);
        let forward = [bed.get(o), bed.get(lse)];
        let saved = &mut *saved.borrow_mut();
        let [of, log_total] = saved.get_or_insert_with(|| forward.clone()); // The CPU's: it comes first.
        let (of, log_total) = (bed.put(dtype, t, out, of), bed.put(Dtype::F32, t, heads.query, log_total));
        let d_o = bed.normals(dtype, t, out, 2, 1.0);
        let d_qkv = bed.zeros(dtype, t, wide);
        let [dq, dk, dv] = columns(d_qkv, at);
        let delta = bed.zeros(Dtype::F32, t, heads.query);
        attention_bwd(&bed.dev, dq, dk, dv, delta, d_o, of, log_total, q, k, v, starts, heads, scale);
        let [o, lse] = forward;
        let (value, gradient) =
            if dtype == Dtype::Bf16 { (BF16_ATTENTION, BF16_ATTENTION) } else { (F32, F32_GRADIENT) };
        let gradients = bed.get(d_qkv);
        let part = |i: usize| gradients.chunks_exact(wide).flat_map(|row| row[at[i]..at[i + 1]].to_vec()).collect();
        let mut all = vec![
            ("o", value, o),
            ("lse", F32, lse),
            ("delta", F32_GRADIENT, bed.get(delta)),
            ("dv", gradient, part(2)),
        ];
        // A key that has all the probability passes nothing on to its logit: dq and dk are noise.
        if !matches!(logits, Apart(_)) {
            all.extend([("dq", gradient, part(0)), ("dk", gradient, part(1))]);
        }
        all
    });
}

const fn shape(query: usize, kv: usize, size: usize, lens: &'static [usize]) -> Shape {
    Shape { heads: Heads { query, kv, size }, lens, logits: Normal, edge: 0 }
}

#[test]
fn gpus_agree_at_the_borders_of_tiles() {
    agree_on(Dtype::F32, shape(2, 1, 20, &[31, 32, 33, 1, 64]));
    agree_on(Dtype::F32, shape(1, 1, 96, &[33, 1]));
    agree_on(Dtype::F32, Shape { edge: 8, ..shape(1, 1, 128, &[65, 2]) });
    agree_on(Dtype::Bf16, shape(2, 1, 64, &[63, 64, 65, 1]));
    agree_on(Dtype::Bf16, shape(1, 1, 96, &[127, 1]));
    agree_on(Dtype::Bf16, Shape { edge: 8, ..shape(1, 1, 128, &[129, 2, 128]) });
}

#[test]
fn gpus_agree_on_long_and_on_many_short_sequences() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, shape(1, 1, 16, &[600]));
        agree_on(dtype, shape(2, 1, 16, &[1, 2, 3, 0, 1, 7, 5, 1, 33, 0, 2]));
        // More sequences than a warp has lanes.
        agree_on(dtype, shape(1, 1, 8, &[2; 36]));
    }
}

#[test]
fn gpus_agree_on_large_logits() {
    for large in [1e2, 1e4] {
        for logits in [Apart(large), Around(large)] {
            agree_on(Dtype::F32, Shape { logits, ..shape(2, 1, 40, &[50, 1]) });
            agree_on(Dtype::Bf16, Shape { logits, ..shape(1, 1, 64, &[70, 1]) });
        }
    }
}

#[test]
fn gpus_agree_on_other_head_sizes_groups_and_windows() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, Shape { edge: 16, ..shape(7, 1, 32, &[20, 3]) });
        agree_on(dtype, shape(2, 2, 80, &[18, 1]));
        // Neither whole vectors nor aligned, and heads that no kernel of the matrix units takes.
        agree_on(dtype, Shape { edge: 3, ..shape(2, 1, 5, &[35, 2]) });
        agree_on(dtype, Shape { edge: 1, ..shape(2, 1, 64, &[35]) });
        agree_on(dtype, shape(1, 1, 256, &[33]));
    }
}

/// A sequence's rows on a GPU have the bits that they have alone, and its first outputs those of its beginning.
#[test]
fn gpus_give_a_sequence_the_same_bits_in_a_batch_and_as_a_prefix() {
    let heads = Heads { query: 2, kv: 1, size: 16 };
    for (called, dev) in gpus().into_iter().take(2) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let bed = Bed::new(dev.clone());
            let forward = |rows: &[usize], lens: &[i32]| {
                let wide = 4 * heads.size;
                let all = normals(1, 300 * wide);
                let mine: Vec<f64> = rows.iter().flat_map(|r| all[r * wide..(r + 1) * wide].to_vec()).collect();
                let qkv = bed.put(dtype, rows.len(), wide, &mine);
                let [q, k, v] = columns(qkv, [0, 2 * heads.size, 3 * heads.size, wide]);
                let (o, lse) = (bed.zeros(dtype, rows.len(), 2 * heads.size), bed.zeros(Dtype::F32, rows.len(), 2));
                attention_fwd(&bed.dev, o, lse, q, k, v, bed.ints(1, lens.len(), lens), heads, heads.scale());
                let (o, lse) = (bed.get(o), bed.get(lse));
                o.chunks_exact(2 * heads.size)
                    .zip(lse.chunks_exact(2))
                    .map(|(o, lse)| [o, lse].concat())
                    .collect::<Vec<_>>()
            };
            let rows: Vec<usize> = (0..300).collect();
            let all = forward(&rows, &[0, 5, 145, 150, 300]);
            assert!(forward(&rows[5..145], &[0, 140]) == all[5..145], "{called} {dtype}: alone");
            for n in [1, 31, 33, 64, 129] {
                assert!(
                    forward(&rows[150..150 + n], &[0, n as i32]) == all[150..150 + n],
                    "{called} {dtype}: {n} rows"
                );
            }
        }
    }
}

/// Outputs and statistics of the last positions of sequences, from `cuts` on, whose keys are strewn over other tensors; and the same
/// rows of whole sequences computed at once.
fn pieces(bed: &Bed, dtype: Dtype, heads: Heads, lens: &[usize], cuts: &[usize], page: usize) -> [Vec<f64>; 4] {
    let starts = |lens: &mut dyn Iterator<Item = usize>| -> Vec<i32> {
        let mut sum = 0;
        std::iter::once(0)
            .chain(lens.map(|n| {
                sum += n as i32;
                sum
            }))
            .collect()
    };
    let whole = starts(&mut lens.iter().copied());
    let (t, out, kv) = (whole[lens.len()] as usize, heads.query * heads.size, heads.kv * heads.size);
    let wide = out + 2 * kv;
    let data = normals(1, t * wide);
    let [q, k, v] = columns(bed.put(dtype, t, wide, &data), [0, out, out + kv, wide]);
    let (o, lse) = (bed.zeros(dtype, t, out), bed.zeros(dtype.stat(), t, heads.query));
    attention_fwd(&bed.dev, o, lse, q, k, v, bed.ints(1, whole.len(), &whole), heads, heads.scale());
    let (o, lse) = (bed.get(o), bed.get(lse));

    // Pages of keys and values in the reverse order.
    let pages = t.div_ceil(page);
    let place = |row: usize| (pages - 1 - row / page) * page + row % page;
    let mut strewn = vec![f64::NAN; pages * page * 2 * kv];
    for row in 0..t {
        strewn[place(row) * 2 * kv..][..2 * kv].copy_from_slice(&data[row * wide + out..(row + 1) * wide]);
    }
    let pool = bed.put(dtype, pages * page, 2 * kv, &strewn);
    let rows: Vec<usize> = whole.windows(2).zip(cuts).flat_map(|(w, cut)| w[0] as usize + cut..w[1] as usize).collect();
    let queries: Vec<f64> = rows.iter().flat_map(|r| data[r * wide..r * wide + out].to_vec()).collect();
    let mine = starts(&mut lens.iter().zip(cuts).map(|(n, cut)| n - cut));
    let places: Vec<i32> = (0..t).map(|row| place(row) as i32).collect();
    let paths = Paths {
        queries: bed.ints(1, mine.len(), &mine),
        keys: bed.ints(1, whole.len(), &whole),
        places: bed.ints(1, t, &places),
    };
    let q = bed.put(dtype, rows.len(), out, &queries);
    let (of, log_total) = (bed.zeros(dtype, rows.len(), out), bed.zeros(dtype.stat(), rows.len(), heads.query));
    let (k, v) = (pool.cols_in(0..kv), pool.cols_in(kv..2 * kv));
    attention_gather_fwd(&bed.dev, of, log_total, q, k, v, paths, heads, heads.scale());
    let part = |all: &[f64], wide: usize| rows.iter().flat_map(|r| all[r * wide..(r + 1) * wide].to_vec()).collect();
    [bed.get(of), bed.get(log_total), part(&o, out), part(&lse, heads.query)]
}

#[test]
fn a_continued_sequence_has_the_bits_of_a_whole_one() {
    use Dtype::{Bf16, F32, F64};
    for (threads, dtype, query, kv, size) in
        [(1, F32, 4, 2, 64), (2, F32, 3, 1, 20), (2, Bf16, 4, 2, 64), (2, F64, 2, 1, 4)]
    {
        let (bed, heads) = (Bed::new(Device::cpu(threads)), Heads { query, kv, size });
        for cut in [0, 1, 31, 33, 127, 128, 129, 200, 255, 256, 299, 300] {
            for page in [1, 48] {
                let (lens, cuts) = ([300, 5, 0, 140], [cut, cut % 6, 0, cut.min(139)]);
                let [o, lse, whole, log_total] = pieces(&bed, dtype, heads, &lens, &cuts, page);
                assert!(o == whole && lse == log_total, "{dtype} {heads:?} cut at {cut}, pages of {page}");
            }
        }
    }
}

#[test]
fn gpus_give_a_continued_sequence_the_bits_of_a_whole_one() {
    /// Type, query heads for one of keys, head size, lengths, where each is cut, page.
    type Case = (Dtype, usize, usize, &'static [usize], &'static [usize], usize);
    for (called, dev) in gpus() {
        let cases: [Case; 9] = [
            (Dtype::F32, 2, 20, &[70, 5, 0, 40], &[33, 1, 0, 39], 16),
            (Dtype::F32, 2, 20, &[70, 33], &[64, 0], 1),
            (Dtype::Bf16, 2, 64, &[200, 3, 0, 130], &[50, 2, 0, 129], 64),
            (Dtype::Bf16, 1, 64, &[150], &[127], 7),
            (Dtype::Bf16, 1, 96, &[140, 9], &[70, 9], 5),
            (Dtype::Bf16, 1, 128, &[135], &[64], 16),
            (Dtype::Bf16, 2, 5, &[40, 2], &[17, 1], 3),
            (Dtype::F32, 1, 200, &[40], &[30], 4),
            (Dtype::Bf16, 1, 200, &[40], &[30], 4),
        ];
        for (dtype, group, size, lens, cuts, page) in cases {
            let (bed, heads) = (Bed::new(dev.clone()), Heads { query: group, kv: 1, size });
            let [o, lse, whole, log_total] = pieces(&bed, dtype, heads, lens, cuts, page);
            assert!(o == whole && lse == log_total, "{called} {dtype} {heads:?} {lens:?} from {cuts:?}");
        }
        // More sequences than a warp has lanes, which share their keys' beginning.
        let (bed, heads) = (Bed::new(dev), Heads { query: 2, kv: 1, size: 16 });
        let [o, lse, whole, log_total] = pieces(&bed, Dtype::F32, heads, &[3; 40], &[1; 40], 2);
        assert!(o == whole && lse == log_total, "{called}: many");
    }
}

#[test]
#[should_panic(expected = "attention_gather_fwd: sequence 1 has 2 queries and 1 keys")]
fn a_query_is_one_of_its_own_keys() {
    let bed = Bed::new(Device::cpu(1));
    let heads = Heads { query: 1, kv: 1, size: 1 };
    let [q, k, v] = [0; 3].map(|_| bed.zeros(Dtype::F32, 3, 1));
    let (o, lse) = (bed.zeros(Dtype::F32, 3, 1), bed.zeros(Dtype::F32, 3, 1));
    let paths = Paths {
        queries: bed.ints(1, 3, &[0, 1, 3]),
        keys: bed.ints(1, 3, &[0, 2, 3]),
        places: bed.ints(1, 3, &[0, 1, 2]),
    };
    attention_gather_fwd(&bed.dev, o, lse, q, k, v, paths, heads, 1.0);
}

#[test]
fn a_continued_sequence_costs_what_is_left_of_a_whole_one() {
    let heads = Heads { query: 4, kv: 2, size: 8 };
    let whole = attention_fwd_cost(Dtype::Bf16, &[70, 5], heads);
    let none = attention_gather_fwd_cost(Dtype::Bf16, &[70, 5], &[70, 5], heads);
    // The list of places: 75 numbers of 4 bytes.
    assert_eq!((none.bytes, none.flops), (whole.bytes + 300.0, whole.flops));
    // One query of ten keys: ten pairs of 4 heads of 8, two products of a multiply and an add.
    let last = attention_gather_fwd_cost(Dtype::Bf16, &[1], &[10], heads);
    assert_eq!(last.flops, 10.0 * 4.0 * 8.0 * 4.0);
    assert_eq!(last.bytes, 2.0 * 8.0 * (2.0 * 4.0 + 2.0 * 10.0 * 2.0) + 4.0 * 4.0 + 40.0);
    let parts = attention_gather_fwd_cost(Dtype::Bf16, &[30], &[30], heads).flops
        + attention_gather_fwd_cost(Dtype::Bf16, &[40], &[70], heads).flops;
    assert_eq!(parts, attention_fwd_cost(Dtype::Bf16, &[70], heads).flops, "a prompt read in two pieces");
}
