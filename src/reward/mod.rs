//! Floor 5: rewards. [`judge`] compares two responses at once, [`rationale`] after thinking about them, [`rank`] orders many;
//! [`vote`] is what several thoughts come to. [`prove`] writes rationales for known labels, and [`selftrain`] turns unlabelled
//! pairs into a better judge.

pub mod judge;
pub mod prove;
pub mod rank;
pub mod rationale;
pub mod selftrain;
pub mod vote;
