//! A device for a test: memory, launches and errors through cudarc, as the engine uses it.
#![allow(dead_code)] // each test file uses its part

use std::ffi::{CString, c_void};

use cudarc::driver::{result, sys};
use gramophone_emu::Settings;

pub struct Device {
    pub ordinal: i32,
    context: sys::CUcontext,
    module: sys::CUmodule,
}

/// Arguments of a launch: anything that is plain data, by address.
pub struct Arguments(Vec<Box<[u64]>>);

impl Arguments {
    pub fn new() -> Self {
        Arguments(Vec::new())
    }
    pub fn and<T: Copy>(mut self, value: T) -> Self {
        let mut words = vec![0u64; std::mem::size_of::<T>().div_ceil(8)].into_boxed_slice();
        // SAFETY: the words are at least as large as the value.
        unsafe { std::ptr::copy_nonoverlapping(&value, words.as_mut_ptr().cast::<T>(), 1) };
        self.0.push(words);
        self
    }
}

/// `args!(a, b, ...)`
#[macro_export]
macro_rules! args { ($($value:expr),* $(,)?) => { $crate::device::Arguments::new()$(.and($value))* } }

#[derive(Clone, Copy)]
pub struct Launch {
    pub grid: u32,
    pub threads: u32,
    pub dynamic: u32,
}

pub fn blocks(grid: u32, threads: u32) -> Launch {
    Launch { grid, threads, dynamic: 0 }
}

impl Device {
    pub fn new(settings: Settings) -> Device {
        let ordinal = gramophone_emu::open(settings);
        result::init().unwrap();
        let device = result::device::get(ordinal).unwrap();
        // SAFETY: the device exists; the context is current on this thread from here on.
        unsafe {
            let context = result::primary_ctx::retain(device).unwrap();
            result::ctx::set_current(context).unwrap();
            let module = result::module::load_data(c"any image".as_ptr().cast()).unwrap();
            Device { ordinal, context, module }
        }
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        // SAFETY: a plain allocation.
        unsafe { result::malloc_sync(bytes) }.unwrap()
    }
    pub fn free(&self, p: u64) {
        // SAFETY: allocated by this device.
        unsafe { result::free_sync(p) }.unwrap();
    }
    pub fn put<T: Copy>(&self, values: &[T]) -> u64 {
        let p = self.alloc(std::mem::size_of_val(values));
        // SAFETY: the buffer is as large as the slice.
        unsafe { result::memcpy_htod_sync(p, values) }.unwrap();
        p
    }
    pub fn zeros(&self, bytes: usize) -> u64 {
        self.put(&vec![0u8; bytes])
    }
    pub fn get<T: Copy + Default>(&self, p: u64, n: usize) -> Result<Vec<T>, String> {
        let mut values = vec![T::default(); n];
        // SAFETY: the caller asks for no more than was allocated; the driver checks it.
        match unsafe { result::memcpy_dtoh_sync(&mut values, p) } {
            Ok(()) => Ok(values),
            Err(e) => Err(self.text(e)),
        }
    }

    pub fn text(&self, error: result::DriverError) -> String {
        error.error_string().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn function(&self, name: &str) -> sys::CUfunction {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }.unwrap()
    }

    /// Queues a launch on a stream (null: the default one).
    pub fn queue(&self, stream: sys::CUstream, name: &str, shape: Launch, arguments: Arguments) -> Result<(), String> {
        let (grid, threads) = ((shape.grid, 1, 1), (shape.threads, 1, 1));
        self.queue_grid(stream, self.function(name), grid, threads, shape.dynamic, arguments)
    }
    fn queue_grid(
        &self,
        stream: sys::CUstream,
        function: sys::CUfunction,
        grid: (u32, u32, u32),
        threads: (u32, u32, u32),
        dynamic: u32,
        arguments: Arguments,
    ) -> Result<(), String> {
        let mut pointers: Vec<*mut c_void> = arguments.0.iter().map(|w| w.as_ptr() as *mut c_void).collect();
        // SAFETY: the arguments are those of the kernel, as the test says; the driver copies them during the call.
        unsafe {
            if dynamic > 48 << 10 {
                let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                result::function::set_function_attribute(function, attribute, dynamic as i32).unwrap();
            }
            result::launch_kernel(function, grid, threads, dynamic, stream, &mut pointers)
        }
        .map_err(|e| self.text(e))
    }
    /// Launches a grid of any shape and waits.
    pub fn run_grid(
        &self,
        function: sys::CUfunction,
        grid: (u32, u32, u32),
        threads: (u32, u32, u32),
        dynamic: u32,
        arguments: Arguments,
    ) -> Result<(), String> {
        self.queue_grid(std::ptr::null_mut(), function, grid, threads, dynamic, arguments)?;
        self.synchronize()
    }

    /// Launches and waits.
    pub fn run(&self, name: &str, shape: Launch, arguments: Arguments) -> Result<(), String> {
        self.queue(std::ptr::null_mut(), name, shape, arguments)?;
        self.synchronize()
    }

    pub fn synchronize(&self) -> Result<(), String> {
        result::ctx::synchronize().map_err(|e| self.text(e))
    }
}

impl Device {
    pub fn stream(&self) -> sys::CUstream {
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
    }
}

/// What a kernel takes as TMAP.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct TensorMap([u8; 128]);

/// A tensor map of a row-major bf16 matrix, with a box of `box_rows` x `box_columns` and 128-byte swizzle.
pub fn tensor_map(
    p: u64,
    rows: u64,
    columns: u64,
    box_rows: u32,
    box_columns: u32,
) -> Result<TensorMap, sys::CUresult> {
    let swizzle = sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B;
    swizzled_map(p, rows, columns, box_rows, box_columns, swizzle)
}

/// The same with any swizzle.
pub fn swizzled_map(
    p: u64,
    rows: u64,
    columns: u64,
    box_rows: u32,
    box_columns: u32,
    swizzle: sys::CUtensorMapSwizzle,
) -> Result<TensorMap, sys::CUresult> {
    let mut map = TensorMap([0; 128]);
    // SAFETY: the pointers are valid for the call.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            p as *mut c_void,
            [columns, rows].as_ptr(),
            [columns * 2].as_ptr(),
            [box_columns, box_rows].as_ptr(),
            [1u32, 1].as_ptr(),
            sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    if status == sys::CUresult::CUDA_SUCCESS { Ok(map) } else { Err(status) }
}
