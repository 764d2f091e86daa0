//! The one integration binary.
mod allocations;
mod architecture;
mod bench;
mod cli;
mod devices;
mod fixture;
mod golden;
mod golden_text;
mod gpu;
mod invariance;
mod ledger;
mod misuse;
mod server;
mod tolerance;
