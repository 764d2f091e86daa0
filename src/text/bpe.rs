//! Training a small byte-level BPE tokenizer (Sennrich et al., 2016; over bytes as GPT-2 does), for models that start from
//! random weights. It normalizes and pre-splits as the Qwen2 family does, so that transformers, which replaces the
//! pre-tokenizer of models of that family by its own, computes the same ids.

use serde_json::{Map, Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::error::{Error, Result};
use crate::text::files::Files;
use crate::text::tokenizer::Tokenizer;

/// Words with their leading space or mark, single digits, runs of punctuation, line ends, other white space.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The chat template of tokenizers that are trained here.
pub const CHAT_TEMPLATE: &str = include_str!("templates/chat.jinja");

/// What a trained tokenizer looks like. The default has the special tokens that [`CHAT_TEMPLATE`] writes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Size of the whole vocabulary, special tokens and the 256 bytes included.
    pub vocab_size: usize,
    /// All special tokens, in the order of their ids, which come first.
    pub special: Vec<String>,
    /// Ends a turn, and generation. One of `special`.
    pub eos: String,
    /// Stands for nothing. One of `special`.
    pub pad: String,
    /// The chat template, saved as `chat_template.jinja`.
    pub chat_template: String,
}

impl Recipe {
    pub fn new(vocab_size: usize) -> Recipe {
        Recipe {
            vocab_size,
            special: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec(),
            eos: "<|im_end|>".into(),
            pad: "<|endoftext|>".into(),
            chat_template: CHAT_TEMPLATE.into(),
        }
    }
}

impl Tokenizer {
    /// Learns merges from `texts`. The same texts in the same order give the same tokenizer.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, recipe: &Recipe) -> Result<Tokenizer> {
        let least = 256 + recipe.special.len();
        if recipe.vocab_size < least {
            return Err(Error::usage(format!(
                "a vocabulary of {} is too small: the bytes and the special tokens alone are {least}",
                recipe.vocab_size
            )));
        }
        for token in [&recipe.eos, &recipe.pad] {
            if !recipe.special.contains(token) {
                return Err(Error::usage(format!("token {token:?} is not among the special tokens of the tokenizer")));
            }
        }
        let failed = |e: tokenizers::Error| Error::data(format!("the tokenizer could not be trained: {e}"));
        let specials = recipe.special.iter().map(|s| AddedToken::from(s.clone(), true)).collect();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(recipe.vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(specials)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let pattern = SplitPattern::Regex(WORDS.into());
        let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        let bytes = ByteLevel::new(false, false, false);
        let mut learner = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(NFC))
            .with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])))
            .with_post_processor(Some(bytes))
            .with_decoder(Some(ByteLevelDecoder::default()))
            .build()
            .map_err(failed)?;
        learner.train(&mut trainer, texts.map(String::from)).map_err(failed)?;
        let learned = learner.to_string(true).map_err(failed)?;
        Tokenizer::from_files(files(learned, recipe))
    }
}

fn files(learned: String, recipe: &Recipe) -> Files {
    let mut decoder = Map::new();
    for (id, token) in recipe.special.iter().enumerate() {
        let entry = json!({"content": token, "lstrip": false, "normalized": false, "rstrip": false,
                           "single_word": false, "special": true});
        decoder.insert(id.to_string(), entry);
    }
    let others: Vec<&String> = recipe.special.iter().filter(|s| **s != recipe.eos && **s != recipe.pad).collect();
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": decoder,
        "additional_special_tokens": others,
        "bos_token": null,
        "eos_token": recipe.eos,
        "pad_token": recipe.pad,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1_000_000,
    });
    let map = json!({"eos_token": recipe.eos, "pad_token": recipe.pad, "additional_special_tokens": others});
    let pretty = |value: &Value| format!("{value:#}\n");
    let mut files = Files::default();
    files.insert("tokenizer.json", learned);
    files.insert("tokenizer_config.json", pretty(&config));
    files.insert("special_tokens_map.json", pretty(&map));
    files.insert("chat_template.jinja", recipe.chat_template.as_str());
    files
}
