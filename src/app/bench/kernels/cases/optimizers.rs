//! Steps of the optimizers and the norm that clips them.

use super::super::Sizes;
use super::super::names;
use super::case;
use crate::app::bench::{Bound, Case, Operand};
use crate::base::dtype::Dtype;
use crate::device::STRETCH;
use crate::ops::adamw::{
    AdamW, adamw_8bit, adamw_8bit_cost, adamw_f32, adamw_f32_cost, adamw_master, adamw_master_cost, adamw_sr,
    adamw_sr_cost,
};
use crate::ops::muon::{Muon, MuonScratch, muon, muon_cost};
use crate::ops::norm2::{blocks, norm2, norm2_cost};

pub(super) fn optimizers(s: &Sizes, e: Dtype) -> Vec<Case> {
    use Operand as O;
    let n = s.parameters;
    let (wide, narrow) = (O::normal(Dtype::F32, 1, n), O::normal(Dtype::Bf16, 1, n));
    let (moment, codes) = (O::zeros(Dtype::F32, 1, n), O::zeros(Dtype::U8, 1, n));
    let (decays, scales) = (O::zeros(Dtype::U8, 1, n.div_ceil(STRETCH)), O::zeros(Dtype::F32, 1, n.div_ceil(STRETCH)));
    let hp = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 1, clip: 1.0, seed: 1 };
    let size = |what: &str| names::parameters(what, n);
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
            names::rows(e, rows, cols),
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
