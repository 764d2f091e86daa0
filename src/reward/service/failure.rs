//! Why there is no answer.

use crate::error::Error;
use crate::infer::service;
use std::fmt;
use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The work makes no sense.
    Invalid(Error),
    /// A prompt does not fit into the context. Nothing is cut.
    TooLong { tokens: usize, most: usize },
    /// More tokens than the whole queue may hold.
    TooLarge { tokens: usize, most: usize },
    /// The queue is full; when it may have room.
    Full { retry_after: Duration },
    /// The deadline passed before it was computed.
    Late,
    /// The service stops, or everything was aborted.
    Stopped,
    /// The model or the device failed.
    Broken(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Invalid(e) | Failure::Broken(e) => e.fmt(f),
            Failure::TooLong { tokens, most } => {
                write!(f, "{tokens} tokens, but at most {most} fit; nothing is cut, shorten it")
            }
            Failure::TooLarge { tokens, most } => {
                write!(f, "{tokens} tokens in one request, but the whole queue holds {most}; send it in parts")
            }
            Failure::Full { retry_after } => {
                write!(f, "the queue is full; try again in {} s", retry_after.as_secs())
            }
            Failure::Late => f.write_str("the deadline passed before it was computed"),
            Failure::Stopped => f.write_str("the service stops"),
        }
    }
}

impl From<service::Failure> for Failure {
    fn from(failure: service::Failure) -> Failure {
        match failure {
            service::Failure::Full { retry_after } => Failure::Full { retry_after },
            service::Failure::Large { tokens, most } => Failure::TooLarge { tokens, most },
            service::Failure::Expired => Failure::Late,
            service::Failure::Stopped => Failure::Stopped,
            service::Failure::Refused(e) => Failure::Invalid(e),
            service::Failure::Broken(e) => Failure::Broken(e),
        }
    }
}
