//! Device memory, and copies to it through pinned staging. `fetch.rs` has those from it.

use super::driver::check;
use super::event::Event;
use super::{Gpu, explain};
use crate::device::View;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr;

/// One allocation on a GPU, freed when dropped.
pub struct Memory {
    gpu: Gpu,
    address: u64,
}

impl Memory {
    /// Allocates `bytes` (at least one), zeroed.
    ///
    /// # Errors
    /// Not enough memory: names `what`, the size and what is free.
    pub fn new(gpu: &Gpu, what: &str, bytes: usize) -> Result<Memory> {
        let memory = Memory::unset(gpu, what, bytes)?;
        // SAFETY: the allocation has that many bytes.
        let code = unsafe { sys::cuMemsetD8Async(memory.address, 0, bytes.max(1), gpu.stream()) };
        gpu.latch("zeroing memory", code);
        Ok(memory)
    }

    /// As [`Memory::new`], holding whatever was there.
    pub(super) fn unset(gpu: &Gpu, what: &str, bytes: usize) -> Result<Memory> {
        gpu.enter();
        let mut address = 0;
        // SAFETY: writes one address.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = gpu.memory()?;
                let gb = |bytes: u64| bytes as f64 / 1e9;
                return Err(Error::device(format!(
                    "{}: not enough memory for {what}: {:.2} GB wanted, {:.2} of {:.2} GB free",
                    gpu.name(),
                    gb(bytes as u64),
                    gb(free),
                    gb(total)
                )));
            }
            code => {
                return Err(Error::device(format!("{}: allocating {what}: {}", gpu.name(), explain(code))));
            }
        }
        Ok(Memory { gpu: gpu.clone(), address })
    }

    pub fn address(&self) -> u64 {
        self.address
    }
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.gpu.enter();
        // SAFETY: allocated by us, freed once; the driver waits for work that uses it.
        let code = unsafe { sys::cuMemFree_v2(self.address) };
        self.gpu.latch("cuMemFree", code);
    }
}

/// Pinned host memory, which the GPU copies from and to while the host goes on.
pub(super) fn pinned(bytes: usize) -> Result<usize> {
    let mut start: *mut c_void = ptr::null_mut();
    // SAFETY: writes one pointer.
    check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut start, bytes, 0) })?;
    Ok(start as usize)
}

/// Bytes of each of the two halves of the staging buffer.
const HALF: usize = 4 << 20;

/// Pinned host memory in two halves: one is filled while the other one's copies are under way.
#[derive(Default)]
pub(super) struct Staging {
    start: usize,
    /// The half that is being filled, and how far.
    half: usize,
    used: usize,
    /// Behind the last copy out of each half.
    done: Option<[Event; 2]>,
}

impl Staging {
    fn ready(&mut self) -> Result<()> {
        if self.start == 0 {
            self.done = Some([Event::new(false)?, Event::new(false)?]);
            self.start = pinned(2 * HALF)?;
        }
        Ok(())
    }

    /// Nothing is under way any more.
    pub(super) fn settled(&mut self) {
        self.used = 0;
    }

    /// Room for up to `wanted` bytes (at most a half), as address and length, after waiting where it must.
    fn room(&mut self, gpu: &Gpu, wanted: usize) -> (usize, usize) {
        if self.used == HALF
            && let Some(done) = &self.done
        {
            // SAFETY: the events live as long as the staging.
            unsafe {
                gpu.latch("cuEventRecord", sys::cuEventRecord(done[self.half].0, gpu.stream()));
                self.half = 1 - self.half;
                self.used = 0;
                gpu.latch("cuEventSynchronize", sys::cuEventSynchronize(done[self.half].0));
            }
        }
        let n = wanted.min(HALF - self.used);
        let address = self.start + self.half * HALF + self.used;
        // Pieces stay aligned for any element.
        self.used = (self.used + n).next_multiple_of(16).min(HALF);
        (address, n)
    }

    /// # Safety
    /// The stream must be idle, and the staging is not used again.
    pub(super) unsafe fn free(&mut self) {
        if self.start != 0 {
            // SAFETY: allocated by `ready`, freed once.
            let _ = unsafe { sys::cuMemFreeHost(self.start as *mut c_void) };
            self.done = None;
        }
    }
}

impl Gpu {
    /// Copies bytes to a contiguous tensor; returns before they have arrived, and `from` may change at once.
    pub(crate) fn write(&self, to: View, from: &[u8]) {
        assert!(
            to.on_device() && to.is_contiguous() && to.byte_len() == from.len(),
            "write: {:?} takes {} bytes",
            to.shape(),
            from.len()
        );
        self.enter();
        let mut staging = self.staging();
        if let Err(error) = staging.ready() {
            self.state().error.get_or_insert(error);
            return;
        }
        let mut done = 0;
        while done < from.len() {
            let (room, n) = staging.room(self, from.len() - done);
            // SAFETY: the room is ours until the event behind its copies; the target has `n` bytes left.
            let code = unsafe {
                ptr::copy_nonoverlapping(from[done..].as_ptr(), room as *mut u8, n);
                sys::cuMemcpyHtoDAsync_v2(to.address() + done as u64, room as *const c_void, n, self.stream())
            };
            self.latch("copying to the GPU", code);
            done += n;
        }
    }

    /// Sets every byte of a contiguous tensor to zero.
    pub(crate) fn zero(&self, view: View) {
        assert!(view.on_device() && view.is_contiguous(), "zero: {:?}", view.shape());
        if !view.is_empty() {
            self.enter();
            // SAFETY: the tensor has that many bytes.
            let code = unsafe { sys::cuMemsetD8Async(view.address(), 0, view.byte_len(), self.stream()) };
            self.latch("zeroing a tensor", code);
        }
    }
}
