//! Floor 5: rewards. [`judge`] compares two responses at once, [`rationale`] after thinking about them, [`rank`] orders many;
//! [`vote`] is what several thoughts come to.

pub mod judge;
pub mod rank;
pub mod rationale;
pub mod vote;
