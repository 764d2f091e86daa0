//! `gramophone wait`: until a server is ready.

use super::serve::seconds;
use crate::app::load::client::{Address, get};
use crate::error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// Waits until the server at URL answers /ready with 200. Trainers that start before their reward model does need it.
#[derive(clap::Args)]
pub struct Args {
    /// Such as http://127.0.0.1:8000
    #[arg(value_name = "URL")]
    url: String,
    /// Longest wait
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
}

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

pub fn run(args: Args) -> Result<()> {
    let address = Address::parse(&args.url)?;
    let until = Instant::now() + Duration::from_secs_f64(args.timeout);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(Kind::Io, format!("cannot start: {e}")))?;
    runtime.block_on(async {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let why = match tokio::time::timeout(left.min(Duration::from_secs(5)), get(&address, "/ready")).await {
                Ok(Ok((200, _))) => return Ok(()),
                Ok(Ok((status, body))) => format!("it says {status} {}", String::from_utf8_lossy(&body)),
                Ok(Err(e)) => e.to_string(),
                Err(_) => "it does not answer".to_string(),
            };
            if Instant::now() + PAUSE > until {
                let text = format!("{} was not ready within {} s: {why}", args.url, args.timeout);
                return Err(Error::new(Kind::Io, text));
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}
