//! What careless and hostile people do to the program: streams that are closed or full, signals in the middle, numbers
//! without bounds. Never a panic, never half a file, and the exit code says whose fault it was.

use crate::cli::{Bench, golden, utf8};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Runs a command whose standard output nobody reads.
fn unread(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait_with_output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn standard_output_may_be_closed_or_full() {
    let b = Bench::new();
    b.run_file();
    let (model, rows) = (golden("qwen3"), b.rows());
    let verbs = [
        vec!["plan", "run.toml"],
        vec!["train", "run.toml", "--print-config"],
        vec!["data", "inspect", "--config", "run.toml"],
        vec!["init", "--family", "qwen3", "--layers", "1", "--hidden", "64", "--vocab", "99", "--out", "made"],
        vec!["judge", "--model", utf8(&model), "--input", utf8(&rows)],
    ];
    for args in &verbs {
        let out = unread(b.command(args));
        assert!(out.status.success() && said(&out).is_empty(), "{args:?}: {}", said(&out));
        let _ = fs::remove_dir_all(b.path("made"));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = b.command(args).stdout(full).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {}", said(&out));
        assert!(said(&out).contains("standard output") && said(&out).lines().count() == 1, "{args:?}: {}", said(&out));
    }
}

#[test]
fn a_run_outlives_whoever_watched_it() {
    let b = Bench::new();
    b.run_file();
    let out = unread(b.command(&["train", "run.toml", "train.steps=10", "log.every=1"]));
    assert!(out.status.success() && said(&out).is_empty(), "{}", said(&out));
    assert!(b.path("run/checkpoint-000010/model.safetensors").exists());
}

#[test]
fn complaints_may_go_unheard() {
    let b = Bench::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = b.command(&["plan", "nowhere.toml"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_input_is_no_place_for_the_output() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let before = fs::read(&rows).unwrap();
    b.fails(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "rows.jsonl"], 2, &["the input"]);
    std::os::unix::fs::symlink(&rows, b.path("link.jsonl")).unwrap();
    b.fails(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "link.jsonl"], 2, &["the input"]);
    assert_eq!(fs::read(&rows).unwrap(), before);
}

#[test]
fn a_signal_leaves_nothing_half_made() {
    let b = Bench::new();
    let model = golden("qwen3");
    // Rows come through a pipe that stays open, so that the program is in the middle whenever the signal comes.
    let args = ["judge", "--model", utf8(&model), "--input", "-", "--output", "out.jsonl"];
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut child = b.command(&args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = || fs::read_dir(b.dir.path()).unwrap().count() > 0;
        for _ in 0..600 {
            if begun() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(begun(), "it has begun its output");
        // The handler comes right after the file: wait until the program is asking for rows.
        std::thread::sleep(Duration::from_millis(500));
        // SAFETY: a signal to our own child.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let input = child.stdin.take();
        let status = child.wait().unwrap();
        drop(input);
        assert_eq!(status.signal(), Some(signal));
        assert!(!begun(), "nothing is left of it");
    }
}

#[test]
fn threads_that_the_system_refuses_are_an_error() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    // A thousand stacks do not fit into two gigabytes of addresses.
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("ulimit -v 2000000; exec \"$@\"").arg("sh");
    let asked = b.command(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--threads", "1000"]);
    let out = shell.arg(asked.get_program()).args(asked.get_args()).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    // A thread that did start may find no memory for its signal stack, and says so before.
    let all = said(&out);
    let last = all.lines().last().unwrap_or_default();
    assert!(last.contains("did not start 1000 threads") && last.contains("--threads"), "{all}");
}

#[test]
fn numbers_have_bounds() {
    let b = Bench::new();
    b.run_file();
    let (model, rows) = (golden("qwen3"), b.rows());
    b.fails(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--threads", "100000"], 2, &["--threads"]);
    for key in ["train.batch", "train.micro_tokens"] {
        for n in ["99999999999999", "9223372036854775807"] {
            b.fails(&["plan", "run.toml", &format!("{key}={n}")], 2, &[key, "1048576"]);
        }
    }
    b.fails(&["plan", "run.toml", "train.steps=9223372036854775807", "train.batch=0"], 2, &["train.batch"]);
    let init = |more: &[&'static str]| [&["init", "--family", "qwen3", "--out", "made"], more].concat();
    let shape = ["--layers", "1", "--hidden", "64", "--vocab", "99"];
    for (flag, key) in [("--rope-theta", "rope_theta"), ("--init-std", "initializer_range")] {
        for x in ["nan", "inf", "-1"] {
            let flag = format!("{flag}={x}");
            b.fails(&[&init(&shape)[..], &[flag.as_str()]].concat(), 2, &[key]);
        }
    }
    assert!(!b.path("made").exists());
}

#[test]
fn a_config_file_has_its_own_sizes() {
    let b = Bench::new();
    let config = golden("qwen3").join("config.json");
    b.fails(&["init", "--config", utf8(&config), "--hidden", "64", "--out", "made"], 2, &["--hidden", "--config"]);
    b.ok(&["init", "--config", utf8(&config), "--seed", "3", "--out", "made"]);
}

#[test]
fn a_run_file_is_text() {
    let b = Bench::new();
    fs::write(b.path("run.toml"), b"\xff\xfe").unwrap();
    fs::create_dir(b.path("dir")).unwrap();
    for verb in ["train", "plan"] {
        b.fails(&[verb, "run.toml"], 2, &["run.toml", "UTF-8"]);
        b.fails(&[verb, "dir"], 2, &["dir", "directory"]);
    }
}

#[test]
fn what_renders_to_nothing_names_its_row() {
    let b = Bench::new();
    let model = golden("qwen3");
    let empty = b.write("empty.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"\"}\n");
    let args = ["generate", "--model", utf8(&model), "--input", utf8(&empty), "--raw", "--max-tokens", "1"];
    b.fails(&args, 1, &["empty.jsonl:2", "empty"]);
    let silent = b.path("silent");
    fs::create_dir(&silent).unwrap();
    for entry in fs::read_dir(&model).unwrap().map(|e| e.unwrap().path()) {
        fs::copy(&entry, silent.join(entry.file_name().unwrap())).unwrap();
    }
    File::create(silent.join("chat_template.jinja")).unwrap();
    let rows = b.rows();
    b.fails(&["judge", "--model", utf8(&silent), "--input", utf8(&rows)], 1, &["rows.jsonl:1", "template"]);
    fs::write(silent.join("chat_template.jinja"), "{{{").unwrap();
    b.fails(&["judge", "--model", utf8(&silent), "--input", utf8(&rows)], 1, &["silent", "template", "line 1"]);
}
