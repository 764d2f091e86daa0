//! The cases: an op, its operands on the sizes, what it costs and what holds it up.

mod heads;
mod optimizers;
pub(in crate::app::bench) mod products;
mod rows;
mod sequences;

use super::super::{Bound, Case, Operand};
use super::Sizes;
use crate::base::dtype::Dtype;
use crate::device::{Device, View};
use crate::ops::cost::Cost;

/// All of them that this device can run.
pub fn cases(dev: &Device, s: &Sizes, e: Dtype) -> Vec<Case> {
    let mut all = rows::rows(s, e);
    all.extend(products::products(dev, s, e));
    all.extend(sequences::sequences(s, e));
    all.extend(heads::heads(s, e));
    all.extend(optimizers::optimizers(s, e));
    all
}

fn case(
    op: &'static str,
    shape: String,
    cost: Cost,
    bound: Bound,
    operands: Vec<Operand>,
    work: impl Fn(&Device, &[View]) + Send + Sync + 'static,
) -> Case {
    Case { op, shape, cost, bound, operands, products: None, work: Box::new(work) }
}
