//! What Muon works in: room for the largest matrix, cut to the shape of each.

use crate::base::dtype::Dtype;
use crate::device::{Arena, Class, Device, Layout, Slot, View};
use crate::error::Result;
use crate::ops::adamw::AdamW;
use crate::ops::muon::{self, MuonScratch, muon};
use crate::ops::norm2::blocks;

pub struct Muon {
    slots: Slots,
    arena: Arena,
}

/// One row each, as long as the largest matrix needs.
struct Slots {
    layout: Layout,
    x: Slot,
    y: Slot,
    gram: Slot,
    poly: Slot,
    partials: Slot,
    sum: Slot,
}

impl Slots {
    fn new(parameters: &Layout, weights: Dtype) -> Slots {
        let most = |of: &dyn Fn(&Slot) -> usize| {
            parameters.slots().iter().filter(|slot| slot.class == Class::Matrix).map(of).max().unwrap_or(0)
        };
        let (whole, square) = (most(&Slot::len), most(&|slot| slot.rows.min(slot.cols).pow(2)));
        let mut l = Layout::new();
        let [x, y] = ["x", "y"].map(|name| l.buffer(name, weights.stat(), 1, whole));
        let [gram, poly] = ["gram", "poly"].map(|name| l.buffer(name, weights.stat(), 1, square));
        let partials = l.buffer("partials", Dtype::F64, 1, blocks(whole));
        let sum = l.buffer("sum", Dtype::F64, 1, 1);
        Slots { layout: l, x, y, gram, poly, partials, sum }
    }
}

impl Muon {
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, parameters: &Layout, weights: Dtype) -> Result<Muon> {
        let slots = Slots::new(parameters, weights);
        let arena = Arena::new(dev, "Muon's scratch", &slots.layout)?;
        Ok(Muon { slots, arena })
    }

    pub fn bytes(parameters: &Layout, weights: Dtype) -> usize {
        Slots::new(parameters, weights).layout.bytes()
    }

    /// One step of one matrix; `first` is the index of its element 0 in the whole arena.
    pub fn step(&self, dev: &Device, hp: &muon::Muon, p: View, m: View, g: View, first: u64) {
        let ([rows, cols], n) = (p.shape(), p.rows().min(p.cols()));
        let cut =
            |slot: &Slot, rows: usize, cols: usize| self.arena.at(slot).cols_in(0..rows * cols).reshape(rows, cols);
        let (s, a) = (&self.slots, &self.arena);
        let scratch = MuonScratch {
            x: cut(&s.x, rows, cols),
            y: cut(&s.y, rows, cols),
            gram: cut(&s.gram, n, n),
            poly: cut(&s.poly, n, n),
            partials: a.at(&s.partials),
            sum: a.at(&s.sum),
        };
        muon(dev, hp, p, m, g, scratch, first);
    }
}

impl AdamW {
    /// Muon's settings in the same step.
    pub(super) fn of_muon(&self, momentum: f64, rate: f64) -> muon::Muon {
        let AdamW { lr, decay, clip, step, seed, .. } = *self;
        muon::Muon { lr: lr * rate, momentum, decay, clip, step, seed }
    }
}
