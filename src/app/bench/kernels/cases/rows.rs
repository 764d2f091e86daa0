//! Ops that move rows: norms, rotations, gates, look-ups.

use super::super::Sizes;
use super::super::names;
use super::case;
use crate::app::bench::{Bound, Case, Operand};
use crate::base::dtype::Dtype;
use crate::ops::Heads;
use crate::ops::cost::Cost;
use crate::ops::embed::{embed_bwd, embed_bwd_cost, embed_fwd, embed_fwd_cost};
use crate::ops::rmsnorm::{rmsnorm_bwd, rmsnorm_bwd_cost, rmsnorm_fwd, rmsnorm_fwd_cost};
use crate::ops::rope::{QkNorm, RopeTable, rope_bwd, rope_bwd_cost, rope_fwd, rope_fwd_cost, rope_pages_fwd};
use crate::ops::swiglu::{swiglu_bwd, swiglu_bwd_cost, swiglu_fwd, swiglu_fwd_cost};

/// Ops on rows: norms, rotations, gates, look-ups.
pub(super) fn rows(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (t, d, f, stat) = (s.tokens, s.width, s.ffn, e.stat());
    let (by_width, by_ffn) = (names::rows(e, t, d), names::rows(e, t, f));
    let (n, w) = (O::normal(e, t, d), O::normal(e, 1, d));
    let wide = O::normal(e, t, f);
    let ids = O::ids(1, (0..t).map(|i| (i * 7919 % s.vocab) as i32).collect());
    let (h, k) = (s.heads, s.heads.size);
    let positions = O::ids(1, (0..t as i32).collect());
    let (q, kv) = (O::normal(e, t, h.query * k), O::normal(e, t, h.kv * k));
    let angles = || [O::normal(stat, t, k / 2), O::normal(stat, t, k / 2)];
    let rstd = O::normal(stat, t, h.query + h.kv);
    let turned = names::tokens(e, t, h);
    let norms = || [O::normal(e, 1, k), O::normal(e, 1, k)];
    // Query, key and value of a token beside each other, as the layer's products write them.
    let value = O::normal(e, t, h.kv * k);
    let pools = [(); 2].map(|()| O::zeros(e, t, h.kv * k));
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
            "qkv_tail",
            turned.clone(),
            qkv_tail_cost(e, t, h),
            Bound::Copy,
            [
                vec![q.clone(), kv.clone(), rstd.clone(), q.clone(), kv.clone()],
                norms().into(),
                angles().into(),
                vec![positions.clone(), value],
                pools.into(),
            ]
            .concat(),
            move |dev, v| {
                let norm = QkNorm { q: v[5], k: v[6], eps: 1e-6 };
                let table = RopeTable { cos: v[7], sin: v[8] };
                rope_pages_fwd(dev, v[0], [v[11], v[12]], v[2], [v[3], v[4], v[10]], v[9], Some(norm), table, v[9], h)
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

/// What follows the product for queries, keys and values: head norms, rotation, and both pools written. Queries and keys move as in the
/// rotation alone, of which the key's copy is the pool's; values are read and written.
fn qkv_tail_cost(e: Dtype, t: usize, heads: Heads) -> Cost {
    let values = Cost { bytes: (2 * t * heads.kv * heads.size * e.size()) as f64, flops: 0.0 };
    rope_fwd_cost(e, t, heads) + values
}
