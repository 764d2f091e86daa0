//! The engine on a GPU, end to end: it agrees with the CPU, its results do not depend on the batch, and what can go wrong with
//! a GPU ends in a message.
//!
//! The golden models of `tests/golden.rs` also run on every GPU that the run covers; here are larger random ones.

use crate::cli::{Bench, golden, utf8};
use crate::devices::{covers_emulated, emulated, gpus};
use crate::forced::wide;
use crate::invariance::{CONTEXT, Stage, model, requests, run_with, shape, texts, train_on, trainer_after};
use crate::optimizers::states;
use crate::tolerance::{GPU, GPU_BF16, GPU_BF16_MAGNIFIED, GPU_TRAINED, agree};
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::infer::generator::{self, Generator};
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Family, HeadKind};
use gramophone::text::encode::Item;
use gramophone::train::optim;
use gramophone_emu::Settings;
use std::process::{Output, Stdio};

const LABELS: [i32; 2] = [32, 33];
const LEAN: optim::Settings = optim::Settings { weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };

fn stored(family: Family, head: HeadKind, dtype: Dtype) -> Model {
    Model::random(model(family, head).config, dtype, 4).unwrap()
}

/// Losses, gradient norms, and every weight after some steps of AdamW.
#[test]
fn training_agrees_with_the_cpu() {
    agree("training on a GPU", |check| {
        for stage in Stage::ALL {
            let want = train_on(stage, &Device::cpu(2), 500, Keep::Costly, 4);
            for (name, dev) in gpus() {
                let got = train_on(stage, &dev, 500, Keep::Costly, 4);
                for k in 0..4 {
                    check.value(GPU, format_args!("{stage:?} loss {k} on {name}"), got.losses[k], want.losses[k]);
                    check.relative(GPU, format_args!("{stage:?} norm {k} on {name}"), got.norms[k], want.norms[k]);
                }
                // A key's bias moves all logits of a row alike, so its gradient is nothing but rounding, which AdamW makes as
                // large as any other.
                for (i, (got, want)) in got.tensors().iter().zip(want.tensors()).enumerate() {
                    check.tensor(GPU_TRAINED, format_args!("{stage:?} weights {i} on {name}"), got, &want);
                }
            }
        }
    });
}

#[test]
fn training_gives_the_same_bits_whatever_is_kept_and_again() {
    for (name, dev) in gpus() {
        for stage in Stage::ALL {
            let all = train_on(stage, &dev, 500, Keep::All, 2);
            assert_eq!(all, train_on(stage, &dev, 500, Keep::Doors, 2), "{stage:?} on {name}, doors");
            assert_eq!(all, train_on(stage, &dev, 500, Keep::All, 2), "{stage:?} on {name}, again");
        }
    }
}

/// The same step under the checker finds no race and gives the same bits.
#[test]
fn a_checked_step_is_clean() {
    if covers_emulated() {
        let fast = train_on(Stage::Verdict, &emulated(Settings::fast()), 500, Keep::Costly, 1);
        for seed in [0, 5] {
            let checked = train_on(Stage::Verdict, &emulated(Settings::checked(seed)), 500, Keep::Costly, 1);
            assert_eq!(fast, checked, "seed {seed}");
        }
    }
}

/// The same of a bf16 model with head norms, on tensor cores and everything that comes with them, learning and writing.
#[test]
fn a_checked_bf16_model_learns_and_writes_cleanly() {
    if !covers_emulated() {
        return;
    }
    let mut requests = requests()[..3].to_vec();
    requests.iter_mut().for_each(|r| {
        r.prompt.truncate(20);
        r.settings.max_tokens = 3;
    });
    let items: Vec<Item> = texts(6, 10).into_iter().skip(1).map(|ids| Item::Tokens { ids, start: 1 }).collect();
    let run = |settings: Settings| {
        let dev = emulated(settings);
        let learned = run_with(LEAN, wide(Family::Qwen3), &dev, shape(150, Keep::Costly), 1, |_| items.clone());
        let model = wide(Family::Qwen3).on(&dev).unwrap();
        let shape = generator::Shape { sequences: 2, context: CONTEXT };
        (learned, Generator::new(&dev, &model, shape, &[]).unwrap().generate(&requests, |_, _| ()).unwrap())
    };
    let fast = run(Settings::fast());
    assert!(fast.1.iter().all(|made| made.tokens.len() == 3));
    for seed in [0, 5] {
        assert_eq!(fast, run(Settings::checked(seed)), "seed {seed}");
    }
}

/// What a judge finds, in passes and batches of these sizes.
fn verdicts(dev: &Device, model: &Model, prompts: &[Vec<i32>], pass: usize, batch: usize) -> Vec<[u32; 3]> {
    let mut scorer = Scorer::new(dev, model, scorer::Shape { context: CONTEXT, pass }).unwrap();
    let found = prompts.chunks(batch).flat_map(|p| scorer.verdicts(p, LABELS).unwrap());
    found.map(|v| [v.logits[0], v.logits[1], v.lse].map(f32::to_bits)).collect()
}

fn judgments_depend_on_nothing_else(name: &str, dev: &Device, model: &Model) {
    let prompts = texts(24, 1);
    let reference = verdicts(dev, model, &prompts, 4096, 24);
    for (pass, batch) in [(4096, 1), (4096, 3), (60, 24)] {
        let found = verdicts(dev, model, &prompts, pass, batch);
        assert_eq!(reference, found, "{name}, {}, passes of {pass}, batches of {batch}", model.dtype);
    }
}

#[test]
fn judgments_depend_on_the_pair_alone() {
    for (name, dev) in gpus() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = stored(Family::Qwen3, HeadKind::LanguageModel, dtype).on(&dev).unwrap();
            judgments_depend_on_nothing_else(&name, &dev, &model);
        }
    }
}

/// A GPU without Hopper's kernels, such as an A100, has bits of its own, which keep the same promises.
#[test]
fn portable_kernels_judge_and_learn_as_hopper_s_do() {
    if !covers_emulated() {
        return;
    }
    let [ampere, hopper] = [(8, 0), (9, 0)].map(|capability| emulated(Settings { capability, ..Settings::fast() }));
    let judge = wide(Family::Qwen3).on(&ampere).unwrap();
    judgments_depend_on_nothing_else("capability 8.0", &ampere, &judge);
    let step = |dev| {
        let items = |step| Stage::Tokens.items(step);
        let (trainer, trained) = trainer_after(LEAN, wide(Family::Qwen3), dev, shape(500, Keep::Costly), 1, items);
        (states(&trainer), trained)
    };
    let ((old, there), (new, here)) = (step(&ampere), step(&hopper));
    agree("a bf16 step by portable kernels", |check| {
        check.value(GPU_BF16, "loss", there.losses[0], here.losses[0]);
        check.relative(GPU_BF16, "norm", there.norms[0], here.norms[0]);
        for (name, new) in &new {
            check.tensor(GPU_BF16_MAGNIFIED, name, &old[name], new);
        }
    });
}

/// Chips of 8.6, 8.9 and 12.0 give a block 99 KB of shared memory, where 8.0 has 163: enough for heads of 128.
#[test]
fn chips_with_little_shared_memory_judge_and_write_with_wide_heads() {
    if !covers_emulated() {
        return;
    }
    let mut config = wide(Family::Qwen3).config;
    config.heads.size = 128;
    let mut requests = requests()[..4].to_vec();
    requests.iter_mut().for_each(|r| r.settings.max_tokens = 3);
    let [little, plenty] = [(8, 6), (8, 0)].map(|capability| {
        let dev = emulated(Settings { capability, ..Settings::fast() });
        let model = Model::random(config.clone(), Dtype::Bf16, 4).unwrap().on(&dev).unwrap();
        let shape = generator::Shape { sequences: 4, context: CONTEXT };
        let made = Generator::new(&dev, &model, shape, &[]).unwrap().generate(&requests, |_, _| ()).unwrap();
        (verdicts(&dev, &model, &texts(5, 1), 4096, 5), made)
    });
    assert_eq!(little, plenty);
}

/// Recorded decoding, padded batches and refills change nothing.
#[test]
fn generation_depends_on_the_request_alone_and_equals_the_cpu_s() {
    let requests = requests();
    let write = |dev: &Device, model: &Model, sequences: usize| {
        let mut requests = requests.clone();
        if model.dtype == Dtype::Bf16 {
            requests.iter_mut().for_each(|r| r.settings.max_tokens = 2 + r.settings.max_tokens % 5);
        }
        let shape = generator::Shape { sequences, context: CONTEXT };
        Generator::new(dev, model, shape, &[7, 8, 9]).unwrap().generate(&requests, |_, _| ()).unwrap()
    };
    let narrow = || stored(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32);
    let want = write(&Device::cpu(2), &narrow(), 9);
    for (name, dev) in gpus() {
        for (model, equals) in [(narrow(), true), (wide(Family::Qwen3), false)] {
            let model = model.on(&dev).unwrap();
            let all = write(&dev, &model, 9);
            for sequences in [1, 4] {
                assert_eq!(all, write(&dev, &model, sequences), "{name}, {}, {sequences} at a time", model.dtype);
            }
            // bf16 has bits of its own.
            for (i, (got, want)) in all.iter().zip(&want).enumerate().filter(|_| equals) {
                assert_eq!((&got.tokens, got.finish), (&want.tokens, want.finish), "{name}, request {i}");
            }
        }
    }
}

/// Teacher-forced: what a bf16 model says of a text on a GPU is near what it says on the CPU.
#[test]
fn bf16_verdicts_agree_with_the_cpu() {
    agree("bf16 verdicts on a GPU", |check| {
        let prompts = texts(40, 6);
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let verdicts = |dev: &Device| {
                let model = stored(family, HeadKind::LanguageModel, Dtype::Bf16).on(dev).unwrap();
                let shape = scorer::Shape { context: CONTEXT, pass: 1000 };
                Scorer::new(dev, &model, shape).unwrap().verdicts(&prompts, LABELS).unwrap()
            };
            let want = verdicts(&Device::cpu(2));
            for (name, dev) in gpus() {
                for (i, (got, want)) in verdicts(&dev).iter().zip(&want).enumerate() {
                    check.value(
                        GPU_BF16_MAGNIFIED,
                        format_args!("{family:?} {i} on {name}"),
                        got.margin(),
                        want.margin(),
                    );
                }
            }
        }
    });
}

/// The program as a child process under the emulated driver.
pub fn under(bench: &Bench, settings: &str, args: &[&str]) -> Output {
    let mut command = bench.command(args);
    command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", settings);
    command.output().unwrap()
}

/// The program on a GPU that the run covers.
pub fn program_on(bench: &Bench, name: &str, args: &[&str]) -> Output {
    match name {
        "emulated" => under(bench, "fast", &[args, &["--device", "cuda"]].concat()),
        name => bench.command(&[args, &["--device", name]].concat()).output().unwrap(),
    }
}

/// It ends with this exit code and a last line that holds all `words`, and does not panic.
pub fn ends(out: &Output, code: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    let last = message.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no {word:?} in the last line of {message}");
    }
}

#[test]
fn the_program_judges_on_every_gpu_as_on_the_cpu() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows)];
    let cpu: Vec<serde_json::Value> = crate::cli::json_lines(&b.ok(&args));
    for (name, _) in gpus() {
        let out = program_on(&b, &name, &args);
        ends(&out, 0, &[]);
        let gpu = crate::cli::json_lines(&String::from_utf8(out.stdout).unwrap());
        assert_eq!(cpu.len(), gpu.len());
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            assert_eq!((&cpu["id"], &cpu["verdict"]), (&gpu["id"], &gpu["verdict"]));
            let margin = |row: &serde_json::Value| row["margin_ab"].as_f64().unwrap();
            assert!((margin(cpu) - margin(gpu)).abs() < 1e-4, "{cpu} {gpu} on {name}");
        }
    }
}

/// Two programs at one time, each with its own half of the work.
#[test]
fn two_processes_use_a_gpu_at_the_same_time() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--device"];
    b.run_file();
    let train = ["train", "run.toml", "train.steps=4", "--device"];
    for (name, _) in gpus() {
        let start = |args: &[&str]| {
            let device = if name == "emulated" { "cuda" } else { &name };
            let mut command = b.command(&[args, &[device]].concat());
            if name == "emulated" {
                command.env("LD_PRELOAD", gramophone_emu::library());
            }
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let alone = start(&args).wait_with_output().unwrap();
        let together = [start(&args), start(&train), start(&args)].map(|child| child.wait_with_output().unwrap());
        for out in &together {
            ends(out, 0, &[]);
        }
        assert!(alone.stdout == together[0].stdout && alone.stdout == together[2].stdout, "on {name}");
        assert!(b.path("run/checkpoint-000004").exists(), "on {name}");
        std::fs::remove_dir_all(b.path("run")).unwrap();
    }
}

#[test]
fn what_is_wrong_with_the_driver_or_the_gpu_is_said() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--device", "cuda"];
    let cases: [(&str, &[&str]); 5] = [
        ("driver=12040", &["driver", "12.4", "13.0"]),
        ("devices=0", &["no GPU", "nvidia-smi"]),
        ("capability=7.5", &["7.5", "8.0"]),
        ("memory=2000000", &["memory"]),
        ("fail=cuInit:1:34", &["stub", "LD_LIBRARY_PATH"]),
    ];
    for (settings, words) in cases {
        ends(&under(&b, settings, &args), 1, words);
    }
    ends(&under(&b, "fast", &[&args[..6], &["cuda:4000"]].concat()), 1, &["cuda:4000"]);
    b.fails(&[&args[..6], &["gpu"]].concat(), 2, &["--device gpu", "cuda"]);
}

/// A kernel that faults in mid-run names itself; the last checkpoint stays and the run goes on from it.
#[test]
fn a_fault_in_mid_run_keeps_the_last_checkpoint() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    ends(&under(&b, "fast", &["train", "run.toml", "train.steps=4", "--device", "cuda"]), 0, &[]);
    let before = std::fs::read(b.path("run/checkpoint-000004/model.safetensors")).unwrap();
    let args = ["train", "run.toml", "train.steps=4", "checkpoint.dir=\"other\"", "checkpoint.every=2"];
    let out = under(&b, "fast,fail=cuLaunchKernel:400:719", &[&args[..], &["--device", "cuda"]].concat());
    ends(&out, 1, &["cuda:0", "CUDA_ERROR_LAUNCH_FAILED"]);
    assert!(b.path("other/checkpoint-000002").exists(), "{}", String::from_utf8_lossy(&out.stderr));
    let again = [&args[..3], &["checkpoint.dir=\"other\"", "checkpoint.every=2", "--device", "cuda"]].concat();
    ends(&under(&b, "fast", &again), 0, &[]);
    let after = std::fs::read(b.path("other/checkpoint-000004/model.safetensors")).unwrap();
    assert!(before == after, "an interrupted run on a GPU ends in the same bytes");
}

/// A failure names the launches that were under way; with `GRAMOPHONE_SYNC=1` the one kernel. A GPU that is gone is said so.
#[test]
fn a_gpu_that_fails_names_what_was_under_way() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    let args = ["train", "run.toml", "train.steps=2", "--device", "cuda"];
    let run = |settings: &str, synchronous: &str| {
        let mut command = b.command(&args);
        command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", format!("fast,{settings}"));
        command.env("GRAMOPHONE_SYNC", synchronous).output().unwrap()
    };
    let waiting = "fail=cuEventSynchronize:20:719";
    ends(
        &run(waiting, "0"),
        1,
        &["cuda:0", ": a kernel failed: ", "(CUDA_ERROR_LAUNCH_FAILED); launched before it: ", ", "],
    );
    let out = run("fail=cuStreamSynchronize:20:719", "1");
    ends(&out, 1, &["cuda:0", "(CUDA_ERROR_LAUNCH_FAILED)"]);
    // `..: KERNEL: what; launched before it: KERNEL`
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let (_, after) = said.trim_end().rsplit_once("launched before it: ").unwrap_or_else(|| panic!("{said}"));
    let kernel = after.split(';').next().unwrap_or_default();
    assert!(!kernel.contains(' ') && said.contains(&format!(": {kernel}: ")), "{said}");
    ends(&run("fail=cuLaunchKernel:50:46", "0"), 1, &["cuda:0", "CUDA_ERROR_DEVICE_UNAVAILABLE"]);
    assert!(!b.path("run/checkpoint-000002").exists());
}

/// Waiting after every launch records nothing, and writes the same text.
#[test]
fn decoding_goes_on_where_every_launch_is_waited_for() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    let rows = b.write("rows.jsonl", "{\"prompt\": \"Say one\"}\n{\"prompt\": \"Say two\"}\n");
    let (model, rows) = (golden("qwen3"), utf8(&rows).to_string());
    let args = ["generate", "--model", utf8(&model), "--input", &rows, "--max-tokens", "8", "--device", "cuda"];
    let run = |settings: &str, synchronous: &str| {
        let mut command = b.command(&args);
        command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", format!("fast{settings}"));
        command.env("GRAMOPHONE_SYNC", synchronous).output().unwrap()
    };
    let recorded = run("", "0");
    ends(&recorded, 0, &[]);
    assert_eq!(run(",fail=cuStreamBeginCapture:1:719", "1").stdout, recorded.stdout);
    ends(&run(",fail=cuGraphLaunch:2:719", "0"), 1, &["cuda:0", ": a recorded step: "]);
    // What fails is named, though it would have been part of a recording.
    let out = run(",fail=cuStreamSynchronize:150:719", "1");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let (before, kernel) = said.trim_end().rsplit_once("launched before it: ").unwrap_or_else(|| panic!("{said}"));
    let kernel = kernel.split(';').next().unwrap_or_default();
    assert!(out.status.code() == Some(1) && before.contains(&format!(": {kernel}: ")), "{said}");
}
