//! A progress line for people: drawn on a terminal, silent elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Counts things done.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `what` is the plural of what is counted.
    pub fn new(what: &str) -> Progress {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = format!("{{spinner}} {{pos}} {what}, {{per_sec}}, {{elapsed}}");
        bar.set_style(ProgressStyle::with_template(&style).expect("the template is ours"));
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        Progress { bar }
    }
    pub fn add(&mut self, n: u64) {
        self.bar.inc(n);
    }
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
