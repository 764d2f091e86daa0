//! `gramophone demo`: judges trained and evaluated in minutes, with nothing downloaded.

mod cups;
mod hills;

use super::console::{print, tell};
use super::runtime::Place;
use crate::app::demo::cups::{Outcome as Game, findings};
use crate::app::demo::hills::outcome::Outcome as Climb;
use crate::app::demo::{self, Sizes};
use crate::app::report::{self, Block, Report, grouped};
use crate::app::signals::Signals;
use crate::base::atomic::{remove_dir, write_file};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Two chapters in minutes: pre-training on unlabelled pairs (GRAM) and self-training with proved rationales (GRAM-R2). Writes
/// models, demo.json and report.html.
#[derive(clap::Args)]
pub struct Args {
    /// Where everything goes; gramophone-demo, with --full gramophone-demo-full, if not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Another seed is another world
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The second chapter as a proper experiment: several seeds, more rounds, more test pairs; goes on after a stop
    #[arg(long)]
    full: bool,
    /// How many seeds, from --seed on
    #[arg(long, default_value_t = 3, requires = "full", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Other sizes, as JSON: {"cups": {"rounds": 1}}
    #[arg(long, hide = true, default_value = "{}", value_name = "JSON")]
    sizes: String,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: Args) -> Result<()> {
    let base = if args.full { Sizes::full() } else { Sizes::short() };
    let mut sizes = base.with(&args.sizes)?;
    (sizes.hills.seed, sizes.cups.seed) = (args.seed, args.seed);
    let dev = args.place.open()?;
    let name = if args.full { "gramophone-demo-full" } else { "gramophone-demo" };
    let out = args.out.clone().unwrap_or(name.into());
    std::fs::create_dir_all(&out).map_err(|e| Error::io("create", &out, e))?;
    match args.full {
        true => full(&dev, &sizes, args.seeds, &out),
        false => short(&dev, &sizes, &out),
    }
}

fn short(dev: &Device, sizes: &Sizes, out: &Path) -> Result<()> {
    let climb = demo::hills::run(dev, sizes.hills, out, &mut |line| tell(line))?;
    let dir = out.join("cups");
    // What an earlier demo left would not be computed again.
    if dir.is_dir() {
        remove_dir(&dir)?;
    }
    let game = [demo::cups::run(dev, &sizes.cups, &dir, &|| false, &mut |line| tell(line))?];
    let mut json = climb.to_json();
    json["cups"] = findings::to_json(&game);
    let mut page = Report::new("Gramophone demo", "");
    hills::chapter(&mut page, &climb);
    cups::chapter(&mut page, &game);
    page.subtitle = format!("Hills: {} Cups: {}", climb.verdict(), page.subtitle);
    finish(out, &json, page, &dev.name())?;
    print(format!("{}{}{}", hills::summary(&climb), cups::summary(&game), next(out, &climb, &game[0])))
}

fn full(dev: &Device, sizes: &Sizes, seeds: u64, out: &Path) -> Result<()> {
    let signals = Signals::install()?;
    let mut games = Vec::new();
    for seed in (0..seeds).map(|i| sizes.cups.seed + i) {
        tell(format_args!("seed {seed}"));
        let cups = demo::cups::Cups { seed, ..sizes.cups.clone() };
        let dir = out.join(format!("seed-{seed}"));
        match demo::cups::run(dev, &cups, &dir, &|| signals.stop_requested(), &mut |line| tell(line)) {
            Err(e) if e.kind() == Kind::Interrupted => return print(format!("{e}\n")),
            game => games.push(game?),
        }
    }
    let mut page = Report::new("Gramophone demo: self-training", "");
    cups::chapter(&mut page, &games);
    finish(out, &json!({"cups": findings::to_json(&games)}), page, &dev.name())?;
    let seconds: f64 = games.iter().map(|game| game.seconds).sum();
    print(format!("{}{}", cups::summary(&games), written(out, seconds)))
}

/// Writes demo.json and report.html.
fn finish(out: &Path, json: &Value, mut page: Report, device: &str) -> Result<()> {
    let json = serde_json::to_string_pretty(json).expect("numbers and texts print");
    write_file(out.join("demo.json"), json.as_bytes())?;
    page.push(Block::Folded(report::environment(device)));
    page.write(&out.join("report.html"))
}

fn written(out: &Path, seconds: f64) -> String {
    let dir = out.display();
    format!("\nAll of this took {seconds:.0} s. The report: {dir}/report.html; its numbers: {dir}/demo.json\n")
}

/// Where everything is, and commands that work with it.
fn next(out: &Path, climb: &Climb, game: &Game) -> String {
    let program = std::env::args().next().unwrap_or("gramophone".into());
    format!(
        "{}\nNext:\n{}{}",
        written(out, climb.seconds + game.seconds),
        hills::next(&program, out),
        cups::next(&program, game, &out.join("cups"))
    )
}

fn count(n: usize) -> String {
    grouped(n as i64)
}

fn percent(x: f64) -> String {
    format!("{:.1}%", 100.0 * x)
}
