//! The border between C and Rust: statuses, the thread's last error, arguments read with their names.

use engine::error::{Error, Kind};
use engine::reward::service::Failure;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

/// How a call went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok = 0,
    /// An argument that cannot mean anything: null, not UTF-8, an unknown name.
    Usage = 1,
    /// A text that cannot be judged.
    Data = 2,
    /// A model directory that is damaged or not supported, or that cannot do what is asked.
    Model = 3,
    /// The operating system refused.
    Io = 4,
    /// A device that is absent, too small or failing.
    Device = 5,
    /// Too many tokens for the context, or for the queue. Nothing is cut.
    TooLong = 6,
    /// The time was over before there was an answer.
    Late = 7,
    /// The judge stops.
    Stopped = 8,
    /// A fault of the library itself.
    Panic = 9,
}

/// Why a call fails.
#[derive(Debug)]
pub struct Refusal {
    pub status: Status,
    message: String,
}

impl Refusal {
    pub fn usage(message: impl Into<String>) -> Refusal {
        Refusal { status: Status::Usage, message: message.into() }
    }
    pub fn null(name: &str) -> Refusal {
        Refusal::usage(format!("{name} is null"))
    }
    pub fn at(mut self, place: impl fmt::Display) -> Refusal {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        let status = match e.kind() {
            Kind::Usage => Status::Usage,
            Kind::Data => Status::Data,
            Kind::Model | Kind::Diverged => Status::Model,
            Kind::Io => Status::Io,
            Kind::Device => Status::Device,
            Kind::Interrupted => Status::Stopped,
        };
        Refusal { status, message: e.to_string() }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let status = match failure {
            Failure::Invalid(e) | Failure::Broken(e) => return e.into(),
            Failure::TooLong { .. } | Failure::TooLarge { .. } => Status::TooLong,
            Failure::Late => Status::Late,
            // A full queue is waited for, so nobody sees it.
            Failure::Full { .. } | Failure::Stopped => Status::Stopped,
        };
        Refusal { status, message: failure.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: String) {
    // C would stop reading at a zero.
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = message);
}

pub fn last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// Runs a call; what it fails with, a panic included, becomes a status and the thread's last error.
pub fn guarded(call: impl FnOnce() -> Result<(), Refusal>) -> Status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(refusal)) => {
            remember(refusal.message);
            refusal.status
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            remember(format!("the library failed: {}", said.unwrap_or("it does not say why")));
            Status::Panic
        }
    }
}

/// A text that must be there.
pub fn text<'a>(name: &str, pointer: *const c_char) -> Result<&'a str, Refusal> {
    if pointer.is_null() {
        return Err(Refusal::null(name));
    }
    let bytes = unsafe { CStr::from_ptr(pointer) };
    bytes.to_str().map_err(|e| Refusal::usage(format!("{name} is not UTF-8 from byte {} on", e.valid_up_to())))
}

/// A text, or what null stands for.
pub fn text_or<'a>(name: &str, pointer: *const c_char, default: &'a str) -> Result<&'a str, Refusal> {
    if pointer.is_null() { Ok(default) } else { text(name, pointer) }
}

/// A path, if it is given.
pub fn path(name: &str, pointer: *const c_char) -> Result<Option<PathBuf>, Refusal> {
    Ok(if pointer.is_null() { None } else { Some(text(name, pointer)?.into()) })
}

/// `n` values.
pub fn list<'a, T>(name: &str, pointer: *const T, n: usize) -> Result<&'a [T], Refusal> {
    match (pointer.is_null(), n) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Refusal::null(name)),
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, n) }),
    }
}

/// Room for `n` values.
pub fn list_mut<'a, T>(name: &str, pointer: *mut T, n: usize) -> Result<&'a mut [T], Refusal> {
    match (pointer.is_null(), n) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Refusal::null(name)),
        (false, _) => Ok(unsafe { std::slice::from_raw_parts_mut(pointer, n) }),
    }
}

/// A time to wait; none for 0.
pub fn seconds(seconds: f64) -> Result<Option<Duration>, Refusal> {
    match seconds {
        0.0 => Ok(None),
        s if s > 0.0 && s <= 1e9 => Ok(Some(Duration::from_secs_f64(s))),
        s => Err(Refusal::usage(format!(
            "timeout_seconds is {s}; it must be a number of seconds, or 0 to wait for ever"
        ))),
    }
}
