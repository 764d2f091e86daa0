//! Tests that need a process of their own: limits, signals and being killed belong to a whole process, and the other
//! tests run in this one.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, Stdio};

const INSIDE: &str = "GRAMOPHONE_TEST_ALONE";

/// Starts this test binary again for the one test called `test` (its full path), with `environment` added.
pub fn spawn(test: &str, environment: &[(&str, &OsStr)]) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Runs `body` in a process of its own; `test` is the full path of the test that calls this.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = spawn(test, &[(INSIDE, OsStr::new("1"))]).unwrap().wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
}

/// No file that this process writes may grow past `bytes`; writing on is an error and not the end of the process.
pub fn limit_file_size(bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls with valid arguments.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0, "{}", io::Error::last_os_error());
        limit.rlim_cur = bytes;
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0, "{}", io::Error::last_os_error());
    }
}
