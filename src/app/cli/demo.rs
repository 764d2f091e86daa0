//! `gramophone demo`: a judge trained and evaluated in minutes, with nothing downloaded.

use super::console::{aligned, print, tell};
use super::runtime::Place;
use crate::app::demo::world::Item;
use crate::app::demo::{self, Outcome, Placed, Ranked, Score, Settings};
use crate::app::report::{self, Axis, Block, Chart, Figure, Report, Series, Table, Unit, grouped};
use crate::base::atomic::write_file;
use crate::error::Result;
use crate::train::log::Record;
use std::path::{Path, PathBuf};

/// Writes the model, demo.json and report.html.
#[derive(clap::Args)]
pub struct Args {
    /// Where everything goes
    #[arg(long, default_value = "gramophone-demo", value_name = "DIR")]
    out: PathBuf,
    /// Another seed is another world
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: Args) -> Result<()> {
    let dev = args.place.open()?;
    demo::prepare(&args.out)?;
    let settings = Settings { seed: args.seed, ..Settings::default() };
    let outcome = demo::run(&dev, settings, &args.out, &mut |line| tell(line))?;
    let json = serde_json::to_string_pretty(&outcome.to_json()).expect("numbers and texts print");
    write_file(args.out.join("demo.json"), json.as_bytes())?;
    let report = args.out.join("report.html");
    page(&outcome, &dev.name()).write(&report)?;
    print(summary(&outcome, &args.out))
}

fn count(n: usize) -> String {
    grouped(n as i64)
}

fn percent(x: f64) -> String {
    format!("{:.1}%", 100.0 * x)
}

fn row(name: &str, score: &Score, seconds: f64) -> Vec<String> {
    let accuracy = format!("{} ± {:.1}", percent(score.accuracy()), 100.0 * score.error());
    vec![name.into(), accuracy, percent(score.consistency()), format!("{seconds:.0} s")]
}

fn table(o: &Outcome) -> Vec<Vec<String>> {
    vec![
        row("pre-trained, then fine-tuned", &o.pretrained.score, o.pretraining_seconds + o.pretrained.seconds),
        row("fine-tuned from random weights", &o.scratch.score, o.scratch.seconds),
    ]
}

const COLUMNS: [&str; 4] = ["judge", "accuracy ± s.e.", "same verdict in both orders", "training time"];

/// What a person reads at the end.
fn summary(o: &Outcome, out: &Path) -> String {
    let s = &o.settings;
    let mut text = format!(
        "\nWhich of two hills is higher: {} held-out pairs, each judged in both orders.\n\
         Both judges have {} parameters and saw the same {} labelled pairs; one was first pre-trained on {} unlabelled ones.\n\n",
        count(s.held_out),
        count(o.parameters),
        count(s.labelled),
        count(s.unlabelled),
    );
    text.push_str(&aligned(&COLUMNS.map(String::from), table(o)));
    text.push_str(&format!(
        "\n{}\n\nOne list, ranked by the pre-trained judge. \"{}\"\n\n",
        o.verdict(),
        o.ranked.prompt
    ));
    text.push_str(&aligned(&RANKED.map(String::from), ranking(&o.ranked)));
    text.push_str(&next(out, o.seconds));
    text
}

/// Where everything is, and commands that work with it.
fn next(out: &Path, seconds: f64) -> String {
    let program = std::env::args().next().unwrap_or("gramophone".into());
    let dir = out.display();
    format!(
        "\nAll of this took {seconds:.0} s. The report: {dir}/report.html; its numbers: {dir}/demo.json; the judge: {dir}/model\n\n\
         Next:\n  \
         {program} judge --model {dir}/model --template {dir}/judge.txt --input {dir}/pairs.jsonl --output -\n  \
         {program} rank --model {dir}/model --template {dir}/judge.txt --input {dir}/lists.jsonl --output -\n  \
         {program} train --help\n"
    )
}

const RANKED: [&str; 4] = ["response", "mean win probability", "height", "true place"];

fn ranking(ranked: &Ranked) -> Vec<Vec<String>> {
    let row = |r: &Placed| {
        vec![r.text.clone(), format!("{:.3}", r.score), format!("{} m", count(r.height)), r.place.to_string()]
    };
    ranked.responses.iter().map(row).collect()
}

fn page(o: &Outcome, device: &str) -> Report {
    let (gain, error) = o.gain();
    let mut page = Report::new("Gramophone demo", o.verdict());
    page.push(Block::Figures(vec![
        Figure::new("With pre-training", percent(o.pretrained.score.accuracy()), "of held-out pairs judged right"),
        Figure::new("From random weights", percent(o.scratch.score.accuracy()), "same labels, same steps"),
        Figure::new("Gain", format!("{:+.1}", 100.0 * gain), format!("points, standard error {:.1}", 100.0 * error)),
        Figure::new("Time", format!("{:.0} s", o.seconds), "all of it, from the tokenizer on"),
    ]));
    page.push(Block::Table(world(o)));
    page.push(Block::Table(judges(o)));
    page.push(Block::Table(
        Table::new("One list, ranked by the pre-trained judge", &RANKED, ranking(&o.ranked)).note(format!(
            "\u{201c}{}\u{201d} No two of these answers were ever compared in training.",
            o.ranked.prompt
        )),
    ));
    page.push(Block::Charts("Fine-tuning on the labelled pairs".into(), finetuning(o)));
    page.push(Block::Charts("Pre-training on the unlabelled pairs".into(), pretraining(o)));
    page.push(Block::Folded(report::environment(device)));
    page
}

/// What is to be learned, by example.
fn world(o: &Outcome) -> Table {
    let s = &o.settings;
    let row = |kind: &str, n: usize, use_: &str, pair: &Item, verdict: &str| {
        let answers = format!("\u{201c}{}\u{201d} {verdict} \u{201c}{}\u{201d}", pair.right, pair.wrong);
        vec![kind.into(), answers, use_.into(), count(n)]
    };
    let rows = vec![
        row("unlabelled", s.unlabelled, "pre-training", &o.shown.unlabelled, "or"),
        row("labelled", s.labelled, "fine-tuning", &o.shown.labelled, "is better than"),
    ];
    let note = format!(
        "The question is always \u{201c}{}\u{201d} The better answer names the higher of two hills, both made up. Unlabelled answers \
         end in what a climber said: the higher a hill, the more of its climbers call it hard. Judges are measured on {} pairs \
         that they never saw compared.",
        o.shown.labelled.prompt,
        count(s.held_out),
    );
    Table::new("The task", &["pairs", "for example", "used in", "number"], rows).note(note)
}

fn judges(o: &Outcome) -> Table {
    let note = "Right means: the higher hill wins in the mean over both orders of the answers. Chance is 50%.";
    Table::new("Judges", &COLUMNS, table(o)).note(note)
}

/// Both judges in one chart, that they can be compared.
fn finetuning(o: &Outcome) -> Vec<Chart> {
    let both = |value: fn(&Record) -> Option<f64>| {
        vec![
            series("after pre-training", &o.pretrained.curve, value),
            series("from random weights", &o.scratch.curve, value),
        ]
    };
    vec![
        chart("Loss", Unit::Plain, both(|r| r.loss)),
        chart("Accuracy on the labelled pairs themselves", Unit::Percent, both(|r| r.accuracy)),
    ]
}

fn pretraining(o: &Outcome) -> Vec<Chart> {
    let one = |name, value| vec![series(name, &o.pretraining, value)];
    vec![
        chart("Loss", Unit::Plain, one("training", |r| r.loss)),
        chart("Training tokens per second", Unit::Count, one("tokens/s", |r| r.throughput)),
    ]
}

fn chart(title: &str, unit: Unit, series: Vec<Series>) -> Chart {
    Chart { title: title.into(), x: "step".into(), unit, axis: Axis::Fit, series }
}

fn series(name: &str, curve: &[Record], value: fn(&Record) -> Option<f64>) -> Series {
    let points = curve.iter().filter_map(|r| Some((r.step as f64, value(r)?))).collect();
    Series { name: name.into(), points, band: Vec::new() }
}
