//! Floor 5: rewards. [`judge`] compares two responses at once, [`rationale`] after thinking about them and [`vote`] is what
//! several thoughts come to; [`prove`] writes rationales for known labels, and [`selftrain`] turns unlabelled pairs into a better
//! judge; [`rank`] orders many from comparisons, [`bradley_terry`] gives them strengths, [`group`] does both with a model, [`forms`]
//! makes rewards for reinforcement learning, [`eval`] measures judges on public suites,
//! [`service`] puts one model to work for many clients, [`batch`] does a list of work by it, and [`open`] opens one.

pub mod batch;
pub mod bradley_terry;
pub mod eval;
pub mod forms;
pub mod group;
pub mod judge;
pub mod open;
pub mod prove;
pub mod rank;
pub mod rationale;
pub mod selftrain;
pub mod service;
pub mod vote;
