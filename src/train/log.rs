//! What a run says about itself, on disk and as lines.
//!
//! - `trainer_log.jsonl`: one object per row, with the names LLaMA-Factory's dashboards read;
//! - `metrics.csv`: the same for spreadsheets; an absent value is an empty cell;
//! - `tensorboard/`: event files ([`crate::train::tensorboard`]);
//! - [`progress_line`], for a terminal.
//!
//! A resumed run goes on in the same files: rows past the step it resumes from are cut off first, so no step is there
//! twice. The JSON rows are the record; the table is made from them. Nothing here prints: lines go to a [`Sink`].

use crate::base::atomic;
use crate::error::{Error, Result};
use crate::train::tensorboard::EventFile;
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const JSON: &str = "trainer_log.jsonl";
const CSV: &str = "metrics.csv";
const TENSORBOARD: &str = "tensorboard";

/// Who is told how a run goes. The command line's terminal is one; `()` hears and says nothing.
pub trait Sink {
    /// A row was logged; `line` is its [`progress_line`].
    fn record(&mut self, record: &Record, line: &str);
    /// Something a person should know, in one line.
    fn note(&mut self, line: &str);
}

impl Sink for () {
    fn record(&mut self, _: &Record, _: &str) {}
    fn note(&mut self, _: &str) {}
}

/// Expands the table of metrics into [`Record`]; each is named once.
macro_rules! record {
    ($($(#[doc = $doc:literal])+ $name:ident => $tag:literal,)+) => {
        /// One row of the log. What was not measured at its step is `None`.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Record {
            /// Optimizer steps taken.
            pub step: u64,
            pub total_steps: u64,
            /// Passes over the data so far, a fraction.
            pub epoch: f64,
            /// Training tokens so far.
            pub tokens: u64,
            /// Seconds of training so far, earlier sessions of the run included.
            pub elapsed: f64,
            $($(#[doc = $doc])+ pub $name: Option<f64>,)+
        }

        impl Record {
            /// Name, TensorBoard tag and value of each metric.
            pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<f64>)> {
                [$((stringify!($name), $tag, self.$name),)+].into_iter()
            }
            fn metrics_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Option<f64>)> {
                [$((stringify!($name), &mut self.$name),)+].into_iter()
            }
        }
    };
}

record! {
    /// Mean training loss since the row before.
    loss => "train/loss",
    /// Loss on the evaluation rows.
    eval_loss => "eval/loss",
    /// Fraction of training examples judged right since the row before.
    accuracy => "train/accuracy",
    /// Fraction of evaluation pairs judged right.
    eval_accuracy => "eval/accuracy",
    /// Fraction of evaluation pairs with the same verdict in both orders.
    eval_consistency => "eval/consistency",
    /// Learning rate of the step.
    lr => "train/learning_rate",
    /// Norm of the gradient before clipping.
    grad_norm => "train/grad_norm",
    /// Training tokens per second since the row before.
    throughput => "train/tokens_per_second",
    /// Arithmetic done, as a fraction of what the machine was measured to reach.
    peak => "train/fraction_of_peak",
}

impl Record {
    /// Seconds to the end at the pace so far; `None` before the first step.
    pub fn remaining(&self) -> Option<f64> {
        let left = self.total_steps.saturating_sub(self.step);
        (self.step > 0).then(|| self.elapsed / self.step as f64 * left as f64)
    }

    fn percentage(&self) -> f64 {
        100.0 * self.step as f64 / self.total_steps.max(1) as f64
    }

    /// Its row in `trainer_log.jsonl`, without the line's end.
    fn to_json(&self) -> String {
        let mut row = Map::new();
        row.insert("current_steps".into(), self.step.into());
        row.insert("total_steps".into(), self.total_steps.into());
        for (name, _, value) in self.metrics() {
            if let Some(value) = value.filter(|v| v.is_finite()) {
                row.insert(name.into(), value.into());
            }
        }
        row.insert("epoch".into(), self.epoch.into());
        row.insert("percentage".into(), ((self.percentage() * 100.0).round() / 100.0).into());
        row.insert("elapsed_time".into(), duration(self.elapsed).into());
        row.insert("remaining_time".into(), duration(self.remaining().unwrap_or(0.0)).into());
        row.insert("total_tokens".into(), self.tokens.into());
        row.insert("elapsed_seconds".into(), self.elapsed.into());
        Value::Object(row).to_string()
    }

    fn from_json(line: &str) -> Option<Record> {
        let row: Map<String, Value> = serde_json::from_str(line).ok()?;
        let mut record = Record {
            step: row.get("current_steps")?.as_u64()?,
            total_steps: row.get("total_steps")?.as_u64()?,
            epoch: row.get("epoch")?.as_f64()?,
            tokens: row.get("total_tokens")?.as_u64()?,
            elapsed: row.get("elapsed_seconds")?.as_f64()?,
            ..Record::default()
        };
        for (name, value) in record.metrics_mut() {
            *value = row.get(name).and_then(Value::as_f64);
        }
        Some(record)
    }

    fn csv_header() -> String {
        let names: String = Record::default().metrics().map(|(name, ..)| format!(",{name}")).collect();
        format!("step,epoch{names},tokens,elapsed_seconds\n")
    }

    fn to_csv(&self) -> String {
        let cell = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        let metrics: String = self.metrics().map(|(_, _, value)| format!(",{}", cell(value))).collect();
        format!("{},{}{metrics},{},{}\n", self.step, self.epoch, self.tokens, self.elapsed)
    }
}

/// `step 00010/00100 (10.00%) | loss 0.6931 | grad 1.24 | acc 51.2% | lr 1.00e-5 | tok/s 12345 | 61% of peak | eta 0:12:03`,
/// of which only what was measured.
pub fn progress_line(record: &Record) -> String {
    let width = record.total_steps.to_string().len().max(5);
    let mut parts =
        vec![format!("step {:0width$}/{:0width$} ({:.2}%)", record.step, record.total_steps, record.percentage())];
    let mut part = |value: Option<f64>, show: &dyn Fn(f64) -> String| parts.extend(value.map(show));
    part(record.loss, &|x| format!("loss {x:.4}"));
    part(record.eval_loss, &|x| format!("eval loss {x:.4}"));
    part(record.grad_norm, &|x| format!("grad {x:.2}"));
    part(record.accuracy, &|x| format!("acc {:.1}%", 100.0 * x));
    part(record.eval_accuracy, &|x| format!("eval acc {:.1}%", 100.0 * x));
    part(record.eval_consistency, &|x| format!("consistent {:.1}%", 100.0 * x));
    part(record.lr, &|x| format!("lr {x:.2e}"));
    part(record.throughput, &|x| format!("tok/s {x:.0}"));
    part(record.peak, &|x| format!("{:.0}% of peak", 100.0 * x));
    part(record.remaining(), &|x| format!("eta {}", duration(x)));
    parts.join(" | ")
}

/// Seconds as `1:02:03`, or `2 days, 1:02:03`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    let clock = format!("{}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
    match s / 86_400 {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// Which files to write beside `trainer_log.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFiles {
    pub csv: bool,
    pub tensorboard: bool,
}

/// The open logs of a run.
#[derive(Debug)]
pub struct Log {
    json: Appended,
    csv: Option<Appended>,
    events: Option<EventFile>,
    records: Vec<Record>,
}

impl Log {
    /// Opens the logs in `dir`, which is created. `resumed` is the step a run goes on from: rows up to it stay. `None`
    /// begins the files anew.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(dir: &Path, files: LogFiles, resumed: Option<u64>) -> Result<Log> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
        let kept = match resumed {
            Some(step) => rows_up_to(&dir.join(JSON), step)?,
            None => Vec::new(),
        };
        let json: String = kept.iter().map(|(line, _)| format!("{line}\n")).collect();
        let records: Vec<Record> = kept.into_iter().map(|(_, record)| record).collect();
        let table = Record::csv_header() + &records.iter().map(Record::to_csv).collect::<String>();
        let first = resumed.map_or(0, |step| step + 1);
        Ok(Log {
            json: Appended::open(dir.join(JSON), &json)?,
            csv: files.csv.then(|| Appended::open(dir.join(CSV), &table)).transpose()?,
            events: files.tensorboard.then(|| EventFile::create(&dir.join(TENSORBOARD), first)).transpose()?,
            records,
        })
    }

    /// Writes a row to every file. It is on its way to the disk when this returns.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.json.append(&format!("{}\n", record.to_json()))?;
        if let Some(csv) = &mut self.csv {
            csv.append(&record.to_csv())?;
        }
        if let Some(events) = &mut self.events {
            events.scalars(record.step, record.metrics().filter_map(|(_, tag, value)| Some((tag, value?))))?;
        }
        self.records.push(record.clone());
        Ok(())
    }

    /// All rows of the run, those of earlier sessions included.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

/// The rows of a log up to `step`, as they stand and read. A line that does not parse was cut off by a crash.
fn rows_up_to(path: &Path, step: u64) -> Result<Vec<(String, Record)>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => String::from_utf8_lossy(&bytes.map_err(|e| Error::io("read", path, e))?).into_owned(),
    };
    let rows = text.lines().filter_map(|line| Some((line.to_string(), Record::from_json(line)?)));
    Ok(rows.filter(|(_, record)| record.step <= step).collect())
}

/// A text file that grows by whole lines.
#[derive(Debug)]
struct Appended {
    file: File,
    path: PathBuf,
}

impl Appended {
    fn open(path: PathBuf, contents: &str) -> Result<Appended> {
        atomic::write_file(&path, contents.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Appended { file, path })
    }

    fn append(&mut self, line: &str) -> Result<()> {
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: LogFiles = LogFiles { csv: true, tensorboard: true };

    fn row(step: u64) -> Record {
        Record {
            step,
            total_steps: 100,
            epoch: step as f64 / 50.0,
            tokens: 1000 * step,
            elapsed: 0.1 * step as f64,
            loss: Some(1.0 / step as f64),
            lr: Some(1e-5),
            grad_norm: step.is_multiple_of(2).then_some(0.3),
            ..Record::default()
        }
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn rows_have_the_names_that_dashboards_read() {
        let record = Record { accuracy: Some(0.5), throughput: Some(9.5), eval_loss: Some(f64::NAN), ..row(10) };
        let expected = "{\"current_steps\":10,\"total_steps\":100,\"loss\":0.1,\"accuracy\":0.5,\"lr\":0.00001,\
                        \"grad_norm\":0.3,\"throughput\":9.5,\"epoch\":0.2,\"percentage\":10.0,\
                        \"elapsed_time\":\"0:00:01\",\"remaining_time\":\"0:00:09\",\"total_tokens\":10000,\
                        \"elapsed_seconds\":1.0}";
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parse(&record.to_json()), parse(expected));
        let names = |text: &str| parse(text).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&record.to_json()), names(expected));
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), Record { eval_loss: None, ..record });
    }

    #[test]
    fn the_table_has_a_cell_for_every_column() {
        let columns = Record::csv_header().matches(',').count();
        assert_eq!(row(3).to_csv().matches(',').count(), columns);
        assert!(row(4).to_csv().starts_with("4,0.08,0.25,,,,,0.00001,0.3,,,4000,0.4"), "{}", row(4).to_csv());
    }

    #[test]
    fn a_resumed_run_has_every_step_once() {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut log = Log::open(whole.path(), ALL, None).unwrap();
        (1..=20).for_each(|step| log.write(&row(step)).unwrap());

        let mut log = Log::open(parts.path(), ALL, None).unwrap();
        (1..=15).for_each(|step| log.write(&row(step)).unwrap());
        drop(log);
        // A crash in the middle of a line.
        let torn = read(parts.path(), JSON) + &row(16).to_json()[..40];
        fs::write(parts.path().join(JSON), torn).unwrap();
        let mut log = Log::open(parts.path(), ALL, Some(10)).unwrap();
        assert_eq!(log.records(), (1..=10).map(row).collect::<Vec<_>>());
        (11..=20).for_each(|step| log.write(&row(step)).unwrap());

        for name in [JSON, CSV] {
            assert_eq!(read(parts.path(), name), read(whole.path(), name));
        }
        assert_eq!(log.records(), (1..=20).map(row).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(parts.path().join(TENSORBOARD)).unwrap().count(), 2);
        Log::open(parts.path(), LogFiles { csv: false, tensorboard: false }, None).unwrap();
        assert_eq!(read(parts.path(), JSON), "");
    }

    #[test]
    fn progress_lines() {
        let record = Record {
            step: 10,
            total_steps: 100,
            elapsed: 80.4,
            loss: Some(0.69324),
            accuracy: Some(0.512),
            lr: Some(1e-5),
            grad_norm: Some(1.239),
            throughput: Some(12345.4),
            peak: Some(0.61),
            ..Record::default()
        };
        let line = "step 00010/00100 (10.00%) | loss 0.6932 | grad 1.24 | acc 51.2% | lr 1.00e-5 | tok/s 12345 | \
                    61% of peak | eta 0:12:03";
        assert_eq!(progress_line(&record), line);
        let eval = Record {
            step: 1_000_000,
            total_steps: 1_000_000,
            eval_loss: Some(0.5),
            eval_accuracy: Some(0.75),
            ..record
        };
        let eval =
            Record { loss: None, grad_norm: None, accuracy: None, lr: None, throughput: None, peak: None, ..eval };
        let line = "step 1000000/1000000 (100.00%) | eval loss 0.5000 | eval acc 75.0% | eta 0:00:00";
        assert_eq!(progress_line(&eval), line);
        assert_eq!(progress_line(&Record::default()), "step 00000/00000 (0.00%)");
    }

    #[test]
    fn durations() {
        let cases = [(0.0, "0:00:00"), (59.9, "0:00:59"), (3723.0, "1:02:03"), (90_061.0, "1 day, 1:01:01")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(duration(200_000.0), "2 days, 7:33:20");
    }
}
