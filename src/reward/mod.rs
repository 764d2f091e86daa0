//! Floor 5: rewards. [`judge`] compares two responses, [`rank`] orders many.

pub mod judge;
pub mod prove;
pub mod rank;
