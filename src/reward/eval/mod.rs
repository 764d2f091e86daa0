//! Evaluation: the public suites, what a judge said of their rows, and the scores that follow.
//!
//! A [`suite`] turns its files into [`Item`](item::Item)s: a prompt, responses, what is known of them and the comparisons
//! that its rule needs. How a comparison was answered does not matter here: by a judge in this program ([`judged`]), by a
//! scalar reward model, or by any model whose answers were written down ([`recorded`]); each is a
//! [`Comparison`](comparison::Comparison) or a list of rewards. [`rules`] grade them by the suite's official rule and by that of
//! the papers, [`metrics`] measure the judge itself (position, length, calibration), [`bootstrap`] says how far scores would
//! move with other rows, and [`summary`] holds all of it.
//!
//! [`contamination`] stands apart: which rows of a benchmark occur in training text.

pub mod best_of_n;
pub mod bootstrap;
pub mod comparison;
pub mod contamination;
pub mod item;
pub mod judged;
pub mod metrics;
pub mod output;
pub mod recorded;
pub mod rules;
pub mod suite;
pub mod summary;
pub mod ties;

#[cfg(test)]
mod fixture;
