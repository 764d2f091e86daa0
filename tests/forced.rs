//! Teacher-forced: what a bf16 model says of whole texts on a GPU is what it says on the CPU, up to rounding, at every token: read at
//! once, and decoded from pages of keys and values.

use crate::devices::gpus;
use crate::golden::read;
use crate::invariance::{CONTEXT, texts};
use crate::tolerance::{GPU_BF16, agree};
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::model::Model;
use gramophone::model::acts::{Acts, Capacity, Keep};
use gramophone::model::cache::{Cache, CacheShape, PAGE, PageList};
use gramophone::model::config::{Config, Family, preset};
use gramophone::model::forward::{Attend, Extent, forward};
use gramophone::model::head::Head;

/// A model of bf16 weights with heads of 64 elements and matrices wide enough for the kernels of every GPU.
pub fn wide(family: Family) -> Model {
    let shape = preset::Shape {
        vocab: Some(300),
        width: Some(128),
        layers: Some(2),
        heads: Some(4),
        kv_heads: Some(2),
        head_size: Some(64),
        ffn: Some(192),
        max_positions: Some(1000),
        init_std: Some(0.1),
        ..Default::default()
    };
    Model::random(Config::family_shape(family, &shape).unwrap(), Dtype::Bf16, 4).unwrap()
}

/// Texts whose prompts end around the edges of pages, and how long these are.
const PROMPTS: [usize; 4] = [1, PAGE - 1, PAGE, PAGE + 1];
/// Tokens that follow.
const STEPS: usize = 6;

/// The logits of every token after the prompts, decoded together: step by step, text by text.
fn decode(dev: &Device, model: &Model, texts: &[Vec<i32>]) -> Vec<f32> {
    let (count, tokens) = (PROMPTS.len(), PROMPTS.iter().sum());
    let keep = Keep::Nothing;
    let capacity = Capacity { tokens, sequences: count, rows: count, positions: CONTEXT, keep, ranks: model.ranks() };
    let acts = Acts::new(dev, &model.config, model.dtype, capacity).unwrap();
    let pages = count * CONTEXT.div_ceil(PAGE);
    let shape = CacheShape { pages, sequences: count, tokens: CONTEXT, prefill: tokens };
    let cache = Cache::new(dev, &model.config, model.dtype, shape).unwrap();
    let mut list = PageList::new(pages);
    let pages: Vec<Vec<u32>> = PROMPTS.map(|len| list.take(len + STEPS).unwrap()).to_vec();
    let i = &acts.inputs;
    let run = |ids: &[i32], positions: &[i32], starts: &[i32], attend: Attend| {
        for (slot, data) in [(&i.ids, ids), (&i.positions, positions), (&i.starts, starts)] {
            dev.write(acts.at(slot).cols_in(0..data.len()), data);
        }
        let extent = Extent { tokens: ids.len(), sequences: count };
        forward(dev, model, &acts, extent, attend);
        extent
    };
    let places = |more: usize| -> Vec<(&[u32], usize)> {
        pages.iter().zip(PROMPTS).map(|(pages, len)| (pages.as_slice(), len + more)).collect()
    };
    let prompts: Vec<i32> = texts.iter().zip(PROMPTS).flat_map(|(text, len)| text[..len].to_vec()).collect();
    let positions: Vec<i32> = PROMPTS.iter().flat_map(|len| 0..*len as i32).collect();
    let starts: Vec<i32> = (0..=count).map(|n| PROMPTS[..n].iter().sum::<usize>() as i32).collect();
    cache.set_prefill(dev, &places(0));
    run(&prompts, &positions, &starts, Attend::Prefill(&cache));
    dev.write(acts.at(&i.rows), &(0..count as i32).collect::<Vec<_>>());
    let mut logits = Vec::new();
    for step in 0..STEPS {
        let next: Vec<i32> = texts.iter().zip(PROMPTS).map(|(text, len)| text[len + step]).collect();
        let positions: Vec<i32> = PROMPTS.iter().map(|len| (len + step) as i32).collect();
        cache.set_decode(dev, &places(step + 1), count);
        let extent = run(&next, &positions, &[], Attend::Decode(&cache));
        logits.extend(dev.read::<f32>(Head::gather(dev, model, &acts, extent, count).logits()).unwrap());
    }
    logits
}

#[test]
fn bf16_logits_of_forced_texts_are_those_of_the_cpu() {
    let all: Vec<Vec<i32>> = texts(40, 6).into_iter().filter(|t| t.len() >= PAGE + 1 + STEPS).take(4).collect();
    assert_eq!(all.len(), PROMPTS.len());
    agree("bf16 logits of forced texts", |check| {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let logits = |dev: &Device| {
                let model = wide(family).on(dev).unwrap();
                let sequences: Vec<&[i32]> = all.iter().map(Vec::as_slice).collect();
                let whole: Vec<Vec<f32>> = read(dev, &model, &sequences).iter().map(|r| r.logits.concat()).collect();
                (whole, decode(dev, &model, &all))
            };
            let (whole, decoded) = logits(&Device::cpu(2));
            for (name, dev) in gpus() {
                let (there, decoded_there) = logits(&dev);
                for (i, (got, want)) in there.iter().zip(&whole).enumerate() {
                    check.tensor(GPU_BF16, format_args!("{family:?} text {i} read on {name}"), got, want);
                }
                let row = PROMPTS.len() * 300;
                for (i, (got, want)) in decoded_there.chunks(row).zip(decoded.chunks(row)).enumerate() {
                    check.tensor(GPU_BF16, format_args!("{family:?} step {i} of decoding on {name}"), got, want);
                }
            }
        }
    });
}
