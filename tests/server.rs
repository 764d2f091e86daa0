//! The server as a program: it starts, answers many clients at once as the library would, and stops without losing anybody.

use crate::cli::{Bench, golden, utf8};
use crate::devices::covers_emulated;
use gramophone::device::Device;
use gramophone::infer::scorer::Shape;
use gramophone::model::Model;
use gramophone::reward::judge::{Judge, Judgment, Pair, Prompts};
use gramophone::text::{chat::Chat, message::Message, template::JudgeTemplate, tokenizer::Tokenizer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A running server.
struct Server {
    child: Child,
    addr: String,
    admin: String,
    stderr: BufReader<ChildStderr>,
    _bench: Bench,
}

impl Server {
    fn start(model: &str, more: &[&str]) -> Server {
        Server::start_under(model, more, &[])
    }

    /// With these variables set.
    fn start_under(model: &str, more: &[&str], variables: &[(&str, &str)]) -> Server {
        let bench = Bench::new();
        let dir = golden(model);
        let mut args = vec![
            "serve",
            "--model",
            utf8(&dir),
            "--addr",
            "127.0.0.1:0",
            "--admin-addr",
            "127.0.0.1:0",
            "--threads",
            "2",
        ];
        args.extend(more);
        let mut child = bench.command(&args).envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut address = |words: &str| {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            let at = line.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {line:?}")).1;
            at.trim().strip_prefix("http://").unwrap().to_string()
        };
        let (addr, admin) = (address("serving on "), address("control on "));
        Server { child, addr, admin, stderr, _bench: bench }
    }

    fn post(&self, route: &str, body: &Value) -> (u16, Value) {
        http(&self.addr, "POST", route, &body.to_string()).unwrap()
    }

    fn terminate(&self) {
        // SAFETY: a plain system call on a child of ours.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
    }

    /// The exit code, and what was written to standard error since the start.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own.
fn http(addr: &str, method: &str, route: &str, body: &str) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    send(&mut stream, method, route, body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

fn send(stream: &mut TcpStream, method: &str, route: &str, body: &str) -> std::io::Result<()> {
    let head =
        format!("{method} {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn pair(i: usize) -> (String, String, String) {
    (format!("Say {i}"), format!("{i}"), "no ".repeat(i % 5 + 1))
}

/// What the library says of the pairs, each judged alone.
fn alone(n: usize) -> Vec<Judgment> {
    let dir = golden("qwen3");
    let (dev, model) = (Device::cpu(1), Model::open(&dir, |stored| stored).unwrap());
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir).unwrap())).unwrap();
    let prompts = Prompts::new(chat, JudgeTemplate::verdict()).unwrap();
    let mut judge = Judge::new(&dev, &model, prompts.clone(), Shape { context: 4096, pass: 4096 }).unwrap();
    let judged = (0..n).map(|i| {
        let (prompt, a, b) = pair(i);
        let encoded = prompts.pair(&Pair { prompt: vec![Message::user(prompt)], a, b }).unwrap();
        judge.judge(&[encoded]).unwrap()[0]
    });
    judged.collect()
}

#[test]
fn two_hundred_clients_on_mixed_wires_get_the_librarys_answers() {
    const PAIRS: usize = 24;
    let server = Server::start("qwen3", &["--quiet"]);
    let (expected, wrong, right) = (alone(PAIRS), AtomicUsize::new(0), AtomicUsize::new(0));
    let until = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for client in 0..200usize {
            let (server, expected, wrong, right) = (&server, &expected, &wrong, &right);
            scope.spawn(move || {
                let mut i = client;
                while i == client || Instant::now() < until {
                    let at = i % PAIRS;
                    let ((prompt, a, b), p) = (pair(at), expected[at].p_a);
                    let (route, body, pointer) = match (client + i) % 7 {
                        0 => ("/v1/judge", json!({"prompt": prompt, "a": a, "b": b}), "/p"),
                        1 => (
                            "/get_reward",
                            json!({"query": [format!("{prompt}{a}")], "prompts": [prompt], "labels": [b]}),
                            "/rewards/0",
                        ),
                        2 => ("/reward", json!({"prompt": prompt, "response": a, "label": b}), ""),
                        3 => ("/v1/rank", json!({"prompt": prompt, "responses": [a, b]}), "/wins/0/1"),
                        4 => ("/rerank", json!({"query": prompt, "texts": [a, b]}), "/0/score"),
                        5 => {
                            // It vanishes, with its request on the way.
                            let mut stream = TcpStream::connect(&server.addr).unwrap();
                            let body = json!({"prompt": prompt, "responses": [a, b, "x", "y"]}).to_string();
                            send(&mut stream, "POST", "/v1/rank", &body).unwrap();
                            i += 1;
                            continue;
                        }
                        _ => {
                            // Late before it is begun.
                            let (status, _) =
                                server.post("/v1/judge", &json!({"prompt": prompt, "a": a, "b": b, "timeout_s": 1e-6}));
                            assert_eq!(status, 504);
                            i += 1;
                            continue;
                        }
                    };
                    let (status, answer) = server.post(route, &body);
                    let said = answer.pointer(pointer).and_then(Value::as_f64);
                    // The better of two comes first in a rerank.
                    let fits = if route == "/rerank" { said == Some(p.max(1.0 - p)) } else { said == Some(p) };
                    if status == 200 && fits { right } else { wrong }.fetch_add(1, Ordering::Relaxed);
                    i += 1;
                }
            });
        }
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    assert!(right.load(Ordering::Relaxed) >= 100, "{right:?} answers");
    // Nothing is left behind.
    let idle = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, status) = http(&server.addr, "GET", "/status.json", "").unwrap();
        if status["queued_tokens"] == 0 && status["running_tokens"] == 0 && status["in_flight"] == 0 {
            break;
        }
        assert!(Instant::now() < idle, "{status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    server.terminate();
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn sigterm_drains_what_was_begun() {
    let server = Server::start("qwen3", &[]);
    let responses: Vec<String> = (0..14).map(|i| "word ".repeat(i + 1)).collect();
    let body = json!({"prompt": "Which?", "responses": responses});
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| server.post("/v1/rank", &body))).collect();
        // Until they are in the server.
        while http(&server.addr, "GET", "/status.json", "").unwrap().1["in_flight"].as_u64() < Some(3) {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.terminate();
        let gone = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&server.addr).is_ok() {
            assert!(Instant::now() < gone, "it goes on accepting");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Control is there to the end, and says that it stops.
        if let Ok((status, _)) = http(&server.admin, "GET", "/ready", "") {
            assert_eq!(status, 503);
        }
        asked.into_iter().map(|a| a.join().unwrap()).collect::<Vec<_>>()
    });
    for (status, answer) in &answers {
        assert_eq!((*status, answer["comparisons"].as_u64()), (200, Some(91)), "{answer}");
        assert_eq!(answer["ranking"], answers[0].1["ranking"]);
    }
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    // The log has a line for each request, and nothing of what was in it.
    let lines: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().filter(|l| l["route"] == "/v1/rank" && l["status"] == 200).count(), 3);
    assert!(!log.contains("Which?") && !log.contains("word word"));
}

#[test]
fn what_takes_too_long_is_cut_off_and_said() {
    let server = Server::start("qwen3", &["--drain-timeout", "0.3", "--quiet"]);
    assert_eq!(http(&server.admin, "POST", "/pause", "{}").unwrap().0, 200);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    send(&mut stream, "POST", "/v1/judge", &json!({"prompt": "q", "a": "x", "b": "y"}).to_string()).unwrap();
    while http(&server.addr, "GET", "/status.json", "").unwrap().1["in_flight"] == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.terminate();
    let (code, log) = server.end();
    assert_eq!(code, Some(1));
    assert!(log.contains("1 requests were cut off"), "{log}");
}

#[test]
fn wait_and_load_talk_to_a_server() {
    let bench = Bench::new();
    let server = Server::start("qwen3", &["--quiet"]);
    let url = format!("http://{}", server.addr);
    bench.ok(&["wait", &url, "--timeout", "10"]);
    assert_eq!(http(&server.admin, "POST", "/sleep", "{}").unwrap().0, 200);
    bench.fails(&["wait", &url, "--timeout", "0.5"], 1, &["was not ready", "asleep"]);
    assert_eq!(http(&server.admin, "POST", "/wake_up", "{}").unwrap().0, 200);
    bench.fails(&["wait", "https://x"], 2, &["https"]);
    bench.fails(&["wait", "http://127.0.0.1:9", "--timeout", "0.3"], 1, &["cannot reach"]);
    for load in [&["--clients", "3"][..], &["--rate", "20"]] {
        let mut args = vec![
            "bench",
            "serve",
            &url,
            "--preset",
            "rlhf-ref",
            "--seconds",
            "1",
            "--warmup",
            "0.2",
            "--json",
            "load.json",
        ];
        args.extend(load);
        let said = bench.ok(&args);
        assert!(said.contains("judgments a second") && said.contains("p99.9"), "{said}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("load.json")).unwrap()).unwrap();
        assert!(report["answered"].as_u64() > Some(0) && report["failed"] == 0, "{report}");
        assert!(report["latency_ms"]["p50"].as_f64() > Some(0.0));
    }
    bench.fails(&["bench", "serve", &url, "--preset", "grpo16", "--wire", "chat"], 2, &["--wire chat"]);
}

#[test]
fn a_soak_finds_nothing_wrong() {
    let bench = Bench::new();
    let model = golden("qwen3");
    let args = ["bench", "soak", "--model", utf8(&model), "--clients", "80", "--seconds", "3", "--json", "soak.json"];
    let said = bench.ok(&args);
    assert!(said.contains("| lost requests | 0 |") && said.contains("| answered while it stopped | 80 |"), "{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("soak.json")).unwrap()).unwrap();
    let figure = |name: &str| report["figures"][name].as_u64();
    assert!(figure("right_answers") > Some(100) && figure("clients_that_vanished") > Some(0), "{report}");
    bench.fails(&["bench", "soak", "--model", "/nowhere", "--seconds", "1"], 1, &["did not start", "/nowhere"]);
}

#[test]
fn serve_refuses_what_cannot_work() {
    let bench = Bench::new();
    let model = golden("qwen3");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let serve = |more: &[&str]| {
        [&["serve", "--model", utf8(&model)][..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let fails = |more: &[&str], code: i32, words: &[&str]| {
        let args = serve(more);
        bench.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    fails(&["--addr", &addr], 1, &["cannot listen", &addr]);
    fails(&["--addr", "127.0.0.1:0", "--api-key-file", "/nowhere"], 1, &["/nowhere"]);
    bench.write("keys", "\n");
    fails(&["--addr", "127.0.0.1:0", "--api-key-file", "keys"], 2, &["no key"]);
    fails(&["--method", "best"], 2, &["round_robin"]);
    fails(&["--max-depth", "1000"], 2, &["--max-depth"]);
    fails(&["--reference", "greedy"], 2, &["not the policy"]);
    fails(&["--reference", "cache"], 2, &["anchors"]);
    fails(&["--addr", "127.0.0.1:0", "--reference", "/nowhere"], 1, &["/nowhere"]);
    fails(&["--queue-timeout", "0"], 2, &["--queue-timeout"]);
    bench.fails(&["serve", "--model", "/nowhere", "--addr", "127.0.0.1:0"], 1, &["/nowhere"]);
}

/// A GPU that has failed answers nobody any more: those who wait hear it, and the server ends so that it is started anew.
#[test]
fn a_server_whose_gpu_fails_says_so_and_ends() {
    if !covers_emulated() {
        return;
    }
    let library = gramophone_emu::library();
    for code in ["719", "46"] {
        let settings = format!("fast,fail=cuLaunchKernel:40:{code}");
        let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("GRAMOPHONE_EMU", &settings)];
        let server = Server::start_under("qwen3", &["--device", "cuda"], &variables);
        let body = json!({"prompt": "q", "a": "x", "b": "y"});
        let answers: Vec<_> =
            (0..20).map_while(|_| http(&server.addr, "POST", "/v1/judge", &body.to_string()).ok()).collect();
        assert!(answers.iter().any(|(status, _)| *status == 500), "{answers:?}");
        let said = answers.iter().find(|(status, _)| *status == 500).unwrap().1.to_string();
        assert!(said.contains("cuda:0"), "{said}");
        let (ended, said) = server.end();
        assert_eq!(ended, Some(1), "{said}");
        assert!(said.contains("cuda:0") && said.contains("start it again"), "{said}");
    }
}
