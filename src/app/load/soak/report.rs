//! What a soak came to.

use super::{Plan, Tally};
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};

/// Gauges that are zero when nothing is left of any request.
const ZERO: [&str; 3] = ["gramophone_queued_tokens", "gramophone_running_tokens", "gramophone_work_in_flight"];

/// Memory may grow by so much between the middle and the end: what the allocator keeps varies.
const GROWTH: f64 = 0.05;
const GROWTH_BYTES: u64 = 24 << 20;

/// Runs of this length must have come to a size of memory that stays.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(30);

/// Tokens that there is memory for while nothing is done.
const UNUSED: &str = "gramophone_memory_unused_tokens";

fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The memory that no work uses, from the text of `/metrics`.
pub fn unused(metrics: &str) -> Option<f64> {
    value(metrics, UNUSED)
}

/// The gauges that are not as they are at rest, when this much memory is unused.
pub fn left(metrics: &str, unused: Option<f64>) -> Vec<String> {
    let rest = ZERO.iter().map(|name| (*name, Some(0.0))).chain([(UNUSED, unused)]);
    let off = rest.filter(|(name, rest)| rest.is_none() || value(metrics, name) != *rest);
    off.map(|(name, rest)| format!("{name} is {:?} instead of {rest:?}", value(metrics, name))).collect()
}

/// The results of a soak.
#[derive(Clone, Debug)]
pub struct Report {
    figures: Vec<(&'static str, Value)>,
    pub faults: Vec<String>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        seconds: f64,
        tally: Tally,
        memory: &[u64],
        left: Vec<String>,
        drained: usize,
        (exit, said): (Option<i32>, String),
    ) -> Report {
        let mut faults = Vec::new();
        let mut fault = |is: bool, text: String| {
            if is {
                faults.push(text);
            }
        };
        let p = |q: f64| tally.latency.value_at_percentile(q) as f64 / 1e3;
        let part =
            |i: usize| memory[memory.len() * i / 3..memory.len() * (i + 1) / 3].iter().max().copied().unwrap_or(0);
        let (middle, end) = (part(1), part(2));
        let allowed = middle + (middle as f64 * GROWTH) as u64 + GROWTH_BYTES;
        fault(tally.right == 0, "nothing was answered".into());
        fault(tally.wrong > 0, format!("{} wrong answers", tally.wrong));
        fault(tally.lost > 0, format!("{} requests were lost", tally.lost));
        fault(tally.overdue > 0, format!("{} requests were overdue", tally.overdue));
        fault(p(99.0) > plan.deadline.as_secs_f64() * 1e3, "p99 is beyond the deadline".into());
        // Shorter runs still warm up: caches fill, allocators find their size.
        let long = plan.length >= SETTLED;
        fault(long && end > allowed, format!("memory grew from {middle} to {end} bytes"));
        fault(!left.is_empty(), format!("something was left at rest: {}", left.join(", ")));
        fault(drained < plan.clients, format!("{} of {} last requests were answered", drained, plan.clients));
        fault(exit != Some(0), format!("the server ended with {exit:?}: {}", said.trim()));
        fault(said.contains("panicked"), format!("the server panicked: {}", said.trim()));
        faults.extend(tally.examples);
        let mib = |bytes: u64| (bytes as f64 / (1 << 20) as f64 * 10.0).round() / 10.0;
        let figures = vec![
            ("clients", json!(plan.clients)),
            ("seconds", json!((seconds * 10.0).round() / 10.0)),
            ("right answers", json!(tally.right)),
            ("right answers a second", json!((tally.right as f64 / seconds * 10.0).round() / 10.0)),
            ("late, as they asked to be", json!(tally.late)),
            ("told to come again", json!(tally.refused)),
            ("clients that vanished", json!(tally.vanished)),
            ("wrong answers", json!(tally.wrong)),
            ("lost requests", json!(tally.lost)),
            ("overdue answers", json!(tally.overdue)),
            ("p50 ms", json!(p(50.0))),
            ("p99 ms", json!(p(99.0))),
            ("p99.9 ms", json!(p(99.9))),
            ("deadline ms", json!(plan.deadline.as_secs_f64() * 1e3)),
            ("memory MiB, first third", json!(mib(part(0)))),
            ("memory MiB, second third", json!(mib(middle))),
            ("memory MiB, last third", json!(mib(end))),
            ("answered while it stopped", json!(drained)),
        ];
        Report { figures, faults }
    }

    pub fn to_json(&self) -> Value {
        let figures: serde_json::Map<String, Value> =
            self.figures.iter().map(|(name, value)| (name.replace([' ', ','], "_"), value.clone())).collect();
        json!({"figures": figures, "faults": self.faults})
    }

    pub fn to_markdown(&self) -> String {
        let lines: String = self.figures.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        let faults: String = self.faults.iter().map(|f| format!("- {f}\n")).collect();
        format!("| | |\n|---|---|\n{lines}\n{faults}")
    }

    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<()> {
        match self.faults.first() {
            None => Ok(()),
            Some(first) => Err(Error::new(Kind::Io, first.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let rest = "gramophone_queued_tokens 0\ngramophone_running_tokens 0\ngramophone_work_in_flight 0\n\
                    gramophone_memory_unused_tokens 96\n";
        assert!(left(rest, unused(rest)).is_empty());
        let busy = rest.replace("running_tokens 0", "running_tokens 12").replace(" 96", " 80");
        let named = left(&busy, unused(rest));
        assert!(named.len() == 2 && named[0].contains("running") && named[1].contains("unused"), "{named:?}");
        assert_eq!(left("", None).len(), 4);
    }
}
