//! What reads a row of the vocabulary: the loss and sampling.

use super::super::Sizes;
use super::super::names;
use super::case;
use crate::app::bench::{Bound, Case, Fill, Operand};
use crate::base::dtype::Dtype;
use crate::ops::sample::{Sampling, sample, sample_cost};
use crate::ops::xent::{xent_fwd, xent_fwd_cost, xent_step, xent_step_cost};

pub(super) fn heads(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let (r, d, v, stat) = (s.tokens.min(8192), s.width, s.vocab, e.stat());
    let chunk = O::zeros(stat, r.min(1024), v);
    let (h, w) = (O::normal(e, r, d), O { fill: Fill::Normal(0.02), ..O::normal(e, v, d) });
    let targets = O::ids(1, (0..r).map(|i| (i * 7919 % v) as i32).collect());
    let row = || O::zeros(stat, 1, r);
    let shape = names::product(e, r, d, v);
    let drawn = s.decode[0];
    let settings = |base: Sampling| {
        let rows = (0..drawn as u64).flat_map(|seed| Sampling { seed, ..base }.row());
        O::ids(drawn, rows.collect())
    };
    let draw = |name: &'static str, base: Sampling| {
        let logits = O { fill: Fill::Normal(3.0), ..O::normal(stat, drawn, v) };
        case(
            name,
            names::rows(stat, drawn, v),
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
