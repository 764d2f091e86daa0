//! What a user sees when a GPU cannot be had, and when one fails in the middle of a run.

use crate::architecture::root;
use crate::cli::{Bench, golden, utf8};
use crate::devices::covers_emulated;
use crate::gpu::ends;
use std::fs;
use std::process::Output;

fn under(b: &Bench, settings: &str, args: &[&str]) -> Output {
    let mut command = b.command(args);
    command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", settings).env("GRAMOPHONE_SYNC", "1");
    command.output().unwrap()
}

/// The one kernel that a message says was under way: a `KERNEL` of the sources.
fn launched(said: &str) -> String {
    let (_, after) = said.split_once("launched before it: ").unwrap_or_else(|| panic!("{said}"));
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    assert!(!after[name.len()..].starts_with(','), "more than one kernel in {said}");
    let head = format!("KERNEL({name},");
    let sources = fs::read_dir(root().join("kernels")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file());
    assert!(
        sources.into_iter().any(|path| fs::read_to_string(path).unwrap().contains(&head)),
        "{name:?} is no kernel: {said}"
    );
    name
}

/// Without a driver the program says so and what to do. Where there is one, there is nothing to see.
#[test]
fn without_a_driver_the_program_says_what_to_do() {
    let names = ["libcuda.so", "libcuda.so.1"];
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/cuda/compat"];
    let installed = folders.iter().any(|dir| names.iter().any(|n| fs::exists(format!("{dir}/{n}")).unwrap_or(false)));
    if installed || fs::exists("/dev/nvidiactl").unwrap_or(false) {
        println!("skipped without_a_driver_the_program_says_what_to_do: this machine has a driver");
        return;
    }
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "out.jsonl", "--device", "cuda"];
    let mut command = b.command(&args);
    command.env_remove("LD_PRELOAD").env("LD_LIBRARY_PATH", "");
    ends(&command.output().unwrap(), 1, &["no NVIDIA driver", "libcuda.so.1", "use --device cpu"]);
    assert!(!b.path("out.jsonl").exists());
}

/// A kernel that faults is named with what is wrong with it; the last checkpoint stays as it was, and the run goes on from it.
#[test]
fn a_kernel_that_faults_is_named_and_the_checkpoint_stays() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    let args = ["train", "run.toml", "train.steps=4", "checkpoint.every=2", "--device", "cuda"];
    let first = ["train", "run.toml", "train.steps=2", "checkpoint.every=2", "--device", "cuda"];
    ends(&under(&b, "fast", &first), 0, &[]);
    let model = b.path("run/checkpoint-000002/model.safetensors");
    let kept = fs::read(&model).unwrap();
    // No kernel is done within three steps of a block's schedule: the first launch faults.
    let out = under(&b, "fast,steps=3", &args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ends(&out, 1, &["in kernel ", "CUDA_ERROR_LAUNCH_FAILED"]);
    assert!(said.contains("cuda:0") && said.contains("BUDGET"), "{said}");
    // The report of the fault and the engine's own account name the same kernel.
    let kernel = launched(&said);
    assert!(said.contains(&format!("kernel {kernel}")), "{kernel:?} in {said}");
    assert!(fs::read(&model).unwrap() == kept && !b.path("run/checkpoint-000004").exists());
    ends(&under(&b, "fast", &args), 0, &[]);
    assert!(b.path("run/checkpoint-000004").exists());
}

/// A launch that fails in mid-run is named, whether it judges or trains, and nothing is left of the output.
#[test]
fn a_launch_that_fails_in_mid_run_names_its_kernel() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    let (model, rows) = (golden("qwen3"), b.rows());
    let judge = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "out.jsonl", "--device", "cuda"];
    let train = ["train", "run.toml", "train.steps=2", "--device", "cuda"];
    for args in [&judge[..], &train] {
        let out = under(&b, "fast,fail=cuLaunchKernel:10:719", args);
        ends(&out, 1, &["cuda:0", "CUDA_ERROR_LAUNCH_FAILED"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let kernel = launched(&said);
        assert!(said.contains(&format!(": {kernel}: ")), "{kernel:?} in {said}");
    }
    assert!(!b.path("out.jsonl").exists() && !b.path("run/checkpoint-000002").exists());
}
