//! An evaluation for people: the tables that are printed, and a page.

use super::report::{Axis, Block, Chart, Figure, Report, Series, Table, Unit, environment, grouped};
use crate::reward::eval::metrics::{Bin, Calibration, Share};
use crate::reward::eval::output::Subject;
use crate::reward::eval::rules::Rule;
use crate::reward::eval::summary::{Measured, Summary};
use crate::train::log::duration;

fn percent(x: f64) -> String {
    format!("{:.2}%", 100.0 * x)
}

/// `71.43% [68.0, 75.1]`
fn with_interval(m: &Measured) -> String {
    match m.interval {
        Some((low, high)) => format!("{} [{:.1}, {:.1}]", percent(m.value), 100.0 * low, 100.0 * high),
        None => percent(m.value),
    }
}

/// Every score, one column for each rule.
pub fn scores(s: &Summary) -> Table {
    let rules = s.rules();
    let columns: Vec<&str> = ["score", "rows"].into_iter().chain(rules.iter().map(|rule| rule.title())).collect();
    let row = |name: &&str| {
        let of = |rule: &Rule| s.score(*rule, name);
        let rows = rules.iter().filter_map(of).map(|m| m.n).max().unwrap_or(0);
        let cells = rules.iter().map(|rule| of(rule).map_or("\u{2013}".into(), with_interval));
        [name.to_string(), grouped(rows as i64)].into_iter().chain(cells).collect()
    };
    Table::new("Scores", &columns, s.names().iter().map(row).collect()).note(interval_note(s))
}

fn interval_note(s: &Summary) -> String {
    match s.bootstrap.samples {
        0 => String::new(),
        n => format!(
            "In brackets: {:.0}% intervals of {} bootstrap samples of the rows within their subsets, seed {}.",
            100.0 * s.bootstrap.level,
            grouped(n as i64),
            s.bootstrap.seed
        ),
    }
}

/// What each rule means.
pub fn rules(s: &Summary) -> Table {
    let row = |rule: Rule| vec![rule.title().to_string(), s.suite.explain(rule).to_string()];
    Table::new("Rules", &["rule", "what counts as right"], s.rules().into_iter().map(row).collect())
}

/// The judge itself.
pub fn judge(s: &Summary) -> Table {
    let shares = s.shares.iter().map(|(share, m)| {
        let (words, ideal) = share.words();
        vec![words.to_string(), with_interval(m), grouped(m.n as i64), ideal.to_string()]
    });
    let mut rows: Vec<Vec<String>> = shares.collect();
    if let Some(c) = &s.calibration {
        let n = grouped(c.n as i64);
        rows.push(vec!["expected calibration error".into(), percent(c.ece), n.clone(), "0%".into()]);
        rows.push(vec!["Brier score".into(), format!("{:.4}", c.brier), n, "0; 0.25 is a coin".into()]);
    }
    rows.extend(s.areas.iter().map(|(set, area)| {
        vec![format!("area under the curve, {set}"), percent(*area), "\u{2013}".into(), "100%".into()]
    }));
    Table::new("The judge itself", &["", "measured", "of", "without fault"], rows)
}

/// What it took.
pub fn cost(s: &Summary) -> String {
    let asked = format!("{} rows, {} comparisons", grouped(s.rows as i64), grouped(s.comparisons as i64));
    if s.tokens == 0 {
        return asked;
    }
    let pace = if s.seconds > 0.0 { s.tokens as f64 / s.seconds } else { 0.0 };
    let written =
        if s.written > 0 { format!(", {} of them written,", grouped(s.written as i64)) } else { String::new() };
    format!(
        "{asked}, {} tokens{written} in {} ({} tokens/s)",
        grouped(s.tokens as i64),
        duration(s.seconds),
        grouped(pace as i64)
    )
}

/// The page.
pub fn report(s: &Summary, subject: &Subject, device: &str) -> Report {
    let mut page =
        Report::new(format!("{}: {}", s.suite.title(), subject.model), format!("{}; {}", subject.model_type, cost(s)));
    page.push(Block::Figures(figures(s)));
    page.push(Block::Table(scores(s)));
    page.push(Block::Table(rules(s)));
    page.push(Block::Table(judge(s)));
    page.push(Block::Charts("Curves".into(), charts(s)));
    if let Some(c) = &s.calibration {
        page.push(Block::Folded(bins(c)));
    }
    if !s.notes.is_empty() {
        let rows = s.notes.iter().map(|note| vec![note.clone()]).collect();
        page.push(Block::Table(Table::new("Notes", &["to be known"], rows)));
    }
    page.push(Block::Folded(environment(device)));
    page
}

fn figures(s: &Summary) -> Vec<Figure> {
    let interval = |m: &Measured| match m.interval {
        Some((low, high)) => format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high),
        None => format!("of {} rows", grouped(m.n as i64)),
    };
    let overall = s.rules().into_iter().filter(|rule| *rule != Rule::CountsSwapped).filter_map(|rule| {
        let name = s.names().into_iter().find(|name| s.score(rule, name).is_some())?;
        let m = s.score(rule, name)?;
        Some(Figure::new(&format!("{name}, {}", rule.title()), percent(m.value), interval(m)))
    });
    let mut figures: Vec<Figure> = overall.collect();
    let telling = [Share::Consistent, Share::FirstShown];
    for (share, m) in s.shares.iter().filter(|(share, _)| telling.contains(share)) {
        figures.push(Figure::new(share.words().0, percent(m.value), interval(m)));
    }
    if let Some(c) = &s.calibration {
        figures.push(Figure::new("Calibration error", percent(c.ece), format!("Brier score {:.3}", c.brier)));
    }
    figures
}

fn charts(s: &Summary) -> Vec<Chart> {
    let mut charts = Vec::new();
    let chart = |title: &str, x: &str, series| Chart {
        title: title.into(),
        x: x.into(),
        unit: Unit::Percent,
        axis: Axis::Fit,
        series,
    };
    let series = |name: &str, points| Series { name: name.into(), points, band: Vec::new() };
    if let Some(c) = &s.calibration {
        let points = c.bins.iter().map(|b| (100.0 * b.confidence, b.accuracy)).collect();
        let perfect = vec![(50.0, 0.5), (100.0, 1.0)];
        charts.push(chart(
            "Reliability: accuracy by confidence, in %",
            "confidence",
            vec![series("measured", points), series("perfect", perfect)],
        ));
    }
    if s.by_length.len() > 1 {
        charts.push(chart(
            "Accuracy by length: the better response less the other",
            "characters",
            vec![series("accuracy", s.by_length.clone())],
        ));
    }
    if let Some(c) = &s.best_of_n {
        let points = |values: &[f64]| values.iter().enumerate().map(|(i, v)| ((i + 1) as f64, *v)).collect();
        charts.push(chart(
            "Best of n by linear scan",
            "n",
            vec![
                series("judge", points(&c.judge)),
                series("oracle", points(&c.oracle)),
                series("any sample", points(&c.random)),
            ],
        ));
    }
    charts
}

fn bins(c: &Calibration) -> Table {
    let row = |b: &Bin| {
        let range = format!("{:.0}% to {:.0}%", 100.0 * b.from, 100.0 * b.to);
        vec![range, grouped(b.n as i64), percent(b.confidence), percent(b.accuracy)]
    };
    let columns = ["confidence", "comparisons", "mean confidence", "accuracy"];
    Table::new("Calibration, bin by bin", &columns, c.bins.iter().map(row).collect())
}
