//! Merging: an adapter's pairs added to the weights they stand beside.
//!
//! ```text
//! w <- round(w + s b a)
//! ```
//! Everything is computed in f32, whatever the types on disk, and rounded once to the type that the weights are kept in.

use super::peft::{CONFIG, Peft};
use super::{belongs, fingerprint, open};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::by_dtype;
use crate::device::{Arena, Device, Layout, View};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::lora::Projection;
use crate::ops::gemm::{Into, gemm_nn};
use std::path::Path;

/// The model that an adapter makes of its base, without an adapter. `dtype` picks the type in memory from the stored one.
///
/// # Errors
/// As [`Model::open`] and [`Model::adapted`].
pub fn merge(base: &Path, adapter: &Path, dtype: impl Fn(Dtype) -> Dtype) -> Result<Model> {
    let peft = Peft::open(adapter)?;
    let place = adapter.join(CONFIG).display().to_string();
    let (model, drawn) = Model::open_owned(base, dtype, peft.head, 0)?;
    if !drawn.is_empty() && !peft.score {
        return Err(Error::model(format!("{place}: neither the base nor the adapter has a reward row (score)")));
    }
    let dev = Device::cpu(0);
    belongs(&peft, &model.config, &place)?;
    let shape = peft.resolve(&model.config, &place)?;
    let tables = model.params.adapted(&model.config, Dtype::F32, &shape);
    let pairs = open(adapter, &tables.layout, &fingerprint(&dev, &model)?)?;
    let (delta, slot) = room(&dev, &model)?;
    for (i, layer) in shape.layers.iter().enumerate() {
        for (projection, pair) in Projection::ALL.into_iter().zip(layer) {
            let linear = tables.params.layers[i].projection(projection);
            if let (Some(pair), Some(low)) = (pair, &linear.low) {
                let w = model.weights.at(&linear.w);
                let product = delta.at(&slot).cols_in(0..w.len()).reshape(w.rows(), w.cols());
                dev.install(|| gemm_nn(&dev, product, pairs.at(&low.b), pairs.at(&low.a), Into::Store));
                add(&dev, w, product, pair.scale as f32);
            }
        }
    }
    if shape.score
        && let (Some(row), Some(own)) = (&model.params.score_head, &tables.params.score_head)
    {
        let (w, own) = (model.weights.at(row), pairs.at(own));
        by_dtype!(w.dtype(), E => w.slice_mut::<E>().fill(E::put(<E as Elem>::Acc::ZERO)));
        add(&dev, w, own, 1.0);
    }
    Ok(model)
}

/// Room for the largest product, in f32.
fn room(dev: &Device, model: &Model) -> Result<(Arena, crate::device::Slot)> {
    let sizes = Projection::ALL.map(|p| p.shape(&model.config).iter().product::<usize>());
    let mut layout = Layout::new();
    let slot = layout.buffer("product", Dtype::F32, 1, sizes.into_iter().max().unwrap_or(0));
    Ok((Arena::new(dev, "a merged weight", &layout)?, slot))
}

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// `w <- round(w + s delta)` in f32.
fn add(dev: &Device, w: View, delta: View, s: f32) {
    let Device::Cpu(pool) = dev else { unreachable!("merging happens on the CPU") };
    by_dtype!(w.dtype(), E => pool.each(w.rows(), ROWS, |i| {
        for (w, delta) in w.row_mut::<E>(i).iter_mut().zip(delta.row::<f32>(i)) {
            *w = E::put(<E as Elem>::Acc::of((w.get().f64() as f32 + s * delta) as f64));
        }
    }));
}
