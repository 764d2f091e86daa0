//! Floor 5: rewards. [`judge`] compares two responses, [`rank`] orders many, [`eval`] measures how well on public suites.

pub mod eval;
pub mod judge;
pub mod rank;
