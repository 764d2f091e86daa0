//! Copies to the host that the host need not wait for at once: through pinned blocks, each with an event behind its copy.

use super::Gpu;
use super::event::Event;
use super::memory::pinned;
use crate::device::View;
use crate::error::Result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr;

/// Bytes of the smallest block.
const SMALLEST: usize = 4096;
/// Bytes of the pieces that long copies go in, so that one is unpacked while the next one comes.
const PIECE: usize = 8 << 20;

/// Pinned host memory for one copy.
pub(super) struct Block {
    address: usize,
    bytes: usize,
    /// Behind the latest copy to it.
    arrived: Event,
    /// Nobody has waited for that yet.
    coming: bool,
}

impl Block {
    fn new(bytes: usize) -> Result<Block> {
        let bytes = bytes.next_power_of_two().max(SMALLEST);
        let arrived = Event::new(false)?;
        Ok(Block { address: pinned(bytes)?, bytes, arrived, coming: false })
    }

    /// Waits for a copy that nobody has waited for.
    fn settle(&mut self, gpu: &Gpu) {
        if std::mem::take(&mut self.coming) {
            // SAFETY: the event lives as long as the block.
            gpu.latch("a kernel failed", unsafe { sys::cuEventSynchronize(self.arrived.0) });
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once; who drops it has waited for the copy.
        let _ = unsafe { sys::cuMemFreeHost(self.address as *mut c_void) };
    }
}

/// The bytes of a tensor as they were when the copy's turn came, on their way to the host.
pub(crate) struct Fetched {
    gpu: Gpu,
    /// None: the copy failed, which the GPU has latched.
    block: Option<Block>,
    len: usize,
}

impl Gpu {
    /// Begins to copy a contiguous tensor to the host. Whatever is launched afterwards may overwrite it.
    pub(crate) fn fetch(&self, from: View) -> Fetched {
        assert!(from.on_device() && from.is_contiguous(), "fetch: {:?}", from.shape());
        self.fetch_bytes(from.address(), from.byte_len())
    }

    fn fetch_bytes(&self, from: u64, len: usize) -> Fetched {
        self.enter();
        let mut block = self.block(len).map_err(|error| {
            self.state().error.get_or_insert(error);
        });
        if let Ok(block) = &mut block {
            block.coming = true;
            // SAFETY: the block has that many bytes, and is used for nothing else until its event has been waited for.
            unsafe {
                let code = sys::cuMemcpyDtoHAsync_v2(block.address as *mut c_void, from, len, self.stream());
                self.latch("copying from the GPU", code);
                self.latch("cuEventRecord", sys::cuEventRecord(block.arrived.0, self.stream()));
            }
        }
        Fetched { gpu: self.clone(), block: block.ok(), len }
    }

    /// A block that nobody uses, with room for so many bytes.
    fn block(&self, bytes: usize) -> Result<Block> {
        let found = {
            let mut idle = self.blocks();
            let fitting = (0..idle.len()).filter(|i| idle[*i].bytes >= bytes).min_by_key(|i| idle[*i].bytes);
            fitting.map(|i| idle.swap_remove(i))
        };
        match found {
            None => Block::new(bytes),
            Some(mut block) => {
                block.settle(self);
                Ok(block)
            }
        }
    }

    /// Waits, then copies a contiguous tensor to the host.
    ///
    /// # Errors
    /// As [`Gpu::sync`].
    pub(crate) fn read(&self, from: View, to: &mut [u8]) -> Result<()> {
        assert!(from.on_device() && from.is_contiguous() && from.byte_len() == to.len(), "read: {:?}", from.shape());
        self.error()?;
        let mut pieces = to.chunks_mut(PIECE).enumerate().map(|(i, piece)| {
            let address = from.address() + (i * PIECE) as u64;
            (self.fetch_bytes(address, piece.len()), piece)
        });
        let mut coming = pieces.next();
        while let Some((fetched, piece)) = coming {
            coming = pieces.next();
            fetched.wait(piece)?;
        }
        self.state().launched.clear();
        Ok(())
    }
}

impl Fetched {
    /// Waits for the copy, and puts it at the beginning of `to`.
    ///
    /// # Errors
    /// As [`Gpu::sync`].
    pub(crate) fn wait(mut self, to: &mut [u8]) -> Result<()> {
        self.gpu.enter();
        if let Some(block) = &mut self.block {
            block.settle(&self.gpu);
        }
        self.gpu.error()?;
        if let Some(block) = &self.block {
            // SAFETY: the copy is done, so the block holds the bytes and nobody writes to it.
            unsafe { ptr::copy_nonoverlapping(block.address as *const u8, to[..self.len].as_mut_ptr(), self.len) };
        }
        Ok(())
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.gpu.blocks().extend(self.block.take());
    }
}
