//! What the tensor memory accelerator needs to know of a tensor.

use super::driver::check;
use crate::base::dtype::Dtype;
use crate::device::View;
use crate::error::Result;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

/// How a box's rows are permuted in shared memory, against bank conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    /// 16-byte pieces within 128-byte rows, by the row's number modulo 8.
    Bytes128,
}

/// A two-dimensional tensor as TMA copies boxes of it. Passed to kernels by value.
#[repr(transparent)]
pub struct TensorMap(CUtensorMap);

impl TensorMap {
    /// A map of a bf16 or f32 `view` with boxes of `rows x cols`. Parts of a box beyond the tensor read as zero.
    ///
    /// # Errors
    /// A row pitch or address that is not a multiple of 16 bytes, or a box that the hardware cannot copy.
    pub fn new(view: View, rows: usize, cols: usize, swizzle: Swizzle) -> Result<TensorMap> {
        let (kind, size) = match view.dtype() {
            Dtype::Bf16 => (CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
            Dtype::F32 => (CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4),
            other => panic!("no tensor map of {other}"),
        };
        let swizzle = match swizzle {
            Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let dims = [view.cols() as u64, view.rows() as u64];
        let strides = [(view.stride() * size) as u64];
        let (boxes, steps) = ([cols as u32, rows as u32], [1u32, 1]);
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: all arrays have the rank's length; the address is device memory that outlives the launch.
        check("cuTensorMapEncodeTiled", unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                kind,
                2,
                view.address() as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        })?;
        Ok(TensorMap(map))
    }
}
