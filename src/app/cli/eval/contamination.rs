//! Rows of a benchmark in training text.

use super::super::console::{print, stdout};
use super::super::progress::Progress;
use super::section;
use crate::app::report::{Table, grouped};
use crate::base::atomic::write_file;
use crate::error::{Error, Result};
use crate::reward::eval::contamination::{Bench, Overlap};
use crate::reward::eval::item::key;
use crate::text::source::{OnError, Source};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// Counts the runs of 13 words (lower case, no punctuation) that rows of a benchmark share with training text.
#[derive(clap::Args)]
pub struct Args {
    /// Training text: JSONL, JSON or Parquet; every text in a row counts
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    train: Vec<String>,
    /// The benchmark's rows, in any layout
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    bench: Vec<String>,
    /// Words of a run
    #[arg(long, default_value_t = 13, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=100))]
    words: u64,
    /// How many of the worst rows to print
    #[arg(long, default_value_t = 20, value_name = "ROWS")]
    top: usize,
    /// Every row's overlap as JSON; - for standard output, without the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let mut bench = Bench::new(args.words as usize);
    for row in Source::open(&args.bench)?.rows(OnError::Fail) {
        bench.add(&row?);
    }
    let mut bar = Progress::new("training rows");
    for row in Source::open(&args.train)?.rows(OnError::Fail) {
        bench.train(&row?);
        bar.add(1);
    }
    bar.finish();
    let overlaps = bench.overlaps();
    if overlaps.is_empty() {
        return Err(Error::data("there is no row in the benchmark"));
    }
    let found = Found::of(&overlaps, bench.trained(), args.words);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&found.to_json(&overlaps)).expect("JSON values print") + "\n";
        if path.as_os_str() == "-" {
            return std::io::stdout().write_all(text.as_bytes()).map_err(stdout);
        }
        write_file(path, text.as_bytes())?;
    }
    print(found.words(&overlaps, args.top))
}

/// The benchmark as a whole.
struct Found {
    rows: usize,
    trained: u64,
    /// Words of a run.
    n: u64,
    short: usize,
    any: usize,
    half: usize,
}

impl Found {
    fn of(overlaps: &[Overlap], trained: u64, n: u64) -> Found {
        let count = |of: &dyn Fn(&&Overlap) -> bool| overlaps.iter().filter(of).count();
        Found {
            rows: overlaps.len(),
            trained,
            n,
            short: count(&|o| o.runs == 0),
            any: count(&|o| o.shared > 0),
            half: count(&|o| o.share() >= 0.5),
        }
    }

    fn to_json(&self, overlaps: &[Overlap]) -> Value {
        json!({
            "words": self.n,
            "training_rows": self.trained,
            "rows": self.rows,
            "too_short": self.short,
            "with_overlap": self.any,
            "at_least_half": self.half,
            "overlaps": overlaps.iter().map(Overlap::to_json).collect::<Vec<Value>>(),
        })
    }

    fn words(&self, overlaps: &[Overlap], top: usize) -> String {
        let count = |n: usize| grouped(n as i64);
        let mut text = format!(
            "{} of {} rows share a run of {} words with the {} training rows; {} share half of their runs or more. \
             {} rows are too short to tell.\n",
            count(self.any),
            count(self.rows),
            self.n,
            grouped(self.trained as i64),
            count(self.half),
            count(self.short),
        );
        let mut worst: Vec<&Overlap> = overlaps.iter().filter(|o| o.shared > 0).collect();
        worst.sort_by(|a, b| b.share().total_cmp(&a.share()).then(b.shared.cmp(&a.shared)));
        if worst.is_empty() || top == 0 {
            return text;
        }
        let row = |o: &&Overlap| {
            let (place, words) = o.source.as_ref().map_or(("", ""), |(place, _, words)| (place, words));
            let fields: Vec<String> = o.fields.iter().map(|(name, ..)| name.clone()).collect();
            let id = o.id.as_ref().map_or_else(String::new, key);
            vec![
                id,
                format!("{:.1}%", 100.0 * o.share()),
                count(o.shared),
                fields.join(" "),
                o.place.clone(),
                place.to_string(),
                words.to_string(),
            ]
        };
        let columns = ["id", "of its runs", "shared", "in", "at", "training row", "for one"];
        text += &section(&Table::new("", &columns, worst.iter().take(top).map(row).collect()));
        text
    }
}
