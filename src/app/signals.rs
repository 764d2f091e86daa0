//! Signals that ask a run to stop, and how it may answer.
//!
//! | signal | meaning |
//! |---|---|
//! | SIGTERM, SIGUSR1 | finish the step, write a checkpoint, exit with 0 (Kubernetes; Slurm's `--signal=USR1@120`) |
//! | SIGINT | the first: the same; the second: exit at once with 130 |
//! | SIGXFSZ | a file reached the size limit: an error like a full disk, not the end of the process |
//!
//! The handlers only set flags; the training loop looks at [`Signals::stop_requested`] between steps.

use crate::error::{Error, Kind, Result};
use signal_hook::consts::signal::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// 128 + SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

/// The installed handlers. They stay for the life of the process.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. Call it once, from a verb that can stop early.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn install() -> Result<Signals> {
        let stop = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::new(AtomicBool::new(false));
        let handlers = || -> io::Result<()> {
            for signal in [SIGTERM, SIGUSR1, SIGINT] {
                flag::register(signal, stop.clone())?;
            }
            // In this order: the first SIGINT finds the flag down, the second finds it up.
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED, interrupted.clone())?;
            flag::register(SIGINT, interrupted)?;
            Ok(())
        };
        handlers().map_err(refused)?;
        Ok(Signals { stop })
    }

    /// Whether somebody asked the run to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where SIGINT or SIGTERM ends the process, the unfinished file at `temporary` goes first. For verbs that do not stop
/// early; a signal that was ignored when the program started (`nohup`, `&` in a script) stays ignored.
///
/// # Errors
/// The operating system refuses.
pub fn remove_when_ended(temporary: &Path) -> Result<()> {
    let heeded = [SIGINT, SIGTERM].into_iter().filter(|signal| !ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(heeded).map_err(refused)?;
    let temporary = temporary.to_path_buf();
    let watch = move || {
        for signal in signals.forever() {
            let _ = std::fs::remove_file(&temporary);
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new().spawn(watch).map(drop).map_err(refused)
}

fn ignored(signal: i32) -> bool {
    // SAFETY: asks for the present handler and changes nothing; all zeros is a valid value.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Lets a write past the file size limit (`ulimit -f`) fail with an error that can be told, instead of ending the
/// process without a word. For `main`, before any verb runs.
///
/// # Errors
/// The operating system refuses.
pub fn report_file_size_limit() -> Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop).map_err(refused)
}

fn refused(error: io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot install signal handlers: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::alone::{alone, limit_file_size, spawn};
    use crate::base::atomic;
    use signal_hook::low_level::raise;
    use std::ffi::OsStr;

    fn asks_to_stop(test: &str, signal: i32) {
        alone(&format!("app::signals::tests::{test}"), || {
            let signals = Signals::install().unwrap();
            assert!(!signals.stop_requested());
            raise(signal).unwrap();
            assert!(signals.stop_requested());
        });
    }

    #[test]
    fn sigterm_asks_to_stop() {
        asks_to_stop("sigterm_asks_to_stop", SIGTERM);
    }
    #[test]
    fn sigusr1_asks_to_stop() {
        asks_to_stop("sigusr1_asks_to_stop", SIGUSR1);
    }
    #[test]
    fn the_first_sigint_asks_to_stop() {
        asks_to_stop("the_first_sigint_asks_to_stop", SIGINT);
    }

    #[test]
    fn the_second_sigint_ends_at_once() {
        const INSIDE: &str = "GRAMOPHONE_TEST_INTERRUPTED";
        if std::env::var_os(INSIDE).is_some() {
            let signals = Signals::install().unwrap();
            // Of these, only an interrupt counts as the first.
            raise(SIGTERM).unwrap();
            raise(SIGUSR1).unwrap();
            raise(SIGINT).unwrap();
            println!("still here: {}", signals.stop_requested());
            raise(SIGINT).unwrap();
            println!("not reached");
        }
        let child = spawn("app::signals::tests::the_second_sigint_ends_at_once", &[(INSIDE, OsStr::new("1"))]).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(INTERRUPTED), "{text}");
        assert!(text.contains("still here: true") && !text.contains("not reached"), "{text}");
    }

    #[test]
    fn a_file_too_large_is_an_error() {
        alone("app::signals::tests::a_file_too_large_is_an_error", || {
            let dir = tempfile::tempdir().unwrap();
            limit_file_size(10);
            // SAFETY: a plain system call; back to what a fresh process has, which ends at that signal.
            unsafe { libc::signal(SIGXFSZ, libc::SIG_DFL) };
            report_file_size_limit().unwrap();
            let error = atomic::write_file(dir.path().join("out"), &[0; 100]).unwrap_err();
            assert_eq!(error.kind(), Kind::Io, "{error}");
        });
    }
}
