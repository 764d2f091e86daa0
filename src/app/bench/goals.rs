//! What the engine means to reach on an H200, and what the files of a sitting say about it.
//!
//! A sitting is a directory of result files from one device: the engine's, and those of `benches/peers`. The goals (G1 to G15) ask for
//! ratios to peers and for shares of ceilings; the floors ask the kernels for shares alone. A ceiling is the best that anyone reached
//! in that sitting. What no file answers is said to be not measured, and why.

mod page;
mod sitting;
mod table;

pub use sitting::Sitting;

use super::engine::Passes;
use super::kernels::Sizes;

/// One line of the goals.
struct Goal {
    id: &'static str,
    /// What is measured.
    work: String,
    answer: Answer,
}

enum Answer {
    Cases {
        /// Names of ours; several count by their geometric mean.
        ours: Vec<String>,
        beats: Vec<Beat>,
        /// The least share of the ceiling, where one is asked for.
        of_ceiling: Option<f64>,
    },
    /// Nothing that the engine or its benchmarks have; the reason.
    Nothing(&'static str),
}

/// A ratio to be reached: our speed over another's.
struct Beat {
    whose: Whose,
    /// Cases of theirs, one for each of ours.
    cases: Vec<String>,
    ratio: f64,
}

/// Who is to be beaten.
#[derive(Clone, Copy)]
enum Whose {
    /// The fastest way of any peer.
    Best,
    /// The fastest of these ways of a peer, and what they are called together.
    Ways(&'static str, &'static [&'static str]),
    /// Ourselves, in another case.
    Own(&'static str),
}

/// A share of its ceiling that a kernel must reach.
struct Floor {
    what: &'static str,
    name: String,
    least: f64,
}

/// Markdown: where the figures come from, the goals, the floors.
pub fn goals(sitting: &Sitting, sizes: &Sizes, passes: &Passes) -> String {
    page::page(sitting, &table::goals(sizes, passes), &table::floors(sizes))
}

#[cfg(test)]
mod tests;
