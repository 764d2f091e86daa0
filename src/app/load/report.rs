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
    /// Of the prompt tokens asked for meanwhile, those that were not computed: their keys and values were in memory, or an equal prompt
    /// was in flight. Where the server tells.
    pub cache_hits: Option<f64>,
    plan: Value,
}

const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

impl Report {
    pub(super) fn new(plan: &Plan, tally: Tally, before: Option<Tokens>, after: Option<Tokens>) -> Report {
        let seconds = plan.measured.as_secs_f64();
        let ms = |p: f64| tally.latency.value_at_percentile(p) as f64 / 1e3;
        let cache_hits = before.zip(after).and_then(|(before, after)| after.hits_since(before));
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
            cache_hits,
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
            "cache_hit_rate": self.cache_hits,
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
        let hits = self.cache_hits.map_or("the server does not tell".into(), |share| format!("{:.1} %", 100.0 * share));
        rows.push(("cache hits, of prompt tokens".to_string(), hits));
        let lines: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        let failure = self.failure.as_ref().map_or(String::new(), |f| format!("\nOne failure: {f}\n"));
        format!("| | |\n|---|---|\n{lines}{failure}")
    }
}

/// Prompt tokens of a server so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens {
    computed: f64,
    /// Found in memory, or in flight already.
    spared: f64,
}

impl Tokens {
    /// The share that was spared since then; `None` if nothing was asked.
    fn hits_since(self, before: Tokens) -> Option<f64> {
        let (computed, spared) = (self.computed - before.computed, self.spared - before.spared);
        (computed + spared > 0.0).then(|| spared / (computed + spared))
    }

    /// From the text of `/metrics`; `None` if it is not this program's.
    fn read(metrics: &str) -> Option<Tokens> {
        let value = |name: &str| {
            let line =
                metrics.lines().find_map(|l| l.strip_prefix("gramophone_")?.strip_prefix(name)?.strip_prefix(' '))?;
            line.trim().parse::<f64>().ok()
        };
        let spared = value("cached_tokens_total")? + value("shared_tokens_total")?;
        Some(Tokens { computed: value("computed_tokens_total")?, spared })
    }
}

/// The prompt tokens of the server under load, where it tells.
pub(super) async fn tokens(plan: &Plan) -> Option<Tokens> {
    let mut connection = Connection::open(&plan.address).await.ok()?;
    let (status, body) = connection.send("/metrics", plan.key.as_deref(), None).await.ok()?;
    (status == 200).then(|| Tokens::read(&String::from_utf8_lossy(&body))).flatten()
}

#[cfg(test)]
mod tests {
    use super::Tokens;

    #[test]
    fn what_was_not_computed_is_a_hit() {
        let text = |computed: u32, cached: u32, shared: u32| {
            format!(
                "# HELP gramophone_computed_tokens_total x\ngramophone_computed_tokens_total {computed}\n\
                 gramophone_cached_tokens_total {cached}\ngramophone_shared_tokens_total {shared}\n"
            )
        };
        let [before, after] = [text(10, 5, 0), text(40, 15, 20)].map(|t| Tokens::read(&t).unwrap());
        assert_eq!((after.hits_since(before), after.hits_since(after)), (Some(0.5), None));
        assert!(Tokens::read("vllm_tokens 3").is_none());
    }
}
