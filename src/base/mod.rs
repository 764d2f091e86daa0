//! Floor 0: element types, random bits, threads, vector code and files that appear whole. Nothing here knows what a model is.

#[cfg(test)]
pub mod alone;
pub mod atomic;
pub mod dtype;
pub mod normal;
pub mod par;
pub mod rng;
pub mod simd;
