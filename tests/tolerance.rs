//! How far two computations may be apart, by class, and the bookkeeping that holds them to it.
//!
//! `docs/numerics.md` says of each class what it is compared with, how, and why it is as wide as it is.

use std::collections::BTreeMap;
use std::fmt::Display;

/// A class of closeness.
#[derive(Clone, Copy)]
pub struct Class {
    name: &'static str,
    most: f64,
}

macro_rules! classes {
    ($($NAME:ident $name:literal $most:literal)*) => {
        $(pub const $NAME: Class = Class { name: $name, most: $most };)*
        const ALL: &[Class] = &[$($NAME),*];
    };
}

classes! {
    VALUE "value" 5e-5
    GRADIENT "gradient" 3e-4
    TRAINED "trained" 3e-4
    ADAPTED "adapted" 1e-5
    RATE "rate" 1e-15
    REGROUPED "regrouped" 2e-6
    GPU "gpu" 1e-4
    GPU_STATE "gpu state" 1e-4
    GPU_TRAINED "gpu trained" 5e-3
    GPU_ROUNDED "gpu rounded" 1e-2
    GPU_BF16 "gpu bf16" 2e-2
    GPU_BF16_MAGNIFIED "gpu bf16 magnified" 5e-2
    BF16 "bf16" 1e-1
    BF16_LOSS "bf16 loss" 1e-2
}

/// `docs/numerics.md` lists the classes, and no others, in this order and with these widths.
#[test]
fn the_document_lists_the_classes() {
    let text = std::fs::read_to_string(crate::architecture::root().join("docs/numerics.md")).unwrap();
    let (_, after) = text.split_once("| class | at most | ").expect("the table of classes");
    let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
    let listed: Vec<(String, f64)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].to_string(), cells[2].parse().unwrap_or_else(|e| panic!("{e}: {row}")))
        })
        .collect();
    let known: Vec<(String, f64)> = ALL.iter().map(|class| (class.name.to_string(), class.most)).collect();
    assert_eq!(listed, known);
}

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
