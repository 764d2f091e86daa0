//! The report of a run: one HTML page that needs nothing but itself. Curves are inline SVG, colours follow the reader's
//! light or dark theme, and there is no script.
//!
//! A [`Report`] is a list of blocks in reading order, and knows nothing of training; [`training`] makes one from a run.

pub use super::axis::{Unit, grouped};
use super::chart::Span;
pub use super::chart::{Axis, Chart, Series};
use crate::base::atomic;
use crate::error::Result;
use crate::train::config::Run;
use crate::train::log::{Record, duration};
use std::path::Path;

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub title: String,
    /// One line below the title.
    pub subtitle: String,
    pub blocks: Vec<Block>,
}

/// A part of a page.
#[derive(Clone, Debug)]
pub enum Block {
    /// A few numbers that sum the page up.
    Figures(Vec<Figure>),
    /// Charts side by side under a heading; empty charts are left out.
    Charts(String, Vec<Chart>),
    Table(Table),
    /// A table that opens on a click.
    Folded(Table),
}

/// One number that matters.
#[derive(Clone, Debug)]
pub struct Figure {
    pub label: String,
    pub value: String,
    /// A few words below it; may be empty.
    pub note: String,
}

/// A table. Columns of numbers are set to the right; text between backquotes is set as code.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    /// Each as long as `columns`.
    pub rows: Vec<Vec<String>>,
    /// What a reader should know about it; may be empty.
    pub note: String,
}

impl Figure {
    pub fn new(label: &str, value: impl Into<String>, note: impl Into<String>) -> Figure {
        Figure { label: label.into(), value: value.into(), note: note.into() }
    }
}

impl Table {
    pub fn new(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Table {
        Table {
            title: title.into(),
            columns: columns.iter().map(|c| c.to_string()).collect(),
            rows,
            note: String::new(),
        }
    }
    pub fn note(mut self, note: impl Into<String>) -> Table {
        self.note = note.into();
        self
    }
}

impl Report {
    pub fn new(title: impl Into<String>, subtitle: impl Into<String>) -> Report {
        Report { title: title.into(), subtitle: subtitle.into(), blocks: Vec::new() }
    }

    pub fn push(&mut self, block: Block) -> &mut Report {
        self.blocks.push(block);
        self
    }

    /// The whole page.
    pub fn to_html(&self) -> String {
        let (title, subtitle) = (escape(&self.title), escape(&self.subtitle));
        let body: String = self.blocks.iter().map(Block::to_html).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{}</style>\n</head>\n<body>\n<main>\n<header><h1>{title}</h1><p>{subtitle}</p></header>\n{body}\
             <footer>Written by gramophone {}.</footer>\n</main>\n</body>\n</html>\n",
            include_str!("report.css"),
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// Writes the page to `path`; what was there is replaced when the new page is whole.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write_file(path, self.to_html().as_bytes())
    }
}

impl Block {
    fn to_html(&self) -> String {
        match self {
            Block::Figures(figures) => {
                let cells: String = figures.iter().map(Figure::to_html).collect();
                format!("<dl class=\"figures card\">{cells}</dl>\n")
            }
            Block::Charts(title, charts) => charts_to_html(title, charts),
            Block::Table(table) => format!("<h2>{}</h2>\n{}", escape(&table.title), table.to_html()),
            Block::Folded(table) => {
                format!("<details><summary>{}</summary>\n{}</details>\n", escape(&table.title), table.to_html())
            }
        }
    }
}

/// Two charts in a row; of an odd number the first has a row to itself.
fn charts_to_html(title: &str, charts: &[Chart]) -> String {
    let drawn: Vec<&Chart> = charts.iter().filter(|c| c.has_points()).collect();
    let full = drawn.len() % 2;
    let span = |i: usize| if i < full { Span::Full } else { Span::Half };
    let cards: String = drawn.iter().enumerate().map(|(i, chart)| chart.to_html(span(i))).collect();
    if cards.is_empty() {
        return cards;
    }
    let thin = if cards.contains("class=\"thin") {
        "Thin lines are as logged, strong ones smoothed; the number at the end is the line's. "
    } else {
        ""
    };
    format!(
        "<h2>{}</h2>\n<div class=\"charts\">\n{cards}</div>\n<p class=\"note\">{thin}Point at a curve to read its values.</p>\n",
        escape(title)
    )
}

impl Figure {
    fn to_html(&self) -> String {
        let (label, value, note) = (escape(&self.label), escape(&self.value), escape(&self.note));
        let note = if note.is_empty() { note } else { format!("<small>{note}</small>") };
        format!("<div><dt>{label}</dt><dd>{value}{note}</dd></div>")
    }
}

impl Table {
    fn to_html(&self) -> String {
        let numeric: Vec<bool> = (0..self.columns.len())
            .map(|c| c > 0 && !self.rows.is_empty() && self.rows.iter().all(|r| is_number(&r[c])))
            .collect();
        let cell = |tag: &str, c: usize, text: &str| {
            format!("<{tag}{}>{}</{tag}>", if numeric[c] { " class=\"n\"" } else { "" }, code(text))
        };
        let row = |tag: &str, texts: &[String]| -> String {
            assert_eq!(texts.len(), self.columns.len(), "a row of table \"{}\" is as long as its header", self.title);
            let cells: String = texts.iter().enumerate().map(|(c, text)| cell(tag, c, text)).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = self.rows.iter().map(|r| row("td", r)).collect();
        let note =
            if self.note.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", code(&self.note)) };
        format!(
            "<div class=\"card scroll\"><table>\n<thead>{}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n{note}",
            row("th", &self.columns)
        )
    }
}

/// Text for HTML, outside and inside of attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escaped text, with what stands between backquotes as code.
fn code(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let part =
        |(i, part): (usize, &&str)| if i % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) };
    parts.iter().enumerate().map(part).collect()
}

fn is_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['-', '+', '\u{2212}', '\u{b1}']);
    cell.is_empty() || cell == "\u{2013}" || digits.starts_with(|c: char| c.is_ascii_digit())
}

/// The report of a training run, from its log. `device` is the machine in words, as [`environment`] takes it.
pub fn training(run: &Run, records: &[Record], device: &str) -> Report {
    let model = run.model.path.as_deref().or(run.model.config.as_deref());
    let model = model.map_or("random weights".to_string(), |path| path.display().to_string());
    let mut report = Report::new(
        format!("Training run: {}", run.train.stage.as_str()),
        format!("{model}, config {}", run.config_hash()),
    );
    report.push(Block::Figures(summary(records)));
    report.push(Block::Charts("Curves".into(), curves(records)));
    let (set, rest) = settings(run);
    report.push(Block::Table(set)).push(Block::Folded(rest));
    report.push(Block::Table(environment(device)));
    report
}

/// What a run came to, from the last rows of its log that say so.
pub fn summary(records: &[Record]) -> Vec<Figure> {
    let last = |value: fn(&Record) -> Option<f64>| records.iter().rev().find_map(value);
    let Some(end) = records.last() else { return Vec::new() };
    let mut figures = Vec::new();
    let mut figure = |label: &str, value: Option<String>, note: String| {
        figures.extend(value.map(|value| Figure::new(label, value, note)));
    };
    let first = records.iter().find_map(|r| r.loss).map_or(String::new(), |l| format!("from {}", Unit::Plain.show(l)));
    figure("Last training loss", last(|r| r.loss).map(|x| Unit::Plain.show(x)), first);
    let loss = last(|r| r.eval_loss).map_or(String::new(), |x| format!("loss {}", Unit::Plain.show(x)));
    figure("Evaluation accuracy", last(|r| r.eval_accuracy).map(|x| Unit::Percent.show(x)), loss);
    figure("Consistency", last(|r| r.eval_consistency).map(|x| Unit::Percent.show(x)), "both orders agree".into());
    figure(
        "Steps",
        Some(grouped(end.step as i64)),
        format!("of {}, {:.2} epochs", grouped(end.total_steps as i64), end.epoch),
    );
    figure("Time", Some(duration(end.elapsed)), format!("{} tokens", grouped(end.tokens as i64)));
    let peak = last(|r| r.peak).map_or(String::new(), |x| format!("{:.0}% of measured peak", 100.0 * x));
    let pace = (end.elapsed > 0.0 && end.tokens > 0).then(|| grouped((end.tokens as f64 / end.elapsed) as i64));
    figure("Tokens per second", pace, peak);
    figures
}

/// The curves of a log: loss, accuracy, learning rate, gradient norm, throughput.
pub fn curves(records: &[Record]) -> Vec<Chart> {
    let series = |name: &str, value: fn(&Record) -> Option<f64>| Series {
        name: name.into(),
        points: records.iter().filter_map(|r| Some((r.step as f64, value(r)?))).collect(),
        band: Vec::new(),
    };
    let chart = |title: &str, unit, axis, series| Chart { title: title.into(), x: "step".into(), unit, axis, series };
    vec![
        chart(
            "Loss",
            Unit::Plain,
            Axis::Fit,
            vec![series("training", |r| r.loss), series("evaluation", |r| r.eval_loss)],
        ),
        chart(
            "Accuracy",
            Unit::Percent,
            Axis::Fit,
            vec![
                series("training", |r| r.accuracy),
                series("evaluation", |r| r.eval_accuracy),
                series("consistency", |r| r.eval_consistency),
            ],
        ),
        chart("Learning rate", Unit::Scientific, Axis::FromZero, vec![series("learning rate", |r| r.lr)]),
        chart("Gradient norm before clipping", Unit::Plain, Axis::Fit, vec![series("norm", |r| r.grad_norm)]),
        chart("Training tokens per second", Unit::Count, Axis::FromZero, vec![series("tokens/s", |r| r.throughput)]),
    ]
}

/// The run file as two tables: what somebody set, and everything.
pub fn settings(run: &Run) -> (Table, Table) {
    let cells = |row: crate::train::config::Row| {
        let value = row.value.map_or("\u{2013}".into(), |v| format!("`{}`", v.replace('`', "'")));
        vec![format!("`{}`", row.key.full), value, row.from]
    };
    let columns = ["key", "value", "from"];
    let set = Table::new("Configuration", &columns, run.rows().filter(|row| row.given).map(cells).collect());
    (
        set.note("What was set; all else has its default."),
        Table::new("Every value", &columns, run.rows().map(cells).collect()),
    )
}

/// The machine and the program. `device` is what computed, in words.
pub fn environment(device: &str) -> Table {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.split(':').next().is_some_and(|n| n.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|m| m.split(' ').next()?.parse::<f64>().ok());
    let known = [
        ("Device", Some(device.to_string())),
        ("Processor", field(&read("/proc/cpuinfo"), "model name")),
        ("Cores", std::thread::available_parallelism().ok().map(|n| n.to_string())),
        ("Memory", memory.map(|kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0))),
        (
            "System",
            Some(format!(
                "{} {} {}",
                std::env::consts::OS,
                std::env::consts::ARCH,
                read("/proc/sys/kernel/osrelease").trim()
            )),
        ),
        ("Program", Some(format!("gramophone {}", env!("CARGO_PKG_VERSION")))),
    ];
    let rows = known.into_iter().filter_map(|(name, value)| Some(vec![name.into(), value?])).collect();
    Table::new("Environment", &["", ""], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record {
            step,
            total_steps: 30,
            epoch: step as f64 / 15.0,
            tokens: 100 * step,
            elapsed: step as f64,
            loss: Some(1.0 / step as f64),
            lr: Some(1e-5),
            ..Record::default()
        }
    }

    fn run() -> Run {
        let text = "[model]\npath = \"<b>&\"\n[data]\ntrain = \"a`b\"\n[train]\nlr = 3e-5\n";
        Run::parse(text, "run.toml", &[]).unwrap()
    }

    /// Elements nest, and text that came in is never markup.
    fn assert_well_formed(html: &str) {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let name: String = tag.chars().take_while(|c| c.is_ascii_alphanumeric() || "!/".contains(*c)).collect();
            let whole = tag.split('>').next().unwrap();
            match name.as_str() {
                "!doctype" | "meta" => {}
                _ if whole.ends_with('/') => {}
                close if close.starts_with('/') => assert_eq!(open.pop().as_deref(), Some(&close[1..]), "{tag:.60}"),
                name => open.push(name.to_string()),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_report_is_one_well_formed_page_without_references() {
        let dir = tempfile::tempdir().unwrap();
        let records: Vec<Record> = (1..=30).map(record).collect();
        let path = dir.path().join("report.html");
        training(&run(), &records, "CPU, 2 threads").write(&path).unwrap();
        let html = std::fs::read_to_string(&path).unwrap();
        assert_well_formed(&html);
        for outside in ["http", "src=", "href=", "<script", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        for inside in
            ["&lt;b&gt;&amp;", "<h3>Loss</h3>", "<h3>Learning rate</h3>", "`a'b`".trim_matches('`'), "CPU, 2 threads"]
        {
            assert!(html.contains(inside), "{inside}");
        }
        assert!(!html.contains("<b>") && !html.contains("<h3>Accuracy</h3>"), "empty charts are left out");
        assert_well_formed(&training(&run(), &[], "CPU").to_html());
    }

    #[test]
    fn the_configuration_lists_what_was_set_and_then_all() {
        let (set, all) = settings(&run());
        let keys: Vec<&str> = set.rows.iter().map(|r| r[0].as_str()).collect();
        assert_eq!(keys, ["`model.path`", "`data.train`", "`train.lr`"]);
        assert_eq!(set.rows[2], ["`train.lr`", "`3e-5`", "run.toml:6"]);
        assert_eq!(all.rows.len(), crate::train::config::KEYS.len());
    }

    #[test]
    fn columns_of_numbers_go_to_the_right() {
        let rows = vec![vec!["1".into(), "81.2%".into(), "x".into()], vec!["2".into(), "\u{2013}".into(), "3".into()]];
        let html = Table::new("Results", &["name", "accuracy", "what"], rows).note("By `judge`.").to_html();
        assert!(
            html.contains("<td class=\"n\">81.2%</td>") && html.contains("<td>1</td>") && html.contains("<td>x</td>")
        );
        assert!(html.contains("<th class=\"n\">accuracy</th>") && html.contains("By <code>judge</code>."));
        assert_eq!(code("an odd ` stays & is safe"), "an odd ` stays &amp; is safe");
    }

    #[test]
    fn the_summary_takes_the_last_word_on_each() {
        let mut records: Vec<Record> = (1..=3).map(record).collect();
        records[1].eval_accuracy = Some(0.75);
        let figures: Vec<(String, String)> = summary(&records).into_iter().map(|f| (f.label, f.value)).collect();
        let expected =
            [("Last training loss", "0.3333"), ("Evaluation accuracy", "75.0%"), ("Steps", "3"), ("Time", "0:00:03")];
        for (label, value) in expected {
            assert!(figures.contains(&(label.to_string(), value.to_string())), "{label}: {figures:?}");
        }
        assert!(summary(&[]).is_empty());
    }
}
