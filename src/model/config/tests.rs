//! Configs as they are published, as both versions of transformers write them, and as they get broken.

use super::preset::{Shape, presets};
use super::*;
use crate::error::Kind;

/// A small config of a family with some keys changed; a change to `null` stays in the object, `"-"` removes the key.
fn small(family: Family, changes: Value) -> Map<String, Value> {
    let mut map = Map::new();
    let base = json!({
        "model_type": family.name(), "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    for (key, value) in base.as_object().unwrap().iter().chain(changes.as_object().unwrap()) {
        map.insert(key.clone(), value.clone());
    }
    map.retain(|_, v| v != "-");
    map
}

fn parse(family: Family, changes: Value) -> Result<Config> {
    Config::parse(&Value::from(small(family, changes)).to_string(), "config.json")
}

/// Asserts that the config is refused with a one-line message that holds all the words.
fn refused(family: Family, changes: Value, words: &[&str]) {
    let error = parse(family, changes.clone()).expect_err(&changes.to_string());
    let message = error.to_string();
    assert_eq!(error.kind(), Kind::Model);
    assert!(message.starts_with("config.json: ") && !message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "{changes}: {word:?} is not in {message:?}");
    }
}

#[test]
fn a_published_llama() {
    let json = r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}"#;
    let c = Config::parse(json, "config.json").unwrap();
    assert_eq!((c.family, c.head, c.dtype), (Family::Llama, HeadKind::LanguageModel, Dtype::Bf16));
    assert_eq!((c.vocab, c.width, c.ffn, c.layers, c.max_positions), (128256, 2048, 8192, 16, 131072));
    assert_eq!(c.heads, Heads { query: 32, kv: 8, size: 64 });
    assert_eq!((c.norm_eps, c.rope_theta, c.init_std), (1e-5, 500000.0, 0.02));
    let scaling =
        Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
    assert_eq!(c.rope_scaling, Some(scaling));
    assert_eq!((c.bos, &c.eos[..], c.pad), (Some(128000), &[128001, 128008, 128009][..], None));
    assert_eq!((c.tied, c.qkv_bias, c.o_bias, c.mlp_bias, c.qk_norm), (true, false, false, false, false));
    let like = Config::preset("llama-3.2-1b", &Shape::default()).unwrap();
    assert_eq!(Config { eos: c.eos.clone(), source: c.source.clone(), ..like }, c, "the preset is the published shape");
}

#[test]
fn a_published_qwen3() {
    let json = r#"{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936}"#;
    let c = Config::parse(json, "config.json").unwrap();
    assert!(c.qk_norm && c.tied && !c.qkv_bias && !c.o_bias);
    let like = Config::preset("qwen3-0.6b", &Shape::default()).unwrap();
    assert_eq!(Config { source: c.source.clone(), ..like }, c, "the preset is the published shape");
}

#[test]
fn a_published_qwen2_with_its_window_switched_off() {
    let json = r#"{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936}"#;
    let c = Config::parse(json, "config.json").unwrap();
    assert!(c.qkv_bias && !c.o_bias && !c.qk_norm && c.tied);
    assert_eq!(c.heads, Heads { query: 14, kv: 2, size: 64 });
    let like = Config::preset("qwen2.5-0.5b", &Shape::default()).unwrap();
    assert_eq!(Config { source: c.source.clone(), ..like }, c, "the preset is the published shape");
}

#[test]
fn absent_keys_mean_what_the_class_assumes() {
    let llama = parse(Family::Llama, json!({"num_key_value_heads": "-"})).unwrap();
    assert_eq!(llama.heads, Heads { query: 4, kv: 4, size: 16 });
    assert_eq!((llama.rope_theta, llama.norm_eps, llama.init_std), (10000.0, 1e-6, 0.02));
    assert_eq!((llama.bos, &llama.eos[..], llama.max_positions), (Some(1), &[2][..], 2048));
    assert_eq!((llama.dtype, llama.tied, llama.rope_scaling), (Dtype::F32, false, None));
    let none = parse(Family::Llama, json!({"bos_token_id": null, "eos_token_id": null})).unwrap();
    assert_eq!((none.bos, none.eos), (None, vec![]));

    let qwen = parse(Family::Qwen2, json!({"num_attention_heads": 32, "num_key_value_heads": "-"})).unwrap();
    assert_eq!(qwen.heads, Heads { query: 32, kv: 32, size: 2 });
    assert_eq!((qwen.bos, qwen.eos, qwen.max_positions), (None, vec![], 32768));
    refused(Family::Qwen2, json!({"num_key_value_heads": "-"}), &["num_key_value_heads is missing", "32 must divide"]);
    let qwen = parse(Family::Qwen2, json!({"num_key_value_heads": null})).unwrap();
    assert_eq!(qwen.heads.kv, 4);

    assert_eq!(parse(Family::Qwen3, json!({})).unwrap().heads.size, 128);
    for family in Family::ALL {
        assert_eq!(parse(family, json!({"head_dim": null})).unwrap().heads.size, 16);
        assert_eq!(parse(family, json!({"head_dim": 24})).unwrap().heads.size, 24);
    }
    // With a head size of their own, heads need not divide the width.
    assert_eq!(parse(Family::Qwen3, json!({"hidden_size": 50})).unwrap().heads.size, 128);
}

#[test]
fn biases_are_the_modelling_code_s() {
    let on = json!({"attention_bias": true, "mlp_bias": true});
    let bits = |c: Config| (c.qkv_bias, c.o_bias, c.mlp_bias);
    assert_eq!(bits(parse(Family::Llama, on.clone()).unwrap()), (true, true, true));
    assert_eq!(bits(parse(Family::Qwen2, on.clone()).unwrap()), (true, false, false));
    assert_eq!(bits(parse(Family::Qwen3, on).unwrap()), (true, true, false));
    let off = json!({"attention_bias": false});
    assert_eq!(bits(parse(Family::Qwen2, off).unwrap()), (true, false, false));
}

#[test]
fn rotary_positions_in_every_spelling() {
    let theta = |changes| parse(Family::Qwen3, changes).unwrap().rope_theta;
    assert_eq!(theta(json!({"rope_theta": 5000})), 5000.0);
    assert_eq!(theta(json!({"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}})), 5000.0);
    assert_eq!(theta(json!({"rope_theta": 5000, "rope_parameters": {"rope_theta": 5000.0}})), 5000.0);
    assert_eq!(theta(json!({"rope_theta": 5000, "rope_parameters": null, "rope_scaling": {}})), 5000.0);
    assert_eq!(theta(json!({"rope_theta": 5000, "rope_scaling": {"type": "default"}})), 5000.0);
    refused(
        Family::Llama,
        json!({"rope_theta": 5000, "rope_parameters": {"rope_theta": 10000}}),
        &["rope_theta is 5000", "rope_parameters"],
    );

    let numbers = json!({"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    let with = |key: &str, extra: Value| {
        let mut inner = numbers.clone();
        inner.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({ "max_position_embeddings": 512, key: inner })
    };
    let scaled = |changes| parse(Family::Llama, changes).unwrap().rope_scaling.unwrap();
    let want = Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 64 };
    let given = json!({"rope_type": "llama3", "original_max_position_embeddings": 64});
    assert_eq!(scaled(with("rope_scaling", given.clone())), want);
    assert_eq!(scaled(with("rope_parameters", given)), want);
    let old = json!({"type": "llama3", "original_max_position_embeddings": 64});
    assert_eq!(scaled(with("rope_scaling", old)), want);
    // Without a length of its own the scaling starts from the model's, as transformers has it.
    let bare = scaled(with("rope_scaling", json!({"rope_type": "llama3"})));
    assert_eq!(bare.original_max_positions, 512);

    for (changes, words) in [
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}}), &["rope_scaling.rope_type is \"yarn\""][..]),
        (json!({"rope_scaling": {"type": "linear", "factor": 4}}), &["rope_scaling.type is \"linear\""]),
        (json!({"rope_parameters": {"rope_type": "dynamic"}}), &["rope_parameters.rope_type is \"dynamic\""]),
        (json!({"rope_scaling": {"rope_type": "longrope"}}), &["longrope", "not implemented"]),
        (json!({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}), &["mrope"]),
        (json!({"rope_scaling": {"factor": 4}}), &["rope_scaling.rope_type is missing", "factor"]),
        (json!({"rope_scaling": {"type": "default", "rope_type": "llama3"}}), &["rope_type", "default", "agree"]),
        (json!({"rope_scaling": "yarn"}), &["rope_scaling", "object"]),
        (json!({"rope_scaling": {"rope_type": 3}}), &["rope_scaling.rope_type is 3", "text"]),
        (json!({"rope_parameters": {"full_attention": {"rope_theta": 1}}}), &["full_attention", "layer to layer"]),
        (json!({"rope_theta": 0}), &["rope_theta is 0"]),
        (json!({"rope_theta": "big"}), &["rope_theta is \"big\""]),
        (json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor is 0.5"]),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.25}}), &["rope_parameters.partial_rotary_factor"]),
        (with("rope_scaling", json!({"rope_type": "llama3", "factor": null})), &["rope_scaling.factor"]),
        (with("rope_scaling", json!({"rope_type": "llama3", "low_freq_factor": 0})), &["low_freq_factor is 0"]),
        (with("rope_scaling", json!({"rope_type": "llama3", "high_freq_factor": 1})), &["high_freq_factor is 1"]),
    ] {
        refused(Family::Llama, changes, words);
    }
    let mut both = with("rope_scaling", json!({"rope_type": "llama3"}));
    both["rope_parameters"] = json!({"rope_type": "default"});
    refused(Family::Llama, both, &["rope_scaling", "rope_parameters", "agree"]);
    let half = json!({"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 777}});
    refused(Family::Llama, half, &["rope_theta is missing", "rope_scaling"]);
    let mut beside = with("rope_scaling", json!({"rope_type": "llama3", "original_max_position_embeddings": 64}));
    beside["original_max_position_embeddings"] = json!(128);
    refused(Family::Llama, beside, &["original_max_position_embeddings is 64", "128"]);
    assert!(parse(Family::Llama, json!({"partial_rotary_factor": 1.0})).is_ok());
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (changes, words) in [
        (json!({"model_type": "mistral"}), &["model_type is \"mistral\"", "llama, qwen2 and qwen3"][..]),
        (json!({"model_type": "qwen3_moe"}), &["qwen3_moe"]),
        (json!({"model_type": "-"}), &["model_type is missing"]),
        (json!({"model_type": 3}), &["model_type is 3", "text"]),
        (json!({"architectures": ["MistralForCausalLM"]}), &["MistralForCausalLM"]),
        (json!({"architectures": ["LlamaForTokenClassification"]}), &["LlamaForTokenClassification"]),
        (json!({"architectures": ["Qwen3ForCausalLM"]}), &["Qwen3ForCausalLM", "contradicts"]),
        (json!({"architectures": ["LlamaForCausalLM", "LlamaForSequenceClassification"]}), &["contradicts"]),
        (json!({"architectures": "LlamaForCausalLM"}), &["list of class names"]),
        (json!({"quantization_config": {"bits": 4}}), &["quantization_config is {\"bits\":4}", "quantised"]),
        (json!({"num_experts": 8}), &["num_experts is 8", "mixtures of experts"]),
        (json!({"num_local_experts": 8}), &["num_local_experts is 8"]),
        (json!({"use_sliding_window": true}), &["use_sliding_window is true", "sliding windows"]),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), &["layer_types", "sliding_attention"]),
        (json!({"layer_types": ["full_attention"]}), &["layer_types", "num_hidden_layers = 2"]),
        (json!({"layer_types": "full"}), &["layer_types", "list"]),
        (json!({"hidden_act": "gelu"}), &["hidden_act is \"gelu\"", "silu"]),
        (json!({"hidden_act": 1}), &["hidden_act is 1"]),
        (json!({"is_causal": false}), &["is_causal is false"]),
        (json!({"per_layer_config": {"0": {}}}), &["per_layer_config"]),
        (json!({"torch_dtype": "float64"}), &["torch_dtype is \"float64\""]),
        (json!({"dtype": "int8"}), &["dtype is \"int8\""]),
        (json!({"dtype": {"": "float32"}}), &["dtype", "text"]),
    ] {
        refused(Family::Llama, changes, words);
    }
}

#[test]
fn harmless_keys_pass() {
    let harmless = json!({
        "layer_types": ["full_attention", "full_attention"], "quantization_config": null, "num_experts": null,
        "num_local_experts": 0, "sliding_window": 4096, "max_window_layers": 1, "use_sliding_window": null,
        "hidden_act": "swish", "attention_dropout": 0.1, "pretraining_tp": 2, "use_cache": false, "auto_map": {},
        "torch_dtype": "torch.bfloat16", "_name_or_path": "x", "pruned_heads": {}, "is_decoder": true,
    });
    for family in Family::ALL {
        let c = parse(family, harmless.clone()).unwrap();
        assert_eq!(c.dtype, Dtype::Bf16);
    }
}

#[test]
fn sizes_must_make_sense() {
    for key in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
        for value in [json!(0), json!(-1), json!(1.5), json!("64"), json!(u64::MAX), json!(true), json!([1])] {
            let shown = format!("{key} is {value}");
            refused(Family::Llama, json!({ key: value }), &[&shown, "whole number from 1"]);
        }
        for value in [json!("-"), Value::Null] {
            refused(Family::Llama, json!({ key: value }), &[key, "whole number from 1"]);
        }
    }
    for (changes, words) in [
        (json!({"num_key_value_heads": 3}), &["num_key_value_heads is 3", "divide num_attention_heads = 4"][..]),
        (json!({"num_key_value_heads": 8}), &["num_key_value_heads is 8"]),
        (json!({"num_key_value_heads": 0}), &["num_key_value_heads is 0"]),
        (json!({"num_attention_heads": 6}), &["num_attention_heads is 6", "divide hidden_size = 64"]),
        (json!({"head_dim": 7}), &["head_dim is 7", "odd"]),
        (json!({"hidden_size": 12}), &["3 is odd"]),
        (json!({"head_dim": 0}), &["head_dim is 0"]),
        (json!({"head_dim": 1024}), &["head_dim is 1024", "512"]),
        (json!({"hidden_size": 4096}), &["heads of 1024"]),
        (json!({"num_attention_heads": 65536, "num_key_value_heads": 1, "head_dim": 512}), &["times head_dim"]),
        (json!({"rms_norm_eps": -1}), &["rms_norm_eps is -1"]),
        (json!({"rms_norm_eps": "1e-5"}), &["rms_norm_eps is \"1e-5\""]),
        (json!({"initializer_range": 7}), &["initializer_range is 7"]),
        (json!({"tie_word_embeddings": 1}), &["tie_word_embeddings is 1", "true or false"]),
        (json!({"attention_bias": "no"}), &["attention_bias"]),
        (json!({"max_position_embeddings": 0}), &["max_position_embeddings is 0"]),
        (json!({"eos_token_id": "</s>"}), &["eos_token_id is \"</s>\""]),
        (json!({"eos_token_id": [1, "x"]}), &["eos_token_id is [1,\"x\"]"]),
        (json!({"bos_token_id": [1]}), &["bos_token_id is [1]"]),
    ] {
        refused(Family::Llama, changes, words);
    }
    for (text, word) in [("[]", "not a JSON object"), ("{", "not valid JSON"), ("", "not valid JSON")] {
        let error = Config::parse(text, "here/config.json").unwrap_err().to_string();
        assert!(error.starts_with("here/config.json: ") && error.contains(word), "{error}");
    }
}

#[test]
fn token_ids_outside_the_vocabulary_name_nothing() {
    let c = parse(Family::Llama, json!({"pad_token_id": -1, "eos_token_id": [7, 7, 5000, 3], "bos_token_id": 100}));
    let c = c.unwrap();
    assert_eq!((c.pad, c.bos, c.eos), (None, None, vec![7, 3]));
}

#[test]
fn one_label_is_a_scalar_head() {
    let class = json!(["LlamaForSequenceClassification"]);
    for labels in [
        json!({"num_labels": 1}),
        json!({"id2label": {"0": "REWARD"}}),
        json!({"num_labels": 1, "id2label": {"0": "R"}}),
    ] {
        let mut changes = labels;
        changes["architectures"] = class.clone();
        assert_eq!(parse(Family::Llama, changes).unwrap().head, HeadKind::Scalar);
    }
    for (labels, words) in [
        (json!({}), &["num_labels is missing", "absent means 2"][..]),
        (json!({"num_labels": 5}), &["num_labels is 5", "one label"]),
        (json!({"id2label": {"0": "a", "1": "b"}}), &["id2label", "one label"]),
        (json!({"num_labels": 2, "id2label": {"0": "a"}}), &["id2label", "one label"]),
    ] {
        let mut changes = labels;
        changes["architectures"] = class.clone();
        refused(Family::Llama, changes, words);
    }
    // A language model's label keys are leftovers of the config class.
    assert!(parse(Family::Llama, json!({"id2label": {"0": "a", "1": "b"}})).is_ok());
}

/// Writing and reading again gives the same model, whatever the original spelling.
#[test]
fn round_trips() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let mut cases = vec![
        parse(Family::Llama, json!({"rope_scaling": scaling, "attention_bias": true, "mlp_bias": true})).unwrap(),
        parse(Family::Llama, json!({"bos_token_id": null, "eos_token_id": null, "extra": [1, {"a": null}]})).unwrap(),
        parse(Family::Qwen2, json!({"eos_token_id": [3, 4], "num_key_value_heads": null})).unwrap(),
        parse(Family::Qwen3, json!({"rope_parameters": {"rope_theta": 77.5, "rope_type": "default"}})).unwrap(),
        Config::preset("llama-3.1-8b", &Shape { vocab: Some(300), ..Shape::default() }).unwrap(),
    ];
    cases.extend(Family::ALL.map(Config::tiny));
    for mut c in cases {
        for head in [HeadKind::LanguageModel, HeadKind::Scalar] {
            c.head = head;
            let written = c.to_json(Dtype::Bf16);
            let text = serde_json::to_string_pretty(&written).unwrap();
            let again = Config::parse(&text, "again").unwrap();
            let want = Config { dtype: Dtype::Bf16, source: written.clone(), ..c.clone() };
            assert_eq!(again, want);
            assert!(c.source.iter().all(|(key, _)| written.contains_key(key)), "saving loses no key");
            for key in ["rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "dtype", "eos_token_id"] {
                assert!(written.contains_key(key), "{key} is written");
            }
        }
    }
}

#[test]
fn a_scalar_head_is_written_with_one_label() {
    let mut c = parse(Family::Qwen3, json!({"problem_type": "single_label_classification"})).unwrap();
    c.head = HeadKind::Scalar;
    let written = c.to_json(Dtype::F32);
    assert_eq!(written["architectures"], json!(["Qwen3ForSequenceClassification"]));
    assert_eq!((&written["num_labels"], &written["id2label"]), (&json!(1), &json!({"0": "LABEL_0"})));
    assert_eq!(written["label2id"], json!({"LABEL_0": 0}));
    assert_eq!((&written["dtype"], &written["torch_dtype"]), (&json!("float32"), &json!("float32")));
    assert!(!written.contains_key("problem_type"));
}

#[test]
fn shapes_by_name_and_by_family() {
    for name in presets() {
        let c = Config::preset(name, &Shape::default()).unwrap();
        assert!(name.contains(&c.family.name()[..4]) && c.dtype == Dtype::Bf16, "{name}");
    }
    let parameters = |name| {
        let c = Config::preset(name, &Shape::default()).unwrap();
        let (q, kv) = (c.heads.query * c.heads.size, c.heads.kv * c.heads.size);
        let bias = if c.qkv_bias { q + 2 * kv } else { 0 };
        let norms = 2 * c.width + if c.qk_norm { 2 * c.heads.size } else { 0 };
        let layer = c.width * (2 * q + 2 * kv + 3 * c.ffn) + bias + norms;
        c.layers * layer + c.width + c.vocab * c.width * if c.tied { 1 } else { 2 }
    };
    // As the model cards count them.
    assert_eq!(parameters("llama-3.2-1b"), 1_235_814_400);
    assert_eq!(parameters("llama-3.1-8b"), 8_030_261_248);
    assert_eq!(parameters("qwen2.5-0.5b"), 494_032_768);
    assert_eq!(parameters("qwen2.5-7b"), 7_615_616_512);
    assert_eq!(parameters("qwen3-0.6b"), 596_049_920);
    assert_eq!(parameters("qwen3-8b"), 8_190_735_360);

    let shape = Shape { vocab: Some(500), width: Some(192), layers: Some(3), ..Shape::default() };
    let c = Config::family_shape(Family::Qwen3, &shape).unwrap();
    assert_eq!((c.heads, c.ffn, c.tied), (Heads { query: 3, kv: 3, size: 64 }, 512, false));
    assert_eq!((c.rope_theta, c.norm_eps, c.bos, c.eos.len()), (1e6, 1e-6, None, 0));
    let small = Config::preset("qwen3-4b", &Shape { layers: Some(2), vocab: Some(99), ..Shape::default() }).unwrap();
    assert_eq!((small.layers, small.vocab, small.width, small.eos), (2, 99, 2560, vec![]));

    let usage = |result: Result<Config>, word: &str| {
        let error = result.unwrap_err();
        assert!(error.kind() == Kind::Usage && error.to_string().contains(word), "{error}");
    };
    usage(Config::preset("llama-9", &Shape::default()), "qwen3-0.6b");
    usage(Config::family_shape(Family::Llama, &Shape::default()), "num_hidden_layers is missing");
    usage(Config::family_shape(Family::Llama, &Shape { width: None, ..shape.clone() }), "hidden_size is missing");
    usage(Config::family_shape(Family::Llama, &Shape { width: Some(100), ..shape.clone() }), "head size 64");
    usage(Config::family_shape(Family::Llama, &Shape { heads: Some(5), ..shape.clone() }), "head size too");
    usage(Config::family_shape(Family::Llama, &Shape { heads: Some(0), ..shape.clone() }), "head size too");
    usage(Config::family_shape(Family::Qwen2, &Shape { attention_bias: Some(true), ..shape.clone() }), "qwen2");
    usage(Config::family_shape(Family::Qwen3, &Shape { mlp_bias: Some(true), ..shape }), "mlp_bias");
}

#[test]
fn a_directory_adds_the_generation_ids() {
    let dir = tempfile::tempdir().unwrap();
    let place = |file: &str| dir.path().join(file);
    let message = |dir: &Path| Config::open(dir).unwrap_err().to_string();
    assert!(message(&place("nowhere")).contains("no such directory"));
    assert!(message(dir.path()).contains("config.json is missing"));
    let map = small(Family::Llama, json!({"eos_token_id": 5}));
    std::fs::write(place("config.json"), Value::from(map).to_string()).unwrap();
    assert_eq!(Config::open(dir.path()).unwrap().eos, [5]);
    std::fs::write(place("generation_config.json"), r#"{"eos_token_id": [9, 5, 8], "do_sample": true}"#).unwrap();
    assert_eq!(Config::open(dir.path()).unwrap().eos, [5, 9, 8]);
    std::fs::write(place("generation_config.json"), "{").unwrap();
    assert!(message(dir.path()).contains("generation_config.json: not valid JSON"));
    std::fs::write(place("config.json"), [0xff, 0xfe]).unwrap();
    assert!(message(dir.path()).contains("config.json: not UTF-8"));
}
