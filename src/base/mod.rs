//! Floor 0: element types, random bits, threads and vector code. Nothing here knows what a model is.

pub mod dtype;
pub mod par;
pub mod rng;
pub mod simd;
