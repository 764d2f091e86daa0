//! `gramophone bench` and `gramophone doctor`, as a person runs them: on the CPU and under the emulated driver.

use crate::cli::Bench;
use serde_json::Value;
use std::fs;
use std::process::Output;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The program as a child process under the emulated driver.
fn emulated(bench: &Bench, settings: &str, args: &[&str]) -> Output {
    let mut command = bench.command(args);
    command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", settings);
    command.output().unwrap()
}

#[test]
fn kernels_are_held_against_ceilings_of_the_same_run() {
    let b = Bench::new();
    let args = ["bench", "kernels", "--threads", "1", "--sizes", "tiny", "--samples", "3", "--json", "k.json"];
    let shown = b.ok(&[&args[..], &["--html", "k.html"]].concat());
    let found = json(&fs::read_to_string(b.path("k.json")).unwrap());
    let cases = found["cases"].as_array().unwrap();
    for op in [
        "rmsnorm_fwd",
        "rope_bwd",
        "gemm_tn",
        "attention_bwd",
        "attention_gather_fwd",
        "decode_fwd",
        "xent_step",
        "muon",
    ] {
        let case = cases.iter().find(|c| c["name"].as_str().unwrap().starts_with(op)).expect(op);
        assert!(
            case["seconds"]["median"].as_f64().unwrap() > 0.0 && case["of_ceiling"].as_f64().unwrap() > 0.0,
            "{case}"
        );
        assert!(case["seconds"]["low"].as_f64() <= case["seconds"]["high"].as_f64(), "{case}");
    }
    let names: Vec<&str> = cases.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "every case has a name of its own: {names:?}");
    assert!(["copy", "read", "matrix"].iter().all(|c| found["ceilings"][c].as_f64().unwrap() > 0.0), "{found}");
    assert_eq!(found["environment"]["threads"], 1);
    assert!(found["environment"]["command"].as_str().unwrap().contains("--sizes tiny"));
    assert!(shown.contains("| ceiling, this run |") && shown.contains("| rmsnorm_fwd float32 24 x 64 |"), "{shown}");
    let page = fs::read_to_string(b.path("k.html")).unwrap();
    assert!(page.contains("Ceiling: copy") && !page.contains("http") && !page.contains("<script"));
    let only = json(&{
        b.ok(&[&args[..9], &["only.json", "--only", "swiglu"]].concat());
        fs::read_to_string(b.path("only.json")).unwrap()
    });
    assert_eq!(only["cases"].as_array().unwrap().len(), 2);
    b.fails(&["bench", "kernels", "--only", "transpose"], 2, &["transpose", "rmsnorm_fwd"]);
}

#[test]
fn a_gpu_is_timed_by_its_own_clock() {
    let b = Bench::new();
    let args = [
        "bench",
        "kernels",
        "--device",
        "cuda",
        "--sizes",
        "tiny",
        "--samples",
        "2",
        "--only",
        "adamw,sample_,attention_gather",
        "--json",
    ];
    let out = emulated(&b, "fast", &[&args[..], &["k.json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found = json(&fs::read_to_string(b.path("k.json")).unwrap());
    assert_eq!(found["cases"].as_array().unwrap().len(), 8, "{found}");
    assert!(found["environment"]["device"].as_str().unwrap().contains("Emulated"), "{found}");
    assert!(found["environment"]["driver"].as_str().unwrap().starts_with("CUDA "), "{found}");
}

#[test]
fn whole_passes_run_on_random_weights() {
    let b = Bench::new();
    let sizes =
        ["--layers", "1", "--tokens", "32", "--written", "3", "--sequences", "2", "--samples", "1", "--json", "e.json"];
    b.ok(&[&["bench", "engine"], &sizes[..]].concat());
    let found = json(&fs::read_to_string(b.path("e.json")).unwrap());
    let cases = found["cases"].as_array().unwrap();
    let first = |c: &Value| c["name"].as_str().unwrap().split(' ').next().unwrap().to_string();
    assert_eq!(cases.iter().map(first).collect::<Vec<_>>(), ["prefill", "decode", "judge", "rank", "pairs", "train"]);
    assert!(cases.iter().all(|c| c["tokens"].as_f64().unwrap() > 0.0 && c["flops"].as_f64().unwrap() > 0.0), "{found}");
    // 4 answers of 100 to a prompt of 128: each token of the trie once, and 12 prompts of 340.
    assert_eq!((cases[3]["tokens"].as_f64(), cases[3]["effective"].as_f64()), (Some(1872.0), Some(4080.0)), "{found}");
    assert_eq!((cases[4]["tokens"].as_f64(), cases[4].get("effective")), (Some(4080.0), None), "{found}");
    // Half of the pairs' flops at most: long answers share their beginnings.
    assert!(2.0 * cases[3]["flops"].as_f64().unwrap() < cases[4]["flops"].as_f64().unwrap(), "{found}");
    let lists = ["bench", "engine", "--sizes", "tiny", "--work", "decode", "--sequences", "1,3", "--samples", "1"];
    let shown = b.ok(&lists);
    assert!(shown.contains(", 1 x 64 tokens |") && shown.contains(", 3 x 64 tokens |"), "{shown}");
    b.fails(&["bench", "engine", "--family", "mamba-1b"], 2, &["mamba-1b", "llama-3.1-8b"]);
    b.fails(&["bench", "engine", "--tokens", "3"], 2, &["16 to"]);
}

#[test]
fn a_gpu_runs_the_products_that_are_asked_for_and_a_profiler_sees_each_once() {
    let b = Bench::new();
    let args = ["bench", "kernels", "--device", "cuda", "--sizes", "tiny", "--samples", "1", "--only", "gemm_tn"];
    let out = emulated(&b, "fast", &[&args[..], &["--json", "k.json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found = json(&fs::read_to_string(b.path("k.json")).unwrap());
    let names = |list: &str| -> Vec<String> {
        found[list].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_string()).collect()
    };
    let every = [names("cases"), names("left_out")].concat();
    for op in ["gemm_tn", "gemm_tn_portable", "gemm_tn_cublaslt"] {
        assert!(every.iter().any(|n| n.starts_with(&format!("{op} "))), "{op} in {every:?}");
    }
    let args = ["bench", "kernels", "--device", "cuda", "--sizes", "tiny", "--once", "--only", "rope,gemm_tn"];
    let once = emulated(&b, "fast", &args);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let shown = String::from_utf8(once.stdout).unwrap();
    assert_eq!(shown.lines().filter(|l| l.starts_with("rope_")).count(), 2, "{shown}");
    // Who has no cuBLASLt hears of it, and the others run.
    assert!(shown.lines().any(|l| l.starts_with("gemm_tn ")) && shown.contains("gemm_tn_cublaslt "), "{shown}");
    b.fails(&["bench", "kernels", "--gemm", "portable"], 2, &["--gemm", "--device cuda"]);
    b.fails(&["bench", "kernels", "--once", "--json", "k.json"], 2, &["--once", "--json"]);
}

/// A result file with cases of these medians, each with a spread of one percent.
fn results(b: &Bench, file: &str, device: &str, cases: &[(&str, f64)]) {
    let case = |(name, median): &(&str, f64)| {
        let seconds = serde_json::json!({"median": median, "low": median * 0.99, "high": median * 1.01, "samples": 30});
        serde_json::json!({"name": name, "bytes": 1.0, "flops": 0.0, "bound": "copy", "seconds": seconds, "of_ceiling": 0.5})
    };
    let cases: Vec<Value> = cases.iter().map(case).collect();
    let whole = serde_json::json!({
        "format": 1, "benchmark": "kernels", "environment": {"device": device, "program": "gramophone"},
        "ceilings": {"copy": 1.0, "read": 1.0, "matrix": 1.0}, "cases": cases,
    });
    b.write(file, &whole.to_string());
}

#[test]
fn a_regression_beyond_the_spread_fails_and_says_where() {
    let b = Bench::new();
    results(&b, "old.json", "X", &[("adamw", 1e-3), ("rope", 2e-3), ("gone", 1.0)]);
    results(&b, "same.json", "X", &[("adamw", 1.015e-3), ("rope", 1.5e-3), ("new", 1.0)]);
    results(&b, "slow.json", "X", &[("adamw", 1.2e-3), ("rope", 2e-3)]);
    let shown = b.ok(&["bench", "compare", "old.json", "same.json"]);
    assert!(shown.contains("faster") && shown.contains("Only in the first file: gone"), "{shown}");
    assert!(shown.contains("Only in the second file: new") && !shown.contains("SLOWER"), "{shown}");
    b.fails(&["bench", "compare", "old.json", "slow.json"], 1, &["1 of 2 cases", "adamw by 20.0%"]);
}

#[test]
fn files_that_cannot_be_compared_are_refused() {
    let b = Bench::new();
    results(&b, "x.json", "X", &[("adamw", 1e-3)]);
    results(&b, "y.json", "Y", &[("adamw", 1e-3)]);
    results(&b, "other.json", "X", &[("rope", 1e-3)]);
    results(&b, "zero.json", "X", &[("adamw", 0.0)]);
    b.write("text.json", "not json");
    let old = fs::read_to_string(b.path("x.json")).unwrap().replace("\"format\":1", "\"format\":7");
    b.write("old.json", &old);
    for (file, words) in [
        ("y.json", &["different devices", "X", "Y"][..]),
        ("other.json", &["no case in common"]),
        ("zero.json", &["zero.json", "adamw"]),
        ("text.json", &["text.json", "--json"]),
        ("old.json", &["format 7"]),
        ("absent.json", &["absent.json"]),
    ] {
        b.fails(&["bench", "compare", "x.json", file], 2, words);
    }
}

#[test]
fn a_directory_of_results_is_held_against_the_goals() {
    let b = Bench::new();
    fs::create_dir(b.path("sitting")).unwrap();
    // Made up: a norm at half of a ceiling of 1 byte a second, and a step of 8-bit AdamW twice as fast as the peer's.
    let (norm, adamw) = ("rmsnorm_fwd bfloat16 24 x 64", "adamw_8bit bf16, bf16 gradients 1000");
    results(&b, "sitting/kernels.json", "X", &[(norm, 2.0), (adamw, 1.1)]);
    results(&b, "sitting/torch.json", "X", &[(norm, 7.0), (adamw, 2.2)]);
    let theirs = fs::read_to_string(b.path("sitting/torch.json")).unwrap();
    b.write(
        "sitting/torch.json",
        &theirs.replace("gramophone", "torch").replace("\"of_ceiling\"", "\"way\":\"fused\",\"of_ceiling\""),
    );
    b.write("sitting/lane.json", "{\"passed\": true}");
    let shown = b.ok(&["bench", "goals", "sitting", "--sizes", "tiny"]);
    let row = |start: &str| {
        shown.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start} in {shown}")).to_string()
    };
    assert!(row("| G12 | RMSNorm forward").ends_with("| 50.0% (92.0%) | short |"), "{shown}");
    let adamw = row("| G11 | AdamW, 8-bit");
    assert!(adamw.contains("2.00x fused AdamW (2.00x), bitsandbytes (1.50x): not measured"), "{adamw}");
    assert!(adamw.ends_with("| 90.9% (88.0%) | open |"), "{adamw}");
    assert!(row("| G10 ").contains("not measured: the engine has no FP8"), "{shown}");
    assert!(row("| moves rows | adamw_8bit").ends_with("| 90.9% | 85.0% | met |"), "{shown}");
    assert!(row("| paged decoding | decode_fwd").contains("not measured: not in the files"), "{shown}");
    b.write("sitting/half.json", "{\"benchmark\": \"kern");
    b.fails(&["bench", "goals", "sitting"], 2, &["half.json"]);
    b.fails(&["bench", "goals", "nowhere"], 2, &["nowhere"]);
    fs::create_dir(b.path("empty")).unwrap();
    b.fails(&["bench", "goals", "empty"], 2, &["empty", "bench kernels"]);
}

#[test]
fn the_doctor_sees_what_is_there() {
    let b = Bench::new();
    let text = b.ok(&["doctor"]);
    assert!(text.contains("verdict  runs on --device cpu") && text.contains("kernels"), "{text}");
    let out = emulated(&b, "fast,memory=1073741824", &["doctor", "--json", "--device", "cuda"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found = json(&String::from_utf8(out.stdout).unwrap());
    let gpu = &found["devices"][0];
    assert_eq!((&gpu["device"], &gpu["fault"]), (&"cuda:0".into(), &Value::Null), "{found}");
    assert!(gpu["free_bytes"].as_u64().unwrap() < 1 << 30 && gpu["memory_bytes"] == 1u64 << 30, "{found}");
    assert!(found["images"]["files"].as_array().unwrap().iter().any(|f| f["name"] == "rmsnorm"), "{found}");
    assert!(found["verdict"].as_str().unwrap().contains("cuda:0"), "{found}");
}

#[test]
fn the_doctor_names_what_is_in_the_way() {
    let b = Bench::new();
    for (settings, words) in [
        ("devices=0", "sees no GPU"),
        ("driver=12040", "update the driver"),
        ("capability=7.5", "compute capability 7.5"),
        ("memory=1000000", "memory"),
    ] {
        let out = emulated(&b, settings, &["doctor"]);
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && text.contains(words), "{settings}: {text}");
        let out = emulated(&b, settings, &["doctor", "--device", "cuda"]);
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{settings}: {message}");
        assert!(message.contains(words) && message.lines().count() == 1, "{settings}: {message}");
    }
}
