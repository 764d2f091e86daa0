//! The whole model against finite differences in f64, for every head, family feature and recompute policy, trained whole and
//! through an adapter.

use super::Model;
use super::acts::{Acts, Capacity, Keep};
use super::adapter::Start;
use super::adapter::peft::{Peft, Targets};
use super::config::preset::{Shape, presets};
use super::config::{Config, Family, HeadKind};
use super::forward::{Attend, Extent, forward};
use super::head::Head;
use super::params::{Linear, Params};
use crate::base::dtype::Dtype;
use crate::base::rng::{Rng, Stream};
use crate::device::{Arena, Device, Slot};
use crate::ops::Heads;

/// Two packed sequences of 5 and 3 tokens; the head reads three rows.
const IDS: [i32; 8] = [3, 1, 4, 1, 5, 9, 2, 6];
const POSITIONS: [i32; 8] = [0, 1, 2, 3, 4, 0, 1, 2];
const STARTS: [i32; 3] = [0, 5, 8];
const ROWS: [i32; 3] = [4, 2, 7];
const EXTENT: Extent = Extent { tokens: 8, sequences: 2 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Vocab,
    Verdict,
    Score,
}

struct Case {
    dev: Device,
    model: Model,
    acts: Acts,
    loss: Loss,
}

impl Case {
    fn new(config: Config, loss: Loss, keep: Keep) -> Case {
        Case::of(random(config), loss, keep)
    }

    /// With an adapter whose pairs have several ranks and a scale that is no power of two.
    fn adapted(config: Config, targets: Targets, loss: Loss, keep: Keep) -> Case {
        Case::of(adapted(random(config), targets), loss, keep)
    }

    fn of(model: Model, loss: Loss, keep: Keep) -> Case {
        let dev = Device::cpu(1);
        let capacity = Capacity { tokens: 8, sequences: 2, rows: 3, positions: 8, keep, ranks: model.ranks() };
        let acts = Acts::new(&Device::cpu(1), &model.config, Dtype::F64, capacity).unwrap();
        let i = &acts.inputs;
        for (slot, data) in [(&i.ids, &IDS[..]), (&i.positions, &POSITIONS), (&i.starts, &STARTS), (&i.rows, &ROWS)] {
            dev.write(acts.at(slot), data);
        }
        let (targets, others): ([i32; 3], [i32; 3]) = match loss {
            Loss::Vocab => ([7, 0, 3], [0; 3]),
            Loss::Verdict => ([1, 0, 1], [0; 3]),
            Loss::Score => ([0, 2, 1], [1, 0, 2]),
        };
        dev.write(acts.at(&i.targets), &targets);
        dev.write(acts.at(&i.others), &others);
        dev.write(acts.at(&i.weights), &[0.5f64, 0.2, 0.9]);
        dev.write(acts.at(&i.smoothing), &[0.05f64, 0.1, 0.0]);
        Case { dev, model, acts, loss }
    }

    fn head(&self) -> Head<'_> {
        forward(&self.dev, &self.model, &self.acts, EXTENT, Attend::Packed);
        Head::gather(&self.dev, &self.model, &self.acts, EXTENT, ROWS.len())
    }

    fn loss(&self) -> f64 {
        let head = self.head();
        match self.loss {
            Loss::Vocab => head.vocab_loss(),
            Loss::Verdict => {
                head.verdict([2, 7]);
                head.verdict_loss();
            }
            Loss::Score => {
                head.score();
                head.score_loss(3);
            }
        }
        let nll = self.dev.read::<f64>(self.acts.at(&self.acts.head.nll)).unwrap();
        let weights = self.dev.read::<f64>(self.acts.at(&self.acts.inputs.weights)).unwrap();
        nll.iter().zip(weights).map(|(l, w)| l * w).sum()
    }

    fn gradients(&self) -> Arena {
        let grads = Arena::new(&Device::cpu(1), "gradients", self.model.trained().0).unwrap();
        let head = self.head();
        match self.loss {
            Loss::Vocab => head.vocab_step(&grads),
            Loss::Verdict => {
                head.verdict([2, 7]);
                head.verdict_loss();
                head.verdict_bwd(&grads, [2, 7]);
            }
            Loss::Score => {
                head.score();
                head.score_loss(3);
                head.score_bwd(&grads);
            }
        }
        super::backward::backward(&self.dev, &self.model, &grads, &self.acts, EXTENT);
        grads
    }

    /// Up to eight coordinates of everything that is trained, those of used embedding rows included.
    fn check(&self) {
        let grads = self.gradients();
        for slot in self.model.trained().0.slots() {
            let (w, g) = (self.model.at(slot).slice_mut::<f64>(), grads.at(slot).slice::<f64>().to_vec());
            let step = (w.len() / 8).max(1);
            for i in (0..w.len()).step_by(step) {
                let (at, h) = (w[i], 1e-5);
                w[i] = at + h;
                let up = self.loss();
                w[i] = at - h;
                let down = self.loss();
                w[i] = at;
                let numeric = (up - down) / (2.0 * h);
                let error = (numeric - g[i]).abs() / numeric.abs().max(1e-2);
                assert!(error < 1e-5, "{:?} {}[{i}]: analytic {} numeric {numeric}", self.loss, slot.name, g[i]);
            }
        }
    }
}

/// A model whose norms and biases are not ones and zeros.
fn random(config: Config) -> Model {
    let model = Model::random(config, Dtype::F64, 11).unwrap();
    stir(&model, model.layout.slots().iter().filter(|s| s.vector));
    model
}

fn stir<'s>(model: &Model, slots: impl Iterator<Item = &'s Slot>) {
    let rng = Rng::new(5, Stream::Test, 0);
    for slot in slots {
        for (i, w) in model.at(slot).slice_mut::<f64>().iter_mut().enumerate() {
            *w += 0.3 * rng.normal((slot.index * 1000 + i) as u64);
        }
    }
}

fn adapted(base: Model, targets: Targets) -> Model {
    let peft = Peft {
        rank: 3,
        alpha: 5.0,
        rslora: true,
        targets,
        rank_pattern: vec![("v_proj".into(), 2), ("1.mlp.down_proj".into(), 4)],
        alpha_pattern: vec![("o_proj".into(), 1.0)],
        score: base.config.head == HeadKind::Scalar,
        dropout: 0.0,
        head: None,
        base: None,
        source: Default::default(),
    };
    let model = base.adapted(&Device::cpu(1), peft, Start::New { seed: 3 }).unwrap();
    // Else the second halves are zero, and with them the gradients of the first.
    stir(&model, model.trained().0.slots().iter());
    model
}

fn config(family: Family, head: HeadKind) -> Config {
    let heads = Heads { query: 4, kv: 2, size: if family == Family::Qwen3 { 6 } else { 4 } };
    Config {
        family,
        head,
        vocab: 11,
        width: 16,
        layers: 2,
        heads,
        ffn: 10,
        norm_eps: 1e-6,
        rope_theta: 1e4,
        rope_scaling: None,
        max_positions: 32,
        tied: false,
        qkv_bias: family == Family::Qwen2,
        o_bias: false,
        mlp_bias: false,
        qk_norm: family == Family::Qwen3,
        dtype: Dtype::F32,
        bos: None,
        eos: vec![],
        pad: None,
        init_std: 0.2,
        source: Default::default(),
    }
}

#[test]
fn gradients_of_every_head_and_family() {
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        for loss in [Loss::Vocab, Loss::Verdict, Loss::Score] {
            let head = if loss == Loss::Score { HeadKind::Scalar } else { HeadKind::LanguageModel };
            for tied in [false, true] {
                let mut c = config(family, head);
                c.tied = tied;
                Case::new(c, loss, Keep::All).check();
            }
        }
    }
}

#[test]
fn gradients_with_biases_everywhere() {
    let mut c = config(Family::Llama, HeadKind::LanguageModel);
    (c.qkv_bias, c.o_bias, c.mlp_bias) = (true, true, true);
    Case::new(c, Loss::Vocab, Keep::All).check();
}

#[test]
fn gradients_of_an_adapter() {
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        for loss in [Loss::Vocab, Loss::Verdict, Loss::Score] {
            let head = if loss == Loss::Score { HeadKind::Scalar } else { HeadKind::LanguageModel };
            let mut c = config(family, head);
            (c.tied, c.mlp_bias) = (loss == Loss::Verdict, family == Family::Llama);
            Case::adapted(c, Targets::AllLinear, loss, Keep::All).check();
        }
    }
    let some = Targets::Names(vec!["v_proj".into(), "1.self_attn.q_proj".into(), "gate_proj".into()]);
    Case::adapted(config(Family::Qwen3, HeadKind::LanguageModel), some, Loss::Vocab, Keep::Costly).check();
}

/// Sizes with which the projections of one input are one product, as real models' are; those above are too small for it.
fn joined(family: Family) -> Config {
    let heads = Heads { query: 16, kv: 8, size: 32 };
    Config { width: 32, ffn: 256, heads, ..config(family, HeadKind::LanguageModel) }
}

#[test]
fn gradients_of_projections_that_are_one_product() {
    for (family, biases) in [(Family::Llama, false), (Family::Qwen3, true)] {
        let mut c = joined(family);
        (c.qkv_bias, c.mlp_bias) = (biases, biases);
        let case = Case::new(c.clone(), Loss::Vocab, Keep::All);
        let (grads, layer) =
            (Arena::new(&case.dev, "gradients", case.model.trained().0).unwrap(), &case.model.params.layers[1]);
        let qkv = Linear::joined([&layer.q, &layer.k, &layer.v], |slots| case.model.joined(&slots));
        let gate_up = Linear::joined([&layer.gate, &layer.up], |slots| case.model.joined(&slots));
        for whole in [qkv, gate_up] {
            assert_eq!(whole.map(|(_, b)| b.is_some()), Some(biases));
        }
        assert!(Linear::joined([&layer.q, &layer.k, &layer.v], |slots| grads.joined(&slots)).is_some());
        case.check();
        Case::adapted(c, Targets::AllLinear, Loss::Vocab, Keep::All).check();
    }
}

/// Of every published shape; but the smallest Qwen2.5 has 128 biases of keys, and the next tensor begins at a multiple of 256.
#[test]
fn projections_of_real_models_are_one_product() {
    for name in presets() {
        let c = Config::preset(name, &Shape::default()).unwrap();
        let (_, params) = Params::layout(&c, Dtype::Bf16);
        for layer in &params.layers {
            for linears in [&[&layer.q, &layer.k, &layer.v][..], &[&layer.gate, &layer.up]] {
                for pair in linears.windows(2) {
                    assert_eq!(pair[0].w.first() + pair[0].w.len(), pair[1].w.first(), "{name}: {}", pair[1].w.name);
                    if let (Some(a), Some(b)) = (&pair[0].b, &pair[1].b)
                        && name != "qwen2.5-0.5b"
                    {
                        assert_eq!(a.first() + a.len(), b.first(), "{name}: {}", b.name);
                    }
                }
            }
        }
    }
}

/// Both ways of training, over the same families.
fn cases(keep: Keep) -> [Case; 6] {
    let c = |family| config(family, HeadKind::LanguageModel);
    [
        Case::new(joined(Family::Qwen3), Loss::Vocab, keep),
        Case::adapted(joined(Family::Llama), Targets::AllLinear, Loss::Vocab, keep),
        Case::new(c(Family::Llama), Loss::Vocab, keep),
        Case::new(c(Family::Qwen3), Loss::Vocab, keep),
        Case::adapted(c(Family::Llama), Targets::AllLinear, Loss::Vocab, keep),
        Case::adapted(c(Family::Qwen3), Targets::AllLinear, Loss::Vocab, keep),
    ]
}

#[test]
fn recompute_policies_give_the_same_bits() {
    let of = |keep| {
        cases(keep).map(|case| {
            let grads = case.gradients();
            let bits = |s| grads.at(s).slice::<f64>().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            case.model.trained().0.slots().iter().map(bits).collect::<Vec<_>>()
        })
    };
    let all = of(Keep::All);
    assert_eq!(all, of(Keep::Costly));
    assert_eq!(all, of(Keep::Doors));
}

#[test]
fn inference_activations_give_the_same_bits_as_training_ones() {
    let of = |keep| cases(keep).map(|case| case.loss().to_bits());
    assert_eq!(of(Keep::All), of(Keep::Nothing));
}

/// An adapter in its pairs and one that was multiplied out are the same function.
#[test]
fn a_pair_is_a_change_of_the_weight_beside_it() {
    let c = config(Family::Qwen3, HeadKind::LanguageModel);
    let case = Case::adapted(c.clone(), Targets::AllLinear, Loss::Vocab, Keep::Nothing);
    let adapter = case.model.adapter.as_ref().unwrap();
    let merged = random(c);
    for (i, layer) in adapter.shape.layers.iter().enumerate() {
        for (projection, pair) in super::lora::Projection::ALL.into_iter().zip(layer) {
            let (linear, pair) = (case.model.params.layers[i].projection(projection), pair.unwrap());
            let (low, w) = (linear.low.as_ref().unwrap(), merged.at(&linear.w));
            let (a, b) = (case.model.at(&low.a), case.model.at(&low.b));
            for (row, w) in (0..w.rows()).flat_map(|n| w.row_mut::<f64>(n).iter_mut().enumerate().map(move |w| (n, w)))
            {
                let (col, w) = w;
                *w += pair.scale * (0..pair.rank).map(|r| b.row::<f64>(row)[r] * a.row::<f64>(r)[col]).sum::<f64>();
            }
        }
    }
    let (pairs, whole) = (case.loss(), Case::of(merged, Loss::Vocab, Keep::Nothing).loss());
    let without = Case::of(random(config(Family::Qwen3, HeadKind::LanguageModel)), Loss::Vocab, Keep::Nothing).loss();
    assert!((pairs - whole).abs() < 1e-12 && (pairs - without).abs() > 1e-2, "{pairs} {whole} {without}");
}
