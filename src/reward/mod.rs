//! Floor 5: rewards. [`judge`] compares two responses, [`rank`] orders many, [`service`] does both for
//! many clients.

pub mod judge;
pub mod rank;
pub mod service;
