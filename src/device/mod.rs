//! Floor 1: where tensors live and where kernels run. Only this floor touches raw pointers.
//!
//! A [`Layout`] lists tensors as [`Slot`]s; an [`Arena`] gives a whole layout its memory in one allocation (or maps it
//! from a file); a [`View`] is one tensor of an arena as the ops take it. Ops write through views of a shared arena,
//! so aliasing is checked where it matters, at the top of each op ([`disjoint`]).

mod arena;
mod layout;
mod mapped;
mod view;

pub use arena::Arena;
pub use layout::{Class, Init, Layout, Slot};
pub use mapped::Mapped;
pub use view::{View, disjoint};

use crate::base::par::Pool;
use crate::error::{Error, Result};

/// A place where ops run.
#[derive(Clone)]
pub enum Device {
    /// The processor: runs everything, and is the numerical oracle.
    Cpu(Pool),
}

impl Device {
    /// The CPU with this many threads; 0 means one for each core this process may use.
    pub fn cpu(threads: usize) -> Device {
        Device::Cpu(Pool::new(threads))
    }

    /// Opens a device by its command-line name: `cpu`, `cuda`, `cuda:1`.
    ///
    /// # Errors
    /// An unknown name is a usage error; a device that is not there is a device error that says what to do.
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        match name.split(':').next() {
            Some("cpu") if name == "cpu" => Ok(Device::cpu(threads)),
            Some("cuda") => {
                Err(Error::device(format!("--device {name}: this build has no CUDA kernels; use --device cpu")))
            }
            _ => Err(Error::usage(format!("--device {name}: unknown device; use cpu"))),
        }
    }

    pub fn name(&self) -> String {
        match self {
            Device::Cpu(pool) => {
                format!("cpu, {} thread{}", pool.threads(), if pool.threads() == 1 { "" } else { "s" })
            }
        }
    }

    /// Runs `f` where launches are cheapest: for the CPU on one of its own threads.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(pool) => pool.install(f),
        }
    }

    /// Waits for everything launched so far.
    ///
    /// # Errors
    /// The first error of any launch since the last call. The CPU has none.
    pub fn sync(&self) -> Result<()> {
        match self {
            Device::Cpu(_) => Ok(()),
        }
    }

    /// Copies host data into a tensor (a whole view, contiguous).
    pub fn write<T: crate::base::dtype::Pod>(&self, to: View, from: &[T]) {
        match self {
            Device::Cpu(_) => to.slice_mut::<T>().copy_from_slice(from),
        }
    }

    /// Waits, then copies a tensor (contiguous) to the host.
    ///
    /// # Errors
    /// As [`Device::sync`].
    pub fn read<T: crate::base::dtype::Pod>(&self, from: View) -> Result<Vec<T>> {
        self.sync()?;
        match self {
            Device::Cpu(_) => Ok(from.slice::<T>().to_vec()),
        }
    }

    /// Sets every byte of a tensor (contiguous) to zero.
    pub fn zero(&self, view: View) {
        match self {
            Device::Cpu(pool) => {
                let bytes = view.bytes_mut();
                let base = bytes.as_mut_ptr() as usize;
                pool.ranges(bytes.len(), 1 << 20, |r| {
                    // SAFETY: ranges are disjoint parts of `bytes`, which is borrowed for the whole call.
                    unsafe { std::ptr::write_bytes((base + r.start) as *mut u8, 0, r.len()) }
                });
            }
        }
    }
}
