//! The NVIDIA driver: is it there, what does it see, and what do its errors mean for a person.

use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

/// The oldest driver interface that the embedded images load with: CUDA 13.0 (driver 580).
const NEEDED: i32 = 13000;
/// The oldest compute capability with kernels of ours.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// One GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Properties {
    pub ordinal: i32,
    pub name: String,
    /// Compute capability, `(9, 0)` for H100 and H200.
    pub capability: (i32, i32),
    pub multiprocessors: u32,
    /// Bytes of memory in all.
    pub memory: u64,
    /// Bytes of the level-2 cache.
    pub l2: u64,
    /// Shared memory that one block may use, bytes.
    pub shared_per_block: u32,
    /// Highest clocks of the processors and of the memory, kHz; 0 where the driver does not tell.
    pub clocks: (i32, i32),
}

/// `Ok` for success; otherwise an error that names the call and what the driver says.
pub(super) fn check(call: &str, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(Error::device(format!("{call}: {}", explain(code)))) }
}

/// The driver's own text for a code.
pub(super) fn explain(code: CUresult) -> String {
    let text = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text: *const c_char = ptr::null();
        // SAFETY: the driver stores a pointer to a text of its own, or nothing.
        unsafe {
            let _ = get(code, &mut text);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    };
    match (text(sys::cuGetErrorString), text(sys::cuGetErrorName)) {
        // One that this driver does not know.
        (_, name) if name.is_empty() => format!("{code:?}"),
        (text, name) => format!("{text} ({name})"),
    }
}

/// Finds and initialises the driver, once.
///
/// # Errors
/// No driver, a stub of a toolkit in its place, a driver too old, or no device: each says what to do.
pub fn init() -> Result<()> {
    static STATE: OnceLock<Result<()>> = OnceLock::new();
    STATE.get_or_init(first_init).clone()
}

fn first_init() -> Result<()> {
    // SAFETY: the probe only opens and closes the library; every other call would panic without one.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::device("no NVIDIA driver on this machine (libcuda.so.1 was not found); use --device cpu"));
    }
    // SAFETY: cuInit has no preconditions.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(Error::device("the NVIDIA driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"));
        }
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            return Err(Error::device(
                "the libcuda.so that was found is a CUDA toolkit's stub, not the driver; take the toolkit's stubs \
                 folder off LD_LIBRARY_PATH",
            ));
        }
        code => return Err(Error::device(format!("the NVIDIA driver does not start: {}", explain(code)))),
    }
    let have = version()?;
    if have < NEEDED {
        return Err(Error::device(format!(
            "the NVIDIA driver supports CUDA {}.{}, the kernels need {}.{}: update the driver to 580 or newer",
            have / 1000,
            have % 1000 / 10,
            NEEDED / 1000,
            NEEDED % 1000 / 10
        )));
    }
    Ok(())
}

/// The CUDA version that the driver supports, as `1000 * major + 10 * minor`.
pub fn version() -> Result<i32> {
    let mut have = 0;
    // SAFETY: writes one integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut have) })?;
    Ok(have)
}

/// Number of GPUs.
pub fn count() -> Result<i32> {
    init()?;
    let mut count = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count)
}

/// What the driver says of one GPU.
///
/// # Errors
/// As [`init`]; an ordinal that is not there.
pub fn properties(ordinal: i32) -> Result<Properties> {
    let count = count()?;
    if ordinal < 0 || ordinal >= count {
        let there = if count == 1 { "only cuda:0".to_string() } else { format!("cuda:0 to cuda:{}", count - 1) };
        return Err(Error::device(format!("there is no cuda:{ordinal}; the driver sees {there}")));
    }
    let mut device = 0;
    // SAFETY: the ordinal is in range; each call writes one value of the stated type.
    unsafe {
        check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal))?;
        let mut name: [c_char; 128] = [0; 128];
        check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), 127, device))?;
        let mut memory = 0usize;
        check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut memory, device))?;
        let attribute = |which: Attribute| -> Result<c_int> {
            let mut value = 0;
            check("cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&mut value, which, device))?;
            Ok(value)
        };
        Ok(Properties {
            ordinal,
            name: CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned(),
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            memory: memory as u64,
            l2: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as u64,
            clocks: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).unwrap_or(0),
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).unwrap_or(0),
            ),
            shared_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        })
    }
}

/// The properties of a GPU that our kernels run on.
///
/// # Errors
/// As [`properties`]; a compute capability below 8.0.
pub fn supported(ordinal: i32) -> Result<Properties> {
    let found = properties(ordinal)?;
    if found.capability < OLDEST_CAPABILITY {
        let ((a, b), (c, d)) = (found.capability, OLDEST_CAPABILITY);
        return Err(Error::device(format!(
            "cuda:{ordinal} ({}) has compute capability {a}.{b}; the kernels need {c}.{d} or newer",
            found.name
        )));
    }
    Ok(found)
}
