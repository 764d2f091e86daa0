//! The GPU lane runs every test that opens a GPU, and hangs in none.
//!
//! The filters are read out of `scripts/gpu_lane` and the tests out of the sources: a test opens a GPU when its body, or that of a
//! function of the same file that it calls, holds one of [`OPENS`].

use crate::architecture::{root, rust_files};
use crate::cli::Bench;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// What opens the GPUs that a run covers.
const OPENS: [&str; 6] =
    ["gpus()", "devices()", "on_devices(", "program_on(", "Device::open(name", "Device::open(\"cuda"];

/// A function: whether it is a test, and its text.
type Functions = BTreeMap<String, (bool, String)>;

/// The functions of a file as rustfmt lays it out: the body ends with a brace as far in as the `fn`.
fn functions(text: &str) -> Functions {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Functions::new();
    for (i, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let code = line.trim_start().trim_start_matches("pub ").trim_start_matches("const ");
        let Some(rest) = code.strip_prefix("fn ") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let one_line = line.ends_with('}');
        let end = (i..lines.len()).find(|&j| one_line || lines[j] == format!("{indent}}}")).unwrap_or(lines.len() - 1);
        let test =
            lines[..i].iter().rev().take_while(|l| l.trim_start().starts_with('#')).any(|l| l.contains("#[test]"));
        found.insert(name, (test, lines[i..=end].join("\n")));
    }
    found
}

fn calls(text: &str, name: &str) -> bool {
    let starts = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.' || c == ':');
    text.match_indices(&format!("{name}(")).any(|(at, _)| starts(at) && !text[..at].ends_with("fn "))
}

/// The tests that reach a function whose text `begins` with, through functions of the same file.
fn tests_that(functions: &Functions, reach: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut all: BTreeSet<&String> =
        functions.iter().filter(|(_, (_, text))| reach(text)).map(|(name, _)| name).collect();
    loop {
        let more = |(name, (_, text)): &(&String, &(bool, String))| {
            !all.contains(*name) && all.iter().any(|known| calls(text, known))
        };
        let more: Vec<&String> = functions.iter().filter(more).map(|(name, _)| name).collect();
        if more.is_empty() {
            return all.into_iter().filter(|name| functions[*name].0).cloned().collect();
        }
        all.extend(more);
    }
}

/// The filters that the lane gives `binary` in the lines of steps that begin with `step`.
fn filters(lane: &str, step: &str, binary: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in lane.lines().map(str::trim).filter(|line| line.starts_with(step)) {
        let Some((_, after)) = line.split_once(&format!("{binary}\" ")) else { continue };
        found.extend(after.split(' ').take_while(|word| !word.starts_with("--")).map(String::from));
    }
    found
}

/// The tests of a tree that reach what is asked for, as the test binary calls them.
fn named(folder: &str, reach: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let (mut files, mut found) = (Vec::new(), Vec::new());
    let tree = root().join(folder);
    rust_files(&tree, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(&tree).unwrap().with_extension("").to_string_lossy().replace('/', "::");
        let place = place.trim_end_matches("::mod");
        found.extend(
            tests_that(&functions(&text), |body| reach(place, body)).iter().map(|name| format!("{place}::{name}")),
        );
    }
    found
}

#[test]
fn every_test_that_opens_a_device_is_run_by_the_lane() {
    // The lane itself has no scripts: nothing to hold there.
    let Ok(lane) = fs::read_to_string(root().join("scripts/gpu_lane")) else { return };
    let opens = |text: &str| OPENS.iter().any(|what| text.contains(what));
    let case = |place: &str, text: &str| place.starts_with("ops::") && calls(text, "agree");
    let library = filters(&lane, "step ", "library_tests");
    let programs = filters(&lane, "step ", "integration_tests");
    let sanitized = filters(&lane, "step \"sanitizer-", "library_tests");
    let cases = named("src", case);
    let all = named("src", |place, text| case(place, text) || opens(text));
    // Helpers of the tests are no tests, and this file only speaks of them.
    let whole: Vec<String> =
        named("tests", |_, text| opens(text)).into_iter().filter(|name| !name.starts_with("lane::")).collect();
    assert!(cases.len() > 30 && all.len() > cases.len() && whole.len() > 20, "the scan sees too little");
    let left_out = |tests: &[String], filters: &[String]| -> Vec<String> {
        assert!(!filters.is_empty(), "the lane's line has changed");
        tests.iter().filter(|test| !filters.iter().any(|filter| test.contains(filter.as_str()))).cloned().collect()
    };
    assert_eq!(left_out(&all, &library), [""; 0], "open a GPU, and the lane leaves them out: put `gpu` into the names");
    assert_eq!(left_out(&whole, &programs), [""; 0], "open a GPU, and the step end-to-end leaves them out");
    assert_eq!(
        left_out(&cases, &sanitized),
        [""; 0],
        "cases that the sanitizer leaves out: begin the names with `gpus_`"
    );
}

#[test]
fn the_scan_sees_who_opens_a_device() {
    let text = "fn each() {\n    for d in gpus() {}\n}\n#[test]\nfn one() {\n    each();\n}\n#[test]\nfn two() {\n    reach();\n}\n";
    let found = tests_that(&functions(text), |text| text.contains("gpus()"));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["one"]);
    let lane = "step ops \"$here/library_tests\" gpu x:: --test-threads 2\n";
    assert_eq!(filters(lane, "step ops", "library_tests"), ["gpu", "x::"]);
}

/// A step that does not end is stopped, says so, and the steps after it run.
#[test]
fn a_step_that_hangs_is_stopped() {
    use std::os::unix::fs::PermissionsExt;
    let Ok(lane) = fs::read_to_string(root().join("scripts/gpu_lane")) else { return };
    let b = Bench::new();
    for (name, text) in [
        ("gpu_lane", lane.as_str()),
        ("gramophone", "#!/bin/sh\nexit 0\n"),
        ("library_tests", "#!/bin/sh\nsleep 100 & wait\n"),
        ("integration_tests", "#!/bin/sh\necho 'test result: ok. 3 passed'\n"),
    ] {
        b.write(name, text);
        fs::set_permissions(b.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let begun = std::time::Instant::now();
    let mut command = Command::new("bash");
    command.arg(b.path("gpu_lane")).args(["--steps", "ops,end-to-end"]).env("LANE_LIMIT", "1");
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(begun.elapsed().as_secs() < 60, "it waited for what hangs");
    let found = fs::read_to_string(b.path("results/lane.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let step = |i: usize, key: &str| found["steps"][i][key].as_str().unwrap_or_default().to_string();
    assert_eq!((step(0, "name"), step(0, "verdict")), ("ops".into(), "FAIL".into()), "{found}");
    assert!(step(0, "note").contains("still running after 1 s"), "{found}");
    assert_eq!((step(1, "name"), step(1, "verdict")), ("end-to-end".into(), "pass".into()), "{found}");
}

/// Every wrapper of an instruction has a kernel that shows what a chip takes it to mean.
#[test]
fn every_wrapper_has_a_kernel_of_conformance() {
    // An address, a hint and counts of registers put nothing out; the wait for reads alone is left to the products of gemm_sm90.
    const SILENT: [&str; 5] =
        ["shared_address", "prefetch_tensor_map", "registers_increase", "registers_decrease", "tma_store_wait_read"];
    let read = |name: &str| fs::read_to_string(root().join("kernels").join(name)).unwrap();
    let kernels = read("conformance.cu") + &read("conformance_sm90.cu");
    let wrappers: Vec<String> = ["base/ptx.cuh", "base/wgmma.cuh"]
        .iter()
        .flat_map(|name| {
            let text = read(name);
            let functions = text.lines().filter(|l| !l.trim_start().starts_with("//")).filter_map(|line| {
                let (before, _) = line.split_once("DEVICE ").map(|(_, code)| code)?.split_once('(')?;
                before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().map(String::from)
            });
            functions.collect::<Vec<_>>()
        })
        .collect();
    assert!(wrappers.len() > 20, "the wrappers have moved: {wrappers:?}");
    let called = |name: &String| {
        let after = |at: usize| kernels[at + name.len()..].starts_with(['(', '<']);
        let before = |at: usize| !kernels[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        SILENT.contains(&name.as_str()) || kernels.match_indices(name.as_str()).any(|(at, _)| after(at) && before(at))
    };
    let missing: Vec<&String> = wrappers.iter().filter(|name| !called(name)).collect();
    assert!(missing.is_empty(), "no conformance kernel calls {missing:?}");
}

/// The document says that there is no recording exactly while there is none.
#[test]
fn the_conformance_document_says_what_is_recorded() {
    let folder = root().join("tests/golden/conformance");
    let text = fs::read_to_string(folder.join("README.md")).unwrap();
    let recorded = fs::read_dir(&folder).unwrap().any(|e| e.unwrap().path().extension().is_some_and(|e| e == "bin"));
    assert!(text.contains("\nRecorded:"), "the line that CI prints");
    assert_eq!(text.contains("\nRecorded: nothing yet."), !recorded);
}
