//! How far two computations may be apart, by class, and the bookkeeping that holds them to it.
//!
//! | class | compared with | measure |
//! |---|---|---|
//! | [`VALUE`] | transformers | logits, margins, log-probabilities, rewards, losses: difference over max(1, their size) |
//! | [`GRADIENT`] | transformers | gradient tensors and their norms: relative L2 distance |
//! | [`TRAINED`] | transformers | parameters after a run of AdamW: relative L2 distance |
//! | [`ADAPTED`] | PEFT | pairs of an adapter after a run of AdamW: relative L2 distance |
//! | [`RATE`] | transformers | learning rates, both f64: relative |
//! | [`REGROUPED`] | ourselves | the same sum in another order: losses when a step is cut differently |
//! | [`GPU`] | the CPU | values of f32 models on a GPU: as `VALUE` |
//! | [`GPU_TRAINED`] | the CPU | parameters after some steps of AdamW on a GPU: relative L2 distance |
//! | [`GPU_ROUNDED`] | the CPU | losses where weights or moments are rounded at random on a GPU: as `VALUE` |
//! | [`BF16`] | ourselves in f32 | values of a tiny model that stores everything in bf16 (8 bits): as `VALUE` |

use std::collections::BTreeMap;
use std::fmt::Display;

/// A class of closeness.
#[derive(Clone, Copy)]
pub struct Class {
    name: &'static str,
    most: f64,
}

const fn class(name: &'static str, most: f64) -> Class {
    Class { name, most }
}

pub const VALUE: Class = class("value", 1e-4);
pub const GRADIENT: Class = class("gradient", 1e-3);
pub const TRAINED: Class = class("trained", 1e-3);
pub const ADAPTED: Class = class("adapted", 1e-4);
pub const RATE: Class = class("rate", 1e-15);
pub const REGROUPED: Class = class("regrouped", 1e-5);
pub const GPU: Class = class("gpu", 1e-4);
pub const GPU_TRAINED: Class = class("gpu trained", 1e-2);
pub const GPU_ROUNDED: Class = class("gpu rounded", 1e-2);
pub const BF16: Class = class("bf16", 1e-1);

/// The comparisons of one claim and the worst of each class.
#[derive(Default)]
pub struct Check {
    worst: BTreeMap<&'static str, Worst>,
    faults: Vec<String>,
}

#[derive(Default)]
struct Worst {
    compared: usize,
    error: f64,
    place: String,
}

/// Runs the comparisons of one claim, prints the worst of each class, and fails if one is too far apart, or if nothing
/// was compared at all.
pub fn agree(claim: &str, compare: impl FnOnce(&mut Check)) {
    let mut check = Check::default();
    compare(&mut check);
    assert!(!check.worst.is_empty(), "{claim}: nothing was compared");
    for (class, Worst { compared, error, place }) in check.worst {
        println!("{claim}: {compared} of class {class}, worst {error:.1e}: {place}");
    }
    assert!(check.faults.is_empty(), "{claim}:\n{}", check.faults.join("\n"));
}

impl Check {
    /// One value: the difference over max(1, their size).
    pub fn value(&mut self, class: Class, place: impl Display, ours: impl Into<f64>, theirs: impl Into<f64>) {
        let (ours, theirs) = (ours.into(), theirs.into());
        self.note(class, (ours - theirs).abs() / theirs.abs().max(1.0), &place, || format!("{ours} is not {theirs}"));
    }

    /// As [`Check::value`], element by element.
    pub fn values(&mut self, class: Class, place: impl Display, ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len(), "{place}: as many elements");
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            self.value(class, format_args!("{place} [{i}]"), *a, *b);
        }
    }

    /// One positive quantity: the difference over its size.
    pub fn relative(&mut self, class: Class, place: impl Display, ours: f64, theirs: f64) {
        let error = if ours == theirs { 0.0 } else { (ours - theirs).abs() / theirs.abs() };
        self.note(class, error, &place, || format!("{ours} is not {theirs}"));
    }

    /// One tensor: the L2 norm of the difference over that of theirs.
    pub fn tensor(&mut self, class: Class, place: impl Display, ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len(), "{place}: as many elements");
        let (distance, size) = (norm(ours.iter().zip(theirs).map(|(a, b)| a - b)), norm(theirs.iter().copied()));
        let error = if distance == 0.0 { 0.0 } else { distance / size };
        self.note(class, error, &place, || format!("distance {distance:.3e} of a norm of {size:.3e}"));
    }

    fn note(&mut self, class: Class, error: f64, place: &dyn Display, what: impl FnOnce() -> String) {
        // A NaN is a fault and the worst there is.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > class.most {
            let Class { name, most } = class;
            self.faults.push(format!("{place}: {}: error {error:.2e}, {name} allows {most:e}", what()));
        }
        let worst = self.worst.entry(class.name).or_default();
        worst.compared += 1;
        if error > worst.error {
            (worst.error, worst.place) = (error, place.to_string());
        }
    }
}

/// The L2 norm, summed in f64.
pub fn norm(elements: impl Iterator<Item = f32>) -> f64 {
    elements.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}
