//! The goals as Markdown.

use super::sitting::{Sitting, speed};
use super::{Answer, Beat, Floor, Goal, Whose};
use crate::app::bench::results::scaled;
use crate::app::bench::{Measured, Results};

/// Everything.
pub(super) fn page(sitting: &Sitting, goals: &[Goal], floors: &[Floor]) -> String {
    let mut text = String::new();
    let mut table = |columns: &[&str], rows: Vec<Vec<String>>| {
        text += &format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for row in rows {
            text += &format!("| {} |\n", row.join(" | ").replace('\n', " "));
        }
        text += "\n";
    };
    table(&["benchmark", "device", "driver", "clocks", "program", "command"], sitting.files().map(origin).collect());
    table(&["ceiling, best of this sitting", ""], ceilings(sitting));
    let columns = ["goal", "work", "ours", "best peer", "ratios (bars)", "of ceiling (bar)", ""];
    table(&columns, goals.iter().map(|g| row(sitting, g)).collect());
    table(&["floor", "case", "of ceiling", "bar", ""], floors.iter().map(|f| held(sitting, f)).collect());
    text.trim_end().to_string() + "\n"
}

fn origin(file: &Results) -> Vec<String> {
    let e = &file.environment;
    let cells = [&file.benchmark, &e.device, &e.driver, &e.clocks, &e.program, &e.command];
    cells.map(|cell| cell.replace('|', "\\|")).to_vec()
}

fn ceilings(sitting: &Sitting) -> Vec<Vec<String>> {
    sitting.ceilings.rows().into_iter().map(|(name, value)| vec![name.into(), value]).collect()
}

/// What became of a bar.
#[derive(Clone, Copy, PartialEq)]
enum Bar {
    Met,
    Short,
    /// Someone to compare with is missing.
    Open,
}

impl Bar {
    fn of(reached: f64, bar: f64) -> Bar {
        if reached >= bar { Bar::Met } else { Bar::Short }
    }
}

/// All bars together: short where one is, met where all are.
fn verdict(bars: &[Bar]) -> &'static str {
    if bars.contains(&Bar::Short) {
        "short"
    } else if bars.contains(&Bar::Open) {
        "open"
    } else {
        "met"
    }
}

fn row(sitting: &Sitting, goal: &Goal) -> Vec<String> {
    let not_measured = |reason: &str| {
        let reason = format!("not measured: {reason}");
        [goal.id, &goal.work, "", "", "", "", &reason].map(String::from).to_vec()
    };
    let (ours, beats, bar) = match &goal.answer {
        Answer::Nothing(reason) => return not_measured(reason),
        Answer::Cases { ours, beats, of_ceiling } => (ours, beats, *of_ceiling),
    };
    let found = match ours.iter().map(|name| sitting.own(name)).collect::<Result<Vec<_>, _>>() {
        Ok(found) => found,
        Err(reason) => return not_measured(&reason),
    };
    let mut bars = Vec::new();
    let ratios: Vec<String> = beats
        .iter()
        .map(|beat| {
            let (text, bar) = ratio(sitting, &found, beat);
            bars.push(bar);
            text
        })
        .collect();
    let share = share(sitting, &found);
    let of_ceiling = match bar {
        None => percent(share),
        Some(bar) => {
            bars.push(Bar::of(share, bar));
            format!("{} ({})", percent(share), percent(bar))
        }
    };
    let figure = figure(&found);
    let best = best_peer(sitting, beats);
    vec![goal.id.into(), goal.work.clone(), figure, best, ratios.join(", "), of_ceiling, verdict(&bars).into()]
}

/// The fastest peer's figure on the cases that it is compared on.
fn best_peer(sitting: &Sitting, beats: &[Beat]) -> String {
    let Some(beat) = beats.iter().find(|b| !matches!(b.whose, Whose::Own(_))) else { return String::new() };
    let others: Result<Vec<_>, _> = beat.cases.iter().map(|name| sitting.other(Whose::Best, name)).collect();
    let Ok(others) = others else { return String::new() };
    let cases: Vec<&Measured> = others.iter().map(|o| o.case).collect();
    match others.iter().all(|o| o.way == others[0].way) && !others[0].way.is_empty() {
        true => format!("{} ({})", figure(&cases), others[0].way),
        false => figure(&cases),
    }
}

/// A case's rate; of several cases the geometric mean.
fn figure(cases: &[&Measured]) -> String {
    match cases {
        [case] => case.speed(),
        _ => scaled(mean(cases.iter().map(|c| c.flops / c.seconds.median)), "FLOP/s"),
    }
}

/// Our speed over another's, with its bar.
fn ratio(sitting: &Sitting, ours: &[&Measured], beat: &Beat) -> (String, Bar) {
    let theirs: Result<Vec<f64>, _> =
        beat.cases.iter().map(|name| sitting.other(beat.whose, name).map(|o| o.speed)).collect();
    let whose = match beat.whose {
        Whose::Best => "best peer",
        Whose::Ways(name, _) | Whose::Own(name) => name,
    };
    match theirs {
        Ok(theirs) => {
            let reached = mean(ours.iter().zip(theirs).map(|(c, other)| speed(c) / other));
            (format!("{reached:.2}x {whose} ({:.2}x)", beat.ratio), Bar::of(reached, beat.ratio))
        }
        Err(reason) => (format!("{whose} ({:.2}x): {}", beat.ratio, short(&reason)), Bar::Open),
    }
}

/// The share of this sitting's ceilings; of several cases the geometric mean.
fn share(sitting: &Sitting, cases: &[&Measured]) -> f64 {
    mean(cases.iter().map(|c| sitting.ceilings.seconds(&c.cost(), c.bound) / c.seconds.median))
}

fn held(sitting: &Sitting, floor: &Floor) -> Vec<String> {
    let (share, verdict) = match sitting.own(&floor.name) {
        Ok(case) => {
            let share = share(sitting, &[case]);
            (percent(share), verdict(&[Bar::of(share, floor.least)]).to_string())
        }
        Err(reason) => (String::new(), format!("not measured: {}", short(&reason))),
    };
    vec![floor.what.into(), floor.name.clone(), share, percent(floor.least), verdict]
}

/// The geometric mean.
fn mean(of: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = of.fold((0.0, 0), |(sum, n), x| (sum + x.ln(), n + 1));
    (sum / n.max(1) as f64).exp()
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// A reason in a table.
fn short(reason: &str) -> String {
    let reason = reason.replace(['|', '\n'], " ");
    match reason.char_indices().nth(120) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason,
    }
}
