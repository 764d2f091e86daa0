//! The cases: an op, its operands on the sizes, what it costs and what holds it up.

use super::super::{Bound, Case, Fill, Operand};
use super::Sizes;
use crate::base::dtype::Dtype;
use crate::device::{Device, STRETCH, View};
use crate::ops::adamw::{
    AdamW, adamw_8bit, adamw_8bit_cost, adamw_f32, adamw_f32_cost, adamw_master, adamw_master_cost,
};
use crate::ops::adamw::{adamw_sr, adamw_sr_cost};
use crate::ops::attention::{Paths, attention_bwd, attention_bwd_cost, attention_fwd, attention_fwd_cost};
use crate::ops::attention::{attention_gather_fwd, attention_gather_fwd_cost};
use crate::ops::cost::Cost;
use crate::ops::decode::{decode_fwd, decode_fwd_cost, partials_width};
use crate::ops::embed::{embed_bwd, embed_bwd_cost, embed_fwd, embed_fwd_cost};
use crate::ops::gemm::{Into, gemm_cost, gemm_nn, gemm_nt, gemm_tn};
use crate::ops::muon::{Muon, MuonScratch, muon, muon_cost};
use crate::ops::norm2::{blocks, norm2, norm2_cost};
use crate::ops::pages::{pages_write, pages_write_cost};
use crate::ops::rmsnorm::{rmsnorm_bwd, rmsnorm_bwd_cost, rmsnorm_fwd, rmsnorm_fwd_cost};
use crate::ops::rope::{QkNorm, RopeTable, rope_bwd, rope_bwd_cost, rope_fwd, rope_fwd_cost};
use crate::ops::sample::{Sampling, sample, sample_cost};
use crate::ops::swiglu::{swiglu_bwd, swiglu_bwd_cost, swiglu_fwd, swiglu_fwd_cost};
use crate::ops::xent::{xent_fwd, xent_fwd_cost, xent_step, xent_step_cost};

/// All of them.
pub fn cases(s: &Sizes, e: Dtype) -> Vec<Case> {
    let mut all = rows(s, e);
    all.extend(products(s, e));
    all.extend(sequences(s, e));
    all.extend(heads(s, e));
    all.extend(optimizers(s, e));
    all
}

fn case(
    op: &'static str,
    shape: String,
    cost: Cost,
    bound: Bound,
    operands: Vec<Operand>,
    work: impl Fn(&Device, &[View]) + Send + Sync + 'static,
) -> Case {
    Case { op, shape, cost, bound, operands, work: Box::new(work) }
}

/// Ops on rows: norms, rotations, gates, look-ups.
fn rows(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (t, d, f, stat) = (s.tokens, s.width, s.ffn, e.stat());
    let (by_width, by_ffn) = (format!("{e} {t} x {d}"), format!("{e} {t} x {f}"));
    let (n, w) = (O::normal(e, t, d), O::normal(e, 1, d));
    let wide = O::normal(e, t, f);
    let ids = O::ids(1, (0..t).map(|i| (i * 7919 % s.vocab) as i32).collect());
    let (h, k) = (s.heads, s.heads.size);
    let positions = O::ids(1, (0..t as i32).collect());
    let (q, kv) = (O::normal(e, t, h.query * k), O::normal(e, t, h.kv * k));
    let angles = || [O::normal(stat, t, k / 2), O::normal(stat, t, k / 2)];
    let rstd = O::normal(stat, t, h.query + h.kv);
    let turned = format!("{e} {t} tokens, {} on {} heads of {k}", h.query, h.kv);
    let norms = || [O::normal(e, 1, k), O::normal(e, 1, k)];
    let [dnq, dnk] = [(); 2].map(|()| O::zeros(stat, 1, k));
    vec![
        case(
            "rmsnorm_fwd",
            by_width.clone(),
            rmsnorm_fwd_cost(e, t, d),
            Bound::Copy,
            vec![n.clone(), O::zeros(stat, 1, t), n.clone(), w.clone()],
            |dev, v| rmsnorm_fwd(dev, v[0], v[1], v[2], v[3], 1e-5),
        ),
        case(
            "rmsnorm_bwd",
            by_width.clone(),
            rmsnorm_bwd_cost(e, t, d),
            Bound::Copy,
            vec![n.clone(), O::zeros(stat, 1, d), n.clone(), n.clone(), O::normal(stat, 1, t), w],
            |dev, v| rmsnorm_bwd(dev, v[0], Some(v[1]), v[2], v[3], v[4], v[5]),
        ),
        case(
            "rope_fwd",
            turned.clone(),
            rope_fwd_cost(e, t, h),
            Bound::Copy,
            [
                vec![q.clone(), kv.clone(), rstd.clone(), q.clone(), kv.clone()],
                norms().into(),
                angles().into(),
                vec![positions.clone()],
            ]
            .concat(),
            move |dev, v| {
                let norm = QkNorm { q: v[5], k: v[6], eps: 1e-6 };
                rope_fwd(dev, v[0], v[1], v[2], v[3], v[4], Some(norm), RopeTable { cos: v[7], sin: v[8] }, v[9], h)
            },
        ),
        case(
            "rope_bwd",
            turned,
            rope_bwd_cost(e, t, h),
            Bound::Copy,
            [vec![q.clone(), kv.clone(), dnq, dnk, q, kv, rstd], norms().into(), angles().into(), vec![positions]]
                .concat(),
            move |dev, v| {
                let (norm, table) = (QkNorm { q: v[7], k: v[8], eps: 1e-6 }, RopeTable { cos: v[9], sin: v[10] });
                rope_bwd(dev, v[0], v[1], Some((v[2], v[3])), v[4], v[5], v[6], Some(norm), table, v[11], h)
            },
        ),
        case(
            "swiglu_fwd",
            by_ffn.clone(),
            swiglu_fwd_cost(e, t * f),
            Bound::Copy,
            vec![wide.clone(), wide.clone(), wide.clone()],
            |dev, v| swiglu_fwd(dev, v[0], v[1], v[2]),
        ),
        case(
            "swiglu_bwd",
            by_ffn,
            swiglu_bwd_cost(e, t * f),
            Bound::Copy,
            vec![wide.clone(), wide.clone(), wide.clone(), wide.clone(), wide],
            |dev, v| swiglu_bwd(dev, v[0], v[1], v[2], v[3], v[4]),
        ),
        case(
            "embed_fwd",
            by_width.clone(),
            embed_fwd_cost(e, t, d),
            Bound::Copy,
            vec![n.clone(), O::normal(e, s.vocab, d), ids.clone()],
            |dev, v| embed_fwd(dev, v[0], v[1], v[2]),
        ),
        case(
            "embed_bwd",
            by_width,
            embed_bwd_cost(e, stat, t, d),
            Bound::Copy,
            vec![O::zeros(stat, s.vocab, d), n, ids],
            |dev, v| embed_bwd(dev, v[0], v[1], v[2], None),
        ),
    ]
}

/// The products of a linear layer: forward, both gradients, and the few rows of decoding.
fn products(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (t, d, f, stat) = (s.tokens.min(8192), s.width, s.ffn, e.stat());
    let nt = |m: usize, n: usize, k: usize| {
        let operands = vec![O::zeros(e, m, n), O::normal(e, m, k), O::normal(e, n, k)];
        let bound = if m >= 256 { Bound::Matrix } else { Bound::Either };
        case("gemm_nt", format!("{e} {m} x {n} x {k}"), gemm_cost(e, m, n, k), bound, operands, |dev, v| {
            gemm_nt(dev, v[0], v[1], v[2], None, None)
        })
    };
    vec![
        nt(t, d, d),
        nt(t, f, d),
        nt(t, d, f),
        nt(1, f, d),
        nt(16, f, d),
        case(
            "gemm_nn",
            format!("{e} {t} x {d} x {f}"),
            gemm_cost(e, t, d, f),
            Bound::Matrix,
            vec![O::zeros(e, t, d), O::normal(e, t, f), O::normal(e, f, d)],
            |dev, v| gemm_nn(dev, v[0], v[1], v[2], Into::Store),
        ),
        case(
            "gemm_tn",
            format!("{e} {f} x {d} x {t}"),
            gemm_cost(e, f, d, t),
            Bound::Matrix,
            vec![O::zeros(stat, f, d), O::normal(e, t, f), O::normal(e, t, d)],
            |dev, v| gemm_tn(dev, v[0], v[1], v[2], Into::Add),
        ),
    ]
}

/// Attention over packed sequences, decoding over a paged cache, and writing to it.
fn sequences(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (h, stat) = (s.heads, e.stat());
    let (lengths, t) = (s.sequences.clone(), s.sequences.iter().sum::<usize>());
    let starts = lengths.iter().scan(0, |at, n| (*at += *n as i32, Some(*at)).1);
    let starts = O::ids(1, [0].into_iter().chain(starts).collect());
    let list = lengths.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("+");
    let shape = format!("{e} {list} tokens, {} on {} heads of {}", h.query, h.kv, h.size);
    let (q, kv) = (O::normal(e, t, h.query * h.size), O::normal(e, t, h.kv * h.size));
    let lse = O::normal(stat, t, h.query);
    let scale = h.scale();
    const PAGE: usize = 64;
    let [b, len] = s.decode;
    let per = len.div_ceil(PAGE);
    // Pages of one sequence lie apart, as in a pool that has been in use.
    let table = O::ids(b, (0..b * per).map(|i| (i % per * b + i / per) as i32).collect());
    let pool = O::normal(e, b * per * PAGE, h.kv * h.size);
    let q_rows = O::normal(e, b, h.query * h.size);
    let partials = O::zeros(stat, b, partials_width(h, per * PAGE));
    let decode = format!("{e} {b} x {len} tokens, {} on {} heads of {}", h.query, h.kv, h.size);
    let places = O::ids(1, (0..(b * per * PAGE) as i32).collect());
    // A shared beginning of three quarters, then each sequence's own part, all in rows of one pool.
    let own = lengths.iter().map(|n| n.div_ceil(4)).collect::<Vec<usize>>();
    let ends = |of: &[usize]| of.iter().scan(0, |at, n| (*at += *n as i32, Some(*at)).1).collect::<Vec<i32>>();
    let offsets = |of: &[usize]| O::ids(1, [0].into_iter().chain(ends(of)).collect());
    let shared = lengths.iter().zip(&own).map(|(n, own)| n - own).max().unwrap_or(0);
    let firsts = own.iter().scan(shared, |at, n| Some(std::mem::replace(at, *at + n)));
    let listed =
        lengths.iter().zip(&own).zip(firsts).flat_map(|((n, own), first)| (0..n - own).chain(first..first + own));
    let listed = O::ids(1, listed.map(|row| row as i32).collect());
    let fresh: usize = own.iter().sum();
    let held = O::normal(e, shared + fresh, h.kv * h.size);
    let (asked, asked_lse) = (O::normal(e, fresh, h.query * h.size), O::zeros(stat, fresh, h.query));
    let gathered = format!("{e} last {fresh} of {list} tokens, {} on {} heads of {}", h.query, h.kv, h.size);
    vec![
        case(
            "attention_gather_fwd",
            gathered,
            attention_gather_fwd_cost(e, &own, &lengths, h),
            Bound::Matrix,
            vec![asked.clone(), asked_lse, asked, held.clone(), held, offsets(&own), offsets(&lengths), listed],
            move |dev, v| {
                let paths = Paths { queries: v[5], keys: v[6], places: v[7] };
                attention_gather_fwd(dev, v[0], v[1], v[2], v[3], v[4], paths, h, scale)
            },
        ),
        case(
            "attention_fwd",
            shape.clone(),
            attention_fwd_cost(e, &lengths, h),
            Bound::Matrix,
            vec![q.clone(), lse.clone(), q.clone(), kv.clone(), kv.clone(), starts.clone()],
            move |dev, v| attention_fwd(dev, v[0], v[1], v[2], v[3], v[4], v[5], h, scale),
        ),
        case(
            "attention_bwd",
            shape,
            attention_bwd_cost(e, &lengths, h),
            Bound::Matrix,
            vec![
                q.clone(),
                kv.clone(),
                kv.clone(),
                O::zeros(stat, t, h.query),
                q.clone(),
                q.clone(),
                // Any finite log-sum-exp will do.
                O { fill: Fill::Normal(0.0), ..lse },
                q,
                kv.clone(),
                kv,
                starts,
            ],
            move |dev, v| {
                attention_bwd(dev, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], h, scale)
            },
        ),
        case(
            "decode_fwd",
            decode,
            decode_fwd_cost(e, &vec![len; b], h),
            Bound::Read,
            vec![q_rows.clone(), q_rows, pool.clone(), pool.clone(), table, O::ids(1, vec![len as i32; b]), partials],
            move |dev, v| decode_fwd(dev, v[0], v[1], v[2], v[3], v[4], v[5], PAGE, h, scale, v[6]),
        ),
        case(
            "pages_write",
            format!("{e} {} x {}", b * per * PAGE, h.kv * h.size),
            pages_write_cost(e, b * per * PAGE, h.kv * h.size),
            Bound::Copy,
            vec![pool.clone(), pool.clone(), pool.clone(), pool, places],
            |dev, v| pages_write(dev, v[0], v[1], v[2], v[3], v[4]),
        ),
    ]
}

/// What reads a row of the vocabulary: the loss and sampling.
fn heads(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (r, d, v, stat) = (s.tokens.min(2048), s.width, s.vocab, e.stat());
    let chunk = O::zeros(stat, r.min(1024), v);
    let (h, w) = (O::normal(e, r, d), O { fill: Fill::Normal(0.02), ..O::normal(e, v, d) });
    let targets = O::ids(1, (0..r).map(|i| (i * 7919 % v) as i32).collect());
    let row = || O::zeros(stat, 1, r);
    let shape = format!("{e} {r} x {d} x {v}");
    let drawn = s.decode[0];
    let settings = |base: Sampling| {
        let rows = (0..drawn as u64).flat_map(|seed| Sampling { seed, ..base }.row());
        O::ids(drawn, rows.collect())
    };
    let draw = |name: &'static str, base: Sampling| {
        let logits = O { fill: Fill::Normal(3.0), ..O::normal(stat, drawn, v) };
        case(
            name,
            format!("{stat} {drawn} x {v}"),
            sample_cost(stat, drawn, v),
            Bound::Read,
            vec![O::zeros(Dtype::I32, 1, drawn), O::zeros(stat, 1, drawn), logits, settings(base)],
            |dev, v| sample(dev, v[0], v[1], v[2], v[3]),
        )
    };
    let plain = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    vec![
        case(
            "xent_fwd",
            shape.clone(),
            xent_fwd_cost(e, r, d, v),
            Bound::Matrix,
            vec![row(), row(), h.clone(), w.clone(), targets.clone(), chunk.clone()],
            |dev, v| xent_fwd(dev, v[0], v[1], v[2], v[3], v[4], v[5]),
        ),
        case(
            "xent_step",
            shape,
            xent_step_cost(e, stat, r, d, v),
            Bound::Matrix,
            vec![row(), row(), h.clone(), O::zeros(stat, v, d), h, w, targets, O::normal(stat, 1, r), chunk],
            |dev, v| xent_step(dev, v[0], v[1], v[2], Some(v[3]), v[4], v[5], v[6], v[7], v[8]),
        ),
        draw("sample_greedy", Sampling::GREEDY),
        draw("sample_plain", plain),
        draw("sample_filtered", Sampling { top_k: 50, top_p: 0.95, ..plain }),
    ]
}

/// Steps of the optimizers and the norm that clips them.
fn optimizers(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let n = s.parameters;
    let (wide, narrow) = (O::normal(Dtype::F32, 1, n), O::normal(Dtype::Bf16, 1, n));
    let (moment, codes) = (O::zeros(Dtype::F32, 1, n), O::zeros(Dtype::U8, 1, n));
    let (decays, scales) = (O::zeros(Dtype::U8, 1, n.div_ceil(STRETCH)), O::zeros(Dtype::F32, 1, n.div_ceil(STRETCH)));
    let hp = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 1, clip: 1.0, seed: 1 };
    let size = |what: &str| format!("{what} {n}");
    let [rows, cols] = s.matrix;
    let least = rows.min(cols);
    let (matrix, square) = (O::zeros(Dtype::F32, rows, cols), O::zeros(Dtype::F32, least, least));
    let partials = |n: usize| O::zeros(Dtype::F64, 1, blocks(n));
    let settings = Muon { lr: 1e-3, momentum: 0.95, decay: 0.1, clip: 1.0, step: 1, seed: 1 };
    vec![
        case(
            "adamw_f32",
            size("f32"),
            adamw_f32_cost(n),
            Bound::Copy,
            vec![wide.clone(), moment.clone(), moment.clone(), wide.clone(), decays.clone()],
            move |dev, v| adamw_f32(dev, &hp, v[0], v[1], v[2], v[3], v[4]),
        ),
        case(
            "adamw_master",
            size("bf16, f32 gradients"),
            adamw_master_cost(Dtype::F32, n),
            Bound::Copy,
            vec![narrow.clone(), wide.clone(), moment.clone(), moment.clone(), wide.clone(), decays.clone()],
            move |dev, v| adamw_master(dev, &hp, v[0], v[1], v[2], v[3], v[4], v[5]),
        ),
        case(
            "adamw_sr",
            size("bf16, bf16 gradients"),
            adamw_sr_cost(Dtype::Bf16, n),
            Bound::Copy,
            vec![narrow.clone(), moment.clone(), moment, narrow.clone(), decays.clone()],
            move |dev, v| adamw_sr(dev, &hp, v[0], v[1], v[2], v[3], v[4], 0),
        ),
        case(
            "adamw_8bit",
            size("bf16, bf16 gradients"),
            adamw_8bit_cost(Dtype::Bf16, Dtype::Bf16, n),
            Bound::Copy,
            vec![narrow.clone(), codes.clone(), codes, scales.clone(), scales, narrow, decays],
            move |dev, v| adamw_8bit(dev, &hp, v[0], v[1], v[2], v[3], v[4], v[5], v[6]),
        ),
        case(
            "norm2",
            size("f32"),
            norm2_cost(Dtype::F32, n),
            Bound::Read,
            vec![O::zeros(Dtype::F64, 1, 1), partials(n), wide],
            |dev, v| norm2(dev, v[0], v[1], v[2]),
        ),
        case(
            "muon",
            format!("{e} {rows} x {cols}"),
            muon_cost(e, Dtype::F32, rows, cols),
            Bound::Matrix,
            vec![
                O::normal(e, rows, cols),
                matrix.clone(),
                O::normal(Dtype::F32, rows, cols),
                matrix.clone(),
                matrix,
                square.clone(),
                square,
                partials(rows * cols),
                O::zeros(Dtype::F64, 1, 1),
            ],
            move |dev, v| {
                let scratch = MuonScratch { x: v[3], y: v[4], gram: v[5], poly: v[6], partials: v[7], sum: v[8] };
                muon(dev, &settings, v[0], v[1], v[2], scratch, 0)
            },
        ),
    ]
}
