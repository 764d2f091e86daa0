//! Every wire against the router in this process, with a tiny model: what is answered, to the bit, and what is refused.

mod chat;
mod control;
mod decisions;
mod door;
mod fuzz;
mod native;
mod reasoning;
mod recorded;
mod scoring;
mod trainers;

use super::*;
use crate::device::Device;
use crate::infer::generator::{Generator, Request, Settings, Shape};
use crate::infer::scorer::{self, Scorer};
use crate::model::Model;
use crate::model::config::HeadKind;
use crate::reward::judge::{Judge, Judgment, Prompts};
use crate::reward::service::{Setup, Sizes};
use crate::text::chat::Chat;
use crate::text::template::JudgeTemplate;
use axum::body::Body;
use axum::http::{HeaderMap, Request as HttpRequest};
use http_body_util::BodyExt;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tower::ServiceExt;

fn dir(case: &str) -> PathBuf {
    let root = std::env::var_os("GRAMOPHONE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden").join(case)
}

fn open(dir: &Path) -> crate::Result<Model> {
    Model::open(dir, |stored| stored)
}

const CONTEXT: usize = 2048;

fn config() -> Config {
    Config {
        names: vec!["tiny".into()],
        keys: Keys::default(),
        limits: Limits { body: 1 << 20, receive: Duration::from_secs(5), items: 100, depth: 32 },
        timeouts: Timeouts {
            default: Duration::from_secs(60),
            openrlhf: Duration::from_secs(60),
            slime: Duration::from_secs(60),
        },
        overload: StatusCode::SERVICE_UNAVAILABLE,
        compare: Strategy::Circular,
        method: Method::RoundRobin,
        references: None,
        queue_timeout: None,
        max_tokens: 8,
        log: false,
        log_content: false,
    }
}

fn app(case: &str, config: Config, queue: usize) -> App {
    let model = open(&dir(case)).unwrap();
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir(case)).unwrap())).unwrap();
    let mut stop = model.config.eos.clone();
    stop.extend(chat.tokenizer().stop());
    let texts = match model.config.head {
        HeadKind::Scalar => Texts::Scalar(chat),
        HeadKind::LanguageModel => Texts::Pairwise(Prompts::new(chat, JudgeTemplate::verdict()).unwrap()),
    };
    let sizes = Sizes { context: CONTEXT, pass: 1024, sequences: 4, queue, stop };
    let (dev, dir, version) = (Device::cpu(1), dir(case), "v0".to_string());
    let setup = Setup { dev, model, texts, sizes, loader: Box::new(open), dir, version };
    App::new(Service::start(setup).unwrap(), config).unwrap()
}

static JUDGE: LazyLock<App> = LazyLock::new(|| app("qwen3", config(), 1 << 22));
static SCALAR: LazyLock<App> = LazyLock::new(|| app("qwen3_scalar", config(), 1 << 22));

/// A runtime for one request; the service is shared between them.
fn block<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn raw(
    router: Router,
    method: &str,
    route: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = HttpRequest::builder().method(method).uri(route);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    block(async {
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    })
}

fn post(app: &App, route: &str, body: Value) -> (u16, Value) {
    let (status, _, bytes) = raw(app.router(), "POST", route, &[], body.to_string().into_bytes());
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&bytes))))
}

fn ok(app: &App, route: &str, body: Value) -> Value {
    let (status, answer) = post(app, route, body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Must be refused with this status, about this field.
fn refused(app: &App, route: &str, body: Value, status: u16, field: &str) -> Value {
    let (got, answer) = post(app, route, body);
    assert_eq!((got, answer["error"]["param"].as_str().unwrap_or("")), (status, field), "{answer}");
    answer
}

/// The judge by itself.
fn alone(pairs: &[(&str, &str, &str)]) -> Vec<Judgment> {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3")).unwrap());
    let Texts::Pairwise(prompts) = JUDGE.service.texts().clone() else { panic!("a judge") };
    let encode = |(q, a, b): &(&str, &str, &str)| {
        let pair = Pair { prompt: vec![Message::user(*q)], a: a.to_string(), b: b.to_string() };
        prompts.pair(&pair).unwrap()
    };
    let pairs: Vec<_> = pairs.iter().map(encode).collect();
    let mut judge = Judge::new(&dev, &model, prompts.clone(), scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap();
    judge.judge(&pairs).unwrap()
}

fn rewards(conversations: &[(&str, &str)]) -> Vec<f32> {
    let (dev, model) = (Device::cpu(1), open(&dir("qwen3_scalar")).unwrap());
    let chat = SCALAR.service.texts().chat();
    let ids = |(q, r): &(&str, &str)| conversation(chat, &[Message::user(*q)], r).unwrap();
    let all: Vec<Vec<i32>> = conversations.iter().map(ids).collect();
    Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap().rewards(&all).unwrap()
}
