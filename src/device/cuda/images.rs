//! The compiled kernels that this binary carries.

use crate::error::{Error, Result};

/// Image bytes aligned so that the driver can read their fields. A build without nvcc has none.
#[allow(dead_code)]
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Registers, shared memory and spills of every kernel, from ptxas: a header line, then `kernel, architecture, registers,
/// shared bytes, spill bytes` separated by tabs. Only the header where the build had no nvcc.
pub static LEDGER: &str = include_str!(concat!(env!("OUT_DIR"), "/ledger.tsv"));

/// `(kernel file, bytes)` of every image.
pub fn images() -> &'static [(&'static str, &'static [u8])] {
    IMAGES
}

/// Whether this build has images that a real GPU can run.
///
/// # Errors
/// Names what was missing at build time and the command that cures it.
pub fn present() -> Result<()> {
    if MISSING.is_empty() {
        Ok(())
    } else {
        Err(Error::device(format!("this binary carries no CUDA kernels: {MISSING}")))
    }
}
