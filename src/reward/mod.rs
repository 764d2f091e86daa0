//! Floor 5: rewards. [`judge`] compares two responses, [`rank`] orders many from comparisons, [`bradley_terry`] gives them
//! strengths, [`group`] does both with a model, [`forms`] makes rewards for reinforcement learning, [`eval`] measures judges on
//! public suites.
//! Floor 5: rewards. [`judge`] compares two responses at once, [`rationale`] after thinking about them, [`rank`] orders many;
//! [`vote`] is what several thoughts come to.

pub mod bradley_terry;
pub mod eval;
pub mod forms;
pub mod group;
pub mod judge;
pub mod rank;
pub mod rationale;
pub mod vote;
