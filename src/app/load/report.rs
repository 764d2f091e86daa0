//! What a measurement says.

use super::client::Connection;
use super::{Loop, Plan, Tally};
use serde_json::{Value, json};

/// The results of a measurement.
#[derive(Clone, Debug)]
pub struct Report {
    pub seconds: f64,
    pub answered: u64,
    pub failed: u64,
    pub failure: Option<String>,
    pub requests_per_second: f64,
    pub judgments_per_second: f64,
    /// Requests a second that were answered within the deadline, and their share of all.
    pub goodput: f64,
    pub good_share: f64,
    /// Milliseconds by percentile.
    pub latency: Vec<(f64, f64)>,
    pub mean_ms: f64,
    /// Of the prompt tokens asked for meanwhile, those that were in flight already; where the server tells.
    pub shared: Option<f64>,
    plan: Value,
}

const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

impl Report {
    pub(super) fn new(plan: &Plan, tally: Tally, before: Option<[f64; 2]>, after: Option<[f64; 2]>) -> Report {
        let seconds = plan.measured.as_secs_f64();
        let ms = |p: f64| tally.latency.value_at_percentile(p) as f64 / 1e3;
        let shared = before.zip(after).and_then(|(before, after)| {
            let (asked, shared) = (after[0] - before[0], after[1] - before[1]);
            (asked + shared > 0.0).then(|| shared / (asked + shared))
        });
        let pace = match plan.pace {
            Loop::Closed(clients) => json!({"clients": clients}),
            Loop::Open(rate) => json!({"requests_per_second": rate}),
        };
        Report {
            seconds,
            answered: tally.answered,
            failed: tally.failed,
            requests_per_second: tally.answered as f64 / seconds,
            judgments_per_second: tally.judgments / seconds,
            goodput: tally.good as f64 / seconds,
            good_share: tally.good as f64 / (tally.answered + tally.failed) as f64,
            latency: PERCENTILES.map(|p| (p, ms(p))).to_vec(),
            mean_ms: tally.latency.mean() / 1e3,
            shared,
            failure: tally.failure,
            plan: json!({
                "preset": format!("{:?}", plan.work.preset).to_lowercase(),
                "wire": format!("{:?}", plan.work.wire).to_lowercase(),
                "load": pace,
                "warmup_seconds": plan.warmup.as_secs_f64(),
                "seconds": seconds,
                "deadline_seconds": plan.deadline.as_secs_f64(),
                "seed": plan.work.seed,
            }),
        }
    }

    pub fn to_json(&self) -> Value {
        let latency: serde_json::Map<String, Value> =
            self.latency.iter().map(|(p, ms)| (format!("p{p}"), json!(ms))).collect();
        json!({
            "plan": self.plan,
            "answered": self.answered,
            "failed": self.failed,
            "failure": self.failure,
            "requests_per_second": self.requests_per_second,
            "judgments_per_second": self.judgments_per_second,
            "goodput": self.goodput,
            "good_share": self.good_share,
            "latency_ms": latency,
            "mean_ms": self.mean_ms,
            "shared_token_share": self.shared,
        })
    }

    pub fn to_markdown(&self) -> String {
        let mut rows = vec![
            ("answered".to_string(), format!("{} in {:.0} s", self.answered, self.seconds)),
            ("failed".to_string(), self.failed.to_string()),
            ("requests a second".to_string(), format!("{:.2}", self.requests_per_second)),
            ("judgments a second".to_string(), format!("{:.2}", self.judgments_per_second)),
            ("good answers a second".to_string(), format!("{:.2} ({:.1} %)", self.goodput, 100.0 * self.good_share)),
        ];
        rows.extend(self.latency.iter().map(|(p, ms)| (format!("p{p}"), format!("{ms:.1} ms"))));
        let shared = self.shared.map_or("the server does not tell".into(), |s| format!("{:.1} %", 100.0 * s));
        rows.push(("shared prompt tokens".to_string(), shared));
        let lines: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        let failure = self.failure.as_ref().map_or(String::new(), |f| format!("\nOne failure: {f}\n"));
        format!("| | |\n|---|---|\n{lines}{failure}")
    }
}

/// Prompt tokens that the server computed, and those that it shared, so far; `None` where it does not say.
pub(super) async fn shared_tokens(plan: &Plan) -> Option<[f64; 2]> {
    let mut connection = Connection::open(&plan.address).await.ok()?;
    let (status, body) = connection.send("/metrics", plan.key.as_deref(), None).await.ok()?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let value = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<f64>().ok()
    };
    if status != 200 {
        return None;
    }
    Some([value("gramophone_prompt_tokens_total")?, value("gramophone_shared_tokens_total")?])
}
