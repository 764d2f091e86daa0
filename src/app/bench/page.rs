//! Results for people: Markdown, and a page.

use super::results::{Measured, Results, time};
use crate::app::report::{Block, Figure, Report, Table};

const COLUMNS: [&str; 5] = ["case", "time", "spread", "rate", "of ceiling"];

fn cells(case: &Measured) -> [String; 5] {
    [
        case.name.clone(),
        time(case.seconds.median),
        format!("\u{b1}{:.1}%", 100.0 * case.seconds.spread()),
        case.speed(),
        format!("{:.1}%", 100.0 * case.of_ceiling),
    ]
}

/// What a row of the table says.
pub fn line(case: &Measured) -> String {
    let [name, time, spread, rate, of_ceiling] = cells(case);
    format!("{name}: {time} {spread}, {rate}, {of_ceiling} of the ceiling")
}

pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let mut table = |columns: &[&str], rows: Vec<Vec<String>>| {
        text += &format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for row in rows {
            text += &format!("| {} |\n", row.join(" | "));
        }
        text += "\n";
    };
    let pairs = |rows: Vec<(&str, String)>| rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect();
    table(&["environment", ""], pairs(results.environment.rows()));
    table(&["ceiling, this run", ""], pairs(results.ceilings.rows()));
    table(&COLUMNS, results.cases.iter().map(|c| cells(c).to_vec()).collect());
    for case in &results.left_out {
        text += &format!("Left out: {}: {}\n", case.name, case.reason);
    }
    text
}

/// A page that needs nothing but itself.
pub fn report(results: &Results) -> Report {
    let title = format!("Benchmark of the {}", results.benchmark);
    let mut report = Report::new(title, results.environment.device.clone());
    let figure =
        |(name, value): (&str, String)| Figure::new(&format!("Ceiling: {name}"), value, "measured in this run");
    report.push(Block::Figures(results.ceilings.rows().into_iter().map(figure).collect()));
    let rows = results.cases.iter().map(|c| cells(c).to_vec()).collect();
    let note = "Median of the samples; the spread is half the distance of the quartiles. Of ceiling: the least time in which the \
                bytes can be moved or the operations done, by the ceilings of this run, over the measured time.";
    report.push(Block::Table(Table::new("Cases", &COLUMNS, rows).note(note)));
    if !results.left_out.is_empty() {
        let rows = results.left_out.iter().map(|c| vec![c.name.clone(), c.reason.clone()]).collect();
        report.push(Block::Table(Table::new("Left out", &["case", "reason"], rows)));
    }
    let rows = results.environment.rows().into_iter().map(|(name, value)| vec![name.into(), value]).collect();
    report.push(Block::Table(Table::new("Environment", &["", ""], rows)));
    report
}
