//! Endurance: a server of its own, many clients on every wire at once, among them those that vanish, are in a hurry, read or write
//! slowly, or send what makes no sense; and in the end a stop while all of them wait.
//!
//! What each request must be answered with is asked of the idle server beforehand, one request at a time. Under load an answer is
//! right if it is the same, to the bit; a request that was sent and got no answer is lost.

mod asks;
mod child;
mod http;
mod report;

pub use report::{Report, left, unused};

use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Kind, Result};
use asks::Ask;
use child::Child;
use hdrhistogram::Histogram;
use http::{Connection, Manner};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub model: PathBuf,
    pub clients: usize,
    pub length: Duration,
    /// What the server promises: no answer later than this.
    pub deadline: Duration,
    pub seed: u64,
    /// More flags for the server.
    pub serve: Vec<String>,
}

/// An ask, and the status and answer that it must get.
struct Known {
    ask: Ask,
    status: u16,
    answer: Arc<str>,
}

/// What happened to requests.
struct Tally {
    right: u64,
    /// Answered with what they asked to be: 504 to those in a hurry.
    late: u64,
    /// Told to come again.
    refused: u64,
    vanished: u64,
    wrong: u64,
    lost: u64,
    /// Too late without having asked for it.
    overdue: u64,
    examples: Vec<String>,
    /// Microseconds, of those that were answered as soon as could be.
    latency: Histogram<u64>,
}

struct Field {
    known: Vec<Known>,
    addr: String,
    seed: u64,
    stop: AtomicBool,
    next: AtomicU64,
    /// Clients that have sent their last request.
    sent: AtomicUsize,
    tally: Mutex<Tally>,
}

/// Of a thousand requests, those that are not plain, by what is unusual about them.
const UNUSUAL: [(u64, Manner); 5] = [
    (80, Manner::Vanishes),
    (40, Manner::VanishesHalfway),
    (60, Manner::Hurries),
    (60, Manner::ReadsSlowly),
    (40, Manner::WritesSlowly),
];

/// Faults that are shown.
const EXAMPLES: usize = 8;

/// How long everything may take to come to rest.
const REST: Duration = Duration::from_secs(60);

/// Runs a soak; `begins` is called when the server is there.
///
/// # Errors
/// The server does not start, or refuses what it should take.
pub async fn run(plan: &Plan, begins: impl FnOnce()) -> Result<Report> {
    let mut child = Child::start(plan)?;
    begins();
    let addr = child.addr().to_string();
    let known = rehearse(&addr, plan.seed).await?;
    // The engine tells of its memory after its passes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let unused = unused(&http::get(&addr, "/metrics").await?);
    let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
    let examples = Vec::new();
    let tally = Tally { right: 0, late: 0, refused: 0, vanished: 0, wrong: 0, lost: 0, overdue: 0, examples, latency };
    let field = Arc::new(Field {
        known,
        addr,
        seed: plan.seed,
        stop: false.into(),
        next: 0.into(),
        sent: 0.into(),
        tally: Mutex::new(tally),
    });
    let started = Instant::now();
    let clients: Vec<_> = (0..plan.clients).map(|_| tokio::spawn(client(field.clone()))).collect();
    let mut memory = Vec::new();
    while started.elapsed() < plan.length {
        tokio::time::sleep(Duration::from_secs(1).min(plan.length)).await;
        memory.push(child.memory()?);
    }
    field.stop.store(true, Relaxed);
    let mut connections = Vec::new();
    for client in clients {
        let connection = client.await.map_err(|e| Error::new(Kind::Io, format!("a client of the soak failed: {e}")))?;
        connections.push(connection);
    }
    let seconds = started.elapsed().as_secs_f64();
    let left = rest(&field.addr, unused).await?;
    let last: Vec<_> = connections.into_iter().map(|c| tokio::spawn(farewell(field.clone(), c))).collect();
    let until = Instant::now() + REST;
    while field.sent.load(Relaxed) < last.len() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What was sent is on the server's side by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    child.terminate();
    let mut drained = 0;
    for client in last {
        drained += client.await.is_ok_and(|answered| answered) as usize;
    }
    let exit = child.end(plan.deadline + REST)?;
    let field = Arc::into_inner(field).expect("every client has ended");
    let tally = field.tally.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(Report::new(plan, seconds, tally, &memory, left, drained, exit))
}

/// Asks everything once, one at a time.
async fn rehearse(addr: &str, seed: u64) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    for ask in asks::all(seed) {
        let mut connection = Connection::open(addr).await?;
        let reply = connection.ask(&ask, Manner::Plain, &mut || ()).await?;
        let Some(reply) = reply else { return Err(Error::new(Kind::Io, "the server gave no answer")) };
        let fits = if ask.sound { reply.status == 200 } else { (400..500).contains(&reply.status) };
        if !fits {
            let text = format!("{} was answered {} {}", ask.route, reply.status, reply.text);
            return Err(Error::new(Kind::Model, text));
        }
        known.push(Known { ask, status: reply.status, answer: reply.text.into() });
    }
    Ok(known)
}

/// Asks until the end; gives its connection back, if there is one.
async fn client(field: Arc<Field>) -> Option<Connection> {
    let mut connection = None;
    while !field.stop.load(Relaxed) {
        let n = field.next.fetch_add(1, Relaxed);
        let rng = Rng::new(field.seed, Stream::World, n);
        let known = &field.known[rng.below(0, field.known.len() as u64) as usize];
        let manner = manner(rng.below(1, 1000));
        let (ended, pause, _) = once(&field, connection.take(), known, manner, &mut || ()).await;
        connection = ended;
        tokio::time::sleep(pause).await;
    }
    connection
}

fn manner(draw: u64) -> Manner {
    let mut bound = 0;
    for (share, manner) in UNUSUAL {
        bound += share;
        if draw < bound {
            return manner;
        }
    }
    Manner::Plain
}

/// One request; the connection if it can be used again, how long to wait before the next, and whether there was a reply.
async fn once(
    field: &Field,
    connection: Option<Connection>,
    known: &Known,
    manner: Manner,
    sent: &mut (dyn FnMut() + Send),
) -> (Option<Connection>, Duration, bool) {
    let start = Instant::now();
    let outcome = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => Connection::open(&field.addr).await?,
        };
        let reply = connection.ask(&known.ask, manner, sent).await?;
        Ok::<_, Error>((connection, reply))
    };
    let outcome = outcome.await;
    let took = start.elapsed();
    let mut tally = field.tally.lock().unwrap_or_else(|e| e.into_inner());
    let note = |tally: &mut Tally, what: String| {
        if tally.examples.len() < EXAMPLES {
            tally.examples.push(format!("{} ({manner:?}): {what}", known.ask.route));
        }
    };
    match outcome {
        Err(e) => {
            note(&mut tally, e.to_string());
            tally.lost += 1;
            // A server that is gone must not be hammered.
            (None, Duration::from_millis(100), false)
        }
        Ok((_, None)) => {
            tally.vanished += 1;
            (None, Duration::ZERO, false)
        }
        Ok((connection, Some(reply))) => {
            let mut pause = Duration::ZERO;
            let same = reply.status == known.status && *reply.text == *known.answer;
            match reply.status {
                _ if same => {
                    tally.right += 1;
                    if manner == Manner::Plain {
                        tally.latency.saturating_record(took.as_micros() as u64);
                    }
                }
                504 if manner == Manner::Hurries => tally.late += 1,
                503 if reply.retry_after.is_some() => {
                    tally.refused += 1;
                    pause = Duration::from_secs(reply.retry_after.unwrap_or(1).min(5));
                }
                504 => {
                    note(&mut tally, format!("504 after {took:?}"));
                    tally.overdue += 1;
                }
                status => {
                    note(&mut tally, format!("{status} {} instead of {} {}", reply.text, known.status, known.answer));
                    tally.wrong += 1;
                }
            }
            (Some(connection).filter(|c| c.reusable()), pause, true)
        }
    }
}

/// The last request of a client, which the server gets before it is told to stop; whether it was answered.
async fn farewell(field: Arc<Field>, connection: Option<Connection>) -> bool {
    let n = field.next.fetch_add(1, Relaxed);
    let rng = Rng::new(field.seed, Stream::World, n);
    let known = &field.known[rng.below(0, field.known.len() as u64) as usize];
    let mut noted = false;
    let (_, _, answered) = once(&field, connection, known, Manner::Plain, &mut || {
        noted = true;
        field.sent.fetch_add(1, Relaxed);
    })
    .await;
    if !noted {
        field.sent.fetch_add(1, Relaxed);
    }
    answered
}

/// Waits until the server says that nothing is left of any request; what it says is left otherwise.
async fn rest(addr: &str, unused: Option<f64>) -> Result<Vec<String>> {
    let until = Instant::now() + REST;
    loop {
        let left = left(&http::get(addr, "/metrics").await?, unused);
        if left.is_empty() || Instant::now() > until {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_requests_are_plain_and_every_manner_occurs() {
        let drawn: Vec<Manner> = (0..1000).map(manner).collect();
        for (share, manner) in UNUSUAL {
            assert_eq!(drawn.iter().filter(|m| **m == manner).count() as u64, share);
        }
        assert_eq!(drawn.iter().filter(|m| **m == Manner::Plain).count(), 720);
    }
}
