//! Floor 5: rewards. [`judge`] compares two responses, [`rank`] orders many, [`prove`] writes
//! rationales for known labels, [`selftrain`] turns unlabelled pairs into a better judge.

pub mod judge;
pub mod prove;
pub mod rank;
pub mod selftrain;
