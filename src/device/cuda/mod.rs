//! An NVIDIA GPU through its driver: memory, copies, launches, graphs.
//!
//! Everything is asynchronous on one stream. The first error is latched with the kernels that were under way, and comes
//! out of whatever waits next: [`Gpu::sync`], [`Device::read`](super::Device::read), or the wait for what
//! [`Device::fetch`](super::Device::fetch) has begun to copy. `GRAMOPHONE_SYNC=1` waits after every launch, so that the error names the one
//! kernel that failed.

mod cublaslt;
pub mod driver;
mod event;
mod fetch;
mod graph;
mod images;
pub mod launch;
mod memory;
mod products;
mod tensor_map;

pub(crate) use cublaslt::Factor;
pub use cublaslt::library_present;
pub use driver::Properties;
pub(crate) use fetch::Fetched;
pub use graph::Graph;
pub use images::{LEDGER, images, present as images_present};
pub use memory::Memory;
pub use products::Products;
pub use tensor_map::{Swizzle, TensorMap};

use self::cublaslt::CublasLt;
use self::driver::{check, explain};
use self::fetch::Block;
use self::launch::{Grid, KERNELS};
use self::memory::Staging;
use crate::base::dtype::Dtype;
use crate::device::View;
use crate::device::view::Place;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUcontext, CUfunction, CUmodule, CUresult, CUstream};
use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Dynamic shared memory that a kernel gets without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;
/// Bytes of a GPU's workspace: what one op call may use between its own kernels.
pub const WORKSPACE: usize = 32 << 20;
/// Names of launches that an error message can list.
const REMEMBERED: usize = 8;

/// One GPU, its context and its stream. Cloning shares it.
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    properties: Properties,
    context: CUcontext,
    stream: CUstream,
    /// Address of the workspace.
    workspace: u64,
    /// Wait after every launch.
    synchronous: bool,
    modules: Vec<OnceLock<usize>>,
    functions: Vec<OnceLock<usize>>,
    state: Mutex<State>,
    staging: Mutex<Staging>,
    /// For copies to the host; those that nobody uses.
    blocks: Mutex<Vec<Block>>,
    cublaslt: OnceLock<CublasLt>,
    products: products::Chosen,
}

// SAFETY: contexts and streams may be used from any thread that has made the context current, which every call does.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

#[derive(Default)]
struct State {
    error: Option<Error>,
    /// The latest launches since the last wait, oldest first.
    launched: Vec<&'static str>,
}

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

impl Gpu {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// No driver, no such GPU, a GPU or driver too old, or a binary without kernels: each says what to do.
    pub fn open(ordinal: i32) -> Result<Gpu> {
        let properties = driver::supported(ordinal)?;
        let (mut device, mut context, mut stream, mut workspace) = (0, ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: the ordinal exists; each call writes one handle.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal))?;
            check("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&mut context, device))
                .map_err(|e| e.at(format!("cuda:{ordinal}")))?;
            check("cuCtxSetCurrent", sys::cuCtxSetCurrent(context))?;
            CURRENT.set(context as usize);
            // Non-blocking: the legacy default stream would wait for it and be waited for.
            check("cuStreamCreate", sys::cuStreamCreate(&mut stream, 1))?;
            check("allocating the workspace", sys::cuMemAlloc_v2(&mut workspace, WORKSPACE))
                .map_err(|e| e.at(format!("cuda:{ordinal}")))?;
        }
        let shared = Shared {
            properties,
            context,
            stream,
            workspace,
            synchronous: std::env::var_os("GRAMOPHONE_SYNC").is_some_and(|v| v == "1"),
            modules: images().iter().map(|_| OnceLock::new()).collect(),
            functions: KERNELS.iter().map(|_| OnceLock::new()).collect(),
            state: Mutex::default(),
            staging: Mutex::default(),
            blocks: Mutex::default(),
            cublaslt: OnceLock::new(),
            products: products::Chosen::default(),
        };
        let gpu = Gpu(Arc::new(shared));
        gpu.load()?;
        Ok(gpu)
    }

    /// Loads every image now, so that a binary that cannot run here says so before any work is done.
    fn load(&self) -> Result<()> {
        for (index, (name, image)) in images().iter().enumerate() {
            let mut module: CUmodule = ptr::null_mut();
            // SAFETY: the image is a complete fatbin or a stub text, ended by zero, that lives for the whole program.
            match unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) } {
                CUresult::CUDA_SUCCESS => {}
                // Twins for another architecture than this GPU's are not asked for.
                CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU if name.ends_with("_sm90") => continue,
                code => {
                    images::present()?;
                    return Err(Error::device(format!("loading kernels/{name}.cu: {}", explain(code))));
                }
            }
            let _ = self.0.modules[index].set(module as usize);
        }
        Ok(())
    }

    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }
    /// Compute capability, `(9, 0)` for H100 and H200.
    pub fn capability(&self) -> (i32, i32) {
        self.0.properties.capability
    }
    pub fn multiprocessors(&self) -> usize {
        self.0.properties.multiprocessors as usize
    }
    /// Bytes of memory that are free now, and in all.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.enter();
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// The first `rows * cols` elements of the workspace, which holds nothing from one op to the next: calls follow each other
    /// on one stream, so whoever runs has it alone.
    ///
    /// # Panics
    /// More than [`WORKSPACE`] bytes: the op must go piece by piece.
    pub fn workspace(&self, dtype: Dtype, rows: usize, cols: usize) -> View<'_> {
        self.workspace_after(0, dtype, rows, cols)
    }

    /// As [`Gpu::workspace`], starting `offset` bytes (a multiple of 256) into it: for ops that need several tensors.
    pub fn workspace_after(&self, offset: usize, dtype: Dtype, rows: usize, cols: usize) -> View<'_> {
        let bytes = rows * cols * dtype.size();
        assert!(offset.is_multiple_of(256) && offset + bytes <= WORKSPACE, "a workspace of {} bytes", offset + bytes);
        // SAFETY: the bytes lie inside the workspace, which lives as long as `self` and is aligned to 256.
        unsafe { View::new((self.0.workspace as usize + offset) as *mut u8, rows, cols, dtype, true, Place::Device) }
    }

    pub(super) fn stream(&self) -> CUstream {
        self.0.stream
    }

    /// Makes the context current on this thread.
    fn enter(&self) {
        let context = self.0.context as usize;
        if CURRENT.get() != context {
            // SAFETY: the context is retained as long as `self` lives.
            let code = unsafe { sys::cuCtxSetCurrent(self.0.context) };
            self.latch("cuCtxSetCurrent", code);
            CURRENT.set(context);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps the first error for the next wait.
    fn latch(&self, what: &str, code: CUresult) {
        if code != CUresult::CUDA_SUCCESS {
            let mut state = self.state();
            if state.error.is_none() {
                let kernels = match state.launched.len() {
                    0 => String::new(),
                    _ => format!("; launched before it: {}", state.launched.join(", ")),
                };
                state.error = Some(Error::device(format!("{what}: {}{kernels}", explain(code))));
            }
        }
    }

    /// The first error since the last wait, which it stays: a GPU that has failed keeps failing.
    fn error(&self) -> Result<()> {
        match &self.state().error {
            Some(error) => Err(error.clone().at(self.name())),
            None => Ok(()),
        }
    }

    pub(in crate::device) fn failed(&self) -> bool {
        self.state().error.is_some()
    }

    /// `cuda:0 (NVIDIA H200)`.
    pub fn name(&self) -> String {
        format!("cuda:{} ({})", self.0.properties.ordinal, self.0.properties.name)
    }

    /// Waits for everything launched so far.
    ///
    /// # Errors
    /// The first error of anything since the GPU was opened, with the launches that were under way.
    pub fn sync(&self) -> Result<()> {
        self.error()?;
        self.enter();
        // Held meanwhile: what another thread stages would look settled, too.
        let mut staging = self.staging();
        // SAFETY: the stream lives as long as `self`.
        let code = unsafe { sys::cuStreamSynchronize(self.0.stream) };
        self.latch("a kernel failed", code);
        self.state().launched.clear();
        staging.settled();
        self.error()
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.0.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<Block>> {
        self.0.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The device address of a kernel's operand, after checking what can be checked. Called by the generated launchers.
    pub(super) fn address(&self, kernel: &str, arg: &str, dtype: Dtype, view: Option<View>) -> u64 {
        let Some(view) = view else { return 0 };
        assert!(view.on_device(), "{kernel}: {arg} lies in host memory");
        assert!(view.dtype() == dtype, "{kernel}: {arg} is {}, the kernel takes {dtype}", view.dtype());
        view.address()
    }

    /// Launches kernel number `number`. Called by the generated launchers.
    pub(super) fn launch(&self, number: usize, grid: Grid, arguments: &mut [*mut c_void]) {
        let kernel = &KERNELS[number];
        if grid.x == 0 || grid.y == 0 || grid.z == 0 {
            return; // Nothing to do; the driver refuses empty grids.
        }
        self.enter();
        let Some(function) = self.function(number) else { return };
        if grid.shared > SHARED_WITHOUT_ASKING {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let code = unsafe { sys::cuFuncSetAttribute(function, attribute, grid.shared as i32) };
            self.latch(kernel.name, code);
        }
        self.remember(kernel.name);
        // SAFETY: the generated launcher passes one pointer for each parameter, of the parameter's type; the driver copies
        // the values before it returns.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                grid.x,
                grid.y,
                grid.z,
                kernel.threads,
                1,
                1,
                grid.shared,
                self.0.stream,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.latch(kernel.name, code);
        if self.0.synchronous {
            // SAFETY: as `sync`.
            let code = unsafe { sys::cuStreamSynchronize(self.0.stream) };
            self.latch(kernel.name, code);
            self.state().launched.clear();
        }
    }

    /// Something is about to be launched, whose name an error should have.
    fn remember(&self, name: &'static str) {
        let mut state = self.state();
        if state.launched.len() == REMEMBERED {
            state.launched.remove(0);
        }
        state.launched.push(name);
    }

    /// Whether every launch is waited for. Then nothing can be recorded.
    pub(in crate::device) fn is_synchronous(&self) -> bool {
        self.0.synchronous
    }

    fn function(&self, number: usize) -> Option<CUfunction> {
        let cell = &self.0.functions[number];
        if let Some(function) = cell.get() {
            return Some(*function as CUfunction);
        }
        let kernel = &KERNELS[number];
        let Some(module) = self.0.modules[kernel.image].get() else {
            self.latch(kernel.name, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
            return None;
        };
        let name = CString::new(kernel.name).expect("a kernel's name has no zero byte");
        let mut function: CUfunction = ptr::null_mut();
        // SAFETY: the module is loaded and never unloaded while `self` lives.
        let code = unsafe { sys::cuModuleGetFunction(&mut function, *module as CUmodule, name.as_ptr()) };
        self.latch(kernel.name, code);
        (code == CUresult::CUDA_SUCCESS).then(|| *cell.get_or_init(|| function as usize) as CUfunction)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone, so nothing uses the stream or the modules any more. Errors have no one to go to.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            let _ = sys::cuStreamSynchronize(self.stream);
            for module in self.modules.iter().filter_map(OnceLock::get) {
                let _ = sys::cuModuleUnload(*module as CUmodule);
            }
            let _ = sys::cuMemFree_v2(self.workspace);
            let _ = sys::cuStreamDestroy_v2(self.stream);
            self.staging.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).free();
            self.blocks.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.properties.ordinal);
        }
        CURRENT.set(0);
    }
}
