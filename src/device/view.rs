//! One tensor as the ops take it: a typed rectangle of an arena, row by row, possibly with a row stride.

use crate::base::dtype::{Dtype, Pod};
use std::marker::PhantomData;
use std::ops::Range;

/// Which memory a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Place {
    Host,
    /// A GPU's: the address means nothing to the host.
    Device,
}

/// A `[rows, cols]` tensor somewhere in an arena. Copying a view copies no data.
///
/// Views of one arena may overlap; an op that would be wrong with overlapping operands asserts [`disjoint`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) start: *mut u8,
    rows: usize,
    cols: usize,
    /// Elements from one row to the next.
    stride: usize,
    dtype: Dtype,
    /// Mapped weights are read-only pages.
    writable: bool,
    place: Place,
    arena: PhantomData<&'a ()>,
}

// SAFETY: a view is a pointer into memory that outlives it; who may write when is the ops' contract, stated per op.
unsafe impl Send for View<'_> {}
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// # Safety
    /// `start` must be valid for `rows * cols` elements of `dtype` for `'a`, aligned for it, and writable if said so.
    pub(in crate::device) unsafe fn new(
        start: *mut u8,
        rows: usize,
        cols: usize,
        dtype: Dtype,
        writable: bool,
        place: Place,
    ) -> View<'a> {
        View { start, rows, cols, stride: cols, dtype, writable, place, arena: PhantomData }
    }

    /// A view of a host slice, as one row. For tests and small inputs of the CPU device.
    pub fn of<T: Pod>(data: &'a mut [T]) -> View<'a> {
        // SAFETY: the slice is borrowed mutably for 'a.
        unsafe { View::new(data.as_mut_ptr().cast(), 1, data.len(), T::DTYPE, true, Place::Host) }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn cols(&self) -> usize {
        self.cols
    }
    pub fn stride(&self) -> usize {
        self.stride
    }
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of all elements.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }
    /// Whether it lies in a GPU's memory.
    pub fn on_device(&self) -> bool {
        self.place == Place::Device
    }
    /// The first element's address, in whichever memory it lies; never to be followed on the host.
    pub fn address(&self) -> u64 {
        self.start as u64
    }
    pub fn is_contiguous(&self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }
    /// `[rows, cols]`, for checks and messages.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Some rows of it.
    pub fn rows_in(self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {:?}", self.shape());
        let start = self.start.wrapping_add(range.start * self.stride * self.dtype.size());
        View { start, rows: range.len(), ..self }
    }
    /// The first `n` rows.
    pub fn top(self, n: usize) -> View<'a> {
        self.rows_in(0..n)
    }
    /// Some columns of it; the row stride stays.
    pub fn cols_in(self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {:?}", self.shape());
        let start = self.start.wrapping_add(range.start * self.dtype.size());
        View { start, cols: range.len(), ..self }
    }
    /// The same elements under another shape; contiguous views only.
    pub fn reshape(self, rows: usize, cols: usize) -> View<'a> {
        assert!(self.is_contiguous(), "reshape of a view with gaps");
        assert_eq!(self.len(), rows * cols, "reshape {:?} to [{rows}, {cols}]", self.shape());
        View { rows, cols, stride: cols, ..self }
    }
    /// The same rows seen as elements of a type that is no wider: each row starts where it did, and ends sooner.
    pub fn narrowed(self, dtype: Dtype) -> View<'a> {
        let times = self.dtype.size() / dtype.size();
        assert!(times > 0, "{} memory as the wider {dtype}", self.dtype);
        View { dtype, stride: self.stride * times, ..self }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row<T: Pod>(&self, i: usize) -> &'a [T] {
        self.check::<T>();
        assert!(i < self.rows);
        // SAFETY: in bounds by construction and the assertion above; the element type was checked.
        unsafe { std::slice::from_raw_parts(self.start.cast::<T>().add(i * self.stride), self.cols) }
    }
    /// Row `i` for writing. The caller is an op whose contract says that nobody else uses this row meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn row_mut<T: Pod>(&self, i: usize) -> &'a mut [T] {
        self.check::<T>();
        assert!(i < self.rows && self.writable);
        // SAFETY: as `row`; exclusivity is the op's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<T>().add(i * self.stride), self.cols) }
    }
    /// All elements; contiguous views only.
    #[inline(always)]
    pub fn slice<T: Pod>(&self) -> &'a [T] {
        self.check::<T>();
        assert!(self.is_contiguous(), "a view with gaps is not a slice");
        // SAFETY: as `row`.
        unsafe { std::slice::from_raw_parts(self.start.cast::<T>(), self.len()) }
    }
    /// All elements for writing; contiguous views only. Exclusivity is the op's contract.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn slice_mut<T: Pod>(&self) -> &'a mut [T] {
        self.check::<T>();
        assert!(
            self.is_contiguous() && self.writable,
            "a view with gaps or of a read-only file is not a mutable slice"
        );
        // SAFETY: as `row`.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<T>(), self.len()) }
    }
    /// All bytes; contiguous views only.
    pub fn bytes(&self) -> &'a [u8] {
        assert!(self.is_contiguous(), "a view with gaps is not a slice");
        assert!(self.place == Place::Host, "the host cannot follow a GPU's address");
        // SAFETY: as `row`; any bytes are valid u8.
        unsafe { std::slice::from_raw_parts(self.start, self.len() * self.dtype.size()) }
    }
    /// Takes over the bytes of as many elements of the same type; contiguous views of host memory only.
    pub fn copy_bytes(&self, bytes: &[u8]) {
        self.bytes_mut().copy_from_slice(bytes);
    }
    #[allow(clippy::mut_from_ref)]
    pub(super) fn bytes_mut(&self) -> &'a mut [u8] {
        assert!(self.is_contiguous() && self.writable && self.place == Place::Host);
        // SAFETY: as `slice_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len() * self.dtype.size()) }
    }

    /// The first element's address, for inner loops of the ops that index by hand.
    #[inline(always)]
    pub fn ptr<T: Pod>(&self) -> *const T {
        self.check::<T>();
        self.start.cast()
    }
    /// As [`View::ptr`], for writing.
    #[inline(always)]
    pub fn ptr_mut<T: Pod>(&self) -> *mut T {
        self.check::<T>();
        assert!(self.writable);
        self.start.cast()
    }

    #[inline(always)]
    fn check<T: Pod>(&self) {
        assert!(T::DTYPE == self.dtype, "a {} tensor used as {}", self.dtype, T::DTYPE);
        assert!(self.place == Place::Host, "the host cannot follow a GPU's address");
    }

    fn span(&self) -> Range<usize> {
        let elements = if self.is_empty() { 0 } else { (self.rows - 1) * self.stride + self.cols };
        self.start as usize..self.start as usize + elements * self.dtype.size()
    }
    /// Whether two views share an element. Column ranges of one tensor that lie side by side do not.
    pub fn overlaps(&self, other: &View) -> bool {
        let (a, b) = (self.span(), other.span());
        if a.start >= b.end || b.start >= a.end {
            return false;
        }
        if self.stride == other.stride && self.dtype == other.dtype && self.rows > 1 && other.rows > 1 {
            // Same pitch: side by side when the later window fits between the ends of the earlier one's rows.
            let pitch = self.stride * self.dtype.size();
            let (first, second) = if a.start <= b.start { (self, other) } else { (other, self) };
            let shift = (second.start as usize - first.start as usize) % pitch;
            let width = |v: &View| v.cols * v.dtype.size();
            return !(shift >= width(first) && shift + width(second) <= pitch);
        }
        true
    }
}

/// Panics unless `output` shares no element with any of `others`: a bug of the caller, named by the op.
pub fn disjoint(op: &str, output: View, others: &[View]) {
    for (i, other) in others.iter().enumerate() {
        assert!(!output.overlaps(other), "{op}: the output overlaps operand {i}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_overlap() {
        let mut data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let v = View::of(&mut data).reshape(4, 6);
        assert_eq!(v.rows_in(1..3).cols_in(2..4).row::<f32>(1), &[14.0, 15.0]);
        assert!(!v.cols_in(0..3).overlaps(&v.cols_in(3..6)));
        assert!(v.cols_in(0..4).overlaps(&v.cols_in(3..6)));
        assert!(!v.rows_in(0..2).overlaps(&v.rows_in(2..4)));
        assert!(v.overlaps(&v.rows_in(2..4)));
    }

    #[test]
    #[should_panic(expected = "float32 tensor used as bfloat16")]
    fn wrong_type_is_caught() {
        let mut data = [0f32; 4];
        View::of(&mut data).slice::<crate::base::dtype::bf16>();
    }
}
