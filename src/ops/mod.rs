//! Floor 2: one file per op family. Each opens with the formula and the contract, then the public functions with their
//! checks, the CPU oracle, and the tests.
//!
//! Conventions. Outputs come first. Letters: `B` sequences, `T` packed tokens, `D` width, `H` query heads, `G` key-value
//! heads, `K` head size, `F` feed-forward width, `V` vocabulary, `R` labelled rows. The gradient of `x` is `dx`.
//! Oracles are generic over the element type: f64 for finite differences, f32 for running, bf16 to round where the
//! kernels round. Statistics (`rstd`, `lse`) have the type [`Dtype::stat`](crate::base::dtype::Dtype::stat) gives.

pub mod gemm;
pub mod rmsnorm;

#[cfg(test)]
pub(crate) mod check;

/// How attention divides a row: `query` heads of `size` columns each, sharing `kv` key-value heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    pub size: usize,
}
