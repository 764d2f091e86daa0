//! The one integration binary.
mod allocations;
mod architecture;
mod cli;
mod fixture;
mod golden;
mod golden_text;
mod invariance;
mod misuse;
mod tolerance;
