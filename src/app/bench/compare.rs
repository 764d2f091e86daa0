//! Two runs side by side.
//!
//! A case is slower when the whole middle half of its new samples lies above the middle half of the old ones, and its median by
//! more than [`NOISE`]; faster likewise. So a case that varies much must change much before it counts.

use super::results::{Results, Seconds, time};
use crate::error::{Error, Kind, Result};

/// Changes below this part of the median are never called changes.
pub const NOISE: f64 = 0.02;

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Faster,
    Slower,
}

/// One case that both files have.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub before: Seconds,
    pub after: Seconds,
    pub verdict: Verdict,
}

/// Two runs, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Cases that only one of the files has.
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

impl Row {
    /// The old time over the new one: above 1 is faster.
    pub fn ratio(&self) -> f64 {
        self.before.median / self.after.median
    }
}

/// Compares two runs.
///
/// # Errors
/// Usage: runs of different benchmarks or devices, or without a common case.
pub fn compare(before: &Results, after: &Results) -> Result<Comparison> {
    if before.benchmark != after.benchmark {
        let (a, b) = (&before.benchmark, &after.benchmark);
        return Err(Error::usage(format!("one file holds a benchmark of {a}, the other of {b}")));
    }
    let place = |r: &Results| match r.environment.threads {
        0 => r.environment.device.clone(),
        n => format!("{} with {n} threads", r.environment.device),
    };
    if place(before) != place(after) {
        let (a, b) = (place(before), place(after));
        return Err(Error::usage(format!(
            "the files come from different devices ({a}; {b}): their times say nothing together"
        )));
    }
    let mut rows = Vec::new();
    for case in &after.cases {
        if let Some(old) = before.cases.iter().find(|c| c.name == case.name) {
            let verdict = verdict(&old.seconds, &case.seconds);
            rows.push(Row {
                name: case.name.clone(),
                before: old.seconds.clone(),
                after: case.seconds.clone(),
                verdict,
            });
        }
    }
    if rows.is_empty() {
        return Err(Error::usage("the files have no case in common"));
    }
    let missing = |of: &Results, from: &Results| {
        let alone = of.cases.iter().filter(|c| from.cases.iter().all(|other| other.name != c.name));
        alone.map(|c| c.name.clone()).collect()
    };
    Ok(Comparison { rows, only_before: missing(before, after), only_after: missing(after, before) })
}

fn verdict(before: &Seconds, after: &Seconds) -> Verdict {
    let change = after.median / before.median - 1.0;
    if change > NOISE && after.low > before.high {
        Verdict::Slower
    } else if change < -NOISE && after.high < before.low {
        Verdict::Faster
    } else {
        Verdict::Same
    }
}

impl Comparison {
    /// A Markdown table, and the cases that have no partner.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| case | before | after | speed | |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let word = match row.verdict {
                Verdict::Same => "",
                Verdict::Faster => "faster",
                Verdict::Slower => "SLOWER",
            };
            let spread = |s: &Seconds| format!("{} \u{b1}{:.1}%", time(s.median), 100.0 * s.spread());
            text += &format!(
                "| {} | {} | {} | {:.3}x | {word} |\n",
                row.name,
                spread(&row.before),
                spread(&row.after),
                row.ratio()
            );
        }
        for (names, file) in [(&self.only_before, "first"), (&self.only_after, "second")] {
            for name in names {
                text += &format!("\nOnly in the {file} file: {name}\n");
            }
        }
        text
    }

    /// # Errors
    /// Some case is slower: names each and by how much.
    pub fn check(&self) -> Result<()> {
        let slower: Vec<String> = self
            .rows
            .iter()
            .filter(|r| r.verdict == Verdict::Slower)
            .map(|r| format!("{} by {:.1}%", r.name, 100.0 * (r.after.median / r.before.median - 1.0)))
            .collect();
        match slower.len() {
            0 => Ok(()),
            n => {
                let all = self.rows.len();
                Err(Error::new(
                    Kind::Data,
                    format!("{n} of {all} cases are slower than their spread explains: {}", slower.join("; ")),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(low: f64, median: f64, high: f64) -> Seconds {
        Seconds { median, low, high, samples: 9 }
    }

    #[test]
    fn only_what_leaves_the_spread_counts() {
        let before = seconds(0.9, 1.0, 1.1);
        assert_eq!(verdict(&before, &seconds(1.05, 1.2, 1.3)), Verdict::Same, "the spreads overlap");
        assert_eq!(verdict(&before, &seconds(1.15, 1.2, 1.3)), Verdict::Slower);
        assert_eq!(verdict(&before, &seconds(0.7, 0.8, 0.85)), Verdict::Faster);
        let steady = seconds(0.9999, 1.0, 1.0001);
        assert_eq!(verdict(&steady, &seconds(1.014, 1.015, 1.016)), Verdict::Same, "one and a half percent is noise");
        assert_eq!(verdict(&steady, &seconds(1.029, 1.03, 1.031)), Verdict::Slower);
    }
}
