//! Counts of requests, and all that is known of the service, in Prometheus's text format. Also what the status page draws:
//! the last two minutes, second by second.

use super::App;
use crate::reward::service::{Histogram, SECONDS};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds that the status page shows.
pub const SECONDS_SHOWN: usize = 120;
/// Scores that it shows.
const SCORES_SHOWN: usize = 64;
/// Wires that it shows.
const ROUTES_SHOWN: usize = 12;
/// What is looked at and asks for nothing to be computed.
const LOOKED_AT: [&str; 12] = [
    "page",
    "/status.json",
    "/metrics",
    "/openapi.json",
    "/version",
    "/v1/models",
    "/health",
    "/ready",
    "/startup",
    "/ping",
    "/is_sleeping",
    "/is_paused",
];

pub struct Metrics {
    pub started: Instant,
    /// What this process's request ids begin with.
    salt: String,
    ids: AtomicU64,
    in_flight: AtomicUsize,
    invalid: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    requests: BTreeMap<(String, u16), u64>,
    seconds: BTreeMap<String, Histogram>,
    /// Latencies since the last sample, in seconds.
    recent: Vec<f64>,
    history: VecDeque<Sample>,
    last: Totals,
    scores: VecDeque<f64>,
}

/// One second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub queued_tokens: usize,
    pub in_flight: usize,
    pub judgments: u64,
    pub tokens: u64,
    /// Median and 99th percentile of what was answered, in milliseconds.
    pub p50: f64,
    pub p99: f64,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    judgments: u64,
    tokens: u64,
}

impl Metrics {
    pub fn new() -> Metrics {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let digest = Sha256::digest(format!("{now:?} {}", std::process::id()));
        Metrics {
            started: Instant::now(),
            salt: digest[..6].iter().map(|b| format!("{b:02x}")).collect(),
            ids: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            invalid: AtomicU64::new(0),
            inside: Mutex::default(),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// An id for a request that came without one.
    pub fn next_id(&self) -> String {
        format!("{}-{}", self.salt, self.ids.fetch_add(1, Relaxed))
    }

    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn leave(&self, route: &str, status: u16, took: Duration, probe: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        let mut inside = self.inside();
        *inside.requests.entry((route.to_string(), status)).or_default() += 1;
        let seconds = inside.seconds.entry(route.to_string()).or_insert_with(|| Histogram::new(SECONDS));
        seconds.note(took.as_secs_f64());
        if !probe && status < 300 && !LOOKED_AT.contains(&route) {
            inside.recent.push(took.as_secs_f64());
        }
    }

    /// A sample that got a neutral reward because it could not be judged.
    pub fn invalid(&self) {
        self.invalid.fetch_add(1, Relaxed);
    }

    /// A probability that went out.
    pub fn scored(&self, p: f64) {
        let mut inside = self.inside();
        if inside.scores.len() == SCORES_SHOWN {
            inside.scores.pop_front();
        }
        inside.scores.push_back(p);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub fn scores(&self) -> Vec<f64> {
        self.inside().scores.iter().copied().collect()
    }

    /// The wires that were asked, most asked first, with how many requests were answered and how many were not.
    pub fn routes(&self) -> Value {
        let mut routes: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        let inside = self.inside();
        // Reading the page is no work.
        let asked = inside.requests.iter().filter(|((route, _), _)| !LOOKED_AT.contains(&route.as_str()));
        for ((route, status), n) in asked {
            routes.entry(route).or_default()[(*status >= 300) as usize] += n;
        }
        let mut routes: Vec<(&str, [u64; 2])> = routes.into_iter().collect();
        routes.sort_by_key(|(_, [answered, refused])| std::cmp::Reverse(answered + refused));
        let row = |(route, [answered, refused]): &(&str, [u64; 2])| json!({"route": route, "answered": answered, "refused": refused});
        routes.iter().map(row).take(ROUTES_SHOWN).collect()
    }

    pub fn history(&self) -> Vec<Sample> {
        self.inside().history.iter().copied().collect()
    }

    /// Notes the second that has passed.
    pub fn sample(&self, app: &App) {
        let (load, counters) = (app.service.load(), app.service.counters());
        let now = Totals {
            judgments: counters.judgments.load(Relaxed) + counters.rewards.load(Relaxed),
            tokens: counters.prompt_tokens.load(Relaxed) + counters.written_tokens.load(Relaxed),
        };
        let mut inside = self.inside();
        let mut recent = std::mem::take(&mut inside.recent);
        recent.sort_by(f64::total_cmp);
        let quantile = |q: f64| match recent.len() {
            0 => 0.0,
            n => 1e3 * recent[((n as f64 * q) as usize).min(n - 1)],
        };
        let sample = Sample {
            queued_tokens: load.queued_tokens,
            in_flight: load.in_flight,
            judgments: now.judgments - inside.last.judgments,
            tokens: now.tokens - inside.last.tokens,
            p50: quantile(0.5),
            p99: quantile(0.99),
        };
        inside.last = now;
        if inside.history.len() == SECONDS_SHOWN {
            inside.history.pop_front();
        }
        inside.history.push_back(sample);
    }

    /// Everything, for Prometheus.
    pub fn text(&self, app: &App) -> String {
        let mut out = Text(String::new());
        let inside = self.inside();
        out.head("requests_total", "counter", "Requests by route and status (499: the client went away).");
        for ((route, status), n) in &inside.requests {
            out.line("requests_total", &format!("route=\"{route}\",status=\"{status}\""), *n as f64);
        }
        out.head("request_seconds", "histogram", "Time from a request's head to its answer's.");
        for (route, seconds) in &inside.seconds {
            out.buckets("request_seconds", &format!("route=\"{route}\""), seconds);
        }
        drop(inside);
        let (c, load) = (app.service.counters(), app.service.load());
        let counters = [
            ("judgments_total", "Pairs that were judged.", &c.judgments),
            ("consistent_total", "Judgments whose two orders agree.", &c.consistent),
            ("rankings_total", "Groups that were ranked.", &c.rankings),
            ("rewards_total", "Rewards of a scalar model.", &c.rewards),
            ("generations_total", "Texts that were written.", &c.generations),
            ("prompts_total", "Prompts that were computed.", &c.prompts),
            ("prompt_tokens_total", "Their tokens.", &c.prompt_tokens),
            ("computed_tokens_total", "Tokens of prompts that were computed.", &c.computed_tokens),
            ("cached_tokens_total", "Tokens of prompts whose keys and values were in memory.", &c.cached_tokens),
            ("reasoned_total", "Pairs that were judged after rationales.", &c.reasoned),
            ("shared_prompts_total", "Prompts that were in flight already when they were asked for.", &c.shared),
            ("shared_tokens_total", "Their tokens.", &c.shared_tokens),
            ("written_tokens_total", "Tokens that were written.", &c.written_tokens),
            ("cancelled_total", "Work whose client went away.", &c.cancelled),
            ("late_total", "Work whose deadline passed in the queue.", &c.late),
            ("refused_full_total", "Work that found the queue full.", &c.refused_full),
            ("refused_long_total", "Prompts that were too long; nothing is ever truncated.", &c.refused_long),
            ("failed_total", "Work that the model or the device failed.", &c.failed),
            ("passes_total", "Scoring passes.", &c.passes),
            (
                "invalid_samples_total",
                "Samples that got a neutral reward because they could not be judged.",
                &self.invalid,
            ),
        ];
        for (name, help, counter) in counters {
            out.one(name, "counter", help, counter.load(Relaxed) as f64);
        }
        let histograms = [
            ("score", "Probabilities that the first response is better.", &c.score),
            ("label_mass", "Probability of the two labels together in the vocabulary.", &c.label_mass),
            ("queue_seconds", "From arrival to the first pass.", &c.queue_seconds),
            ("pass_seconds", "Scoring passes.", &c.pass_seconds),
            ("step_seconds", "Steps of writing, scoring between them included.", &c.step_seconds),
            ("batch_prompts", "Prompts in a pass.", &c.batch),
        ];
        for (name, help, histogram) in histograms {
            out.head(name, "histogram", help);
            out.buckets(name, "", histogram);
        }
        let flag = |on: bool| on as u8 as f64;
        let gauges = [
            ("queued_tokens", "Tokens that wait.", load.queued_tokens as f64),
            ("queue_limit_tokens", "Tokens that may wait.", app.service.sizes().queue as f64),
            ("running_tokens", "Tokens that are being computed.", load.running_tokens as f64),
            ("memory_unused_tokens", "Tokens for which memory is not in use by work.", load.unused_tokens as f64),
            ("work_in_flight", "Pieces of work that wait or run.", load.in_flight as f64),
            ("requests_in_flight", "Requests that are being answered.", self.in_flight() as f64),
            ("asleep", "1 while the model is not in memory.", flag(load.asleep)),
            ("paused", "1 while nothing is computed.", flag(load.paused)),
            ("ready", "1 while requests are answered.", flag(super::probes::unready(app).is_none())),
            ("uptime_seconds", "Since the start.", self.started.elapsed().as_secs_f64()),
        ];
        for (name, help, value) in gauges {
            out.one(name, "gauge", help, value);
        }
        out.head("weight_info", "gauge", "The present weights.");
        out.line(
            "weight_info",
            &format!("version=\"{}\",model=\"{}\"", label(&app.service.version()), label(app.name())),
            1.0,
        );
        out.0
    }
}

/// A label's value with its quotes and line ends escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP gramophone_{name} {help}\n# TYPE gramophone_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "gramophone_{name}{braces} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn buckets(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let (buckets, count, sum) = histogram.read();
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, n) in buckets {
            self.line(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), n as f64);
        }
        self.line(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), count as f64);
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, count as f64);
    }
}
