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
    carried(MISSING)
}

fn carried(missing: &str) -> Result<()> {
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::device(format!("this binary carries no CUDA kernels: {missing}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_nvcc_says_what_was_missing() {
        assert!(carried("").is_ok());
        let said = carried("nvcc was not found; run scripts/fetch_nvcc").unwrap_err();
        assert_eq!(said.exit_code(), 1);
        assert!(said.to_string().contains("this binary carries no CUDA kernels: nvcc was not found"), "{said}");
        // A binary has all of its images or the reason why not.
        assert_eq!(MISSING.is_empty(), LEDGER.lines().count() > 1, "{MISSING}");
    }
}
