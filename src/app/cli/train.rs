//! `gramophone train`: train a model as a run file says.

use super::console::{print, tell};
use super::runtime::RunFlags;
use crate::app::report;
use crate::app::signals::Signals;
use crate::error::Result;
use crate::train::config::Run;
use crate::train::log::{Record, Sink};
use crate::train::run::{self, Finished};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Stages: pretrain (both responses given the prompt), finetune (label-smoothed pairwise), sft (completions), scalar
/// (Bradley-Terry), prove (proofs of known labels). SIGTERM and SIGUSR1 write a checkpoint and exit 0; the same command then goes on from there.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunFlags,
}

pub fn run(Args { run: flags }: Args) -> Result<()> {
    let run = Run::load(&flags.file, &flags.overrides)?;
    if flags.print_config {
        return print(run.explain());
    }
    let dev = flags.place.open()?;
    let signals = Signals::install()?;
    let mut terminal = Terminal::new();
    let finished = run::run(&dev, &run, &mut terminal, &|| signals.stop_requested())?;
    terminal.close();
    if run.log.report && !finished.records.is_empty() {
        let path = run.log_dir().join("report.html");
        report::training(&run, &finished.records, &dev.name()).write(&path)?;
        tell(format_args!("report: {}", path.display()));
    }
    let Finished { checkpoint, step, total_steps, .. } = finished;
    tell(format_args!("model after step {step} of {total_steps}: {}", checkpoint.display()));
    Ok(())
}

/// Tells a person how the run goes: on a terminal a bar that is redrawn, elsewhere plain lines.
pub(super) struct Terminal {
    bar: Option<ProgressBar>,
}

impl Terminal {
    pub(super) fn new() -> Terminal {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{wide_bar} {msg}").expect("the template is ours"));
            bar
        });
        Terminal { bar }
    }
    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(line),
        }
    }
    pub(super) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Sink for Terminal {
    fn record(&mut self, record: &Record, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(record.total_steps);
            bar.set_position(record.step);
        }
        self.line(line);
    }
    fn note(&mut self, line: &str) {
        self.line(line);
    }
}
