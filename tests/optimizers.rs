//! The optimizers of a run file: they follow independent implementations (`scripts/golden_optim.py`), learn, resume to the bit, and
//! take the memory that they promise.

use crate::architecture::root;
use crate::cli::Bench;
use crate::devices::{devices, gpus};
use crate::invariance::{Stage, Trained, model, shape, trainer_after};
use crate::tolerance::{GPU, GPU_BF16_MAGNIFIED, GPU_ROUNDED, GPU_STATE, agree};
use gramophone::base::dtype::{Dtype, Elem, bf16};
use gramophone::device::{Arena, Device, Layout, View};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Family, HeadKind};
use gramophone::ops::adamw::{AdamW, adamw_8bit};
use gramophone::ops::muon::{Muon, MuonScratch, muon};
use gramophone::ops::norm2::blocks;
use gramophone::train::optim::{Method, Settings};
use gramophone::train::trainer::Trainer;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;

const MUON: Method = Method::Muon { momentum: 0.95, rate: 1.0 };

/// Every method with every type of weights and gradients that it takes.
pub const FORMS: [(Method, Dtype, Dtype); 9] = [
    (Method::AdamW, Dtype::F32, Dtype::F32),
    (Method::AdamW, Dtype::Bf16, Dtype::F32),
    (Method::AdamW, Dtype::Bf16, Dtype::Bf16),
    (Method::AdamWSr, Dtype::Bf16, Dtype::F32),
    (Method::AdamWSr, Dtype::Bf16, Dtype::Bf16),
    (Method::AdamW8bit, Dtype::F32, Dtype::F32),
    (Method::AdamW8bit, Dtype::Bf16, Dtype::Bf16),
    (MUON, Dtype::F32, Dtype::F32),
    (MUON, Dtype::Bf16, Dtype::Bf16),
];

#[derive(Deserialize)]
struct Golden {
    adamw_8bit: EightBit,
    muon: Vec<MuonCase>,
}

#[derive(Deserialize)]
struct EightBit {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    decay: f64,
    clip: f64,
    seed: u64,
    decays: Vec<u8>,
    parameter: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    f32: State,
    bf16: State,
}

#[derive(Deserialize, PartialEq, Debug)]
struct State {
    parameter: Vec<f32>,
    first: Vec<u8>,
    second: Vec<u8>,
    first_scale: Vec<f32>,
    second_scale: Vec<f32>,
}

#[derive(Deserialize)]
struct MuonCase {
    lr: f64,
    momentum: f64,
    decay: f64,
    clip: f64,
    rows: usize,
    parameter: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    after: Vec<f32>,
    momentum_after: Vec<f32>,
}

fn golden() -> Golden {
    let text = fs::read_to_string(root().join("tests/golden/optimizers.json")).expect("optimizers.json");
    serde_json::from_str(&text).expect("optimizers.json")
}

/// One tensor on a device.
struct Tensor {
    layout: Layout,
    arena: Arena,
}

impl Tensor {
    fn new(dev: &Device, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
        let mut layout = Layout::new();
        layout.buffer("tensor", dtype, rows, cols);
        let arena = Arena::new(dev, "a test", &layout).unwrap();
        Tensor { layout, arena }
    }
    fn of(dev: &Device, dtype: Dtype, rows: usize, data: &[f32]) -> Tensor {
        let tensor = Tensor::new(dev, dtype, rows, data.len() / rows);
        match dtype {
            Dtype::F32 => dev.write(tensor.view(), data),
            _ => dev.write(tensor.view(), &data.iter().map(|x| bf16::put(*x)).collect::<Vec<_>>()),
        }
        tensor
    }
    fn view(&self) -> View<'_> {
        self.arena.at(&self.layout.slots()[0])
    }
    fn floats(&self, dev: &Device) -> Vec<f32> {
        match self.view().dtype() {
            Dtype::F32 => dev.read(self.view()).unwrap(),
            _ => dev.read::<bf16>(self.view()).unwrap().into_iter().map(|x| x.get()).collect(),
        }
    }
}

/// The codes, the scales and the parameters, to the bit.
#[test]
fn eight_bit_adamw_is_the_scheme_that_is_documented() {
    let golden = golden().adamw_8bit;
    for (name, dev) in devices() {
        for (dtype, want) in [(Dtype::F32, &golden.f32), (Dtype::Bf16, &golden.bf16)] {
            let (n, stretches) = (golden.parameter.len(), golden.decays.len());
            let p = Tensor::of(&dev, dtype, 1, &golden.parameter);
            let [first, second] = [(); 2].map(|()| Tensor::new(&dev, Dtype::U8, 1, n));
            let [first_scale, second_scale] = [(); 2].map(|()| Tensor::new(&dev, Dtype::F32, 1, stretches));
            let decays = Tensor::new(&dev, Dtype::U8, 1, stretches);
            dev.write(decays.view(), &golden.decays);
            for (step, g) in (1..).zip(&golden.gradients) {
                let EightBit { lr, beta1, beta2, eps, decay, clip, seed, .. } = golden;
                let hp = AdamW { lr, beta1, beta2, eps, decay, step, clip, seed };
                let g = Tensor::of(&dev, Dtype::F32, 1, g);
                let [m, v, ms, vs] = [&first, &second, &first_scale, &second_scale].map(Tensor::view);
                adamw_8bit(&dev, &hp, p.view(), m, v, ms, vs, g.view(), decays.view());
            }
            let got = State {
                parameter: p.floats(&dev),
                first: dev.read(first.view()).unwrap(),
                second: dev.read(second.view()).unwrap(),
                first_scale: first_scale.floats(&dev),
                second_scale: second_scale.floats(&dev),
            };
            assert_eq!(&got, want, "{dtype} on {name}");
        }
    }
}

#[test]
fn muon_follows_torch() {
    for (name, dev) in devices() {
        for case in golden().muon {
            let (rows, cols) = (case.rows, case.parameter.len() / case.rows);
            let [p, m] =
                [Tensor::of(&dev, Dtype::F32, rows, &case.parameter), Tensor::new(&dev, Dtype::F32, rows, cols)];
            let [x, y] = [(); 2].map(|()| Tensor::new(&dev, Dtype::F32, rows, cols));
            let n = rows.min(cols);
            let [gram, poly] = [(); 2].map(|()| Tensor::new(&dev, Dtype::F32, n, n));
            let (partials, sum) =
                (Tensor::new(&dev, Dtype::F64, 1, blocks(rows * cols)), Tensor::new(&dev, Dtype::F64, 1, 1));
            for (step, g) in (1..).zip(&case.gradients) {
                let MuonCase { lr, momentum, decay, clip, .. } = case;
                let hp = Muon { lr, momentum, decay, clip, step, seed: 0 };
                let [x, y, gram, poly, partials, sum] = [&x, &y, &gram, &poly, &partials, &sum].map(Tensor::view);
                let g = Tensor::of(&dev, Dtype::F32, rows, g);
                muon(&dev, &hp, p.view(), m.view(), g.view(), MuonScratch { x, y, gram, poly, partials, sum }, 0);
            }
            let apart =
                |got: &[f32], want: &[f32]| got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let (moved, averaged) = (apart(&p.floats(&dev), &case.after), apart(&m.floats(&dev), &case.momentum_after));
            assert!(moved < 2e-6 && averaged < 1e-6, "{rows} x {cols} on {name}: {moved} {averaged}");
        }
    }
}

fn trainer(form: (Method, Dtype, Dtype), dev: &Device, steps: usize) -> (Trainer<'_>, Trained) {
    let (method, weights, gradients) = form;
    let settings = Settings { method, gradients, weight_decay: 0.1, clip: 1.0, seed: 3, ..Settings::ADAMW };
    let model = Model::random(model(Family::Llama, HeadKind::LanguageModel).config, weights, 4).unwrap();
    trainer_after(settings, model, dev, shape(500, Keep::Costly), steps, |step| Stage::Verdict.items(step))
}

fn train(form: (Method, Dtype, Dtype), dev: &Device, steps: usize) -> Trained {
    trainer(form, dev, steps).1
}

#[test]
fn all_forms_learn_with_the_same_bits_on_any_threads() {
    for form in FORMS {
        let one = train(form, &Device::cpu(1), 12);
        assert!(
            one.losses[9..].iter().sum::<f64>() < 0.9 * one.losses[..3].iter().sum::<f64>(),
            "{form:?}: {:?}",
            one.losses
        );
        assert_eq!(one, train(form, &Device::cpu(2), 12), "{form:?}");
    }
}

/// What an optimizer keeps, as a checkpoint holds it, by file and tensor: numbers; codes of one byte as those that they are, signed
/// where they are of first moments.
pub fn states(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    let dir = tempfile::tempdir().unwrap();
    trainer.optimizer.save(dir.path()).unwrap();
    let mut found = BTreeMap::new();
    for file in fs::read_dir(dir.path().join("optimizer")).unwrap() {
        let path = file.unwrap().path();
        let (part, bytes) = (path.file_stem().unwrap().to_str().unwrap().to_string(), fs::read(&path).unwrap());
        for (name, tensor) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
            let data = tensor.data();
            let numbers = match tensor.dtype() {
                safetensors::Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                safetensors::Dtype::U8 if part == "first_moments" => data.iter().map(|c| f32::from(*c as i8)).collect(),
                safetensors::Dtype::U8 => data.iter().map(|c| f32::from(*c)).collect(),
                other => panic!("{part} {name} is {other:?}"),
            };
            found.insert(format!("{part} {name}"), numbers);
        }
    }
    found
}

#[test]
fn all_forms_agree_on_gpus() {
    agree("optimizers on a GPU", |check| {
        for form in FORMS {
            let cpu = Device::cpu(2);
            let (there, want) = trainer(form, &cpu, 2);
            let kept = states(&there);
            for (name, dev) in gpus() {
                let (here, got) = trainer(form, &dev, 2);
                let exact = form.1 == Dtype::F32 && form.0 != Method::AdamW8bit;
                for k in 0..2 {
                    let class = if exact { GPU } else { GPU_ROUNDED };
                    check.value(class, format_args!("{form:?} loss {k} on {name}"), got.losses[k], want.losses[k]);
                }
                let found = states(&here);
                assert!(found.keys().eq(kept.keys()), "{form:?} on {name}");
                for (part, want) in &kept {
                    let (got, place) = (&found[part], format!("{form:?} {part} on {name}"));
                    let codes = form.0 == Method::AdamW8bit && !part.starts_with("moment_scales");
                    if form.1 == Dtype::Bf16 {
                        check.tensor(GPU_BF16_MAGNIFIED, place, got, want);
                    } else if codes {
                        // A moment that is not the same to the last bit may be rounded at random the other way.
                        let most = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(most <= 1.0, "{place}: codes {most} apart");
                    } else {
                        check.tensor(GPU_STATE, place, got, want);
                    }
                }
            }
        }
    });
}

/// Settings of a run for every set of files that a checkpoint may hold.
const RUNS: [&[&str]; 6] = [
    &["model.dtype=bf16"],
    &["model.dtype=bf16", "train.optimizer=adamw-sr"],
    &["train.optimizer=adamw-8bit"],
    &["model.dtype=bf16", "train.optimizer=adamw-8bit", "train.gradients=bf16"],
    &["train.optimizer=muon", "train.muon_rate=0.5"],
    &["model.dtype=bf16", "train.optimizer=muon"],
];

#[test]
fn every_optimizer_resumes_to_the_same_bytes() {
    for (i, settings) in RUNS.iter().enumerate() {
        let b = Bench::new();
        b.run_file();
        let args = [&["train", "run.toml"], *settings].concat();
        b.ok(&args);
        let last = b.path("run/checkpoint-000020");
        let read = || {
            let mut files: Vec<_> = fs::read_dir(last.join("optimizer")).unwrap().map(|f| f.unwrap().path()).collect();
            files.push(last.join("model.safetensors"));
            files.sort();
            files.into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect::<Vec<_>>()
        };
        let straight = read();
        fs::remove_dir_all(&last).unwrap();
        let said = b.ok(&args);
        assert!(said.contains("resumed at step 10"), "{said}");
        assert!(straight == read(), "{settings:?}: 20 steps are 10 and 10");
        // Another optimizer's state is no beginning.
        let other = RUNS[(i + 2) % RUNS.len()];
        let mixed = [&["train", "run.toml", "train.steps=30"], other].concat();
        b.fails(&mixed, 1, &["optimizer", "train.optimizer", "model.path"]);
    }
}

#[test]
fn a_model_of_eight_billion_parameters_fits_one_gpu() {
    let b = Bench::new();
    let lean =
        ["plan", "--family", "llama-3.1-8b", "--memory", "141", "model.dtype=bf16", "train.optimizer=adamw-8bit"];
    let plan = b.ok(&[&lean[..], &["train.gradients=bf16", "train.recompute=layer"]].concat());
    assert!(plan.contains("6.03 bytes a parameter") && plan.contains("largest micro-batch"), "{plan}");
    assert!(plan.contains("48.43 GB  ") && plan.contains("8030261248 parameters"), "{plan}");
    b.fails(&["plan", "--family", "llama-3.1-8b", "--memory", "141", "model.dtype=bf16"], 1, &["adamw-8bit"]);
    b.fails(&["plan", "--family", "llama-3.1-8b", "run.toml"], 2, &["run.toml", "--family"]);
    b.fails(&["plan", "--family", "no-such", "--memory", "1"], 2, &["no-such"]);
    b.fails(&["plan", "--memory", "lots", "--family", "llama-3.1-8b"], 2, &["--memory"]);
    b.run_file();
    b.fails(&["train", "run.toml", "train.optimizer=adamw-sr", "model.dtype=f32"], 2, &["adamw-sr", "bf16"]);
    b.fails(&["plan", "run.toml", "train.gradients=bf16", "model.dtype=f32"], 2, &["train.gradients", "bf16"]);
}
