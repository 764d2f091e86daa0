//! Floor 1: where tensors live and where kernels run. Only this floor touches raw pointers.
//!
//! A [`Layout`] lists tensors as [`Slot`]s; an [`Arena`] gives a whole layout its memory in one allocation (or maps it
//! from a file); a [`View`] is one tensor of an arena as the ops take it. Ops write through views of a shared arena,
//! so aliasing is checked where it matters, at the top of each op ([`disjoint`]).

mod arena;
pub mod cuda;
mod layout;
mod mapped;
mod replay;
mod view;

pub use arena::Arena;
pub use cuda::Gpu;
pub use layout::{Class, Init, Layout, Part, STRETCH, Slot};
pub use mapped::Mapped;
pub use replay::Replays;
pub use view::{View, disjoint};

use crate::base::dtype::{Dtype, Pod};
use crate::base::par::Pool;
use crate::error::{Error, Result};

/// Bytes of the pieces in which a GPU's driver hands out memory: an allocation takes whole ones.
pub const GRANULE: usize = 2 << 20;

/// A tensor on its way to the host.
pub struct Fetched<T>(State<T>);

enum State<T> {
    Here(Vec<T>),
    /// And how many elements.
    Coming(cuda::Fetched, usize),
}

impl<T> From<Vec<T>> for Fetched<T> {
    fn from(data: Vec<T>) -> Fetched<T> {
        Fetched(State::Here(data))
    }
}

impl<T: Pod> Fetched<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// As [`Device::sync`].
    pub fn wait(self) -> Result<Vec<T>> {
        match self.0 {
            State::Here(data) => Ok(data),
            State::Coming(fetched, n) => {
                let mut to = vec![T::zeroed(); n];
                fetched.wait(bytemuck::cast_slice_mut(&mut to))?;
                Ok(to)
            }
        }
    }
}

/// A place where ops run.
#[derive(Clone)]
pub enum Device {
    /// The processor: runs everything, and is the numerical oracle.
    Cpu(Pool),
    /// An NVIDIA GPU, through its driver.
    Cuda(Gpu),
}

impl Device {
    /// The CPU with this many threads; 0 means one for each core this process may use.
    ///
    /// # Panics
    /// The operating system starts no more threads; [`Device::open`] says so with an error.
    pub fn cpu(threads: usize) -> Device {
        Device::Cpu(Pool::new(threads))
    }

    /// Opens a device by its command-line name: `cpu`, `cuda`, `cuda:1`.
    ///
    /// # Errors
    /// An unknown name is a usage error; a device that is not there is a device error that says what to do.
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse::<i32>()) {
            ("cpu", _) if name == "cpu" => Pool::start(threads).map(Device::Cpu),
            ("cuda", Ok(ordinal)) if ordinal >= 0 => {
                Gpu::open(ordinal).map(Device::Cuda).map_err(|e| e.at(format!("--device {name}")))
            }
            _ => Err(Error::usage(format!("--device {name}: unknown device; use cpu, cuda or cuda:N"))),
        }
    }

    pub fn name(&self) -> String {
        match self {
            Device::Cpu(pool) => {
                format!("cpu, {} thread{}", pool.threads(), if pool.threads() == 1 { "" } else { "s" })
            }
            Device::Cuda(gpu) => gpu.name(),
        }
    }

    /// Runs `f` where launches are cheapest: for the CPU on one of its own threads.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(pool) => pool.install(f),
            Device::Cuda(_) => f(),
        }
    }

    /// Waits for everything launched so far.
    ///
    /// # Errors
    /// The first error of any launch since the last call. The CPU has none.
    pub fn sync(&self) -> Result<()> {
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(gpu) => gpu.sync(),
        }
    }

    /// Whether something has failed, after which everything fails until the process begins anew. The CPU does not.
    pub fn failed(&self) -> bool {
        match self {
            Device::Cpu(_) => false,
            Device::Cuda(gpu) => gpu.failed(),
        }
    }

    /// Copies host data into a tensor (a whole view, contiguous).
    pub fn write<T: Pod>(&self, to: View, from: &[T]) {
        match self {
            Device::Cpu(_) => to.slice_mut::<T>().copy_from_slice(from),
            Device::Cuda(gpu) => {
                assert!(to.dtype() == T::DTYPE, "a {} tensor written as {}", to.dtype(), T::DTYPE);
                gpu.write(to, bytemuck::cast_slice(from));
            }
        }
    }

    /// Waits, then copies a tensor (contiguous) to the host.
    ///
    /// # Errors
    /// As [`Device::sync`].
    pub fn read<T: Pod>(&self, from: View) -> Result<Vec<T>> {
        match self {
            Device::Cpu(_) => Ok(from.slice::<T>().to_vec()),
            Device::Cuda(gpu) => {
                assert!(from.dtype() == T::DTYPE, "a {} tensor read as {}", from.dtype(), T::DTYPE);
                let mut to = vec![T::zeroed(); from.len()];
                gpu.read(from, bytemuck::cast_slice_mut(&mut to))?;
                Ok(to)
            }
        }
    }

    /// Begins to read a tensor (contiguous); what is launched afterwards may overwrite it. On the CPU it has been read.
    pub fn fetch<T: Pod>(&self, from: View) -> Fetched<T> {
        match self {
            Device::Cpu(_) => from.slice::<T>().to_vec().into(),
            Device::Cuda(gpu) => {
                assert!(from.dtype() == T::DTYPE, "a {} tensor read as {}", from.dtype(), T::DTYPE);
                Fetched(State::Coming(gpu.fetch(from), from.len()))
            }
        }
    }

    /// Whether launches return before their work is done, so that more can be launched meanwhile.
    pub fn queues(&self) -> bool {
        matches!(self, Device::Cuda(_))
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
            Device::Cuda(gpu) => gpu.zero(view),
        }
    }

    /// Seconds that `f`'s launches take, by the device's own clock. On a GPU what was launched before should keep it busy meanwhile.
    ///
    /// # Errors
    /// As [`Device::sync`].
    pub fn timed(&self, f: impl FnOnce() + Send) -> Result<f64> {
        match self {
            Device::Cpu(pool) => Ok(pool.install(|| {
                let start = std::time::Instant::now();
                f();
                start.elapsed().as_secs_f64()
            })),
            Device::Cuda(gpu) => gpu.timed(f),
        }
    }

    /// Bytes of memory that can be allocated now, where the system or the driver tells.
    pub fn free_memory(&self) -> Option<usize> {
        match self {
            Device::Cpu(_) => {
                // What the system can give without swapping.
                let text = std::fs::read_to_string("/proc/meminfo").ok()?;
                let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
                Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
            }
            Device::Cuda(gpu) => gpu.memory().ok().map(|(free, _)| free as usize),
        }
    }

    /// Whether tensors of this type can be computed with here.
    ///
    /// # Errors
    /// f64, which exists for finite differences, is the CPU's alone.
    pub fn supports(&self, dtype: Dtype) -> Result<()> {
        match (self, dtype) {
            (Device::Cuda(_), Dtype::F64) => Err(Error::usage("float64 runs on --device cpu only")),
            _ => Ok(()),
        }
    }
}
