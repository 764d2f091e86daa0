//! How much a task's own examples bring: the papers' adaptation protocol (GRAM, GRAM-R²).
//!
//! For each number of examples and each seed, a judge is fine-tuned on that many rows of the training data and measured on the
//! evaluation data. The rows of a seed are nested: fewer are some of more, so that a curve's points differ by what was added.
//! 0 examples is the judge as it is.
//!
//! Each (count, seed) is a cell: an ordinary run with its own directory while it lasts, and a small file of results once it is
//! done. Cells that are done are not computed again, and one that was interrupted goes on from its checkpoint, so the whole ends
//! in the same results however often it was stopped.

pub mod interval;
pub mod summary;

use crate::base::atomic;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::train::config::{Run, Stage};
use crate::train::data::available;
use crate::train::log::{Record, Sink};
use crate::train::run;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The run file and what overrides it.
    pub file: PathBuf,
    pub overrides: Vec<String>,
    /// Numbers of training examples, ascending, each once.
    pub counts: Vec<u64>,
    /// How many seeds, from `train.seed` on.
    pub seeds: u64,
    pub out: PathBuf,
    /// Keep each cell's trained model.
    pub keep_models: bool,
}

/// The result of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub count: u64,
    /// `None` where nothing is drawn: 0 examples.
    pub seed: Option<u64>,
    /// Training examples, over-long rows left out and both orders counted apart.
    pub examples: usize,
    pub steps: u64,
    /// Share of evaluation pairs whose right side leads over both orders together.
    pub accuracy: f64,
    /// Share of evaluation pairs with the same verdict in both orders; scalar models have none.
    pub consistency: Option<f64>,
    /// Mean evaluation loss.
    pub loss: f64,
    /// A hash of all settings that the result depends on.
    settings: String,
}

/// Where the cells live.
const CELLS: &str = "cells";

/// Runs all cells that are not done yet, in order of count and seed. `None` when `stop` said so.
///
/// # Errors
/// What is wrong with the run file, the data or a run; an output directory of other settings.
pub fn run(
    dev: &Device,
    settings: &Settings,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<Cell>>> {
    let base = Run::load(&settings.file, &settings.overrides)?;
    check(&base, settings)?;
    let cells = settings.out.join(CELLS);
    fs::create_dir_all(&cells).map_err(|e| Error::io("create", &cells, e))?;
    atomic::sweep(&cells)?;
    let mut done = Vec::new();
    for (count, seed) in plan(&base, settings) {
        if stop() {
            return Ok(None);
        }
        let name = seed.map_or(count.to_string(), |seed| format!("{count}-seed-{seed}"));
        let (result, dir) = (cells.join(format!("{name}.json")), cells.join(&name));
        let run = one(settings, count, seed, &dir)?;
        let hash = hash(&run);
        let cell = match finished(&result, &hash)? {
            Some(cell) => cell,
            None => {
                sink.note(&format!(
                    "{name}: {}",
                    seed.map_or("the judge as it is".into(), |s| format!("{count} examples, seed {s}"))
                ));
                let Some(cell) = measure(dev, &run, count, seed, hash, sink, stop)? else { return Ok(None) };
                let text = serde_json::to_string_pretty(&cell).expect("numbers and texts") + "\n";
                atomic::write_file(&result, text.as_bytes())?;
                cell
            }
        };
        if !settings.keep_models && dir.is_dir() {
            atomic::remove_dir(&dir)?;
        }
        done.push(cell);
    }
    Ok(Some(done))
}

/// Before anything is trained: that every cell can be.
fn check(base: &Run, settings: &Settings) -> Result<()> {
    if !matches!(base.train.stage, Stage::Finetune | Stage::Scalar) {
        let stage = base.train.stage.as_str();
        return Err(Error::usage(format!(
            "train.stage = \"{stage}\" has no verdict to count; a learning curve needs \"finetune\" or \"scalar\""
        )));
    }
    if base.data.eval.is_empty() {
        return Err(Error::usage("a learning curve needs data.eval: what every cell is measured on"));
    }
    if base.model.path.is_none() {
        return Err(Error::usage("a learning curve needs model.path: the judge to start from"));
    }
    if base.data.train.iter().any(|name| name == "-") {
        return Err(Error::usage("data.train = \"-\": every run reads the training data anew; name a file"));
    }
    if base.data.limit.is_some() {
        return Err(Error::usage("data.limit: the counts say how many examples are used; leave it out"));
    }
    let (most, there) = (settings.counts.last().copied().unwrap_or(0), available(base)? as u64);
    if most > there {
        return Err(Error::usage(format!("--counts: {most} examples, but the training data has {there} usable ones")));
    }
    Ok(())
}

/// Every cell: 0 once, the others once a seed.
fn plan(base: &Run, settings: &Settings) -> Vec<(u64, Option<u64>)> {
    let seeds = |count: u64| match count {
        0 => vec![(0, None)],
        _ => (0..settings.seeds).map(|i| (count, Some(base.train.seed + i))).collect(),
    };
    settings.counts.iter().flat_map(|count| seeds(*count)).collect()
}

/// The run of one cell.
fn one(settings: &Settings, count: u64, seed: Option<u64>, dir: &Path) -> Result<Run> {
    let mut overrides = settings.overrides.clone();
    if let Some(seed) = seed {
        overrides.extend([
            format!("data.limit={count}"),
            format!("data.limit_seed={seed}"),
            format!("train.seed={seed}"),
            "checkpoint.keep=1".into(),
            "checkpoint.major=0".into(),
            "checkpoint.resume=auto".into(),
            "log.report=false".into(),
            "log.tensorboard=false".into(),
        ]);
    }
    let mut run = Run::load(&settings.file, &overrides)?;
    // Paths are set as paths: as text of the command line they would be read as TOML.
    run.checkpoint.dir = dir.to_path_buf();
    run.log.dir = None;
    Ok(run)
}

fn hash(run: &Run) -> String {
    let text = format!("{}\n{:?}\n{:?}\n", run.config_hash(), run.data.eval, run.eval.rows);
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The result of a cell that is done.
fn finished(path: &Path, hash: &str) -> Result<Option<Cell>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Error::io("read", path, e))?,
    };
    let cell: Cell = serde_json::from_str(&text).map_err(|e| {
        Error::data(format!("not a cell of a learning curve: {e}; remove it to compute it again")).at(path.display())
    })?;
    if cell.settings != hash {
        return Err(Error::usage(format!(
            "{}: this cell was computed with other settings; choose another --out, or remove it to compute it again",
            path.display()
        )));
    }
    Ok(Some(cell))
}

fn measure(
    dev: &Device,
    run: &Run,
    count: u64,
    seed: Option<u64>,
    settings: String,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Cell>> {
    let (record, examples, steps) = match seed {
        None => (run::evaluate(dev, run, sink)?, 0, 0),
        Some(_) => {
            let finished = run::run(dev, run, sink, stop)?;
            if finished.stopped {
                return Ok(None);
            }
            let last = |r: &&Record| r.step == finished.step && r.eval_accuracy.is_some();
            match finished.records.iter().rev().find(last) {
                Some(record) => (record.clone(), finished.examples, finished.step),
                // The log is lost, the checkpoint is not.
                None => {
                    return Err(Error::data(format!(
                        "{}: the run is over, but its log has no evaluation; remove the directory to compute it again",
                        run.checkpoint.dir.display()
                    )));
                }
            }
        }
    };
    let accuracy =
        record.eval_accuracy.ok_or_else(|| Error::data("data.eval has no pairs whose better response is known"))?;
    let loss = record.eval_loss.unwrap_or(f64::NAN);
    Ok(Some(Cell { count, seed, examples, steps, accuracy, consistency: record.eval_consistency, loss, settings }))
}
