//! The one error type: what went wrong, where, and what to do about it, in one line a person can act on.
//!
//! Bugs of ours panic (`assert!`); everything the world can do to us becomes an [`Error`]. The library never prints.

use std::fmt;
use std::path::Path;

/// What sort of thing failed. It decides the exit code of the command line and lets callers tell a bad
/// configuration from a bad file without parsing text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command line, run file or API argument that cannot mean anything (exit code 2).
    Usage,
    /// A dataset, request row or template that does not parse or does not fit.
    Data,
    /// A model directory, checkpoint or tokenizer that is damaged, inconsistent or not supported.
    Model,
    /// The operating system refused: missing file, full disk, no permission.
    Io,
    /// A device that is absent, too small or failing.
    Device,
    /// Training left the finite numbers.
    Diverged,
    /// A person or a scheduler asked us to stop.
    Interrupted,
}

/// An error for people. `Display` is one line.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(Kind::Device, message)
    }
    /// An operating-system error with the path and what was being done to it: `io("read", path, e)`.
    pub fn io(doing: &str, path: &Path, error: std::io::Error) -> Self {
        let advice = match error.kind() {
            std::io::ErrorKind::StorageFull => "; free some space and try again",
            std::io::ErrorKind::PermissionDenied => "; check the permissions",
            _ => "",
        };
        Self::new(Kind::Io, format!("cannot {doing} {}: {error}{advice}", path.display()))
    }
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// Puts a place in front of the message: `"pairs.jsonl:17"` gives `pairs.jsonl:17: no field "prompt"`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
    /// 2 for usage and configuration, 1 for what fails while running.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
