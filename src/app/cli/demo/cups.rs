//! The second chapter for people: what is printed, and its part of the report.

use super::super::console::aligned;
use super::{count, percent};
use crate::app::demo::cups::findings::{Line, comparisons, lines};
use crate::app::demo::cups::world::{Item, NEAR};
use crate::app::demo::cups::{Arm, Outcome};
use crate::app::report::{Axis, Block, Chart, Figure, Report, Series, Table, Unit};
use crate::reward::selftrain::votes::{Right, Stats};
use crate::text::labels::NAMES;
use std::path::Path;

/// What a person reads at the end.
pub fn summary(outcomes: &[Outcome]) -> String {
    let Some(o) = outcomes.first() else { return String::new() };
    let s = &o.settings;
    let mut text = format!(
        "\nCUPS  Under which cup is the ball: {} test pairs{}, each judged in both orders; brackets are 95% intervals over pairs.\n\
         Judges have {} parameters. {} labelled pairs, {} of them with a written reason, which the prover learns from; {} round{}\n\
         of {} unlabelled pairs.\n\n",
        count(s.held_out),
        if outcomes.len() > 1 { " a seed" } else { "" },
        count(o.parameters),
        count(s.reasoned + s.labelled),
        count(s.reasoned),
        s.rounds,
        if s.rounds == 1 { "" } else { "s" },
        count(s.unlabelled),
    );
    text.push_str(&aligned(&columns(outcomes), table(outcomes)));
    text.push('\n');
    for comparison in comparisons(outcomes) {
        text.push_str(&format!("{}\n", comparison.verdict()));
    }
    text
}

/// Commands that go on from here.
pub fn next(program: &str, o: &Outcome, dir: &Path) -> String {
    let (dir, model) = (dir.display(), o.model.display());
    format!(
        "  {program} judge --rationale --votes 4 --model {model} --template {dir}/world/reasoning.txt --input {dir}/world/test.jsonl \
         --output -\n  {program} self-train --print-config {dir}/self-train.toml\n"
    )
}

fn columns(outcomes: &[Outcome]) -> Vec<String> {
    let seeds = outcomes.iter().map(|o| format!("seed {}", o.settings.seed)).filter(|_| outcomes.len() > 1);
    let head = ["judge", "steps", "pairs learned", "right"].map(String::from);
    head.into_iter().chain(seeds).chain(["both orders agree".into()]).collect()
}

fn table(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    lines(outcomes).iter().map(|line| row(line, outcomes.len() > 1)).collect()
}

fn interval((low, high): (f64, f64)) -> String {
    format!("[{:.1}, {:.1}]", 100.0 * low, 100.0 * high)
}

fn row(line: &Line, several: bool) -> Vec<String> {
    let (mean, bounds) = line.accuracy();
    let arms = &line.arms;
    let pairs = |arm: &Arm| arm.pairs;
    let (fewest, most) = (arms.iter().map(pairs).min().unwrap_or(0), arms.iter().map(pairs).max().unwrap_or(0));
    let learned = if fewest == most { count(most) } else { format!("{} to {}", count(fewest), count(most)) };
    let seeds = arms.iter().filter(|_| several).map(|arm| percent(arm.verdicts.accuracy()));
    let consistency = arms.iter().map(|arm| arm.verdicts.consistency()).sum::<f64>() / arms.len().max(1) as f64;
    let steps = arms.first().map_or(0, |arm| arm.steps);
    let head = [line.judge.clone(), count(steps), learned, format!("{} {}", percent(mean), interval(bounds))];
    head.into_iter().chain(seeds).chain([percent(consistency)]).collect()
}

/// The chapter's part of the report.
pub fn chapter(page: &mut Report, outcomes: &[Outcome]) {
    let Some(o) = outcomes.first() else { return };
    let figure = |label: &str, of: fn(&Outcome) -> &Arm, note: &str| {
        let line = Line { judge: String::new(), arms: outcomes.iter().map(|o| of(o).clone()).collect() };
        Figure::new(label, percent(line.accuracy().0), note)
    };
    page.push(Block::Figures(vec![
        figure("Labels alone", |o| &o.labels, "of test pairs judged right"),
        figure("First judge that reasons", |o| &o.rounds[0], "same labels"),
        figure("After the rounds", Outcome::last, "and unlabelled pairs"),
        Figure::new(
            "Time",
            format!("{:.0} s", outcomes.iter().map(|o| o.seconds).sum::<f64>()),
            "all judges of the game",
        ),
    ]));
    page.push(Block::Table(world(o)));
    let columns = columns(outcomes);
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let verdicts: Vec<String> = comparisons(outcomes).iter().map(|c| c.verdict()).collect();
    page.push(Block::Table(Table::new("Cups: judges", &columns, table(outcomes)).note(
        "Right means: the right cup wins in the mean over both orders. Brackets are 95% intervals over test pairs (Wilson), for \
         these judges as they were trained. Chance is 50%.",
    )));
    page.push(Block::Table(compared(outcomes)));
    page.subtitle = verdicts.join(" ");
    page.push(Block::Charts("Cups: accuracy as training goes on".into(), vec![curve(outcomes)]));
    page.push(Block::Table(data(outcomes)));
}

/// What is to be learned, by example.
fn world(o: &Outcome) -> Table {
    let Item { prompt, a, b, better, steps } = &o.example;
    let rows = vec![
        vec!["question".into(), format!("`{prompt}`")],
        vec!["answers".into(), format!("A `{a}`, B `{b}`; {} is right", NAMES[*better as usize])],
        vec!["rationale".into(), format!("`{steps}`, `{}`", o.example.comparison())],
    ];
    Table::new("Cups: reasoning before judging", &["", "for example"], rows).note(format!(
        "The ball starts under the first cup; each word swaps two cups. A rationale follows the ball swap by swap. The wrong answer \
         is a near miss in {:.0}% of the pairs. No test question occurs in training.",
        100.0 * NEAR
    ))
}

fn compared(outcomes: &[Outcome]) -> Table {
    let row = |c: &crate::app::demo::cups::findings::Comparison| {
        let seeds = c.over_seeds.map_or("\u{2013}".into(), interval);
        vec![c.name.replace('_', " "), c.difference.show(), format!("{} of {}", c.ahead, c.seeds), seeds]
    };
    let columns = ["the last round against", "difference, 95% over pairs", "seeds ahead", "95% over seeds"];
    Table::new("Cups: the last round against the others", &columns, comparisons(outcomes).iter().map(row).collect()).note(
        "Differences are of judges on the same pairs. `same steps` trains the first judge on for as long with no new pairs; \
         `with reasons` is the sceptic's control: the prover's written reasons are given to the judge, too.",
    )
}

/// Accuracy by steps: the mean over seeds, with its interval over pairs.
fn curve(outcomes: &[Outcome]) -> Chart {
    let series = |name: &str, arms: &dyn Fn(&Outcome) -> Vec<Arm>| {
        let all: Vec<Vec<Arm>> = outcomes.iter().map(arms).collect();
        let line = |i: usize| Line { judge: String::new(), arms: all.iter().map(|arms| arms[i].clone()).collect() };
        let lines: Vec<(f64, Line)> = (0..all[0].len()).map(|i| (all[0][i].steps as f64, line(i))).collect();
        Series {
            name: name.into(),
            points: lines.iter().map(|(x, line)| (*x, line.accuracy().0)).collect(),
            band: lines.iter().map(|(x, line)| (*x, line.accuracy().1.0, line.accuracy().1.1)).collect(),
        }
    };
    let from = outcomes[0].settings.judge.steps;
    let series = vec![
        series("self-training", &|o| o.rounds.clone()),
        series("no new pairs", &|o| o.same_steps.clone()),
        series("the reasons, too", &|o| o.with_reasons.clone()),
        series("labels alone", &|o| vec![Arm { steps: from, ..o.labels.clone() }, o.labels.clone()]),
    ];
    let x = "optimizer steps of the judge (labels alone: at its end)".into();
    Chart { title: "Test pairs judged right".into(), x, unit: Unit::Percent, axis: Axis::Fit, series }
}

/// What became of the pairs, of every seed.
fn data(outcomes: &[Outcome]) -> Table {
    let columns = ["data", "pairs", "labelled", "proved", "right by majority", "right labels", "right in the data"];
    let share = |r: &Right| r.share().map_or("\u{2013}".into(), percent);
    let rows = outcomes.iter().flat_map(|o| {
        let row = move |(i, s): (usize, &Stats)| {
            let set = if i == 0 { "labelled".to_string() } else { format!("round {i}") };
            let name = if outcomes.len() > 1 { format!("seed {}, {set}", o.settings.seed) } else { set };
            let counts = [s.pairs, s.labelled, s.accepted].map(count);
            [vec![name], counts.to_vec(), [&s.voted, &s.kept, &s.learned].map(share).to_vec()].concat()
        };
        o.stats.iter().enumerate().map(row)
    });
    Table::new("Cups: what became of the pairs", &columns, rows.collect())
        .note("Right is measured against the truth; nothing is learned from it.")
}
