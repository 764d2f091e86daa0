//! `gramophone demo`: a judge trained and evaluated in minutes, with nothing downloaded.

use super::console::{print, tell};
use super::runtime::Place;
use crate::app::demo::{self, Outcome, Score, Settings};
use crate::app::report::{self, Block, Figure, Report, Table};
use crate::base::atomic::write_file;
use crate::error::Result;
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

const COLUMNS: [&str; 4] = ["judge", "accuracy ± s.e.", "same verdict in both orders", "training"];

/// What a person reads at the end.
fn summary(o: &Outcome, out: &Path) -> String {
    let mut text = format!(
        "\n{} held-out pairs, both orders; {} labels each; {} parameters; {:.0} s in all\n\n",
        o.settings.held_out, o.settings.labelled, o.parameters, o.seconds
    );
    let widths = [32, 18, 29, 9];
    let mut line = |cells: &[String]| {
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    };
    line(&COLUMNS.map(String::from));
    table(o).iter().for_each(|r| line(r));
    text.push_str(&format!("\n{}\n\nOne list, ranked: {}\n", o.verdict(), o.ranked.prompt));
    for (i, (response, score)) in o.ranked.responses.iter().enumerate() {
        let mark = if o.ranked.is_right(response) { "  <- right" } else { "" };
        text.push_str(&format!("  {}. {score:.3}  {response}{mark}\n", i + 1));
    }
    let dir = out.display();
    text.push_str(&format!(
        "\nReport: {dir}/report.html   numbers: {dir}/demo.json   model: {dir}/model\nNext:\n  \
         gramophone judge --model {dir}/model --template {dir}/judge.txt --input {dir}/pairs.jsonl\n  \
         echo '{{\"prompt\": \"Which is larger, 153 or 203?\", \"responses\": [\"153 is larger.\", \"203 is larger.\"]}}' | \
         gramophone rank --model {dir}/model --template {dir}/judge.txt --input -\n  \
         gramophone train --help\n"
    ));
    text
}

fn page(o: &Outcome, device: &str) -> Report {
    let (gain, error) = o.gain();
    let mut page = Report::new("Gramophone demo", o.verdict());
    page.push(Block::Figures(vec![
        Figure::new("With pre-training", percent(o.pretrained.score.accuracy()), "of held-out pairs judged right"),
        Figure::new("From random weights", percent(o.scratch.score.accuracy()), "same labels, same steps"),
        Figure::new("Gain", format!("{:+.1}", 100.0 * gain), format!("points, standard error {:.1}", 100.0 * error)),
        Figure::new("Time", format!("{:.0} s", o.seconds), "everything, tokenizer to report"),
    ]));
    page.push(Block::Table(Table::new("Judges", &COLUMNS, table(o))));
    page.push(Block::Charts("Pre-training".into(), report::curves(&o.pretraining)));
    page.push(Block::Charts("Fine-tuning after pre-training".into(), report::curves(&o.pretrained.curve)));
    page.push(Block::Charts("Fine-tuning from random weights".into(), report::curves(&o.scratch.curve)));
    let ranked = o.ranked.responses.iter().map(|(text, score)| {
        let mark = if o.ranked.is_right(text) { "right" } else { "" };
        vec![text.clone(), format!("{score:.3}"), mark.into()]
    });
    let title = format!("One list, ranked: {}", o.ranked.prompt);
    page.push(Block::Table(Table::new(&title, &["response", "mean win probability", ""], ranked.collect())));
    page.push(Block::Folded(report::environment(device)));
    page
}
