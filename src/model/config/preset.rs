//! Configs without a file: the shapes of published models by name, and a family with sizes of one's own.
//!
//! Both are written down as the keys of a `config.json` and read by [`Config::parse`]'s code, so that they pass the
//! same checks.

use super::{Config, Family};
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value, json};

/// Sizes to override. What is `None` stays as the preset has it, or follows from the others (see
/// [`Config::family_shape`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    pub vocab: Option<usize>,
    pub width: Option<usize>,
    pub layers: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    pub kv_heads: Option<usize>,
    pub head_size: Option<usize>,
    pub ffn: Option<usize>,
    pub max_positions: Option<usize>,
    pub tied: Option<bool>,
    /// Biases of the attention products (Llama and Qwen3: q, k, v and o).
    pub attention_bias: Option<bool>,
    /// Biases of the feed-forward products (Llama).
    pub mlp_bias: Option<bool>,
    pub rope_theta: Option<f64>,
    pub norm_eps: Option<f64>,
    pub init_std: Option<f64>,
}

/// A published model.
struct Preset {
    name: &'static str,
    family: Family,
    vocab: usize,
    width: usize,
    ffn: usize,
    layers: usize,
    heads: [usize; 3],
    max_positions: usize,
    tied: bool,
    /// Llama 3's rope scaling factor; its other numbers are the same in every model.
    stretch: Option<f64>,
}

#[rustfmt::skip]
const PRESETS: [Preset; 11] = {
    use Family::{Llama, Qwen2, Qwen3};
    const fn row(
        name: &'static str, family: Family, sizes: [usize; 4], heads: [usize; 3], max_positions: usize, tied: bool,
        stretch: Option<f64>,
    ) -> Preset {
        let [vocab, width, ffn, layers] = sizes;
        Preset { name, family, vocab, width, ffn, layers, heads, max_positions, tied, stretch }
    }
    [
        //                          vocab   width ffn    layers query kv size  positions tied stretch
        row("llama-3.2-1b", Llama, [128256, 2048, 8192,  16],   [32, 8, 64],  131072,  true,  Some(32.0)),
        row("llama-3.2-3b", Llama, [128256, 3072, 8192,  28],   [24, 8, 128], 131072,  true,  Some(32.0)),
        row("llama-3.1-8b", Llama, [128256, 4096, 14336, 32],   [32, 8, 128], 131072,  false, Some(8.0)),
        row("qwen2.5-0.5b", Qwen2, [151936, 896,  4864,  24],   [14, 2, 64],  32768,   true,  None),
        row("qwen2.5-1.5b", Qwen2, [151936, 1536, 8960,  28],   [12, 2, 128], 131072,  true,  None),
        row("qwen2.5-7b",   Qwen2, [152064, 3584, 18944, 28],   [28, 4, 128], 131072,  false, None),
        row("qwen3-0.6b",   Qwen3, [151936, 1024, 3072,  28],   [16, 8, 128], 40960,   true,  None),
        row("qwen3-1.7b",   Qwen3, [151936, 2048, 6144,  28],   [16, 8, 128], 40960,   true,  None),
        row("qwen3-4b",     Qwen3, [151936, 2560, 9728,  36],   [32, 8, 128], 40960,   true,  None),
        row("qwen3-8b",     Qwen3, [151936, 4096, 12288, 36],   [32, 8, 128], 40960,   false, None),
        row("qwen3-14b",    Qwen3, [151936, 5120, 17408, 40],   [40, 8, 128], 40960,   false, None),
    ]
};

/// The names that [`Config::preset`] knows.
pub fn presets() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|p| p.name)
}

impl Config {
    /// A published model's shape by its name ([`presets`]), with overrides. The Qwen2.5 rows are the base models,
    /// the Qwen3 rows the chat models; token ids are those of the published tokenizers, left out where the vocabulary
    /// is made smaller.
    ///
    /// # Errors
    /// Usage: an unknown name (the message lists the known ones), or overrides that do not fit together.
    pub fn preset(name: &str, shape: &Shape) -> Result<Config> {
        let Some(preset) = PRESETS.iter().find(|p| p.name == name) else {
            let names = presets().collect::<Vec<_>>().join(", ");
            return Err(Error::usage(format!("no model shape is called {name:?}; there are {names}")));
        };
        let mut map = published(preset);
        overlay(&mut map, preset.family, shape)?;
        read(map, name)
    }

    /// A family with sizes of one's own. `vocab`, `width` and `layers` must be given. Otherwise: heads of 64 elements,
    /// as many key-value heads as query heads, `ffn` 8/3 of the width rounded up to a multiple of 64, untied
    /// embeddings, no optional biases, positions up to 32768, and the `rope_theta` and `norm_eps` that the family's
    /// published models have.
    ///
    /// # Errors
    /// Usage: sizes that are missing or do not fit together, or a bias that the family does not have.
    pub fn family_shape(family: Family, shape: &Shape) -> Result<Config> {
        let width = shape.width.unwrap_or_default();
        let size = match (shape.head_size, shape.heads) {
            (Some(size), _) => size,
            (None, Some(heads)) if heads > 0 && width.is_multiple_of(heads) => width / heads,
            (None, Some(_)) => Err(Error::usage("the heads do not divide the width; give the head size too"))?,
            (None, None) => 64,
        };
        let heads = match shape.heads {
            Some(heads) => heads,
            None if size > 0 && width.is_multiple_of(size) => width / size,
            None => {
                Err(Error::usage(format!("a width of {width} is no multiple of the head size {size}; give the heads")))?
            }
        };
        let mut map = start(family);
        map.insert("num_attention_heads".into(), heads.into());
        map.insert("num_key_value_heads".into(), heads.into());
        map.insert("head_dim".into(), size.into());
        map.insert("intermediate_size".into(), (width.saturating_mul(8).div_ceil(3)).next_multiple_of(64).into());
        map.insert("max_position_embeddings".into(), 32768.into());
        overlay(&mut map, family, shape)?;
        read(map, family.name())
    }

    /// The smallest sensible model of a family, with grouped key-value heads that are together as wide as half the
    /// stream: for tests and examples.
    pub fn tiny(family: Family) -> Config {
        let shape = Shape {
            vocab: Some(19),
            width: Some(16),
            layers: Some(2),
            heads: Some(4),
            kv_heads: Some(2),
            head_size: Some(4),
            ffn: Some(20),
            max_positions: Some(64),
            ..Shape::default()
        };
        Config::family_shape(family, &shape).expect("the sizes fit together")
    }
}

/// The constants that the published models of a family share.
fn start(family: Family) -> Map<String, Value> {
    let (theta, eps) = match family {
        Family::Llama => (500_000.0, 1e-5),
        Family::Qwen2 | Family::Qwen3 => (1_000_000.0, 1e-6),
    };
    let mut map = Map::new();
    for (key, value) in [
        ("model_type", json!(family.name())),
        ("rope_theta", json!(theta)),
        ("rms_norm_eps", json!(eps)),
        ("dtype", json!("bfloat16")),
        ("bos_token_id", Value::Null),
        ("eos_token_id", Value::Null),
    ] {
        map.insert(key.into(), value);
    }
    map
}

fn published(preset: &Preset) -> Map<String, Value> {
    let mut map = start(preset.family);
    let (bos, eos) = match preset.family {
        Family::Llama => (128000, 128001),
        Family::Qwen2 => (151643, 151643),
        Family::Qwen3 => (151643, 151645),
    };
    for (key, value) in [
        ("vocab_size", json!(preset.vocab)),
        ("hidden_size", json!(preset.width)),
        ("intermediate_size", json!(preset.ffn)),
        ("num_hidden_layers", json!(preset.layers)),
        ("num_attention_heads", json!(preset.heads[0])),
        ("num_key_value_heads", json!(preset.heads[1])),
        ("head_dim", json!(preset.heads[2])),
        ("max_position_embeddings", json!(preset.max_positions)),
        ("tie_word_embeddings", json!(preset.tied)),
        ("bos_token_id", json!(bos)),
        ("eos_token_id", json!(eos)),
    ] {
        map.insert(key.into(), value);
    }
    if let Some(factor) = preset.stretch {
        let scaling = json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        map.insert("rope_scaling".into(), scaling);
    }
    map
}

fn overlay(map: &mut Map<String, Value>, family: Family, shape: &Shape) -> Result<()> {
    if family == Family::Qwen2 && shape.attention_bias.is_some() {
        return Err(Error::usage("qwen2 always has biases on q, k and v and never on o: leave attention_bias out"));
    }
    if family != Family::Llama && shape.mlp_bias == Some(true) {
        return Err(Error::usage(format!("{} has no mlp_bias; llama has", family.name())));
    }
    let numbers =
        [("rope_theta", shape.rope_theta), ("rms_norm_eps", shape.norm_eps), ("initializer_range", shape.init_std)];
    // JSON has no such numbers: they would count as absent.
    if let Some((key, Some(x))) = numbers.iter().find(|(_, x)| x.is_some_and(|x| !x.is_finite())) {
        return Err(Error::usage(format!("{key} is {x}; it must be a finite number")));
    }
    let sizes = [
        ("vocab_size", shape.vocab),
        ("hidden_size", shape.width),
        ("num_hidden_layers", shape.layers),
        ("num_attention_heads", shape.heads),
        ("num_key_value_heads", shape.kv_heads),
        ("head_dim", shape.head_size),
        ("intermediate_size", shape.ffn),
        ("max_position_embeddings", shape.max_positions),
    ];
    let flags =
        [("tie_word_embeddings", shape.tied), ("attention_bias", shape.attention_bias), ("mlp_bias", shape.mlp_bias)];
    let sizes = sizes.into_iter().filter_map(|(k, v)| Some((k, json!(v?))));
    let flags = flags.into_iter().filter_map(|(k, v)| Some((k, json!(v?))));
    let numbers = numbers.into_iter().filter_map(|(k, v)| Some((k, json!(v?))));
    for (key, value) in sizes.chain(flags).chain(numbers) {
        map.insert(key.to_string(), value);
    }
    Ok(())
}

fn read(map: Map<String, Value>, place: &str) -> Result<Config> {
    let mut config = Config::read(map, place).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    // What was made up here is no original; `to_json` writes every key from the fields.
    config.source = Map::new();
    Ok(config)
}
