use super::*;
use crate::base::dtype::bf16;
use crate::ops::check::{BF16_ATTENTION, Bed, agree, close, dot, gpus, matrix, normals, of_logits, stored};

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
    let mut shares = vec![0i32; b];
    let cache = Paged { k, v, table, lens, shares: View::of(&mut shares), page: PAGE };
    decode_fwd(&Device::cpu(threads), matrix(&mut o, b), matrix(&mut q, b), cache, HEADS, SCALE, partials);
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
    let (mut table, mut lens, mut shares) = ([80], [3], [0]);
    let (table, lens, shares) = (View::of(&mut table), View::of(&mut lens), View::of(&mut shares));
    decode_fwd(&Device::cpu(1), o, q, Paged { k, v, table, lens, shares, page: PAGE }, HEADS, SCALE, partials);
}

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

    /// Has each sequence begin with that many pages of another.
    fn sharing(mut self, beginnings: &[(usize, usize, usize)]) -> Batch<'a> {
        for (sequence, other, pages) in beginnings {
            let of_other = self.tables[*other][..*pages].to_vec();
            self.tables[*sequence][..*pages].copy_from_slice(&of_other);
        }
        self
    }

    /// Decodes some of the sequences, `times` over with the same scratch, where all reads for itself.
    fn decode(&self, lens: &[usize], which: &[usize], times: usize) -> Vec<f64> {
        self.run(lens, which, times, false).0
    }

    /// As above, together if so chosen; and who shares how many chunks.
    fn run(&self, lens: &[usize], which: &[usize], times: usize, together: bool) -> (Vec<f64>, Vec<i32>) {
        let (bed, b, row, pages) = (self.bed, which.len(), self.heads.query * self.heads.size, self.tables[0].len());
        let queries: Vec<f64> = which.iter().flat_map(|i| &self.queries[i * row..(i + 1) * row]).copied().collect();
        let tables: Vec<i32> = which.iter().flat_map(|i| &self.tables[*i]).copied().collect();
        let lens: Vec<i32> = which.iter().map(|i| lens[*i] as i32).collect();
        let (q, o) = (bed.put(self.dtype, b, row, &queries), bed.zeros(self.dtype, b, row));
        let (table, lens) = (bed.ints(b, pages, &tables), bed.ints(1, b, &lens));
        let partials = bed.zeros(Dtype::F32, b, partials_width(self.heads, pages * self.page));
        let ([k, v], scale, page) = (self.pools, self.heads.scale(), self.page);
        let found = bed.ints(1, b, &vec![0; b]);
        if together {
            shares(&bed.dev, found, table, lens, page, k.rows() / page);
        }
        for _ in 0..times {
            let cache = Paged { k, v, table, lens, shares: found, page };
            decode_fwd(&bed.dev, o, q, cache, self.heads, scale, partials);
        }
        (bed.get(o), bed.get(found).iter().map(|n| *n as i32).collect())
    }
}

fn agree_on(dtype: Dtype, heads: Heads, page: usize, lens: &[usize], logits: f64) {
    let within = if dtype == Dtype::Bf16 { BF16_ATTENTION } else { of_logits(logits) };
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

/// Sequences that share beginnings are read together, in every mixture, and nobody's bits show it.
fn share(heads: Heads, page: usize, lens: &[usize], beginnings: &[(usize, usize, usize)], want: &[i32]) {
    let all: Vec<usize> = (0..lens.len()).collect();
    agree(&format!("decode {heads:?} pages of {page} {lens:?} sharing {beginnings:?}"), |bed| {
        let batch = Batch::new(bed, Dtype::Bf16, heads, page, lens, 1.0).sharing(beginnings);
        let (together, found) = batch.run(lens, &all, 2, true);
        assert_eq!(found, want);
        assert!(together == batch.decode(lens, &all, 1), "each for itself");
        vec![("o", BF16_ATTENTION, together)]
    });
}

#[test]
fn what_is_shared_is_read_once_with_the_same_bits_on_gpus() {
    let heads = |query, kv, size| Heads { query, kv, size };
    // Two and three sequences of two heads: the rows of one matrix. The third shares one chunk of two, the last nothing.
    let lens = [1030, 1100, 1024, 515, 3];
    share(heads(4, 2, 64), 64, &lens, &[(1, 0, 16), (2, 1, 9), (3, 2, 8)], &[0, 2, 1, 1, 0]);
    // Five of seven heads: 35 rows, then (after eight) a new item; sequences that are done after the shared chunk.
    let lens = [512, 700, 512, 513, 600, 512, 512, 512, 512, 520];
    let beginnings: Vec<_> = (1..10).map(|i| (i, 0, 8)).collect();
    share(heads(7, 1, 96), 64, &lens, &beginnings, &[0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    // Heads of 128, a full item of 64 rows, pages that do not divide a chunk.
    let beginnings: Vec<_> = (1..17).map(|i| (i, i - 1, 22)).collect();
    let shared: Vec<i32> = (0..17).map(|i| (i > 0) as i32).collect();
    share(heads(4, 1, 128), 24, &[530; 17], &beginnings, &shared);
    // One head each, narrower than a tile: 32 sequences are one item.
    let beginnings: Vec<_> = (1..35).map(|i| (i, 0, 8)).collect();
    let shared: Vec<i32> = (0..35).map(|i| (i > 0) as i32).collect();
    share(heads(1, 1, 24), 64, &[515; 35], &beginnings, &shared);
    // More heads than rows: each for itself.
    share(heads(17, 1, 16), 64, &[520, 530], &[(1, 0, 8)], &[0, 1]);
}

#[test]
fn gpus_share_pages_where_they_are_the_same_and_exist() {
    let (width, page, pages) = (20, 64, 50);
    let row = |first: i32| (0..width as i32).map(|i| (first + i) % pages).collect::<Vec<_>>();
    let with = |at: usize, name: i32| {
        let mut row = row(0);
        row[at] = name;
        row
    };
    let cases = [
        (row(0), 1280, 0),
        (row(0), 1280, 2),
        (row(0), 1023, 1),
        (row(0), 511, 0),
        (row(0), 1280, 0),
        (with(16, 9), 1280, 2),
        (with(15, 9), 1280, 1),
        (with(7, 9), 1280, 0),
        (row(1), 1280, 0),
        (row(0), 0, 0),
        (row(0), 1281, 0),
        (row(0), 1280, 0),
        (row(0), -1, 0),
        (with(15, 50), 1280, 0),
        (with(15, 50), 1280, 1),
        (with(15, -1), 1280, 1),
        (with(15, -1), 1280, 1),
    ];
    let tables: Vec<i32> = cases.iter().flat_map(|c| c.0.clone()).collect();
    let lens: Vec<i32> = cases.iter().map(|c| c.1).collect();
    let want: Vec<f64> = cases.iter().map(|c| c.2 as f64).collect();
    let devices = [("cpu".to_string(), Device::cpu(1))].into_iter().chain(gpus());
    for (name, dev) in devices {
        let bed = Bed::new(dev);
        let found = bed.ints(1, cases.len(), &vec![7; cases.len()]);
        let (table, lens) = (bed.ints(cases.len(), width, &tables), bed.ints(1, cases.len(), &lens));
        shares(&bed.dev, found, table, lens, page, pages as usize);
        assert_eq!(bed.get(found), want, "{name}");
    }
    let group = [1, 2, 3, 4, 7, 8, 16, 17, 64, 65].map(together);
    assert_eq!(group, [32, 32, 16, 16, 8, 8, 4, 1, 1, 1]);
}
