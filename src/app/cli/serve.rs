//! `gramophone serve`: the reward server.

use super::console::remark;
use super::runtime::{JudgeFlags, Opened, Runtime};
use crate::app::open_files::raise;
use crate::app::server::{self, App, Config, Keys, Limits, Listeners, References, Strategy, Timeouts};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::model::config::HeadKind;
use crate::reward::open::Serving;
use crate::reward::rank::Method;
use crate::reward::service::{KEPT, Service};
use crate::text::template::JudgeTemplate;
use axum::http::StatusCode;
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};

/// Serves a judge (or a scalar reward model) over the wires that trainers speak: docs/serving.md lists them. Stops at SIGTERM
/// once everything that was begun is answered.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeFlags,
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    addr: SocketAddr,
    /// Where to listen for control (sleep, other weights, pause); there is none if not given
    #[arg(long, value_name = "ADDR")]
    admin_addr: Option<SocketAddr>,
    /// Name of the model in requests and answers, several with commas; the directory's name if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    served_model_name: Vec<String>,
    /// What the weights are called in answers
    #[arg(long, default_value = "1", value_name = "NAME")]
    weight_version: String,
    /// Key that every request but probes must bring
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// File with keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Tokens that may wait; what finds no room is told to come again
    #[arg(long, default_value_t = 1 << 20, value_name = "TOKENS")]
    queue_tokens: usize,
    /// Tokens whose keys and values stay in memory for prompts that begin in the same way. Changes no answer
    #[arg(long, default_value_t = KEPT, value_name = "TOKENS")]
    cache_tokens: usize,
    /// Longest wait in the queue, by the pace of the moment; what would wait longer is told at once to come again
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    queue_timeout: Option<f64>,
    /// Reference responses for trainers that send none: a file of rows {"prompt", "reference"}
    #[arg(long, value_name = "FILE", value_parser = reference)]
    reference: Option<String>,
    /// Judge prompt that asks for a rationale first, for requests that want one; ours if not given
    #[arg(long, value_name = "FILE")]
    rationale_template: Option<PathBuf>,
    /// Sequences that are written together
    #[arg(long, default_value_t = 16, value_name = "N")]
    sequences: usize,
    /// Longest answer of a chat that asks for no length
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    max_tokens: usize,
    /// Largest body
    #[arg(long, default_value_t = 32 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Most pairs, responses, documents or questions in a request
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_items: usize,
    /// Deepest nesting of JSON
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = depth)]
    max_depth: usize,
    /// Longest time for a request; OpenRLHF's and slime's have less, since their clients wait less
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
    /// Time to finish what was begun after SIGTERM
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds)]
    drain_timeout: f64,
    /// Status of a full queue
    #[arg(long, value_enum, default_value_t = Overload::Unavailable)]
    overload_status: Overload,
    /// Which pairs /compare compares
    #[arg(long, value_enum, default_value_t = CompareArg::Circular)]
    compare: CompareArg,
    /// How groups are ranked where a request does not say: round_robin, linear, knockout, swiss, anchor, adaptive
    #[arg(long, default_value = "round_robin", value_name = "METHOD")]
    method: Method,
    /// No line in the log for each request
    #[arg(long)]
    quiet: bool,
    /// Write bodies into the log: prompts and responses
    #[arg(long)]
    log_content: bool,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, ValueEnum)]
enum Overload {
    #[value(name = "503")]
    Unavailable,
    #[value(name = "429")]
    TooMany,
    #[value(name = "529")]
    Overloaded,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompareArg {
    /// Each response with the next
    Circular,
    /// Every pair
    #[value(name = "all_pairs", alias = "all-pairs")]
    AllPairs,
}

/// Clients that a server should be able to hold at once.
const CLIENTS: u64 = 4096;

/// serde_json reads no deeper.
const DEEPEST: usize = 120;

fn depth(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=DEEPEST).contains(&n) => Ok(n),
        _ => Err(format!("it must be a whole number from 1 to {DEEPEST}")),
    }
}

/// A file of references, not a way to make some up.
fn reference(text: &str) -> std::result::Result<String, String> {
    let instead = "write references with `gramophone generate` from the policy before training and name the file";
    match text {
        "" => Err("it must name a file".into()),
        "greedy" => {
            Err(format!("the judge is not the policy, and an answer of its own would be no reference; {instead}"))
        }
        "cache" => Err(format!("no anchors are kept: a reward must not depend on what was asked before; {instead}")),
        file => Ok(file.into()),
    }
}

pub(super) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(s) if s > 0.0 && s <= 1e6 => Ok(s),
        _ => Err("it must be a positive number of seconds".into()),
    }
}

/// Connections that may wait to be accepted; the system's own limit is lower on most machines. Where the queue of a
/// thousand clients that come at once overflows, some find their connection reset.
const BACKLOG: u32 = 65_535;

fn listener(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that was stopped can be started again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

pub fn run(args: Args) -> Result<()> {
    let config = config(&args, keys(&args)?)?;
    if let Some(warning) = raise(CLIENTS)? {
        remark(warning);
    }
    // Listening first: an address that is taken is known before a model is read.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(Kind::Io, format!("cannot start the network's threads: {e}")))?;
    let _inside = runtime.enter();
    let listen =
        |addr: SocketAddr| listener(addr).map_err(|e| Error::new(Kind::Io, format!("cannot listen on {addr}: {e}")));
    let listeners = Listeners { public: listen(args.addr)?, admin: args.admin_addr.map(listen).transpose()? };
    let told = |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".into(), |a| format!("http://{a}"));
    let (public, admin) = (told(&listeners.public), listeners.admin.as_ref().map(told));

    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    let app = App::new(service(&args, dev, opened)?, config)?;
    remark(format_args!("serving on {public}"));
    if let Some(admin) = admin {
        remark(format_args!("control on {admin}"));
    }
    let ended = runtime.block_on(server::serve(app, listeners, Duration::from_secs_f64(args.drain_timeout)));
    // What waits on a thread of its own is not waited for.
    runtime.shutdown_background();
    match ended? {
        0 => Ok(()),
        n => {
            Err(Error::new(Kind::Interrupted, format!("{n} requests were cut off; --drain-timeout gives them longer")))
        }
    }
}

fn keys(args: &Args) -> Result<Keys> {
    let mut keys: Vec<String> = args.api_key.iter().cloned().collect();
    if let Some(path) = &args.api_key_file {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        keys.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from));
        if keys.is_empty() {
            return Err(Error::usage(format!("{}: there is no key in it", path.display())));
        }
    }
    if keys.iter().any(String::is_empty) {
        return Err(Error::usage("--api-key: the key is empty"));
    }
    Ok(Keys::new(keys.iter().map(String::as_str)))
}

fn service(args: &Args, dev: Device, opened: Opened) -> Result<Service> {
    let template = match opened.model.config.head {
        HeadKind::Scalar => None,
        HeadKind::LanguageModel => Some(args.judge.template()?),
    };
    let reasoning = args.rationale_template.as_deref().map(JudgeTemplate::open).transpose()?;
    let (sequences, queue, kept) = (args.sequences, args.queue_tokens, args.cache_tokens);
    opened.service(dev, Serving { template, reasoning, sequences, queue, kept, version: args.weight_version.clone() })
}

fn config(args: &Args, keys: Keys) -> Result<Config> {
    let mut names = args.served_model_name.clone();
    if names.is_empty() {
        let dir = &args.judge.model.model;
        let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        names.push(full.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned()));
        // Many clients call a model by its path.
        names.push(dir.display().to_string());
        names.dedup();
    }
    if names.iter().any(|n| n.trim().is_empty()) {
        return Err(Error::usage("--served-model-name: a name is empty"));
    }
    let overload = match args.overload_status {
        Overload::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Overload::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Overload::Overloaded => StatusCode::from_u16(529).expect("it is a status"),
    };
    let timeouts = Timeouts {
        default: Duration::from_secs_f64(args.timeout),
        openrlhf: Duration::from_secs(170),
        slime: Duration::from_secs(110),
    };
    let limits =
        Limits { body: args.max_body, receive: Duration::from_secs(60), items: args.max_items, depth: args.max_depth };
    Ok(Config {
        names,
        keys,
        limits,
        timeouts,
        overload,
        compare: match args.compare {
            CompareArg::Circular => Strategy::Circular,
            CompareArg::AllPairs => Strategy::AllPairs,
        },
        method: args.method,
        references: args.reference.as_deref().map(References::open).transpose()?.map(Arc::new),
        queue_timeout: args.queue_timeout.map(Duration::from_secs_f64),
        max_tokens: args.max_tokens,
        log: !args.quiet,
        log_content: args.log_content,
    })
}
