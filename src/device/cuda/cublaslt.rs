//! Matrix products by NVIDIA's cuBLASLt, for who asks for it (`--gemm cublaslt`): an option and a yardstick, found at run time.
//!
//! It is outside the promise of determinism: it may choose another algorithm for another number of rows, so that a score can
//! change its last bits with the batch.

use super::{Gpu, WORKSPACE};
use crate::base::dtype::Dtype;
use crate::device::View;
use crate::error::{Error, Result};
use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType,
};
use std::ffi::c_void;
use std::ptr;

/// An opened library.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
}

// SAFETY: the library's handles may be used from any thread.
unsafe impl Send for CublasLt {}
unsafe impl Sync for CublasLt {}

/// One factor of [`Gpu::cublaslt_product`]: a matrix whose columns are the summed index, or whose rows are.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub view: View<'a>,
    pub summed_along_columns: bool,
}

impl<'a> Factor<'a> {
    /// Its rows and columns as a library that thinks in columns sees them.
    fn columns_first(self, free: usize, depth: usize) -> (usize, usize, View<'a>) {
        if self.summed_along_columns { (depth, free, self.view) } else { (free, depth, self.view) }
    }
}

impl CublasLt {
    /// # Errors
    /// The library is not there, or does not start.
    fn open() -> Result<CublasLt> {
        // Every other call would panic without one.
        if !library_present() {
            return Err(Error::device(
                "--gemm cublaslt: libcublasLt.so was not found; install NVIDIA's cuBLAS and put it on LD_LIBRARY_PATH, or \
                 leave --gemm away: the engine's own products need nothing",
            ));
        }
        let handle = lt::create_handle().map_err(|e| Error::device(format!("cuBLASLt does not start: {:?}", e.0)))?;
        Ok(CublasLt { handle })
    }
}

/// Whether the library can be opened.
pub fn library_present() -> bool {
    // SAFETY: the probe only opens and closes the library.
    unsafe { sys::is_culib_present() }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created by `open`, destroyed once. An error has no one to go to.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// Descriptors that are destroyed when the call ends, whatever happened.
struct Descriptors {
    product: sys::cublasLtMatmulDesc_t,
    preference: sys::cublasLtMatmulPreference_t,
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: each was created once; null where creation failed.
        unsafe {
            for layout in &self.layouts {
                let _ = lt::destroy_matrix_layout(*layout);
            }
            if !self.preference.is_null() {
                let _ = lt::destroy_matmul_pref(self.preference);
            }
            if !self.product.is_null() {
                let _ = lt::destroy_matmul_desc(self.product);
            }
        }
    }
}

impl Gpu {
    /// Opens the library, once.
    ///
    /// # Errors
    /// The library is not there.
    pub(super) fn open_cublaslt(&self) -> Result<()> {
        if self.0.cublaslt.get().is_none() {
            self.enter();
            let _ = self.0.cublaslt.set(CublasLt::open()?);
        }
        Ok(())
    }

    /// `y = left right (+ bias of the columns) (+ beta start)`: `y [M,N]`; the left factor's free index is y's row, the right
    /// one's its column. `start` may be `y`.
    pub(crate) fn cublaslt_product(
        &self,
        y: View,
        left: Factor,
        right: Factor,
        depth: usize,
        bias: Option<View>,
        start: Option<View>,
    ) {
        self.enter();
        let Some(library) = self.0.cublaslt.get() else { panic!("cuBLASLt was not asked for") };
        if let Err(error) = self.try_product(library, y, left, right, depth, bias, start) {
            let [m, n] = y.shape();
            let error = Error::device(format!("cuBLASLt, product [{m}, {n}] over {depth}: {:?}", error.0));
            self.state().error.get_or_insert(error);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn try_product(
        &self,
        library: &CublasLt,
        y: View,
        left: Factor,
        right: Factor,
        depth: usize,
        bias: Option<View>,
        start: Option<View>,
    ) -> std::result::Result<(), CublasError> {
        // The library thinks in columns: row-major y is its y^T [N, M] = right^T left^T, so the right factor comes first.
        let [m, n] = y.shape();
        // CUBLAS_OP_N and CUBLAS_OP_T.
        let operation = |transposed: bool| i32::from(transposed);
        let (transpose_a, transpose_b) = (operation(right.summed_along_columns), operation(!left.summed_along_columns));
        let (one, beta) = (1f32, if start.is_some() { 1f32 } else { 0f32 });
        let mut d = Descriptors {
            product: lt::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F)?,
            preference: ptr::null_mut(),
            layouts: Vec::new(),
        };
        // SAFETY: every attribute is given with its own type and size; all tensors are device memory with the stated strides.
        unsafe {
            set(d.product, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transpose_a)?;
            set(d.product, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &transpose_b)?;
            if let Some(bias) = bias {
                set(
                    d.product,
                    Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                    &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
                )?;
                set(d.product, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address())?;
                set(d.product, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &stored(bias.dtype()))?;
            }
            d.preference = lt::create_matmul_pref()?;
            let most = WORKSPACE;
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            lt::set_matmul_pref_attribute(d.preference, attribute, (&raw const most).cast(), size_of::<usize>())?;
            let c = start.unwrap_or(y);
            for (rows, cols, view) in
                [right.columns_first(n, depth), left.columns_first(m, depth), (n, m, c), (n, m, y)]
            {
                let layout =
                    lt::create_matrix_layout(stored(view.dtype()), rows as u64, cols as u64, view.stride() as i64)?;
                d.layouts.push(layout);
            }
            let [la, lb, lc, ly] = [d.layouts[0], d.layouts[1], d.layouts[2], d.layouts[3]];
            let found = lt::get_matmul_algo_heuristic(library.handle, d.product, la, lb, lc, ly, d.preference)?;
            let address = |view: View| view.address() as *const c_void;
            let workspace = self.workspace(Dtype::U8, 1, WORKSPACE).address() as *mut c_void;
            lt::matmul(
                library.handle,
                d.product,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                address(right.view),
                la,
                address(left.view),
                lb,
                address(c),
                lc,
                y.address() as *mut c_void,
                ly,
                &found.algo,
                workspace,
                WORKSPACE,
                self.stream().cast(),
            )
        }
    }
}

/// # Safety
/// `T` is the attribute's type.
unsafe fn set<T>(
    product: sys::cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // SAFETY: as the caller says.
    unsafe { lt::set_matmul_desc_attribute(product, attribute, (value as *const T).cast(), size_of::<T>()) }
}

fn stored(dtype: Dtype) -> cudaDataType {
    match dtype {
        Dtype::F32 => cudaDataType::CUDA_R_32F,
        Dtype::Bf16 => cudaDataType::CUDA_R_16BF,
        other => panic!("no product of {other}"),
    }
}
