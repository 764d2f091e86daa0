//! A learning curve in words, numbers and pictures: the table, `learning_curve.json`, `learning_curve.csv`, `report.html`.

use super::interval::Mean;
use super::{Cell, Settings};
use crate::app::axis::{Unit, grouped};
use crate::app::chart::{Axis, Chart, Series};
use crate::app::report::{Block, Figure, Report, Table, environment, settings as run_settings};
use crate::base::atomic::write_file;
use crate::error::Result;
use crate::train::config::Run;
use serde_json::{Value, json};

/// What all seeds of one count say together.
pub struct Point {
    pub count: u64,
    pub accuracy: Mean,
    pub consistency: Option<Mean>,
    pub loss: Mean,
}

/// How bands are made, in words.
const BAND: &str = "95% confidence interval of the mean over seeds (Student's t). It says how much the draw of the examples and \
    of everything random in training matters; that another set of evaluation pairs would give other numbers is not in it.";

/// One point for each count, in the cells' order.
pub fn points(cells: &[Cell]) -> Vec<Point> {
    let mut counts: Vec<u64> = cells.iter().map(|cell| cell.count).collect();
    counts.dedup();
    let of = |count: u64| {
        let here = || cells.iter().filter(move |cell| cell.count == count);
        let mean = |x: Vec<f64>| Mean::of(&x);
        Some(Point {
            count,
            accuracy: mean(here().map(|c| c.accuracy).collect())?,
            consistency: mean(here().filter_map(|c| c.consistency).collect()),
            loss: mean(here().map(|c| c.loss).collect())?,
        })
    };
    counts.into_iter().filter_map(of).collect()
}

const COLUMNS: [&str; 6] = ["examples", "runs", "accuracy", "95% interval", "consistency", "loss"];

fn rows(points: &[Point]) -> Vec<Vec<String>> {
    let percent = |x: f64| Unit::Percent.show(x);
    let row = |p: &Point| {
        vec![
            grouped(p.count as i64),
            p.accuracy.n.to_string(),
            percent(p.accuracy.mean),
            p.accuracy
                .interval
                .map_or("\u{2013}".into(), |(low, high)| format!("{} to {}", percent(low), percent(high))),
            p.consistency.map_or("\u{2013}".into(), |c| percent(c.mean)),
            Unit::Plain.show(p.loss.mean),
        ]
    };
    points.iter().map(row).collect()
}

/// The curve as a table for a terminal.
pub fn table(points: &[Point]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(COLUMNS.map(String::from).to_vec()).chain(rows(points)).collect();
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

/// The curve for programs.
pub fn to_json(run: &Run, settings: &Settings, cells: &[Cell]) -> Value {
    let mean = |m: &Mean| json!({"n": m.n, "mean": m.mean, "sd": m.sd, "low": m.interval.map(|i| i.0), "high": m.interval.map(|i| i.1)});
    let points = points(cells);
    json!({
        "judge": run.model.path,
        "train": run.data.train,
        "eval": run.data.eval,
        "config_hash": run.config_hash(),
        "seeds": settings.seeds,
        "band": BAND,
        "points": points.iter().map(|p| json!({
            "count": p.count,
            "accuracy": mean(&p.accuracy),
            "consistency": p.consistency.as_ref().map(mean),
            "loss": mean(&p.loss),
        })).collect::<Vec<_>>(),
        "cells": cells.iter().map(|c| json!({
            "count": c.count,
            "seed": c.seed,
            "examples": c.examples,
            "steps": c.steps,
            "accuracy": c.accuracy,
            "consistency": c.consistency,
            "loss": c.loss,
        })).collect::<Vec<_>>(),
    })
}

/// One row for each cell.
pub fn to_csv(cells: &[Cell]) -> String {
    let maybe = |x: Option<String>| x.unwrap_or_default();
    let row = |c: &Cell| {
        let (seed, consistency) = (maybe(c.seed.map(|s| s.to_string())), maybe(c.consistency.map(|x| x.to_string())));
        format!("{},{seed},{},{},{},{consistency},{}\n", c.count, c.examples, c.steps, c.accuracy, c.loss)
    };
    "count,seed,examples,steps,accuracy,consistency,loss\n".to_string() + &cells.iter().map(row).collect::<String>()
}

/// The page.
pub fn report(run: &Run, cells: &[Cell], device: &str) -> Report {
    let points = points(cells);
    let judge = run.model.path.as_ref().map_or(String::new(), |path| path.display().to_string());
    let how = if run.lora.rank.is_some() || run.lora.adapter.is_some() { "an adapter" } else { "the whole model" };
    let mut report = Report::new("Learning curve", format!("{judge}, training {how}, config {}", run.config_hash()));
    let figure = |label: &str, p: &Point| {
        let off = p
            .accuracy
            .interval
            .map_or(String::new(), |(low, _)| format!("\u{b1} {:.1} points, ", 100.0 * (p.accuracy.mean - low)));
        Figure::new(label, Unit::Percent.show(p.accuracy.mean), format!("{off}{} examples", grouped(p.count as i64)))
    };
    let best = points.iter().max_by(|a, b| a.accuracy.mean.total_cmp(&b.accuracy.mean));
    let ends = [("Fewest examples", points.first()), ("Most examples", points.last()), ("Highest mean", best)];
    report.push(Block::Figures(ends.into_iter().filter_map(|(label, p)| Some(figure(label, p?))).collect()));
    report.push(Block::Charts("Evaluation".into(), charts(&points)));
    report.push(Block::Table(Table::new("Points", &COLUMNS, rows(&points)).note(BAND)));
    report.push(Block::Folded(each(cells)));
    let (set, rest) = run_settings(run);
    report.push(Block::Table(set)).push(Block::Folded(rest));
    report.push(Block::Table(environment(device)));
    report
}

fn charts(points: &[Point]) -> Vec<Chart> {
    let series = |name: &str, of: &dyn Fn(&Point) -> Option<Mean>| {
        let known = || points.iter().filter_map(|p| Some((p.count as f64, of(p)?)));
        // A count without an interval, 0 above all, is a known number: the band starts from it.
        let band = known().map(|(x, m)| (x, m.interval.map_or(m.mean, |i| i.0), m.interval.map_or(m.mean, |i| i.1)));
        let several = known().any(|(_, m)| m.interval.is_some());
        Series {
            name: name.into(),
            points: known().map(|(x, m)| (x, m.mean)).collect(),
            band: if several { band.collect() } else { Vec::new() },
        }
    };
    let chart = |title: &str, unit, series| Chart {
        title: title.into(),
        x: "examples".into(),
        unit,
        axis: Axis::Fit,
        series: vec![series],
    };
    vec![
        chart("Accuracy in both orders together", Unit::Percent, series("accuracy", &|p| Some(p.accuracy))),
        chart("Same verdict in both orders", Unit::Percent, series("consistency", &|p| p.consistency)),
        chart("Evaluation loss", Unit::Plain, series("loss", &|p| Some(p.loss))),
    ]
}

fn each(cells: &[Cell]) -> Table {
    let row = |c: &Cell| {
        vec![
            grouped(c.count as i64),
            c.seed.map_or("\u{2013}".into(), |s| s.to_string()),
            grouped(c.examples as i64),
            grouped(c.steps as i64),
            Unit::Percent.show(c.accuracy),
            c.consistency.map_or("\u{2013}".into(), |x| Unit::Percent.show(x)),
            Unit::Plain.show(c.loss),
        ]
    };
    let columns = ["count", "seed", "examples", "steps", "accuracy", "consistency", "loss"];
    Table::new("Every run", &columns, cells.iter().map(row).collect())
}

/// Writes the three files; gives the table.
///
/// # Errors
/// What the file system refuses.
pub fn write(run: &Run, settings: &Settings, cells: &[Cell], device: &str) -> Result<String> {
    let json = serde_json::to_string_pretty(&to_json(run, settings, cells)).expect("numbers and texts") + "\n";
    write_file(settings.out.join("learning_curve.json"), json.as_bytes())?;
    write_file(settings.out.join("learning_curve.csv"), to_csv(cells).as_bytes())?;
    report(run, cells, device).write(&settings.out.join("report.html"))?;
    Ok(table(&points(cells)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(count: u64, seed: Option<u64>, accuracy: f64) -> Cell {
        let settings = String::new();
        Cell {
            count,
            seed,
            examples: count as usize,
            steps: count,
            accuracy,
            consistency: Some(0.5),
            loss: 1.0 - accuracy,
            settings,
        }
    }

    #[test]
    fn seeds_of_one_count_become_a_point_with_an_interval() {
        let cells = [
            cell(0, None, 0.6),
            cell(10, Some(1), 0.7),
            cell(10, Some(2), 0.8),
            cell(20, Some(1), 0.9),
            cell(20, Some(2), 0.9),
        ];
        let points = points(&cells);
        let means: Vec<(u64, usize, bool)> =
            points.iter().map(|p| (p.count, p.accuracy.n, p.accuracy.interval.is_some())).collect();
        assert_eq!(means, [(0, 1, false), (10, 2, true), (20, 2, true)]);
        assert!((points[1].accuracy.mean - 0.75).abs() < 1e-12 && (points[1].loss.mean - 0.25).abs() < 1e-12);
        let table = table(&points);
        assert!(table.lines().count() == 4 && table.contains("75.0%") && table.contains("90.0% to 90.0%"), "{table}");
        assert_eq!(to_csv(&cells).lines().nth(1), Some("0,,0,0,0.6,0.5,0.4"));
        let charts = charts(&points);
        assert_eq!(charts[0].series[0].band[0], (0.0, 0.6, 0.6));
        assert!(charts[0].series[0].band[1].1 < 0.7 && charts[0].series[0].points[2] == (20.0, 0.9));
    }
}
