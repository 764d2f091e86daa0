//! The products of a linear layer: forward, both gradients, the few rows of decoding; and a whole feed-forward part.

use super::super::Sizes;
use super::super::names;
use super::case;
use crate::app::bench::{Bound, Case, Operand};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::device::cuda::Products;
use crate::ops::cost::Cost;
use crate::ops::gemm::{Into, gemm_cost, gemm_gated, gemm_nn, gemm_nt, gemm_tn};

/// Rows of the large products.
pub fn rows(s: &Sizes) -> usize {
    s.tokens.min(8192)
}

/// Rows, columns and summed indices of the large forward products.
pub fn forward(s: &Sizes) -> [[usize; 3]; 3] {
    let (t, d, f) = (rows(s), s.width, s.ffn);
    [[t, d, d], [t, f, d], [t, d, f]]
}

/// What the orientations are called with the products that run: as the device chooses, and those that are asked for.
pub const OWN: [&str; 3] = ["gemm_nt", "gemm_nn", "gemm_tn"];
pub const PORTABLE: [&str; 3] = ["gemm_nt_portable", "gemm_nn_portable", "gemm_tn_portable"];
const CUBLASLT: [&str; 3] = ["gemm_nt_cublaslt", "gemm_nn_cublaslt", "gemm_tn_cublaslt"];

pub(super) fn products(dev: &Device, s: &Sizes, e: Dtype) -> Vec<Case> {
    let (d, f) = (s.width, s.ffn);
    let mut all = large(s, e, OWN, None);
    all.extend([1, 16].map(|m| nt(OWN[0], e, [m, f, d])));
    all.push(mlp(s, e));
    if let Device::Cuda(gpu) = dev {
        // Elsewhere the portable ones are the ones that run anyway.
        if gpu.capability() == (9, 0) && e == Dtype::Bf16 {
            all.extend(large(s, e, PORTABLE, Some(Products::Portable)));
        }
        all.extend(large(s, e, CUBLASLT, Some(Products::CublasLt)));
    }
    all
}

fn large(s: &Sizes, e: Dtype, [nt_name, nn_name, tn_name]: [&'static str; 3], products: Option<Products>) -> Vec<Case> {
    use Operand as O;
    let (t, d, f) = (rows(s), s.width, s.ffn);
    let mut all = forward(s).map(|edges| nt(nt_name, e, edges)).into_iter().collect::<Vec<_>>();
    all.push(case(
        nn_name,
        names::product(e, t, d, f),
        gemm_cost(e, t, d, f),
        Bound::Matrix,
        vec![O::zeros(e, t, d), O::normal(e, t, f), O::normal(e, f, d)],
        |dev, v| gemm_nn(dev, v[0], v[1], v[2], Into::Store),
    ));
    all.push(case(
        tn_name,
        names::product(e, f, d, t),
        gemm_cost(e, f, d, t),
        Bound::Matrix,
        vec![O::zeros(e.stat(), f, d), O::normal(e, t, f), O::normal(e, t, d)],
        |dev, v| gemm_tn(dev, v[0], v[1], v[2], Into::Add),
    ));
    all.into_iter().map(|case| Case { products, ..case }).collect()
}

fn nt(name: &'static str, e: Dtype, [m, n, k]: [usize; 3]) -> Case {
    use Operand as O;
    let bound = if m >= 256 { Bound::Matrix } else { Bound::Either };
    let operands = vec![O::zeros(e, m, n), O::normal(e, m, k), O::normal(e, n, k)];
    case(name, names::product(e, m, n, k), gemm_cost(e, m, n, k), bound, operands, |dev, v| {
        gemm_nt(dev, v[0], v[1], v[2], None, None)
    })
}

/// The feed-forward part with its residual: gate, up, SwiGLU, down. What lies between need not reach memory.
fn mlp(s: &Sizes, e: Dtype) -> Case {
    use Operand as O;
    let (t, d, f) = (rows(s), s.width, s.ffn);
    let (out, between, product) = (O::zeros(e, t, d), O::zeros(e, t, 2 * f), O::zeros(e, t, f));
    let (x, residual) = (O::normal(e, t, d), O::normal(e, t, d));
    let operands = vec![out, between, product, x, residual, O::normal(e, 2 * f, d), O::normal(e, d, f)];
    let cost = Cost { bytes: ((3 * t * d + 3 * d * f) * e.size()) as f64, flops: (6 * t * d * f) as f64 };
    case("mlp_fwd", names::product(e, t, d, f), cost, Bound::Matrix, operands, |dev, v| {
        gemm_gated(dev, v[2], v[1], v[3], v[5]);
        gemm_nt(dev, v[0], v[2], v[6], None, Some(v[4]))
    })
}
