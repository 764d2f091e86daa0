//! The server under test, as a process of its own: its memory can be watched and its end awaited.

use super::Plan;
use crate::error::{Error, Kind, Result};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A running server. It is killed when this is dropped.
pub struct Child {
    process: std::process::Child,
    addr: String,
    said: Arc<Mutex<String>>,
}

/// What of its words is kept.
const KEPT: usize = 1 << 16;

impl Child {
    /// Starts this program's `serve` on a free port.
    ///
    /// # Errors
    /// It ends before it listens; what it said.
    pub fn start(plan: &Plan) -> Result<Child> {
        let refused = |e: std::io::Error| Error::new(Kind::Io, format!("cannot start the server: {e}"));
        let program = std::env::current_exe().map_err(refused)?;
        let seconds = plan.deadline.as_secs_f64();
        let mut command = Command::new(program);
        command.args(["serve", "--addr", "127.0.0.1:0", "--quiet", "--served-model-name", "soak", "--model"]);
        command.arg(&plan.model);
        command.args(["--timeout", &seconds.to_string(), "--queue-timeout", &(seconds / 2.0).to_string()]);
        command.args(["--drain-timeout", &(seconds + 30.0).to_string()]);
        command.args(&plan.serve).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(refused)?;
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(String::new()));
        let mut child = Child { process, addr: String::new(), said: said.clone() };
        let mut before = String::new();
        while child.addr.is_empty() {
            let mut line = String::new();
            if lines.read_line(&mut line).map_err(refused)? == 0 {
                return Err(Error::new(
                    Kind::Io,
                    format!("the server did not start: {}", before.trim().trim_start_matches("gramophone: ")),
                ));
            }
            if let Some((_, url)) = line.split_once("serving on http://") {
                child.addr = url.trim().to_string();
            }
            before.push_str(&line);
        }
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What it says after that ends with it.
            let _ = lines.by_ref().take(KEPT as u64).read_to_end(&mut text);
            *said.lock().unwrap_or_else(|e| e.into_inner()) = String::from_utf8_lossy(&text).into_owned();
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
        });
        Ok(child)
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Bytes in memory.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&mut self) -> Result<u64> {
        if let Ok(Some(status)) = self.process.try_wait() {
            return Err(Error::new(Kind::Io, format!("the server ended by itself: {status}")));
        }
        let path = format!("/proc/{}/statm", self.process.id());
        let text = std::fs::read_to_string(&path).map_err(|e| Error::new(Kind::Io, format!("{path}: {e}")))?;
        let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        // SAFETY: a plain system call.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        Ok(pages * size)
    }

    pub fn terminate(&self) {
        // SAFETY: a plain system call on a child of ours that was not waited for yet.
        unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Waits for its end: the exit code, and what it said.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(mut self, patience: Duration) -> Result<(Option<i32>, String)> {
        let until = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                let said = self.said.lock().unwrap_or_else(|e| e.into_inner()).clone();
                return Ok((status.code(), said));
            }
            if Instant::now() > until {
                return Err(Error::new(Kind::Io, "the server does not end after SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
