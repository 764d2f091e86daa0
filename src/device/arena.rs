//! The memory of a layout: one allocation on its device, or the pages of mapped files.

use super::cuda::Memory as GpuMemory;
use super::view::Place as Where;
use super::{Device, Layout, Mapped, Part, Slot, View};
use crate::base::dtype::Dtype;
use crate::error::{Error, Result};
use memmap2::MmapMut;
use std::borrow::Cow;
use std::sync::Arc;

/// Memory for every slot of a layout.
///
/// A slot of any twin layout ([`Layout::with_dtype`]) indexes it: parameters, gradients and moments are arenas of
/// twins, and `arena.at(&slot)` gives this arena's tensor with this arena's type.
pub struct Arena {
    places: Vec<Place>,
    bytes: usize,
    part: Part,
    place: Where,
    memory: Memory,
}

struct Place {
    address: usize,
    elements: usize,
    dtype: Dtype,
    writable: bool,
}

enum Memory {
    /// Held for their drop.
    Owned(#[allow(dead_code)] MmapMut),
    Mapped(#[allow(dead_code)] Vec<Arc<Mapped>>),
    Gpu(GpuMemory),
}

impl Arena {
    /// Allocates the layout on a device, zeroed. Pages of host memory cost nothing until they are touched.
    ///
    /// # Errors
    /// When the device has not enough memory; the message names `what` and the size.
    pub fn new(dev: &Device, what: &str, layout: &Layout) -> Result<Arena> {
        match dev {
            Device::Cpu(_) => Arena::on_host(what, layout),
            Device::Cuda(gpu) => {
                let memory = GpuMemory::new(gpu, what, layout.bytes())?;
                let start = memory.address() as usize;
                Ok(Arena::over(layout, start, Where::Device, Memory::Gpu(memory)))
            }
        }
    }

    fn on_host(what: &str, layout: &Layout) -> Result<Arena> {
        let mut memory = MmapMut::map_anon(layout.bytes().max(1)).map_err(|e| {
            Error::device(format!("cannot allocate {:.2} GB for {what}: {e}", layout.bytes() as f64 / 1e9))
        })?;
        let start = memory.as_mut_ptr() as usize;
        Ok(Arena::over(layout, start, Where::Host, Memory::Owned(memory)))
    }

    fn over(layout: &Layout, start: usize, place: Where, memory: Memory) -> Arena {
        let of = |slot: &Slot| Place {
            address: start + slot.offset,
            elements: slot.len(),
            dtype: slot.dtype,
            writable: true,
        };
        let places = layout.slots().iter().map(of).collect();
        Arena { places, bytes: layout.bytes(), part: layout.part(), place, memory }
    }

    /// A read-only arena whose slots lie in mapped files: `(file, byte offset)` for each slot of the layout, in order.
    /// `None` when some tensor is not aligned for its type in its file; the caller then copies.
    pub fn mapped(layout: &Layout, files: &[(Arc<Mapped>, usize)]) -> Option<Arena> {
        assert_eq!(layout.slots().len(), files.len(), "one place per slot");
        let mut places = Vec::with_capacity(files.len());
        for (slot, (file, offset)) in layout.slots().iter().zip(files) {
            assert!(offset + slot.bytes() <= file.len(), "{} lies outside its file", slot.name);
            let address = file.as_ptr() as usize + offset;
            if !address.is_multiple_of(slot.dtype.size()) {
                return None;
            }
            places.push(Place { address, elements: slot.len(), dtype: slot.dtype, writable: false });
        }
        let files = files.iter().map(|(file, _)| file.clone()).collect();
        let (bytes, part, memory) = (layout.bytes(), layout.part(), Memory::Mapped(files));
        Some(Arena { places, bytes, part, place: Where::Host, memory })
    }

    /// This arena's tensor for a slot of its layout or of a twin of it.
    pub fn at(&self, slot: &Slot) -> View<'_> {
        assert!(self.part == slot.part, "{} lies in another arena ({:?}, not {:?})", slot.name, slot.part, self.part);
        let place = &self.places[slot.index];
        assert_eq!(place.elements, slot.len(), "{} is not a slot of this arena", slot.name);
        // SAFETY: the place lies inside memory that lives as long as `self` and is aligned for its type.
        unsafe { View::new(place.address as *mut u8, slot.rows, slot.cols, place.dtype, place.writable, self.place) }
    }

    /// Several tensors as one, row after row (vectors: end to end), if that is how they lie: of one type, with the same columns, without gaps.
    pub fn joined(&self, slots: &[&Slot]) -> Option<View<'_>> {
        let first = slots.first()?;
        let start = self.find(first)?;
        let (mut end, [mut rows, mut cols]) = (start.address(), [0, 0]);
        for slot in slots {
            let view = self.find(slot)?;
            let alike = slot.vector == first.vector && (slot.vector || slot.cols == first.cols);
            if view.address() != end || view.dtype() != start.dtype() || !alike {
                return None;
            }
            end += view.byte_len() as u64;
            [rows, cols] = if first.vector { [1, cols + slot.cols] } else { [rows + slot.rows, slot.cols] };
        }
        let (address, writable) = (start.address() as *mut u8, slots.iter().all(|s| self.places[s.index].writable));
        // SAFETY: the places follow each other in memory that lives as long as `self`.
        Some(unsafe { View::new(address, rows, cols, start.dtype(), writable, self.place) })
    }

    /// As [`Arena::at`]; `None` where the slot is of another part of the model. So an arena of gradients says what is
    /// trained: what it has no place for is frozen.
    pub fn find(&self, slot: &Slot) -> Option<View<'_>> {
        (self.part == slot.part).then(|| self.at(slot))
    }

    /// Everything as one row, gaps between tensors included: for ops that pass over all parameters at once.
    ///
    /// # Panics
    /// An arena of several types, or of mapped files.
    pub fn flat(&self) -> View<'_> {
        assert!(!matches!(self.memory, Memory::Mapped(_)), "tensors in mapped files do not lie in one row");
        let Some(first) = self.places.first() else { panic!("an empty arena has no row") };
        assert!(self.places.iter().all(|p| p.dtype == first.dtype), "tensors of several types are no row of one type");
        // SAFETY: the arena's memory starts at its first slot and has `bytes` bytes, whole elements of the one type.
        unsafe {
            View::new(first.address as *mut u8, 1, self.bytes / first.dtype.size(), first.dtype, true, self.place)
        }
    }

    /// The bytes of a slot's tensor, copied to the host where it does not lie there.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn fetch(&self, slot: &Slot) -> Result<Cow<'_, [u8]>> {
        match &self.memory {
            Memory::Gpu(memory) => {
                let view = self.at(slot);
                let mut bytes = vec![0; view.byte_len()];
                memory.gpu().read(view, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
            _ => Ok(Cow::Borrowed(self.at(slot).bytes())),
        }
    }

    /// A host arena's tensors on a device. The CPU takes the arena as it is, mapped pages included.
    ///
    /// # Errors
    /// When the device has not enough memory; the message names `what`.
    pub fn on(self, dev: &Device, what: &str, layout: &Layout) -> Result<Arena> {
        match dev {
            Device::Cpu(_) => Ok(self),
            Device::Cuda(_) => self.copied(dev, what, layout),
        }
    }

    /// A copy of a host arena on a device.
    ///
    /// # Errors
    /// As [`Arena::on`].
    pub fn copied(&self, dev: &Device, what: &str, layout: &Layout) -> Result<Arena> {
        let there = Arena::new(dev, what, layout)?;
        self.copy_to(&there, dev, layout)?;
        Ok(there)
    }

    /// Takes over what a host arena of the same layout holds, in place of what is here; on a GPU into the memory that is here.
    ///
    /// # Errors
    /// As [`Device::sync`].
    pub fn take(&mut self, dev: &Device, host: Arena, layout: &Layout) -> Result<()> {
        match dev {
            Device::Cpu(_) => {
                *self = host;
                Ok(())
            }
            Device::Cuda(_) => host.copy_to(self, dev, layout),
        }
    }

    fn copy_to(&self, there: &Arena, dev: &Device, layout: &Layout) -> Result<()> {
        for slot in layout.slots() {
            match dev {
                Device::Cpu(_) => there.at(slot).bytes_mut().copy_from_slice(self.at(slot).bytes()),
                Device::Cuda(gpu) => gpu.write(there.at(slot), self.at(slot).bytes()),
            }
        }
        dev.sync()
    }

    /// Bytes of the layout.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Class, Init};

    #[test]
    fn slots_are_disjoint_zero_and_index_twins() {
        let mut l = Layout::new();
        let a = l.matrix("a", Dtype::F32, 3, 5, Init::Zeros);
        let b = l.vector("b", Dtype::Bf16, 7, Init::Ones);
        let arena = Arena::new(&Device::cpu(1), "test", &l).unwrap();
        assert!(!arena.at(&a).overlaps(&arena.at(&b)));
        assert!(arena.at(&a).slice::<f32>().iter().all(|x| *x == 0.0));
        let twin = Arena::new(&Device::cpu(1), "twin", &l.with_dtype(Dtype::F64)).unwrap();
        assert_eq!(twin.at(&b).dtype(), Dtype::F64);
    }

    #[test]
    fn twins_lie_alike_in_one_row() {
        let mut l = Layout::new();
        l.matrix("a", Dtype::Bf16, 3, 100, Init::Zeros);
        let b = l.vector("b", Dtype::Bf16, 7, Init::Ones);
        for dtype in [Dtype::Bf16, Dtype::F32, Dtype::U8] {
            let arena = Arena::new(&Device::cpu(1), "a twin", &l.with_dtype(dtype)).unwrap();
            assert_eq!(arena.flat().len(), 512 + 256);
            assert_eq!(arena.flat().cols_in(512..519).address(), arena.at(&b).address());
        }
        assert_eq!(l.stretches(|slot| slot.class), [Class::Matrix, Class::Matrix, Class::Vector]);
    }

    #[test]
    fn what_follows_each_other_is_joined() {
        let mut l = Layout::new();
        // 512 and 256 elements, 3 of 256, 256 and 256: a gap behind the third alone.
        let (a, b) = (l.matrix("a", Dtype::Bf16, 4, 128, Init::Zeros), l.matrix("b", Dtype::Bf16, 2, 128, Init::Zeros));
        let short = l.vector("short", Dtype::Bf16, 3, Init::Zeros);
        let (u, v) = (l.vector("u", Dtype::Bf16, 256, Init::Zeros), l.vector("v", Dtype::Bf16, 256, Init::Zeros));
        let other = l.matrix("other", Dtype::Bf16, 4, 64, Init::Zeros);
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let arena = Arena::new(&Device::cpu(1), "a twin", &l.with_dtype(dtype)).unwrap();
            let both = arena.joined(&[&a, &b]).unwrap();
            assert_eq!((both.shape(), both.dtype(), both.address()), ([6, 128], dtype, arena.at(&a).address()));
            assert_eq!(both.rows_in(4..6).address(), arena.at(&b).address());
            assert_eq!(arena.joined(&[&u, &v]).unwrap().shape(), [1, 512]);
            assert_eq!(arena.joined(&[&b]).unwrap().shape(), [2, 128]);
            // Out of order, with something between, with a gap, of two kinds, of other columns.
            for apart in [[&b, &a], [&a, &short], [&a, &u], [&short, &u], [&b, &short], [&v, &other]] {
                assert!(arena.joined(&apart).is_none(), "{} and {}", apart[0].name, apart[1].name);
            }
        }
        let mut elsewhere = Layout::of(Part::Adapter);
        let low = elsewhere.matrix("low", Dtype::Bf16, 2, 128, Init::Zeros);
        assert!(Arena::new(&Device::cpu(1), "test", &l).unwrap().joined(&[&a, &low]).is_none());
    }
}
