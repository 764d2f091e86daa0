//! `gramophone self-train`: from human rationales and unlabelled pairs to a judge that reasons.

use super::console::{print, tell};
use super::runtime::RunFlags;
use super::train::Terminal;
use crate::app::report::{self, Axis, Block, Chart, Figure, Report, Series, Table, Unit};
use crate::app::signals::Signals;
use crate::error::Result;
use crate::reward::selftrain::config::SelfTrain;
use crate::reward::selftrain::votes::{BINS, Histogram, Right, Stats};
use crate::reward::selftrain::{Entry, Finished, self_train};

/// Trains a prover on human rationales, proves labelled pairs, trains a judge, and lets judge and prover turn unlabelled pairs into
/// more data, round by round; settings are the keys of its file, such as rounds.count=2 or reward.train.lr=1e-5. Stopped anywhere, by SIGTERM, SIGUSR1 or SIGKILL, the same command goes on from there and
/// ends in the same bytes.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunFlags,
}

pub fn run(Args { run: flags }: Args) -> Result<()> {
    let file = SelfTrain::load(&flags.file, &flags.overrides)?;
    if flags.print_config {
        return print(file.explain());
    }
    let dev = flags.place.open()?;
    let signals = Signals::install()?;
    let mut terminal = Terminal::new();
    let path = file.table.pipeline.dir.join("report.html");
    let device = dev.name();
    let mut told = |entries: &[Entry]| page(&file, entries, &device).write(&path);
    let finished = self_train(&dev, &file, &mut terminal, &|| signals.stop_requested(), &mut told)?;
    terminal.close();
    let Finished { model, entries } = finished;
    if !entries.is_empty() {
        tell(format_args!("report: {}", path.display()));
    }
    if let Some(model) = model {
        tell(format_args!("model: {}", model.display()));
    }
    Ok(())
}

fn percent(right: usize, of: usize) -> String {
    if of == 0 { "\u{2013}".into() } else { format!("{:.1}%", 100.0 * right as f64 / of as f64) }
}

fn share(right: Right) -> String {
    percent(right.right, right.known)
}

/// The report: one row for each judge, and what became of each set of pairs.
fn page(file: &SelfTrain, entries: &[Entry], device: &str) -> Report {
    let t = &file.table;
    let subtitle = format!(
        "{} of {} rounds, {} votes in each order, agreement {}, confidence {}, {} proofs, config {}",
        entries.iter().filter(|e| e.name.starts_with("round")).count(),
        t.rounds.count,
        t.reward.votes,
        t.reward.agreement,
        t.reward.tau,
        t.prover.proofs,
        file.hash()
    );
    let mut page = Report::new("Self-training", subtitle);
    page.push(Block::Figures(figures(entries)));
    page.push(Block::Table(judges(entries)));
    page.push(Block::Table(labels(entries)));
    page.push(Block::Charts(
        "Votes".into(),
        vec![
            histograms("Agreement of the votes", entries, |s| &s.agreement),
            histograms("Confidence of the votes", entries, |s| &s.confidence),
        ],
    ));
    page.push(Block::Table(reasons("Pairs that did not become data", entries, |s| &s.reasons)));
    page.push(Block::Folded(reasons("Proofs that were not taken", entries, |s| &s.flaws)));
    page.push(Block::Folded(report::environment(device)));
    page
}

fn figures(entries: &[Entry]) -> Vec<Figure> {
    let accuracy = |e: &Entry| e.measured.map(|m| percent(m.right, m.pairs));
    let mut figures = Vec::new();
    if let (Some(first), Some(last)) = (entries.first().and_then(accuracy), entries.last().and_then(accuracy)) {
        figures.push(Figure::new("First judge", first, "of held-out pairs judged right"));
        figures.push(Figure::new("Latest judge", last, "same pairs"));
    }
    let accepted: usize = entries.iter().filter_map(|e| e.stats.as_ref()).map(|s| s.accepted).sum();
    figures.push(Figure::new("Rationales", accepted.to_string(), "written by the prover and accepted"));
    figures
}

fn judges(entries: &[Entry]) -> Table {
    let columns = ["judge", "pairs learned", "held-out accuracy", "same verdict in both orders", "invalid votes"];
    let row = |e: &Entry| {
        let measured = e.measured.map_or(["\u{2013}"; 3].map(String::from), |m| {
            [percent(m.right, m.pairs), percent(m.consistent, m.pairs), percent(m.invalid, 2 * m.pairs)]
        });
        [vec![e.name.clone(), e.learned.to_string()], measured.to_vec()].concat()
    };
    Table::new("Judges", &columns, entries.iter().map(row).collect())
        .note("Held-out pairs get one greedy vote in each order; right means right in the mean over both.")
}

fn labels(entries: &[Entry]) -> Table {
    let columns = [
        "data",
        "pairs",
        "labelled",
        "proved",
        "sound proofs",
        "right by majority",
        "right labels",
        "right in the data",
    ];
    let row = |(e, s): (&Entry, &Stats)| {
        let numbers = [s.pairs, s.labelled, s.accepted].map(|n| n.to_string());
        let shares = [percent(s.sound, s.proofs), share(s.voted), share(s.kept), share(s.learned)];
        [vec![e.name.clone()], numbers.to_vec(), shares.to_vec()].concat()
    };
    Table::new("Data", &columns, with_stats(entries).map(row).collect())
        .note("Right is measured where the true label is known; nothing is learned from it.")
}

fn with_stats(entries: &[Entry]) -> impl Iterator<Item = (&Entry, &Stats)> {
    entries.iter().filter_map(|e| Some((e, e.stats.as_ref()?)))
}

fn histograms(title: &str, entries: &[Entry], of: fn(&Stats) -> &Histogram) -> Chart {
    let series = |(e, s): (&Entry, &Stats)| {
        let total: usize = of(s).0.iter().sum();
        let point = |(i, n): (usize, &usize)| ((i as f64 + 0.5) / BINS as f64, *n as f64 / total.max(1) as f64);
        let points = if total == 0 { Vec::new() } else { of(s).0.iter().enumerate().map(point).collect() };
        Series { name: e.name.clone(), points, band: Vec::new() }
    };
    let series = with_stats(entries).map(series).filter(|s| !s.points.is_empty()).collect();
    Chart { title: title.into(), x: "by tenths".into(), unit: Unit::Percent, axis: Axis::FromZero, series }
}

fn reasons(title: &str, entries: &[Entry], of: fn(&Stats) -> &std::collections::BTreeMap<String, usize>) -> Table {
    let all: std::collections::BTreeSet<&str> =
        with_stats(entries).flat_map(|(_, s)| of(s).keys().map(String::as_str)).collect();
    let columns: Vec<&str> = ["data"].into_iter().chain(all.iter().copied()).collect();
    let row = |(e, s): (&Entry, &Stats)| {
        let counts = all.iter().map(|reason| of(s).get(*reason).copied().unwrap_or(0).to_string());
        [e.name.clone()].into_iter().chain(counts).collect()
    };
    Table::new(title, &columns, with_stats(entries).map(row).collect())
}
