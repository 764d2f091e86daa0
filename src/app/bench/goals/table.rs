//! The goals and the floors. Cases are named by the functions that name them where they are measured.

use super::{Answer, Beat, Floor, Goal, Whose};
use crate::app::bench::engine::{self, Passes};
use crate::app::bench::kernels::cases::products;
use crate::app::bench::kernels::{Sizes, names};
use crate::base::dtype::Dtype;

/// The type in which goals are measured.
const E: Dtype = Dtype::Bf16;
const SMALL: &str = "qwen3-1.7b";
const LARGE: &str = "llama-3.1-8b";

// Ways of the peers, as they call them.
const EAGER: Whose = Whose::Ways("eager", &["eager"]);
const COMPILED: Whose = Whose::Ways("torch.compile", &["compiled"]);
const CUDNN: Whose = Whose::Ways("cuDNN", &["cudnn", "cudnn expanded"]);
const FLASH: Whose = Whose::Ways("SDPA flash", &["flash"]);
const FLEX: Whose = Whose::Ways("flex", &["flex"]);
const SDPA: Whose = Whose::Ways("SDPA", &["cudnn", "flash", "efficient", "math"]);
const FLASHINFER: Whose = Whose::Ways("FlashInfer", &["flashinfer"]);
const FUSED: Whose = Whose::Ways("fused AdamW", &["fused"]);
const BITSANDBYTES: Whose = Whose::Ways("bitsandbytes", &["bitsandbytes"]);
const LIGER: Whose = Whose::Ways("Liger", &["liger"]);
const DEFAULT: Whose = Whose::Ways("default transformers", &["default"]);
const STATIC: Whose = Whose::Ways("compiled static cache", &["compiled"]);
const FLAT: Whose = Whose::Own("own, unshared");
const ALONE: Whose = Whose::Own("own, each for itself");

/// Ratios to others on the same cases.
fn same(id: &'static str, work: String, ours: Vec<String>, beats: &[(Whose, f64)], of_ceiling: Option<f64>) -> Goal {
    let beats = beats.iter().map(|(whose, ratio)| Beat { whose: *whose, cases: ours.clone(), ratio: *ratio }).collect();
    Goal { id, work, answer: Answer::Cases { ours, beats, of_ceiling } }
}

fn nothing(id: &'static str, work: &str, reason: &'static str) -> Goal {
    Goal { id, work: work.to_string(), answer: Answer::Nothing(reason) }
}

fn op(op: &str, shape: String) -> String {
    format!("{op} {shape}")
}

/// The forward products of a layer under this op's name.
fn products(name: &str, s: &Sizes) -> Vec<String> {
    products::forward(s).iter().map(|[m, n, k]| op(name, names::product(E, *m, *n, *k))).collect()
}

/// G1 to G15.
pub(super) fn goals(s: &Sizes, p: &Passes) -> Vec<Goal> {
    let mut all = kernels(s);
    all.extend(attention(s));
    all.extend(decoding(p));
    all.extend(scoring(p));
    all.extend(training(s, p));
    all.push(nothing(
        "G15",
        "what determinism costs",
        "the engine has no mode that gives it up for speed; that it holds is tested in the end-to-end step",
    ));
    // G1, G1b, G2, ...: by number, in the order of the lines otherwise.
    let number = |g: &Goal| g.id[1..].trim_end_matches(char::is_alphabetic).parse::<usize>().unwrap_or(0);
    all.sort_by_key(number);
    all
}

fn kernels(s: &Sizes) -> Vec<Goal> {
    let (m, d, f) = (products::rows(s), s.width, s.ffn);
    let rows = names::rows(E, s.tokens, d);
    let tail = op("qkv_tail", names::tokens(E, s.tokens, s.heads));
    vec![
        same(
            "G1",
            format!("matrix products of a layer, {m} rows"),
            products("gemm_nt", s),
            &[(EAGER, 1.02)],
            Some(0.97),
        ),
        same(
            "G1b",
            format!("feed-forward part with its residual, {m} rows"),
            vec![op("mlp_fwd", names::product(E, m, d, f))],
            &[(COMPILED, 1.10), (EAGER, 1.25)],
            Some(0.90),
        ),
        same(
            "G12",
            "RMSNorm forward (the residual is added in the product before it)".into(),
            vec![op("rmsnorm_fwd", rows.clone())],
            &[(COMPILED, 1.10), (EAGER, 3.0)],
            Some(0.92),
        ),
        same("G12", "RMSNorm backward".into(), vec![op("rmsnorm_bwd", rows)], &[(COMPILED, 1.3)], Some(0.85)),
        same("G12", "head norms, rotation, keys and values written".into(), vec![tail], &[(COMPILED, 1.2)], None),
    ]
}

fn attention(s: &Sizes) -> Vec<Goal> {
    let mut all = Vec::new();
    for (i, lengths) in s.sequences.iter().enumerate() {
        let alike = lengths.iter().all(|n| *n == lengths[0]);
        if !alike {
            continue;
        }
        let (work, shape) = (format!("S={}", lengths[0]), names::sequences(E, lengths, s.heads));
        let forward = vec![op("attention_fwd", shape.clone())];
        let (beats, of_ceiling): (&[_], _) = match i {
            0 => (&[(CUDNN, 1.08), (FLASH, 1.8), (FLEX, 1.5)], Some(0.76)),
            _ => (&[(CUDNN, 1.03)], None),
        };
        all.push(same("G2", format!("attention forward, {work}"), forward, beats, of_ceiling));
        if i == 0 {
            let work = format!("attention backward, {work}: deterministic, against defaults");
            all.push(same("G3", work, vec![op("attention_bwd", shape)], &[(CUDNN, 1.0)], Some(0.60)));
        }
    }
    let [b, len] = s.decode;
    all.push(same(
        "G4",
        format!("paged decoding, {b} x {len}"),
        vec![op("decode_fwd", names::decoding(E, s.decode, s.heads))],
        &[(SDPA, 4.0), (FLEX, 1.3), (FLASHINFER, 1.0)],
        Some(0.90),
    ));
    let [samples, prompt, _] = s.samples;
    let shape = names::samples(E, s.samples, s.heads);
    let answer = Answer::Cases {
        ours: vec![op("decode_shared", shape.clone())],
        beats: vec![Beat { whose: ALONE, cases: vec![op("decode_alone", shape)], ratio: 5.0 }],
        of_ceiling: Some(0.80),
    };
    all.push(Goal { id: "G5", work: format!("paged decoding, {samples} samples of a prompt of {prompt}"), answer });
    all
}

fn decoding(p: &Passes) -> Vec<Goal> {
    let one = |model| vec![engine::names::decode(model, E, 1, p.tokens)];
    vec![
        same("G6", format!("{LARGE}, batch 1"), one(LARGE), &[(STATIC, 1.2), (DEFAULT, 5.0)], Some(0.90)),
        same("G6", format!("{SMALL}, batch 1"), one(SMALL), &[(STATIC, 1.5)], Some(0.75)),
        nothing(
            "G7",
            "self-training generation, 16 prompts x 16 samples, 1k tokens each",
            "minutes a sample: `bench engine` measures decoding at 32 x 4K instead",
        ),
    ]
}

fn scoring(p: &Passes) -> Vec<Goal> {
    let mut all = Vec::new();
    for (model, ratio, share) in [(LARGE, 1.20, 0.80), (SMALL, 1.35, 0.70)] {
        let judge = vec![engine::names::judge(model, E, p.judged, p.tokens)];
        let work = format!("{model}, ragged pairs of {} to {} tokens", p.tokens / 8, p.tokens);
        all.push(same("G8", work, judge, &[(Whose::Best, ratio), (DEFAULT, 2.0)], Some(share)));
    }
    // By the prompt: over ourselves without sharing, over the best peer.
    let bars = [(2.5, 3.0), (5.3, 6.3)];
    for (prompt, (own, peer)) in p.asked.iter().zip(bars) {
        for model in [LARGE, SMALL] {
            let flat = vec![engine::names::flat(model, E, p.answers, *prompt)];
            let beat = |whose, ratio| Beat { whose, cases: flat.clone(), ratio };
            let answer = Answer::Cases {
                ours: vec![engine::names::rank(model, E, p.answers, *prompt)],
                beats: vec![beat(FLAT, own), beat(Whose::Best, peer)],
                of_ceiling: Some(0.85),
            };
            let work = format!("{model}, best of {}, both orders, prompt {prompt}", p.answers[0]);
            all.push(Goal { id: "G9", work, answer });
        }
    }
    all.push(nothing("G10", "FP8 scoring", "the engine has no FP8"));
    all
}

fn training(s: &Sizes, p: &Passes) -> Vec<Goal> {
    let head = op("xent_step", names::product(E, s.tokens.min(8192), s.width, s.vocab));
    let step = vec![engine::names::train(LARGE, E, p.tokens)];
    let lean = vec![op("adamw_8bit", names::parameters("bf16, bf16 gradients", s.parameters))];
    let wide = vec![op("adamw_f32", names::parameters("f32", s.parameters))];
    vec![
        same("G11", "AdamW, 8-bit states".into(), lean, &[(FUSED, 2.0), (BITSANDBYTES, 1.5)], Some(0.88)),
        same("G11", "AdamW, f32 states".into(), wide, &[(FUSED, 1.3)], Some(0.90)),
        same(
            "G13",
            "LM head and cross-entropy, forward and backward".into(),
            vec![head],
            &[(Whose::Best, 1.7), (LIGER, 2.3)],
            Some(0.85),
        ),
        same(
            "G14",
            format!("{LARGE}, training step of {} tokens", p.tokens),
            step,
            &[(Whose::Best, 1.3), (DEFAULT, 1.8)],
            Some(0.76),
        ),
    ]
}

/// What the portable kernels must reach, and Hopper's products.
pub(super) fn floors(s: &Sizes) -> Vec<Floor> {
    let floor = |what, least, name| Floor { what, name, least };
    let mut all = Vec::new();
    let (by_width, by_ffn) = (names::rows(E, s.tokens, s.width), names::rows(E, s.tokens, s.ffn));
    let turned = names::tokens(E, s.tokens, s.heads);
    let parameters = |form| names::parameters(form, s.parameters);
    for (name, shape) in [
        ("rmsnorm_fwd", by_width.clone()),
        ("rmsnorm_bwd", by_width.clone()),
        ("rope_fwd", turned.clone()),
        ("rope_bwd", turned),
        ("swiglu_fwd", by_ffn.clone()),
        ("swiglu_bwd", by_ffn),
        ("embed_fwd", by_width.clone()),
        ("embed_bwd", by_width),
        ("adamw_f32", parameters("f32")),
        ("adamw_master", parameters("bf16, f32 gradients")),
        ("adamw_sr", parameters("bf16, bf16 gradients")),
        ("adamw_8bit", parameters("bf16, bf16 gradients")),
    ] {
        all.push(floor("moves rows", 0.85, op(name, shape)));
    }
    all.push(floor("paged decoding", 0.75, op("decode_fwd", names::decoding(E, s.decode, s.heads))));
    if let Some(lengths) = s.sequences.first() {
        let shape = names::sequences(E, lengths, s.heads);
        all.push(floor("attention forward", 0.36, op("attention_fwd", shape.clone())));
        all.push(floor("attention backward", 0.16, op("attention_bwd", shape)));
    }
    let (t, d, f) = (products::rows(s), s.width, s.ffn);
    for (what, least, [nt, nn, tn]) in
        [("portable products", 0.50, products::PORTABLE), ("Hopper's products", 0.80, products::OWN)]
    {
        all.extend(products(nt, s).into_iter().map(|name| floor(what, least, name)));
        all.push(floor(what, least, op(nn, names::product(E, t, d, f))));
        all.push(floor(what, least, op(tn, names::product(E, f, d, t))));
    }
    all
}
