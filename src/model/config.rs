//! Everything the engine needs to know of a model, from a Hugging Face `config.json`.
//!
//! Absent keys mean what the family's config class in transformers makes of them; what the engine does not implement is
//! refused by name, key and value. Keys that change nothing the engine computes (`attention_dropout`, `use_cache`,
//! `max_window_layers` without sliding windows, `pretraining_tp`, anything unknown) are kept and written back.
//!
//! | key | absent means |
//! |---|---|
//! | `num_key_value_heads` | Llama: as many as query heads; Qwen2, Qwen3: 32. `null`: as many as query heads |
//! | `head_dim` | Qwen3: 128; else `hidden_size / num_attention_heads`, which `null` means in every family |
//! | `rope_theta` | 10000 |
//! | `rms_norm_eps`, `initializer_range` | 1e-6, 0.02 |
//! | `max_position_embeddings` | Llama: 2048; Qwen2, Qwen3: 32768 |
//! | `tie_word_embeddings`, `attention_bias`, `mlp_bias` | false; Qwen2 has q, k, v biases and no others, whatever they say |
//! | `bos_token_id`, `eos_token_id` | Llama: 1, 2; Qwen2, Qwen3: none |
//! | `dtype` and `torch_dtype` | float32 |

pub(super) mod keys;
pub mod preset;
mod rope;
mod supported;

pub use crate::ops::rope::Llama3Scaling;

use crate::base::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ops::Heads;
use keys::Keys;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A line of models that share their modelling code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3, dense: norms on q and k, explicit head size.
    Qwen3,
}

impl Family {
    pub const ALL: [Family; 3] = [Family::Llama, Family::Qwen2, Family::Qwen3];

    /// The `model_type` of its configs.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// The family with this `model_type`.
    pub fn named(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|f| f.name() == name)
    }

    /// What its class names begin with.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Family::Llama => "Llama",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
        }
    }
}

/// What sits on top of the last norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One logit for each token of the vocabulary.
    LanguageModel,
    /// One number for the sequence: `…ForSequenceClassification` with one label.
    Scalar,
}

/// The shape and the constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub family: Family,
    pub head: HeadKind,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Elements of the residual stream.
    pub width: usize,
    pub layers: usize,
    /// The query heads together need not be as wide as the residual stream. The head size is even.
    pub heads: Heads,
    /// Inner width of the feed-forward block.
    pub ffn: usize,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<Llama3Scaling>,
    pub max_positions: usize,
    /// The output layer is the embedding table.
    pub tied: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// RMSNorm over each query and key head, before the rotation.
    pub qk_norm: bool,
    /// As stored. float16, which the engine does not compute in, is given as float32: it holds every float16.
    pub dtype: Dtype,
    pub bos: Option<i32>,
    /// Every id that ends a text: `eos_token_id` of config.json, then those that generation_config.json adds.
    pub eos: Vec<i32>,
    pub pad: Option<i32>,
    /// Standard deviation of random weights.
    pub init_std: f64,
    /// The original keys, so that saving loses nothing.
    pub source: Map<String, Value>,
}

/// Bounds that keep every product of sizes far from overflow; no model comes near them.
const WIDEST: usize = 1 << 20;
const DEEPEST: usize = 1 << 12;
const LONGEST: usize = i32::MAX as usize;
/// The largest head that the ops work on.
const LARGEST_HEAD: usize = 512;

/// What a family's config class in transformers assumes of absent keys.
struct Defaults {
    kv_heads: Option<usize>,
    head_size: Option<usize>,
    max_positions: usize,
    bos: Option<i64>,
    eos: &'static [i64],
}

impl Family {
    const fn defaults(self) -> Defaults {
        match self {
            Family::Llama => Defaults { kv_heads: None, head_size: None, max_positions: 2048, bos: Some(1), eos: &[2] },
            Family::Qwen2 => {
                Defaults { kv_heads: Some(32), head_size: None, max_positions: 32768, bos: None, eos: &[] }
            }
            Family::Qwen3 => {
                Defaults { kv_heads: Some(32), head_size: Some(128), max_positions: 32768, bos: None, eos: &[] }
            }
        }
    }
}

impl Config {
    /// What attention multiplies its logits by: `1 / sqrt(head size)`.
    pub fn scale(&self) -> f64 {
        1.0 / (self.heads.size as f64).sqrt()
    }

    /// How many of a conversation's tokens a scalar reward reads: up to the last one that is not padding, as transformers
    /// has it. (Where the padding token is also the end of a turn, that token is not read.)
    pub fn scored(&self, ids: &[i32]) -> usize {
        ids.iter().rposition(|id| Some(*id) != self.pad).map_or(ids.len(), |last| last + 1)
    }

    /// Reads `config.json` of a model directory, and the end-of-text ids of its `generation_config.json` if it has one.
    ///
    /// # Errors
    /// A missing or malformed file, and everything [`Config::parse`] refuses.
    pub fn open(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        if !path.is_file() {
            let advice = match (dir.is_dir(), dir.join("adapter_config.json").is_file()) {
                (false, _) => "no such directory",
                (_, true) => {
                    "this is an adapter: give its base as the model and this as the adapter, or `gramophone merge` the two"
                }
                _ => "not a model directory",
            };
            return Err(Error::model(format!("{}: {advice}: config.json is missing", dir.display())));
        }
        let mut config = Config::parse(&text(&path)?, &path.display().to_string())?;
        let path = dir.join("generation_config.json");
        if path.is_file() {
            config.add_generation(&text(&path)?, &path.display().to_string())?;
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `place` names it in messages.
    ///
    /// # Errors
    /// Names the key and its value: text that is not a JSON object, sizes that are missing, not positive or absurd or
    /// do not divide, and everything that is not implemented.
    pub fn parse(json: &str, place: &str) -> Result<Config> {
        Config::read(object(json, place)?, place)
    }

    fn read(source: Map<String, Value>, place: &str) -> Result<Config> {
        let keys = &Keys::new(&source, place);
        let (family, head) = supported::identity(keys)?;
        let defaults = family.defaults();
        let layers = keys.needed("num_hidden_layers", DEEPEST)?;
        supported::refuse(keys, layers)?;
        let vocab = keys.needed("vocab_size", LONGEST)?;
        let width = keys.needed("hidden_size", WIDEST)?;
        let max_positions = keys.size("max_position_embeddings", LONGEST)?.unwrap_or(defaults.max_positions);
        let rope = rope::read(keys, 10000.0, max_positions)?;
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
        let unit = |key, default| -> Result<f64> {
            Ok(keys.number(key, "from 0 to 1", |x| (0.0..=1.0).contains(&x))?.unwrap_or(default))
        };
        Ok(Config {
            family,
            head,
            vocab,
            width,
            layers,
            heads: heads(keys, &defaults, width)?,
            ffn: keys.needed("intermediate_size", WIDEST)?,
            norm_eps: unit("rms_norm_eps", 1e-6)?,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            max_positions,
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: family == Family::Qwen2 || attention_bias,
            o_bias: family != Family::Qwen2 && attention_bias,
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false) && family == Family::Llama,
            qk_norm: family == Family::Qwen3,
            dtype: dtype(keys)?,
            bos: token(keys, "bos_token_id", defaults.bos, vocab)?,
            eos: ends(keys, defaults.eos, vocab)?,
            pad: token(keys, "pad_token_id", None, vocab)?,
            init_std: unit("initializer_range", 0.02)?,
            source,
        })
    }

    /// For a model that is about to be made: that transformers will load it. Llama models whose query heads do not
    /// divide the width run here, but no version 5 of transformers opens them.
    ///
    /// # Errors
    /// Usage: names both sizes and a number of heads that would do.
    pub fn check_new(&self) -> Result<()> {
        let (width, query) = (self.width, self.heads.query);
        if self.family != Family::Llama || width.is_multiple_of(query) {
            return Ok(());
        }
        let fits = |heads: &usize| width.is_multiple_of(*heads) && heads.is_multiple_of(self.heads.kv);
        let cure = match (1..query).rev().find(fits) {
            Some(heads) => format!("take {heads} heads, or a width that is a multiple of {query}"),
            None => format!("take a width that is a multiple of {query}"),
        };
        Err(Error::usage(format!(
            "llama: {query} query heads do not divide the width {width}, and transformers does not load such a model, \
             whatever the head size; {cure}"
        )))
    }

    /// Adds the end-of-text ids of a `generation_config.json`.
    fn add_generation(&mut self, json: &str, place: &str) -> Result<()> {
        let map = object(json, place)?;
        for id in ends(&Keys::new(&map, place), &[], self.vocab)? {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
        Ok(())
    }

    /// The `config.json` of this model with weights stored as `dtype` (float32 or bfloat16): the original keys in their
    /// order, and over them this config's values under both their old and their new names, so that versions 4 and 5
    /// of transformers load it.
    pub fn to_json(&self, dtype: Dtype) -> Map<String, Value> {
        let mut map = self.source.clone();
        let class = self.family.class();
        let head = match self.head {
            HeadKind::LanguageModel => "ForCausalLM",
            HeadKind::Scalar => "ForSequenceClassification",
        };
        let mut set = |key: &str, value: Value| map.insert(key.to_string(), value);
        set("architectures", json!([format!("{class}{head}")]));
        set("model_type", self.family.name().into());
        set("vocab_size", self.vocab.into());
        set("hidden_size", self.width.into());
        set("intermediate_size", self.ffn.into());
        set("num_hidden_layers", self.layers.into());
        set("num_attention_heads", self.heads.query.into());
        set("num_key_value_heads", self.heads.kv.into());
        set("head_dim", self.heads.size.into());
        set("hidden_act", "silu".into());
        set("max_position_embeddings", self.max_positions.into());
        set("rms_norm_eps", self.norm_eps.into());
        set("initializer_range", self.init_std.into());
        set("tie_word_embeddings", self.tied.into());
        set("torch_dtype", dtype.name().into());
        set("dtype", dtype.name().into());
        if self.family != Family::Qwen2 {
            set("attention_bias", self.qkv_bias.into());
        }
        if self.family == Family::Llama {
            set("mlp_bias", self.mlp_bias.into());
        }
        rope::write(&mut map, self.rope_theta, self.rope_scaling.as_ref());
        self.write_tokens(&mut map);
        if self.head == HeadKind::Scalar {
            write_one_label(&mut map);
        }
        map
    }

    /// Ids that the engine has are written; where it has none, what the source said stays.
    fn write_tokens(&self, map: &mut Map<String, Value>) {
        let eos = match self.eos.as_slice() {
            [] => None,
            [one] => Some(json!(one)),
            many => Some(json!(many)),
        };
        let (bos, pad) = (self.bos.map(Value::from), self.pad.map(Value::from));
        for (key, value) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
            match value {
                Some(value) => map.insert(key.to_string(), value),
                // Left out, a Llama config would get its class's ids.
                None => map.get(key).is_none().then(|| map.insert(key.to_string(), Value::Null)).flatten(),
            };
        }
    }
}

/// One label, under the name it had if there was one.
fn write_one_label(map: &mut Map<String, Value>) {
    let label = map.get("id2label").and_then(|l| l.get("0")).and_then(Value::as_str).unwrap_or("LABEL_0").to_string();
    map.insert("num_labels".into(), 1.into());
    map.insert("label2id".into(), json!({ label.as_str(): 0 }));
    map.insert("id2label".into(), json!({ "0": label }));
    // transformers refuses classification with a single label.
    if map.get("problem_type").is_some_and(|p| p == "single_label_classification") {
        map.remove("problem_type");
    }
}

fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|_| Error::model(format!("{}: not UTF-8 text", path.display())))
}

fn object(json: &str, place: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(json) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::model(format!("{place}: not a JSON object"))),
        Err(e) => Err(Error::model(format!("{place}: not valid JSON: {e}"))),
    }
}

fn heads(keys: &Keys, defaults: &Defaults, width: usize) -> Result<Heads> {
    let query = keys.needed("num_attention_heads", WIDEST)?;
    let kv_key = "num_key_value_heads";
    let kv = match keys.size(kv_key, WIDEST)? {
        Some(kv) => kv,
        None if keys.is_null(kv_key) => query,
        None => defaults.kv_heads.unwrap_or(query),
    };
    if !query.is_multiple_of(kv) {
        return Err(keys.wrong(kv_key, &format!("{kv} must divide num_attention_heads = {query}")));
    }
    let assumed = defaults.head_size.filter(|_| !keys.is_null("head_dim"));
    let size = match keys.size("head_dim", LARGEST_HEAD)?.or(assumed) {
        Some(size) => size,
        None if width.is_multiple_of(query) => width / query,
        None => {
            let advice = format!("without head_dim it must divide hidden_size = {width}");
            return Err(keys.wrong("num_attention_heads", &advice));
        }
    };
    if size > LARGEST_HEAD {
        return Err(
            keys.wrong("num_attention_heads", &format!("heads of {size} are too large: {LARGEST_HEAD} at most"))
        );
    }
    if !size.is_multiple_of(2) {
        return Err(keys.wrong("head_dim", &format!("{size} is odd, and rotary positions need pairs")));
    }
    if query * size > WIDEST {
        return Err(keys.wrong("num_attention_heads", &format!("times head_dim = {size} it must be at most {WIDEST}")));
    }
    Ok(Heads { query, kv, size })
}

/// `dtype` (new) before `torch_dtype` (old), as transformers has it.
fn dtype(keys: &Keys) -> Result<Dtype> {
    let key = if keys.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = keys.text(key)? else { return Ok(Dtype::F32) };
    match name.strip_prefix("torch.").unwrap_or(name) {
        "bfloat16" => Ok(Dtype::Bf16),
        "float32" | "float" | "float16" | "half" => Ok(Dtype::F32),
        _ => Err(keys.wrong(key, "it must be bfloat16, float32 or float16")),
    }
}

/// An id inside the vocabulary. Ids outside it (published configs have `pad_token_id: -1`) name no token: none.
fn token(keys: &Keys, key: &str, default: Option<i64>, vocab: usize) -> Result<Option<i32>> {
    let id = match keys.get(key) {
        None if keys.is_null(key) => None,
        None => default,
        Some(id) => Some(id.as_i64().ok_or_else(|| keys.wrong(key, "it must be a token id"))?),
    };
    Ok(id.and_then(|id| inside(id, vocab)))
}

/// The ids of `eos_token_id` inside the vocabulary, each once.
fn ends(keys: &Keys, default: &[i64], vocab: usize) -> Result<Vec<i32>> {
    let key = "eos_token_id";
    let given = keys.tokens(key)?;
    let ids = if keys.get(key).is_none() && !keys.is_null(key) { default } else { &given };
    let mut ends = Vec::new();
    for id in ids.iter().filter_map(|id| inside(*id, vocab)) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    Ok(ends)
}

fn inside(id: i64, vocab: usize) -> Option<i32> {
    (0..vocab as i64).contains(&id).then_some(id as i32)
}

#[cfg(test)]
mod tests;
