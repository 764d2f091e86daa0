//! Load for a server: the shapes of work that reinforcement learning sends, and how long each takes.
//!
//! A closed loop keeps a number of clients busy, each with its next request as soon as it has an answer. An open loop sends at a rate
//! of its own (Poisson arrivals), whether the server keeps up or not, and counts the time from when a request should have been sent:
//! a server that stalls is not spared the requests it held up.

pub mod client;
mod report;
pub mod soak;
mod work;

pub use report::Report;
pub use work::{Preset, Shot, Wire, Work};

use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use client::{Address, Connection};
use hdrhistogram::Histogram;
use hyper::body::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loop {
    /// This many clients.
    Closed(usize),
    /// This many requests a second.
    Open(f64),
}

/// A measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    pub address: Address,
    pub key: Option<String>,
    pub work: Work,
    pub pace: Loop,
    /// Not measured.
    pub warmup: Duration,
    pub measured: Duration,
    /// An answer later than this is no good.
    pub deadline: Duration,
}

/// What happened.
#[derive(Debug)]
pub struct Tally {
    /// Microseconds of the requests that were answered.
    pub latency: Histogram<u64>,
    pub answered: u64,
    /// Within the deadline.
    pub good: u64,
    pub failed: u64,
    /// Why, for one of them.
    pub failure: Option<String>,
    pub judgments: f64,
}

impl Tally {
    fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
        Tally { latency, answered: 0, good: 0, failed: 0, failure: None, judgments: 0.0 }
    }

    fn note(&mut self, took: Duration, deadline: Duration, judgments: f64) {
        self.latency.saturating_record(took.as_micros().min(u64::MAX as u128) as u64);
        self.answered += 1;
        self.good += (took <= deadline) as u64;
        self.judgments += judgments;
    }
}

/// What every sender shares.
struct Field {
    plan: Plan,
    next: AtomicU64,
    start: Instant,
    end: Instant,
    tally: Mutex<Tally>,
    idle: Mutex<Vec<Connection>>,
}

/// Runs a plan.
///
/// # Errors
/// The server is not there, or answered nothing.
pub async fn run(plan: Plan) -> Result<Report> {
    plan.work.check()?;
    let first = Connection::open(&plan.address).await?;
    let start = Instant::now() + plan.warmup;
    let field = Arc::new(Field {
        next: AtomicU64::new(0),
        start,
        end: start + plan.measured,
        tally: Mutex::new(Tally::new()),
        idle: Mutex::new(vec![first]),
        plan,
    });
    let before = report::tokens(&field.plan).await;
    match field.plan.pace {
        Loop::Closed(clients) => {
            let clients: Vec<_> = (0..clients).map(|_| tokio::spawn(closed(field.clone()))).collect();
            for client in clients {
                let _ = client.await;
            }
        }
        Loop::Open(rate) => open(&field, rate).await,
    }
    let after = report::tokens(&field.plan).await;
    let tally = std::mem::replace(&mut *field.tally.lock().await, Tally::new());
    if tally.answered == 0 {
        let why = tally.failure.unwrap_or_else(|| "nothing was answered in the time that was measured".into());
        return Err(Error::new(crate::error::Kind::Io, why));
    }
    Ok(Report::new(&field.plan, tally, before, after))
}

async fn closed(field: Arc<Field>) {
    while Instant::now() < field.end {
        let n = field.next.fetch_add(1, Relaxed);
        let sent = Instant::now();
        if !shoot(&field, n, sent).await {
            // A server that refuses at once must not be hammered.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn open(field: &Arc<Field>, rate: f64) {
    let rng = Rng::new(field.plan.work.seed, Stream::World, u64::MAX);
    let (mut due, mut flying) = (Instant::now(), Vec::new());
    while due < field.end {
        tokio::time::sleep_until(due.into()).await;
        let n = field.next.fetch_add(1, Relaxed);
        let (field, sent) = (field.clone(), due);
        flying.push(tokio::spawn(async move { shoot(&field, n, sent).await }));
        // Exponential gaps make arrivals of a Poisson process.
        due += Duration::from_secs_f64(-(1.0 - rng.uniform(n)).ln() / rate);
    }
    for shot in flying {
        let _ = shot.await;
    }
}

/// Sends the `n`-th request, due at `sent`; whether it was answered.
async fn shoot(field: &Field, n: u64, sent: Instant) -> bool {
    let plan = &field.plan;
    let shot = plan.work.shot(n);
    let body = Bytes::from(shot.body.to_string());
    let idle = field.idle.lock().await.pop();
    let outcome = async {
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&plan.address).await?,
        };
        let answer = connection.send(shot.route, plan.key.as_deref(), Some(body)).await?;
        Ok::<_, Error>((connection, answer))
    };
    let outcome = outcome.await;
    let took = sent.elapsed();
    let measured = sent >= field.start && sent < field.end;
    let (ok, failure) = match outcome {
        Ok((connection, (status, body))) => {
            field.idle.lock().await.push(connection);
            let text = || format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]));
            (status == 200, (status != 200).then(text))
        }
        Err(e) => (false, Some(e.to_string())),
    };
    if measured {
        let mut tally = field.tally.lock().await;
        match failure {
            None => tally.note(took, plan.deadline, shot.judgments),
            Some(failure) => {
                tally.failed += 1;
                tally.failure.get_or_insert(failure);
            }
        }
    }
    ok
}
