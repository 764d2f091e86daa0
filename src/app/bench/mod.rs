//! Benchmarks whose figures can be trusted and compared: every result stands beside ceilings measured in the same run.
//!
//! `kernels` times single ops, `engine` whole passes; both give a [`Results`], which is written as JSON, Markdown and HTML. `compare`
//! sets two of them side by side, `goals` holds all of a sitting against what the engine means to reach. How a sample is taken: before it the caches are flushed by overwriting a buffer larger
//! than them; it runs the case once on each of several sets of operands, so that no set is still in a cache when its turn comes;
//! its time, by the device's own clock, is divided by the number of sets. Operands are random normal numbers: matrix units run
//! faster on zeros.

pub mod ceilings;
pub mod compare;
pub mod engine;
pub mod environment;
pub mod goals;
pub mod kernels;
pub mod page;
pub mod results;

pub use ceilings::Ceilings;
pub use environment::Environment;
pub use results::{Bound, Measured, Results, Seconds, Way};

use crate::base::dtype::{Dtype, Elem, bf16};
use crate::base::rng::{Rng, Stream};
use crate::device::cuda::Products;
use crate::device::{Arena, Device, Gpu, Layout, Slot, View};
use crate::error::{Error, Result};
use crate::ops::cost::Cost;

/// How often and on what to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// Timed samples of a case.
    pub samples: usize,
    /// Bytes overwritten before each sample; more than the caches hold.
    pub flushed: usize,
    /// Bytes that the sets of a case's operands have together, at least, unless one set already has more.
    pub rotated: usize,
}

impl Effort {
    /// So many samples, with buffers that outgrow the device's caches.
    pub fn new(dev: &Device, samples: usize) -> Effort {
        let cache = match dev {
            Device::Cpu(_) => 32 << 20,
            Device::Cuda(gpu) => (gpu.properties().l2 as usize).max(1 << 20),
        };
        Effort { samples, flushed: 2 * cache, rotated: 4 * cache }
    }
}

/// What an operand holds.
#[derive(Clone, Debug)]
enum Fill {
    Zeros,
    /// Standard normal numbers times this.
    Normal(f32),
    Ids(Vec<i32>),
}

/// One operand of a case.
#[derive(Clone, Debug)]
struct Operand {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    fill: Fill,
}

impl Operand {
    fn zeros(dtype: Dtype, rows: usize, cols: usize) -> Operand {
        Operand { dtype, rows, cols, fill: Fill::Zeros }
    }
    fn normal(dtype: Dtype, rows: usize, cols: usize) -> Operand {
        Operand { dtype, rows, cols, fill: Fill::Normal(1.0) }
    }
    fn ids(rows: usize, ids: Vec<i32>) -> Operand {
        Operand { dtype: Dtype::I32, rows, cols: ids.len() / rows, fill: Fill::Ids(ids) }
    }
    fn bytes(&self) -> usize {
        self.rows * self.cols * self.dtype.size()
    }
}

type Work = Box<dyn Fn(&Device, &[View]) + Send + Sync>;

/// An op on operands of one shape.
struct Case {
    op: &'static str,
    shape: String,
    cost: Cost,
    bound: Bound,
    operands: Vec<Operand>,
    /// Whose matrix products it runs with, if not those that the run has chosen.
    products: Option<Products>,
    work: Work,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {}", self.op, self.shape)
    }

    /// Measures it.
    ///
    /// # Errors
    /// Not enough memory for the operands; a library that is not there; a kernel that fails.
    fn measure(&self, dev: &Device, effort: &Effort, flush: &Flush) -> Result<Seconds> {
        let one: usize = self.operands.iter().map(Operand::bytes).sum();
        let sets = effort.rotated.div_ceil(one.max(1)).clamp(1, 64);
        self.on(dev, sets, |once| {
            // The first run loads kernels and touches pages.
            dev.timed(once)?;
            let mut samples = Vec::with_capacity(effort.samples);
            for _ in 0..effort.samples {
                flush.run(dev);
                samples.push(dev.timed(once)? / sets as f64);
            }
            dev.sync()?;
            Ok(Seconds::of(samples))
        })
    }

    /// Runs it once and launches no kernel beside its own.
    ///
    /// # Errors
    /// As when it is measured.
    fn once(&self, dev: &Device) -> Result<()> {
        self.on(dev, 1, |once| {
            dev.timed(once)?;
            dev.sync()
        })
    }

    /// Makes so many sets of operands and calls `run` with what runs the case once on each.
    fn on<R>(&self, dev: &Device, sets: usize, run: impl FnOnce(&(dyn Fn() + Sync)) -> Result<R>) -> Result<R> {
        let _chosen = self.products.map(|products| Choice::new(dev, products)).transpose()?;
        let mut layout = Layout::new();
        let slots: Vec<Vec<Slot>> = (0..sets)
            .map(|_| self.operands.iter().map(|o| layout.buffer("operand", o.dtype, o.rows, o.cols)).collect())
            .collect();
        let arena = Arena::new(dev, &self.name(), &layout)?;
        let numbers = Numbers::new();
        for (set, slots) in slots.iter().enumerate() {
            for (i, (operand, slot)) in self.operands.iter().zip(slots).enumerate() {
                numbers.fill(dev, arena.at(slot), &operand.fill, set * 31 + i);
            }
        }
        let views: Vec<Vec<View>> = slots.iter().map(|set| set.iter().map(|slot| arena.at(slot)).collect()).collect();
        run(&|| views.iter().for_each(|set| (self.work)(dev, set)))
    }
}

/// Matrix products that are chosen until this is dropped.
struct Choice<'a> {
    gpu: &'a Gpu,
    before: Products,
}

impl<'a> Choice<'a> {
    fn new(dev: &'a Device, products: Products) -> Result<Choice<'a>> {
        let Device::Cuda(gpu) = dev else {
            return Err(Error::usage("only a GPU has a choice of matrix products"));
        };
        let before = gpu.products();
        gpu.use_products(products)?;
        Ok(Choice { gpu, before })
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        // They ran before, so their library is open.
        let _ = self.gpu.use_products(self.before);
    }
}

/// A buffer that is overwritten to empty the caches.
struct Flush {
    arena: Arena,
    slot: Slot,
}

impl Flush {
    fn new(dev: &Device, bytes: usize) -> Result<Flush> {
        let mut layout = Layout::new();
        let slot = layout.buffer("flush", Dtype::U8, 1, bytes);
        Ok(Flush { arena: Arena::new(dev, "flushing the caches", &layout)?, slot })
    }
    fn run(&self, dev: &Device) {
        dev.zero(self.arena.at(&self.slot));
    }
}

/// Normal numbers to fill operands with: drawn once, repeated from another place for each operand.
struct Numbers(Vec<f32>);

impl Numbers {
    /// A prime number of them, so that no row repeats another.
    const COUNT: usize = 262_147;

    fn new() -> Numbers {
        let rng = Rng::new(1, Stream::Test, 0);
        Numbers((0..Numbers::COUNT as u64).map(|i| rng.normal(i) as f32).collect())
    }

    fn fill(&self, dev: &Device, to: View, fill: &Fill, key: usize) {
        let scale = match fill {
            Fill::Zeros => return,
            Fill::Ids(ids) => return dev.write(to, ids),
            Fill::Normal(scale) => *scale,
        };
        let scaled = self.0.iter().map(|x| scale * x);
        match to.dtype() {
            Dtype::Bf16 => dev.write(to, &repeated(&scaled.map(bf16::put).collect::<Vec<_>>(), 7919 * key, to.len())),
            _ => dev.write(to, &repeated(&scaled.collect::<Vec<_>>(), 7919 * key, to.len())),
        }
    }
}

/// The first `len` elements of `of` over and over, from place `from` on.
fn repeated<T: Copy>(of: &[T], from: usize, len: usize) -> Vec<T> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        let rest = &of[(from + all.len()) % of.len()..];
        all.extend_from_slice(&rest[..rest.len().min(len - all.len())]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn numbers_repeat_from_any_place() {
        assert_eq!(repeated(&[1, 2, 3], 7, 5), [2, 3, 1, 2, 3]);
        assert_eq!(repeated(&[1, 2, 3], 0, 2), [1, 2]);
    }
}
