//! What a user sees when a GPU cannot be had, and when one fails in the middle of a run.

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

/// Without a driver the program says so and what to do. Where there is one, there is nothing to see.
#[test]
fn without_a_driver_the_program_says_what_to_do() {
    let names = ["libcuda.so", "libcuda.so.1"];
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/cuda/compat"];
    let installed = folders.iter().any(|dir| names.iter().any(|n| fs::exists(format!("{dir}/{n}")).unwrap_or(false)));
    if installed || fs::exists("/dev/nvidiactl").unwrap_or(false) {
        println!("this machine has a driver");
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
    let (_, after) = said.split_once("launched before it: ").unwrap_or_else(|| panic!("{said}"));
    let kernel: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    assert!(!kernel.is_empty() && said.contains(&format!("kernel {kernel}")), "{kernel:?} in {said}");
    assert!(fs::read(&model).unwrap() == kept && !b.path("run/checkpoint-000004").exists());
    ends(&under(&b, "fast", &args), 0, &[]);
    assert!(b.path("run/checkpoint-000004").exists());
}
