//! An emulated GPU for tests: it runs the repository's CUDA kernels on the host, behind the functions of the CUDA driver.
//!
//! The build compiles every `.cu` file with g++ into one shared object that bears the driver's name. [`open`] loads it before
//! anybody asks for `libcuda.so`, so that the engine, through cudarc, talks to it as to a real driver; and it claims a device of
//! its own for the caller, with its own [`Settings`]. Devices share nothing: tests may run in parallel, each on its own.
//!
//! There are two flavours of every kernel. The fast one finds what crashes, deadlocks or gives wrong numbers. The checked one
//! follows every access to shared and global memory and reports races, accesses out of bounds, reads of memory that nothing has
//! written, misaligned accesses and missing proxy fences, with kernel, file, line, block and thread, whether or not the schedule
//! at hand made them matter. `docs/kernels.md` says more.
//!
//! A child process uses the library through `LD_PRELOAD` (with [`library`]); the environment variable `GRAMOPHONE_EMU` then
//! configures its device 0:
//!
//! | word | meaning |
//! |---|---|
//! | `checked`, `fast` | the flavour; fast if neither is given |
//! | `seed=N` | [`Settings::seed`] |
//! | `lenient` | [`Settings::strict_wgmma`] off |
//! | `memory=BYTES` | [`Settings::memory`] |
//! | `taken=BYTES` | [`Settings::taken`] |
//! | `capability=9.0` | [`Settings::capability`] |
//! | `multiprocessors=N` | [`Settings::multiprocessors`] |
//! | `driver=13000` | [`Settings::driver_version`] |
//! | `devices=N` | how many devices there are: 1 if not given; 0: none |
//! | `steps=N`, `seconds=S` | [`Settings::steps`], [`Settings::seconds`] |
//! | `fail=cuLaunchKernel:7:719` | [`Settings::fail`] |
//! | `costs=FILE` | [`Settings::costs`] of all checked devices of the process, written to this file when it ends |
//!
//! For example `GRAMOPHONE_EMU=checked,seed=3,memory=1073741824`.

mod costs;

pub use costs::{Cost, Kind};

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;

/// How an emulated device behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Runs the checked flavour of the kernels.
    pub checked: bool,
    /// 0: lanes, warps and blocks run in order, and asynchronous copies land when they are waited for. Other seeds draw the order
    /// of lanes and warps, preempt lanes and let TMA loads land in any order; odd ones run the blocks, and the nodes of graphs,
    /// backwards; odd ones beyond 1 let asynchronous copies land at once. The same seed gives the same run.
    pub seed: u64,
    /// Whether `wgmma_wait` covers the calling warp only. Off, it covers the whole warpgroup; what the GPU does is not documented,
    /// and kernels should not depend on it.
    pub strict_wgmma: bool,
    /// Compute capability. Kernels of files named `*_sm90` exist only where the first number is 9.
    pub capability: (i32, i32),
    /// Bytes of device memory; allocating more fails with `CUDA_ERROR_OUT_OF_MEMORY`.
    pub memory: u64,
    /// Bytes of that memory which other processes hold: they are neither free nor to be had.
    pub taken: u64,
    /// The number of multiprocessors that the device says it has.
    pub multiprocessors: i32,
    /// What `cuDriverGetVersion` says: 13000 is CUDA 13.0.
    pub driver_version: i32,
    /// How many steps one block may take before the launch fails as an endless loop; 0: any number. In the checked flavour every
    /// basic block of the kernel is a step; in the fast one only switches between lanes are.
    pub steps: u64,
    /// How many seconds of processor time a launch may take; 0: any number.
    pub seconds: f64,
    /// Counts what the kernels' memory accesses would cost a real GPU, for [`costs`]; in the checked flavour only.
    pub costs: bool,
    /// Makes one call of the driver fail.
    pub fail: Option<Failure>,
}

/// A call of a driver function that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The function, with or without its version: `cuMemAlloc` stands for `cuMemAlloc_v2` as well.
    pub call: String,
    /// Which call of it on this device fails: 1 is the first.
    pub nth: u64,
    /// The error that it returns. Errors from 700 to 799 break the device: every later call returns them, too.
    pub code: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            checked: false,
            seed: 0,
            strict_wgmma: true,
            capability: (9, 0),
            memory: 4 << 30,
            taken: 0,
            multiprocessors: 4,
            driver_version: 13000,
            steps: 0,
            seconds: 120.0,
            costs: false,
            fail: None,
        }
    }
}

impl Settings {
    /// The fast flavour, everything in order.
    pub fn fast() -> Self {
        Settings::default()
    }
    /// The checked flavour under a seed.
    pub fn checked(seed: u64) -> Self {
        Settings { checked: true, seed, ..Settings::default() }
    }
}

/// What a device has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Kernels launched.
    pub launches: u64,
    /// Switches between lanes.
    pub switches: u64,
    /// Accesses to shared and global memory (checked flavour only).
    pub accesses: u64,
    /// Bytes of device memory allocated now.
    pub allocated_bytes: u64,
    /// The most bytes that were allocated at one time.
    pub peak_bytes: u64,
    /// Buffers allocated now.
    pub allocations: u64,
    /// Bytes that were still allocated when the context ended.
    pub leaked_bytes: u64,
}

/// Mirrors `EmuConfiguration` in `runtime/settings.h`.
#[repr(C)]
struct Configuration {
    seed: u64,
    memory: u64,
    taken: u64,
    steps: u64,
    fail_nth: u64,
    seconds: f64,
    fail_call: *const c_char,
    checked: i32,
    strict_wgmma: i32,
    capability_major: i32,
    capability_minor: i32,
    multiprocessors: i32,
    driver_version: i32,
    fail_code: i32,
    costs: i32,
}

struct Library {
    configure: unsafe extern "C" fn(*const Configuration) -> c_int,
    statistics: unsafe extern "C" fn(c_int, *mut Statistics) -> c_int,
    last_error: unsafe extern "C" fn(c_int) -> *const c_char,
    costs: unsafe extern "C" fn(c_int, c_int) -> *const c_char,
}

/// The absolute path of the shared object, for `LD_PRELOAD` of a child process.
pub fn library() -> &'static Path {
    Path::new(env!("GRAMOPHONE_EMU_LIBRARY"))
}

/// Loads the shared object where later requests for `libcuda.so` find it; once per process.
fn loaded() -> &'static Library {
    static LOADED: OnceLock<Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let path = CString::new(library().to_str().expect("the path of the build is not UTF-8")).unwrap();
        // SAFETY: `path` is a C string; the library's initialisers only fill its table of kernels.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: dlerror returns a C string after a failure.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            panic!("cannot load the emulated GPU: {}", why.to_string_lossy());
        }
        let symbol = |name: &CStr| -> *mut c_void {
            // SAFETY: `handle` is open and `name` is a C string.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!address.is_null(), "the emulated GPU lacks {name:?}");
            address
        };
        // SAFETY: the types are those of the definitions in runtime/driver_device.cpp.
        unsafe {
            Library {
                configure: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const Configuration) -> c_int>(
                    symbol(c"emu_configure"),
                ),
                statistics: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, *mut Statistics) -> c_int>(
                    symbol(c"emu_statistics"),
                ),
                last_error: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(symbol(
                    c"emu_last_error",
                )),
                costs: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, c_int) -> *const c_char>(symbol(
                    c"emu_costs",
                )),
            }
        }
    })
}

/// Claims a device that nobody else has, configures it, and returns its ordinal: what `--device cuda:N` and `cuDeviceGet` take.
///
/// # Panics
/// If the library cannot be loaded, after 32767 devices, or if costs are to be counted in the fast flavour.
pub fn open(settings: Settings) -> i32 {
    assert!(settings.checked || !settings.costs, "only the checked flavour sees what costs are counted from");
    let call = settings.fail.as_ref().map(|f| CString::new(f.call.as_str()).expect("a function's name"));
    let configuration = Configuration {
        seed: settings.seed,
        memory: settings.memory,
        taken: settings.taken,
        steps: settings.steps,
        fail_nth: settings.fail.as_ref().map_or(0, |f| f.nth),
        seconds: settings.seconds,
        fail_call: call.as_ref().map_or(std::ptr::null(), |c| c.as_ptr()),
        checked: settings.checked.into(),
        strict_wgmma: settings.strict_wgmma.into(),
        capability_major: settings.capability.0,
        capability_minor: settings.capability.1,
        multiprocessors: settings.multiprocessors,
        driver_version: settings.driver_version,
        fail_code: settings.fail.as_ref().map_or(0, |f| f.code),
        costs: settings.costs.into(),
    };
    // SAFETY: `configuration` and `call` outlive the call, which copies them.
    let ordinal = unsafe { (loaded().configure)(&configuration) };
    assert!(ordinal > 0, "all devices of the emulated GPU are taken");
    ordinal
}

/// What the device has done so far.
pub fn statistics(ordinal: i32) -> Statistics {
    let mut statistics = Statistics::default();
    // SAFETY: the pointer is valid for the call.
    let status = unsafe { (loaded().statistics)(ordinal, &mut statistics) };
    assert_eq!(status, 0, "there is no emulated device {ordinal}");
    statistics
}

/// What broke the device, with kernel, file, line, block and thread; empty while it works.
pub fn last_error(ordinal: i32) -> String {
    // SAFETY: the text is a C string that lives as long as the process, and no longer changes once it is not empty.
    unsafe { CStr::from_ptr((loaded().last_error)(ordinal)) }.to_string_lossy().into_owned()
}

/// What the device's kernels have cost so far, by kernel and source line.
///
/// # Panics
/// If the device does not count ([`Settings::costs`]).
pub fn costs(ordinal: i32) -> Vec<Cost> {
    costs_text(ordinal, false).lines().skip(1).map(Cost::parse).collect()
}

/// The same as tables for people, most waste first.
///
/// # Panics
/// If the device does not count ([`Settings::costs`]).
pub fn costs_table(ordinal: i32) -> String {
    costs_text(ordinal, true)
}

fn costs_text(ordinal: i32, readable: bool) -> String {
    // SAFETY: the text is a C string that lives until the next call for this device, which is the caller's own.
    let text = unsafe { (loaded().costs)(ordinal, readable.into()) };
    assert!(!text.is_null(), "the emulated device {ordinal} does not count costs");
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
