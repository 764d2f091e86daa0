//! Whose matrix products run on a GPU.

use super::Gpu;
use crate::error::Result;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Whose matrix products to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// The engine's best for the GPU and the shape.
    #[default]
    Own,
    /// The engine's own, without those made for one kind of GPU.
    Portable,
    /// NVIDIA's library, outside the promise of determinism.
    CublasLt,
}

/// The choice, which every clone of a [`Gpu`] shares.
#[derive(Default)]
pub(super) struct Chosen(AtomicU8);

impl Gpu {
    /// From now on these products. Recorded graphs keep those that they were recorded with.
    ///
    /// # Errors
    /// A library that is not there.
    pub fn use_products(&self, products: Products) -> Result<()> {
        if products == Products::CublasLt {
            self.open_cublaslt()?;
        }
        self.0.products.0.store(products as u8, Relaxed);
        Ok(())
    }

    /// Whose products run.
    pub fn products(&self) -> Products {
        let all = [Products::Own, Products::Portable, Products::CublasLt];
        all[self.0.products.0.load(Relaxed) as usize]
    }
}
