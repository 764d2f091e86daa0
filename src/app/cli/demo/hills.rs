//! The first chapter for people: what is printed, and its part of the report.

use super::super::console::aligned;
use super::{count, percent};
use crate::app::demo::hills::outcome::{Outcome, Placed, Ranked, Score};
use crate::app::demo::hills::world::Item;
use crate::app::report::{Axis, Block, Chart, Figure, Report, Series, Table, Unit};
use crate::train::log::Record;
use std::path::Path;

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
pub fn summary(o: &Outcome) -> String {
    let s = &o.settings;
    let mut text = format!(
        "\nHILLS  Which of two hills is higher: {} held-out pairs, each judged in both orders.\n\
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
    text
}

/// Commands that go on from here.
pub fn next(program: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "  {program} judge --model {dir}/model --template {dir}/judge.txt --input {dir}/pairs.jsonl --output -\n  \
         {program} rank --model {dir}/model --template {dir}/judge.txt --input {dir}/lists.jsonl --output -\n"
    )
}

const RANKED: [&str; 4] = ["response", "mean win probability", "height", "true place"];

fn ranking(ranked: &Ranked) -> Vec<Vec<String>> {
    let row = |r: &Placed| {
        vec![r.text.clone(), format!("{:.3}", r.score), format!("{} m", count(r.height)), r.place.to_string()]
    };
    ranked.responses.iter().map(row).collect()
}

/// The chapter's part of the report.
pub fn chapter(page: &mut Report, o: &Outcome) {
    let (gain, error) = o.gain();
    page.push(Block::Figures(vec![
        Figure::new("With pre-training", percent(o.pretrained.score.accuracy()), "of held-out pairs judged right"),
        Figure::new("From random weights", percent(o.scratch.score.accuracy()), "same labels, same steps"),
        Figure::new("Gain", format!("{:+.1}", 100.0 * gain), format!("points, standard error {:.1}", 100.0 * error)),
        Figure::new("Time", format!("{:.0} s", o.seconds), "from the tokenizer on"),
    ]));
    page.push(Block::Table(world(o)));
    page.push(Block::Table(judges(o)));
    page.push(Block::Table(
        Table::new("Hills: one list, ranked by the pre-trained judge", &RANKED, ranking(&o.ranked)).note(format!(
            "\u{201c}{}\u{201d} No two of these answers were ever compared in training.",
            o.ranked.prompt
        )),
    ));
    page.push(Block::Charts("Hills: fine-tuning on the labelled pairs".into(), finetuning(o)));
    page.push(Block::Charts("Hills: pre-training on the unlabelled pairs".into(), pretraining(o)));
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
    Table::new("Hills: pre-training on unlabelled pairs", &["pairs", "for example", "used in", "number"], rows)
        .note(note)
}

fn judges(o: &Outcome) -> Table {
    let note = "Right means: the higher hill wins in the mean over both orders of the answers. Chance is 50%.";
    Table::new("Hills: judges", &COLUMNS, table(o)).note(note)
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
