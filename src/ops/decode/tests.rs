use super::*;
use crate::base::dtype::bf16;
use crate::ops::check::{Bed, F32, Within, agree, close, dot, gpus, matrix, normals, stored};

const HEADS: Heads = Heads { query: 12, kv: 2, size: 20 };
const PAGE: usize = 48;
const PAGES: usize = 80;
const LENS: [usize; 6] = [1, 511, 512, 513, 0, 1300];
const SCALE: f64 = 0.3;

struct Case<E> {
    q: Vec<E>,
    k: Vec<E>,
    v: Vec<E>,
}

fn case<E: Elem>() -> Case<E> {
    let pool = PAGES * PAGE * HEADS.kv * HEADS.size;
    let q = normals(1, LENS.len() * HEADS.query * HEADS.size);
    Case { q: stored(&q), k: stored(&normals(2, pool)), v: stored(&normals(3, pool)) }
}

/// Pages in no order, none shared; -1 where a sequence has ended.
fn tables() -> Vec<Vec<i32>> {
    let mut free = (0..PAGES as i32).map(|p| p * 37 % PAGES as i32);
    let table = |len: &usize| {
        let mut pages: Vec<i32> = free.by_ref().take(len.div_ceil(PAGE)).collect();
        pages.resize(28, -1);
        pages
    };
    LENS.iter().map(table).collect()
}

fn decode<E: Elem>(threads: usize, case: &mut Case<E>, which: &[usize]) -> Vec<E> {
    let row = HEADS.query * HEADS.size;
    let mut q: Vec<E> = which.iter().flat_map(|i| case.q[i * row..(i + 1) * row].to_vec()).collect();
    let mut table: Vec<i32> = which.iter().flat_map(|i| tables()[*i].clone()).collect();
    let mut lens: Vec<i32> = which.iter().map(|i| LENS[*i] as i32).collect();
    let (b, width) = (which.len(), partials_width(HEADS, 1300));
    let (mut o, mut partials) = (q.clone(), vec![E::Acc::of(f64::NAN); b * width]);
    let (k, v) = (matrix(&mut case.k, PAGES * PAGE), matrix(&mut case.v, PAGES * PAGE));
    let (table, lens, partials) = (matrix(&mut table, b), View::of(&mut lens), matrix(&mut partials, b));
    let dev = Device::cpu(threads);
    decode_fwd(&dev, matrix(&mut o, b), matrix(&mut q, b), k, v, table, lens, PAGE, HEADS, SCALE, partials);
    o
}

/// Plain softmax attention, position by position.
fn oracle() -> Vec<f64> {
    let (case, width) = (case::<f64>(), HEADS.kv * HEADS.size);
    let mut o = Vec::new();
    for (i, len) in LENS.iter().enumerate() {
        for head in 0..HEADS.query {
            let at = (i * HEADS.query + head) * HEADS.size;
            let q = &case.q[at..at + HEADS.size];
            let first = |j: usize| {
                let row = tables()[i][j / PAGE] as usize * PAGE + j % PAGE;
                row * width + head / 6 * HEADS.size
            };
            let rows: Vec<usize> = (0..*len).map(first).collect();
            let p: Vec<f64> = rows.iter().map(|at| (SCALE * dot(q, &case.k[*at..at + HEADS.size])).exp()).collect();
            let total: f64 = p.iter().sum();
            let value = |k: usize| p.iter().zip(&rows).map(|(p, at)| p / total * case.v[at + k]).sum::<f64>();
            o.extend((0..HEADS.size).map(value));
        }
    }
    o
}

#[test]
fn it_is_softmax_attention() {
    let (all, want) = ([0, 1, 2, 3, 4, 5], oracle());
    close("f64", &decode(2, &mut case::<f64>(), &all), &want, 1e-12);
    close("f32", &decode(2, &mut case::<f32>(), &all), &want, 2e-6);
    close("bf16", &decode(2, &mut case::<bf16>(), &all), &want, 0.03);
}

#[test]
fn neither_batch_nor_threads_change_a_bit() {
    let mut case = case::<f32>();
    let row = HEADS.query * HEADS.size;
    let all = decode(1, &mut case, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(decode(2, &mut case, &[0, 1, 2, 3, 4, 5]), all);
    for i in 0..LENS.len() {
        assert_eq!(decode(2, &mut case, &[i]), all[i * row..(i + 1) * row]);
        let pair = decode(1, &mut case, &[5, i]);
        assert_eq!(pair[row..], all[i * row..(i + 1) * row]);
    }
}

#[test]
#[should_panic(expected = "page 80 of sequence 0 is not in 0..80")]
fn a_page_outside_the_pool_is_named() {
    let mut case = case::<f32>();
    let (k, v) = (matrix(&mut case.k, PAGES * PAGE), matrix(&mut case.v, PAGES * PAGE));
    let q = matrix(&mut case.q, 6).top(1);
    let (mut o, mut partials) = (vec![0f32; q.len()], vec![0f32; partials_width(HEADS, 3)]);
    let (o, partials) = (View::of(&mut o), View::of(&mut partials));
    let (mut table, mut lens) = ([80], [3]);
    let (table, lens) = (View::of(&mut table), View::of(&mut lens));
    decode_fwd(&Device::cpu(1), o, q, k, v, table, lens, PAGE, HEADS, SCALE, partials);
}

/// bf16 results on matrix units, where probabilities are rounded to bf16 between the two products.
const ROUNDED: Within = Within::Distance(5e-3);

/// Sequences with their pages in no order, on a device.
struct Batch<'a> {
    bed: &'a Bed,
    dtype: Dtype,
    heads: Heads,
    page: usize,
    queries: Vec<f64>,
    pools: [View<'a>; 2],
    tables: Vec<Vec<i32>>,
}

impl<'a> Batch<'a> {
    fn new(bed: &'a Bed, dtype: Dtype, heads: Heads, page: usize, lens: &[usize], logits: f64) -> Batch<'a> {
        let each = lens.iter().max().unwrap().div_ceil(page);
        let count = (each * lens.len()).next_multiple_of(7) + 1;
        let mut free = (0..count).map(|p| (p * 7 + 3) % count);
        let tables = lens.iter().map(|len| {
            let mut pages: Vec<i32> = free.by_ref().take(len.div_ceil(page)).map(|p| p as i32).collect();
            pages.resize(each, -1);
            pages
        });
        let tables = tables.collect();
        let pools = [2, 3].map(|key| bed.normals(dtype, count * page, heads.kv * heads.size, key, 1.0));
        let queries = normals(1, lens.len() * heads.query * heads.size).iter().map(|q| q * logits).collect();
        Batch { bed, dtype, heads, page, queries, pools, tables }
    }

    /// Decodes some of the sequences, `times` over with the same scratch.
    fn decode(&self, lens: &[usize], which: &[usize], times: usize) -> Vec<f64> {
        let (bed, b, row, pages) = (self.bed, which.len(), self.heads.query * self.heads.size, self.tables[0].len());
        let queries: Vec<f64> = which.iter().flat_map(|i| &self.queries[i * row..(i + 1) * row]).copied().collect();
        let tables: Vec<i32> = which.iter().flat_map(|i| &self.tables[*i]).copied().collect();
        let lens: Vec<i32> = which.iter().map(|i| lens[*i] as i32).collect();
        let (q, o) = (bed.put(self.dtype, b, row, &queries), bed.zeros(self.dtype, b, row));
        let (table, lens) = (bed.ints(b, pages, &tables), bed.ints(1, b, &lens));
        let partials = bed.zeros(Dtype::F32, b, partials_width(self.heads, pages * self.page));
        let ([k, v], scale) = (self.pools, self.heads.scale());
        for _ in 0..times {
            decode_fwd(&bed.dev, o, q, k, v, table, lens, self.page, self.heads, scale, partials);
        }
        bed.get(o)
    }
}

fn agree_on(dtype: Dtype, heads: Heads, page: usize, lens: &[usize], logits: f64) {
    // A logit is rounded relative to itself, and its probability by as much.
    let within = match dtype {
        Dtype::Bf16 => ROUNDED,
        _ if logits > 1.0 => Within::Distance(1e-7 * logits),
        _ => F32,
    };
    let all: Vec<usize> = (0..lens.len()).collect();
    agree(&format!("decode {dtype} {heads:?} pages of {page} {lens:?} logits of {logits}"), |bed| {
        let batch = Batch::new(bed, dtype, heads, page, lens, logits);
        let together = batch.decode(lens, &all, 1);
        // A second call finds the counters as the first one did; and a sequence has the same bits alone.
        assert_eq!(batch.decode(lens, &all, 2), together);
        for i in &all {
            let row = heads.query * heads.size;
            assert_eq!(batch.decode(lens, &[*i], 1), together[i * row..(i + 1) * row], "sequence {i} alone");
        }
        vec![("o", within, together)]
    });
}

#[test]
fn gpus_agree() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_on(dtype, Heads { query: 2, kv: 1, size: 64 }, 64, &[1, 511, 512, 513, 0, 63], 1.0);
        agree_on(dtype, Heads { query: 4, kv: 2, size: 96 }, 64, &[65], 1.0);
        agree_on(dtype, Heads { query: 1, kv: 1, size: 128 }, 16, &[17, 600], 1.0);
        // More query heads than the matrix units have rows, heads narrower than a tile, pages of any size.
        agree_on(dtype, Heads { query: 20, kv: 1, size: 16 }, 48, &[49, 520], 1.0);
        // Neither whole vectors nor a head size of the matrix units.
        agree_on(dtype, Heads { query: 4, kv: 2, size: 5 }, 10, &[23, 530], 1.0);
        agree_on(dtype, Heads { query: 1, kv: 1, size: 256 }, 64, &[40], 1.0);
    }
}

#[test]
fn gpus_agree_on_large_logits() {
    for logits in [1e2, 1e4] {
        agree_on(Dtype::F32, Heads { query: 2, kv: 1, size: 64 }, 64, &[70, 520], logits);
        agree_on(Dtype::Bf16, Heads { query: 2, kv: 1, size: 64 }, 64, &[70, 520], logits);
    }
}

/// More than the 64 chunks that the merge weighs at a time.
#[test]
fn gpus_agree_on_a_long_sequence() {
    agree_on(Dtype::Bf16, Heads { query: 1, kv: 1, size: 8 }, 64, &[65 * CHUNK + 3], 1.0);
}

#[test]
fn gpus_give_nan_for_what_does_not_exist() {
    for (_, dev) in gpus() {
        let bed = Bed::new(dev);
        let heads = Heads { query: 2, kv: 1, size: 8 };
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let lens = [600, 600, 5];
            let mut batch = Batch::new(&bed, dtype, heads, 64, &lens, 1.0);
            batch.tables[0][2] = 1000;
            let o = batch.decode(&[600, 100_000, 5], &[0, 1, 2], 2);
            assert!(o[..32].iter().all(|x| x.is_nan()), "{o:?}");
            assert_eq!(o[32..], batch.decode(&lens, &[2], 1));
        }
    }
}
