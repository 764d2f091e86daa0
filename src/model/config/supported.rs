//! Which models the engine runs: everything else is refused by name, before any size is read.

use super::keys::Keys;
use super::{Family, HeadKind};
use crate::error::Result;
use serde_json::Value;

/// Family and head, from `model_type` and `architectures`, which must agree where both are given.
pub(super) fn identity(keys: &Keys) -> Result<(Family, HeadKind)> {
    let advice = "the engine runs the dense models llama, qwen2 and qwen3";
    let mut family = match keys.text("model_type")? {
        Some(name) => Some(Family::named(name).ok_or_else(|| keys.wrong("model_type", advice))?),
        None => None,
    };
    let mut head = None;
    for name in architectures(keys)? {
        let class = Family::ALL.into_iter().find_map(|f| Some((f, name.strip_prefix(f.class())?)));
        let found = class.and_then(|(f, rest)| match rest {
            "ForCausalLM" | "Model" => Some((f, HeadKind::LanguageModel)),
            "ForSequenceClassification" => Some((f, HeadKind::Scalar)),
            _ => None,
        });
        let advice = "the engine runs …ForCausalLM and …ForSequenceClassification of Llama, Qwen2 and Qwen3";
        let (f, h) = found.ok_or_else(|| keys.wrong("architectures", advice))?;
        if *family.get_or_insert(f) != f || *head.get_or_insert(h) != h {
            return Err(keys.wrong("architectures", "it contradicts itself or model_type"));
        }
    }
    let family = family.ok_or_else(|| keys.wrong("model_type", advice))?;
    let head = head.unwrap_or(HeadKind::LanguageModel);
    if head == HeadKind::Scalar {
        one_label(keys)?;
    }
    Ok((family, head))
}

fn architectures<'a>(keys: &Keys<'a>) -> Result<Vec<&'a str>> {
    let Some(value) = keys.get("architectures") else { return Ok(Vec::new()) };
    let names: Option<Vec<&str>> = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    names.ok_or_else(|| keys.wrong("architectures", "it must be a list of class names"))
}

/// More labels than any model has.
const MANY: usize = 1 << 20;

/// Labels are counted by `id2label`, else by `num_labels`, else there are two.
fn one_label(keys: &Keys) -> Result<()> {
    let advice = "only models with one label, a scalar reward, are implemented";
    let named = keys.object("id2label")?.map(|labels| labels.entries().count());
    let counted = keys.size("num_labels", MANY)?;
    match (named, counted) {
        (Some(1), None | Some(1)) | (None, Some(1)) => Ok(()),
        (Some(_), _) => Err(keys.wrong("id2label", advice)),
        (None, Some(_)) => Err(keys.wrong("num_labels", advice)),
        (None, None) => Err(keys.wrong("num_labels", &format!("absent means 2; {advice}"))),
    }
}

/// What would change the numbers and is not implemented.
pub(super) fn refuse(keys: &Keys, layers: usize) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        if keys.get(key).is_some() {
            return Err(keys.wrong(key, "quantised weights are not implemented; use the original model"));
        }
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"] {
        if keys.get(key).is_some_and(|n| n.as_u64() != Some(0)) {
            return Err(keys.wrong(key, "mixtures of experts are not implemented"));
        }
    }
    if keys.flag("use_sliding_window")? == Some(true) {
        return Err(keys.wrong("use_sliding_window", "sliding windows are not implemented"));
    }
    if let Some(types) = keys.get("layer_types") {
        let types = types.as_array().ok_or_else(|| keys.wrong("layer_types", "it must be a list"))?;
        if types.iter().any(|t| t != "full_attention") {
            return Err(keys.wrong("layer_types", "only full_attention is implemented"));
        }
        if types.len() != layers {
            return Err(keys.wrong("layer_types", &format!("it must have num_hidden_layers = {layers} entries")));
        }
    }
    for key in ["hidden_act", "hidden_activation"] {
        if keys.text(key)?.is_some_and(|name| !matches!(name, "silu" | "swish")) {
            return Err(keys.wrong(key, "only silu is implemented"));
        }
    }
    for (key, other) in [("is_causal", false), ("use_bidirectional_attention", true), ("is_encoder_decoder", true)] {
        if keys.flag(key)? == Some(other) {
            return Err(keys.wrong(key, "only causal decoders are implemented"));
        }
    }
    for key in ["per_layer_config", "pruned_heads"] {
        if keys.object(key)?.is_some_and(|inner| inner.entries().next().is_some()) {
            return Err(keys.wrong(key, "layers that differ from each other are not implemented"));
        }
    }
    super::rope::rotates_everything(keys)
}
