//! Adapter directories: round trips, what is refused, merging.

use super::merge::merge;
use super::peft::Targets;
use super::*;
use crate::device::Slot;
use crate::error::Kind;
use crate::model::config::Family;
use crate::model::weights::copy_sidecars;
use std::fs;
use tempfile::TempDir;

fn peft(score: bool) -> Peft {
    Peft {
        rank: 4,
        alpha: 6.0,
        rslora: false,
        targets: Targets::AllLinear,
        rank_pattern: vec![("k_proj".into(), 2)],
        alpha_pattern: Vec::new(),
        score,
        dropout: 0.0,
        head: None,
        base: None,
        source: Default::default(),
    }
}

/// A base on disk.
fn base(family: Family, head: HeadKind, dtype: Dtype, seed: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { head, ..Config::tiny(family) };
    Model::random(config, dtype, seed).unwrap().save(dir.path()).unwrap();
    dir
}

/// An adapter of a base on disk whose second halves are not zero.
fn trained(base: &Path, dtype: Dtype, score: bool) -> (Model, TempDir) {
    let head = score.then_some(HeadKind::Scalar);
    let (model, _) = Model::open_base(base, |_| dtype, head, 1).unwrap();
    let model = model.adapted(&Device::cpu(1), peft(score), Start::New { seed: 2 }).unwrap();
    let (layout, weights) = model.trained();
    let drawn = weights::init(&stirred(layout), 9).unwrap();
    for slot in layout.slots() {
        weights.at(slot).copy_bytes(&drawn.fetch(slot).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    (model, dir)
}

/// The same tensors, none of which starts at zero.
fn stirred(layout: &Layout) -> Layout {
    let mut stirred = Layout::of(layout.part());
    for slot in layout.slots() {
        stirred.matrix(slot.name.clone(), slot.dtype, slot.rows, slot.cols, crate::device::Init::Normal(0.3));
    }
    stirred
}

fn bytes(model: &Model, slots: &[Slot]) -> Vec<Vec<u8>> {
    slots.iter().map(|slot| model.fetch(slot).unwrap().into_owned()).collect()
}

fn open_again(base: &Path, adapter: &Path, dtype: Dtype) -> Result<Model> {
    let peft = Peft::open(adapter)?;
    let (model, _) = Model::open_base(base, |_| dtype, peft.head, 7)?;
    model.adapted(&Device::cpu(1), peft, Start::From(adapter))
}

#[test]
fn what_is_saved_opens_with_the_same_bits() {
    for (head, score) in [(HeadKind::LanguageModel, false), (HeadKind::Scalar, true), (HeadKind::LanguageModel, true)] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let base = base(Family::Qwen3, head, dtype, 1);
            let (model, dir) = trained(base.path(), dtype, score);
            let again = open_again(base.path(), dir.path(), dtype).unwrap();
            let slots = model.trained().0.slots();
            assert!(bytes(&model, slots) == bytes(&again, again.trained().0.slots()));
            assert_eq!(again.config.head, if score { HeadKind::Scalar } else { HeadKind::LanguageModel });
            assert_eq!(slots.iter().any(|s| s.name == SCORE), score);
        }
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_shares_its_base() {
    let base = base(Family::Llama, HeadKind::Scalar, Dtype::F32, 1);
    let (model, _) = Model::open_base(base.path(), |d| d, None, 0).unwrap();
    let adapted = model.adapted(&Device::cpu(1), peft(true), Start::New { seed: 1 }).unwrap();
    assert!(std::sync::Arc::ptr_eq(&model.weights, &adapted.weights));
    let row = adapted.params.score_head.as_ref().unwrap();
    assert_eq!(row.name, SCORE);
    assert!(adapted.fetch(row).unwrap() == model.fetch(model.params.score_head.as_ref().unwrap()).unwrap());
    for slot in adapted.trained().0.slots().iter().filter(|s| s.name.contains("lora_")) {
        let zero = adapted.fetch(slot).unwrap().iter().all(|b| *b == 0);
        assert_eq!(zero, slot.name.contains("lora_B"), "{}", slot.name);
    }
}

#[test]
fn adapters_of_other_bases_are_refused() {
    let own = base(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32, 1);
    let (_, dir) = trained(own.path(), Dtype::F32, false);
    let refused = |base: &Path| {
        let Err(error) = open_again(base, dir.path(), Dtype::F32) else { panic!("{} was taken", base.display()) };
        assert_eq!(error.kind(), Kind::Model);
        error.to_string()
    };
    let other = base(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32, 2);
    assert!(refused(other.path()).contains("trained beside other weights"));
    let narrow = tempfile::tempdir().unwrap();
    let config = Config { ffn: 8, ..Config::tiny(Family::Qwen3) };
    Model::random(config, Dtype::F32, 1).unwrap().save(narrow.path()).unwrap();
    let said = refused(narrow.path());
    assert!(said.contains("mlp.gate_proj.lora_B") && said.contains("[8, 4]"), "{said}");
    let deep = tempfile::tempdir().unwrap();
    let config = Config { layers: 3, ..Config::tiny(Family::Qwen3) };
    Model::random(config, Dtype::F32, 1).unwrap().save(deep.path()).unwrap();
    let said = refused(deep.path());
    assert!(said.contains("layers.2.") && said.contains("missing"), "{said}");
    let shallow = tempfile::tempdir().unwrap();
    let config = Config { layers: 1, ..Config::tiny(Family::Qwen3) };
    Model::random(config, Dtype::F32, 1).unwrap().save(shallow.path()).unwrap();
    assert!(refused(shallow.path()).contains("layers.1."), "{}", refused(shallow.path()));
    let scalar = base(Family::Qwen3, HeadKind::Scalar, Dtype::F32, 1);
    assert!(refused(scalar.path()).contains("scalar head"), "{}", refused(scalar.path()));
    let llama = base(Family::Llama, HeadKind::LanguageModel, Dtype::F32, 1);
    assert!(refused(llama.path()).contains("other weights") || refused(llama.path()).contains("shape"));
    // Neither another storage type nor another place makes it another base.
    let narrower = tempfile::tempdir().unwrap();
    Model::open(own.path(), |_| Dtype::Bf16).unwrap().save(narrower.path()).unwrap();
    copy_sidecars(own.path(), narrower.path()).unwrap();
    open_again(narrower.path(), dir.path(), Dtype::F32).unwrap();
}

#[test]
fn what_a_config_says_of_its_base_is_checked() {
    let base = base(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32, 1);
    let (model, _) = Model::open_base(base.path(), |d| d, None, 0).unwrap();
    let dev = Device::cpu(1);
    let new = |peft: Peft| model.adapted(&dev, peft, Start::New { seed: 1 }).err().map(|e| e.to_string());
    let source: serde_json::Value = serde_json::json!({"auto_mapping": {"base_model_class": "LlamaForCausalLM"}});
    let foreign = Peft { source: source.as_object().unwrap().clone(), ..peft(false) };
    assert!(new(foreign).unwrap().contains("LlamaForCausalLM"));
    let other = self::base(Family::Llama, HeadKind::LanguageModel, Dtype::F32, 1);
    let named = |dir: &Path| Peft { base: Some(dir.display().to_string()), ..peft(false) };
    let said = new(named(other.path())).unwrap();
    assert!(said.contains("llama, 2 layers") && said.contains("qwen3, 2 layers"), "{said}");
    assert_eq!(new(named(base.path())), None);
    assert_eq!(new(named(Path::new("Qwen/Qwen3-0.6B"))), None, "a name of the hub says nothing that can be checked");
}

#[test]
fn damaged_adapters_are_named() {
    let base = base(Family::Qwen3, HeadKind::LanguageModel, Dtype::F32, 1);
    let (_, dir) = trained(base.path(), Dtype::F32, false);
    let refused = || open_again(base.path(), dir.path(), Dtype::F32).err().expect("damaged").to_string();
    let path = dir.path().join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    for n in [0, 7, 100, whole.len() - 1] {
        fs::write(&path, &whole[..n]).unwrap();
        assert!(refused().contains(WEIGHTS), "{}", refused());
    }
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    assert!(refused().contains("convert adapter_model.bin"));
    fs::remove_file(dir.path().join(CONFIG)).unwrap();
    assert!(refused().contains("adapter_config.json is missing"));
    assert!(Peft::open(base.path()).unwrap_err().to_string().contains("a model, not an adapter"));
    let as_model = Model::open(dir.path(), |d| d).err().unwrap().to_string();
    assert!(as_model.contains("config.json is missing"), "{as_model}");
}

#[test]
fn merging_adds_the_product_and_rounds_once() {
    for stored in [Dtype::F32, Dtype::Bf16] {
        let base = base(Family::Qwen3, HeadKind::LanguageModel, stored, 1);
        let (_, dir) = trained(base.path(), Dtype::F32, true);
        let merged = merge(base.path(), dir.path(), |d| d).unwrap();
        assert_eq!((merged.dtype, merged.config.head), (stored, HeadKind::Scalar));
        let adapted = open_again(base.path(), dir.path(), Dtype::F32).unwrap();
        let exact = |x: f64| match stored {
            Dtype::Bf16 => bf16::from_f32(x as f32).to_f32() as f64,
            _ => x as f32 as f64,
        };
        for (i, layer) in adapted.params.layers.iter().enumerate() {
            for projection in crate::model::lora::Projection::ALL {
                let (linear, low) = (layer.projection(projection), layer.projection(projection).low.as_ref().unwrap());
                let pair = adapted.adapter.as_ref().unwrap().shape.layers[i][projection as usize].unwrap();
                let (w, a, b) = (adapted.at(&linear.w), adapted.at(&low.a), adapted.at(&low.b));
                for row in 0..w.rows() {
                    let now = first(&Device::cpu(1), merged.at(&linear.w).rows_in(row..row + 1)).unwrap();
                    for (col, now) in now.into_iter().enumerate() {
                        let product = |r: usize| (b.row::<f32>(row)[r] as f64) * a.row::<f32>(r)[col] as f64;
                        let want =
                            w.row::<f32>(row)[col] as f64 + pair.scale * (0..pair.rank).map(product).sum::<f64>();
                        // One rounding: off by what a sum in f32 may be, or on the other side of a midpoint.
                        let ulp = if stored == Dtype::Bf16 { 1.0 / 128.0 } else { 1e-6 };
                        assert!((now as f64 - exact(want)).abs() <= ulp * want.abs().max(0.1), "{now} {want}");
                    }
                }
            }
        }
        let (own, row) = (adapted.params.score_head.as_ref().unwrap(), merged.params.score_head.as_ref().unwrap());
        let want: Vec<f32> = first(&Device::cpu(1), adapted.at(own)).unwrap();
        let want: Vec<f32> = want.into_iter().map(|x| exact(x as f64) as f32).collect();
        assert_eq!(first(&Device::cpu(1), merged.at(row)).unwrap(), want);
        // It is a model of its own.
        let out = tempfile::tempdir().unwrap();
        merged.save(out.path()).unwrap();
        assert_eq!(Model::open(out.path(), |d| d).unwrap().config.head, HeadKind::Scalar);
    }
}
