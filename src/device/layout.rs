//! Names, shapes and places of tensors. Building a struct of slots *is* registering them: parameters, gradients,
//! moments, master copies and activations are all described this way, and one `Slot` indexes each arena of its layout.

use crate::base::dtype::Dtype;

/// What the optimizer does with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Matrices: weight decay applies.
    Matrix,
    /// Embedding tables and heads: weight decay applies; never given to matrix optimizers.
    Table,
    /// Norm weights and biases: no weight decay.
    Vector,
    /// Not a parameter: activations, states, indices.
    Buffer,
}

/// How random weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with this standard deviation.
    Normal(f32),
}

/// Which of a model's arenas a slot lies in. All else (activations, inputs, optimizer scratch) is of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Part {
    /// The model itself.
    #[default]
    Base,
    /// What an adapter adds to it, and trains in its place.
    Adapter,
    /// Numbers that an adapter multiplies by and nobody trains.
    Constant,
}

/// One tensor of a layout.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Vectors are stored as one row; files and messages show them with one dimension.
    pub vector: bool,
    pub dtype: Dtype,
    pub class: Class,
    pub init: Init,
    pub part: Part,
    /// Position in the layout.
    pub index: usize,
    /// Bytes from the start of the arena; a multiple of [`STRETCH`] elements where all slots have one type.
    pub(super) offset: usize,
}

impl Slot {
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
    /// Elements of its arena before it, gaps included; a multiple of [`STRETCH`] where all slots have one type.
    pub fn first(&self) -> usize {
        self.offset / self.dtype.size()
    }
    /// `[rows, cols]`, or `[len]` for a vector.
    pub fn shape(&self) -> Vec<usize> {
        if self.vector { vec![self.cols] } else { vec![self.rows, self.cols] }
    }
}

/// A list of slots and the bytes they need together.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    slots: Vec<Slot>,
    bytes: usize,
    part: Part,
}

/// Slots start at multiples of so many elements of their own type, so that a tensor starts at the same element of every twin
/// arena and flat ops can tell tensors apart by stretches of this length. Gaps between tensors hold zeros.
pub const STRETCH: usize = 256;

impl Layout {
    pub fn new() -> Layout {
        Layout::default()
    }
    /// An empty layout of another part than the base.
    pub fn of(part: Part) -> Layout {
        Layout { part, ..Layout::default() }
    }
    pub fn part(&self) -> Part {
        self.part
    }
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Elements in all slots.
    pub fn elements(&self) -> usize {
        self.slots.iter().map(Slot::len).sum()
    }

    /// One value for each [`STRETCH`] of an arena of this layout, by the slot that lies there.
    pub fn stretches<T: Clone>(&self, of: impl Fn(&Slot) -> T) -> Vec<T> {
        let each = |slot: &Slot| std::iter::repeat_n(of(slot), slot.len().div_ceil(STRETCH));
        self.slots.iter().flat_map(each).collect()
    }

    /// A `[rows, cols]` parameter that weight decay applies to.
    pub fn matrix(&mut self, name: impl Into<String>, dtype: Dtype, rows: usize, cols: usize, init: Init) -> Slot {
        self.push(Slot { class: Class::Matrix, init, ..buffer(name, dtype, rows, cols) })
    }
    /// A `[rows, cols]` embedding table or head.
    pub fn table(&mut self, name: impl Into<String>, dtype: Dtype, rows: usize, cols: usize, init: Init) -> Slot {
        self.push(Slot { class: Class::Table, init, ..buffer(name, dtype, rows, cols) })
    }
    /// A `[len]` parameter without weight decay.
    pub fn vector(&mut self, name: impl Into<String>, dtype: Dtype, len: usize, init: Init) -> Slot {
        self.push(Slot { class: Class::Vector, init, vector: true, ..buffer(name, dtype, 1, len) })
    }
    /// A `[rows, cols]` tensor that is not a parameter.
    pub fn buffer(&mut self, name: impl Into<String>, dtype: Dtype, rows: usize, cols: usize) -> Slot {
        self.push(buffer(name, dtype, rows, cols))
    }
    /// The same slots at the same indices, stored as another type: gradients, moments, master copies.
    pub fn with_dtype(&self, dtype: Dtype) -> Layout {
        let mut layout = Layout::of(self.part);
        for slot in &self.slots {
            layout.push(Slot { dtype, ..slot.clone() });
        }
        layout
    }

    /// Some of the slots, in the same order at indices of their own.
    pub fn only(&self, which: impl Fn(&Slot) -> bool) -> Layout {
        let mut layout = Layout::new();
        for slot in self.slots.iter().filter(|slot| which(slot)) {
            layout.push(slot.clone());
        }
        layout
    }

    fn push(&mut self, mut slot: Slot) -> Slot {
        slot.part = self.part;
        slot.index = self.slots.len();
        slot.offset = self.bytes;
        self.bytes += slot.len().next_multiple_of(STRETCH) * slot.dtype.size();
        self.slots.push(slot.clone());
        slot
    }
}

fn buffer(name: impl Into<String>, dtype: Dtype, rows: usize, cols: usize) -> Slot {
    Slot {
        name: name.into(),
        rows,
        cols,
        vector: false,
        dtype,
        class: Class::Buffer,
        init: Init::Zeros,
        part: Part::Base,
        index: 0,
        offset: 0,
    }
}
