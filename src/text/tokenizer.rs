//! Strings to token ids and back, exactly as the `tokenizer.json` of a Hugging Face directory says.
//!
//! The one thing done differently from the `tokenizers` crate is *added tokens* (`<|im_end|>`, `<think>`, ...). The crate
//! finds them wherever their text occurs, so a user who types `<|im_end|>` ends the turn. Here the caller says where they
//! may be found ([`Parse`]); everything after that step (normalizer, pre-tokenizer, model) is the crate's own pipeline
//! over the whole text, so ids equal those of transformers wherever the added tokens found are the same. In particular
//! normalizers and prepended spaces act once per stretch between added tokens, as they do there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::tokenizer::normalizer::{NormalizedString, Range as Referential};
use tokenizers::{Model, Normalizer, OffsetType, PreTokenizedString, PreTokenizer};

use crate::error::{Error, Result};
pub use crate::text::added::Parse;
use crate::text::added::{Added, Matcher};
use crate::text::files::Files;

/// One token of an encoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: i32,
    /// The bytes of the text it stands for. Tokens that share one character share its range.
    pub bytes: Range<usize>,
}

/// A tokenizer. Immutable and shared between threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Matched on the text as given.
    raw: Matcher,
    /// Matched after the normalizer has run.
    normalized: Matcher,
    /// Contents of the tokens marked special, sorted.
    special: Vec<String>,
    /// Contents of the other added tokens, sorted.
    ordinary: Vec<String>,
    /// `bos_token`, `eos_token`, ... as `tokenizer_config.json` and `special_tokens_map.json` name them.
    named: BTreeMap<String, String>,
    stop: Vec<i32>,
    vocab_size: usize,
    files: Files,
}

/// The names under which a tokenizer's configuration gives tokens a role, as chat templates see them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads the tokenizer files of a Hugging Face directory.
    pub fn open(dir: &Path) -> Result<Tokenizer> {
        Self::from_files(Files::read(dir)?).map_err(|e| e.at(dir.display()))
    }

    /// A tokenizer made of the files given; what [`Tokenizer::save`] writes are these, byte for byte.
    pub fn from_files(files: Files) -> Result<Tokenizer> {
        let bytes = files.bytes("tokenizer.json")?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::model(format!("tokenizer.json does not parse: {e}")))?;
        let config = files.json("tokenizer_config.json")?;
        let named = named_tokens(&config, &files.json("special_tokens_map.json")?);
        add_declared(&mut inner, &config, &files.json("added_tokens.json")?)?;
        let mut marked: Vec<String> = named.values().cloned().collect();
        marked.extend(declared_specials(&config));
        mark(&mut inner, &marked)?;
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        let (mut special, mut ordinary) = (Vec::new(), Vec::new());
        let mut vocab_size = inner.get_model().get_vocab_size();
        let added: BTreeMap<u32, _> = inner.get_added_tokens_decoder().into_iter().collect();
        for (id, token) in added {
            vocab_size = vocab_size.max(id as usize + 1);
            let is_special = token.special || marked.contains(&token.content);
            if is_special { &mut special } else { &mut ordinary }.push(token.content.clone());
            let pattern = if token.normalized { normalize(&inner, &token.content)? } else { token.content.clone() };
            let list = if token.normalized { &mut normalized } else { &mut raw };
            list.push(Added {
                id,
                pattern,
                special: is_special,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            });
        }
        let (raw, normalized) = (Matcher::new(raw), Matcher::new(normalized));
        special.sort();
        ordinary.sort();
        let mut tokenizer =
            Tokenizer { inner, raw, normalized, special, ordinary, named, stop: Vec::new(), vocab_size, files };
        tokenizer.check_roles()?;
        tokenizer.stop = tokenizer.stop_ids()?;
        Ok(tokenizer)
    }

    /// Writes the tokenizer's files into `dir`, which exists; each appears whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.files.write(dir)
    }

    /// The files this tokenizer was made of.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Ids of a person's text: no special token is recognised in it, and none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        self.ids(text, Parse::Off)
    }

    /// What the tokenizer puts before a text of its own accord (a beginning of sequence), where it is asked to.
    pub fn prefix(&self) -> Result<Vec<i32>> {
        let ids = |special: bool| {
            let encoding = self.inner.encode("x", special);
            let encoding = encoding.map_err(|e| Error::model(format!("the tokenizer cannot encode a letter: {e}")))?;
            Ok::<_, Error>(encoding.get_ids().iter().map(|id| *id as i32).collect::<Vec<_>>())
        };
        let (with, plain) = (ids(true)?, ids(false)?);
        let at = with.windows(plain.len().max(1)).position(|w| w == plain).unwrap_or(0);
        Ok(with[..at].to_vec())
    }

    /// Ids of a text, with added tokens recognised where `parse` allows.
    pub fn ids(&self, text: &str, parse: Parse) -> Result<Vec<i32>> {
        let encoding = self.run(text, parse, &[], OffsetType::None)?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    /// Like [`Tokenizer::ids`], with the bytes that each token stands for. No token crosses a byte position in `cuts`.
    pub fn pieces(&self, text: &str, parse: Parse, cuts: &[usize]) -> Result<Vec<Piece>> {
        let encoding = self.run(text, parse, cuts, OffsetType::Byte)?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids.map(|(&id, &(start, end))| Piece { id: id as i32, bytes: start..end }).collect())
    }

    fn run(&self, text: &str, parse: Parse, cuts: &[usize], offsets: OffsetType) -> Result<tokenizers::Encoding> {
        let failed = |e: tokenizers::Error| Error::data(format!("the tokenizer cannot encode this text: {e}"));
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, s| Ok(split_at(s, cuts))).map_err(failed)?;
        pieces.split(|_, s| Ok(self.raw.split(s, parse))).map_err(failed)?;
        pieces
            .split(|_, mut s| {
                if let Some(normalizer) = self.inner.get_normalizer() {
                    normalizer.normalize(&mut s)?;
                }
                Ok(self.normalized.split(s, parse))
            })
            .map_err(failed)?;
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(failed)?;
        pieces.into_encoding(None, 0, offsets).map_err(failed)
    }

    /// The text of a whole sequence of ids, special tokens included. Bytes that are not UTF-8 (a sequence that ends inside
    /// a character) become U+FFFD. Text is not cleaned up: what was encoded comes back, whatever
    /// `clean_up_tokenization_spaces` says. Ids beyond the vocabulary stand for no text.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        self.decode_as(ids, false)
    }

    /// Like [`Tokenizer::decode`], leaving special tokens out.
    pub fn decode_plain(&self, ids: &[i32]) -> Result<String> {
        self.decode_as(ids, true)
    }

    fn decode_as(&self, ids: &[i32], skip: bool) -> Result<String> {
        // Embedding tables are often padded beyond the tokenizer's vocabulary, and a model may sample such a row; like
        // transformers, it stands for no text.
        let known = |id: &u32| (*id as usize) < self.vocab_size;
        let unsigned: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).filter(known).collect();
        self.inner.decode(&unsigned, skip).map_err(|e| Error::data(format!("the tokenizer cannot decode: {e}")))
    }

    /// The id of a token by its exact content.
    pub fn token_id(&self, token: &str) -> Option<i32> {
        self.inner.token_to_id(token).map(|id| id as i32)
    }

    /// The content of a token as the vocabulary spells it (byte-level vocabularies spell a space as `Ġ`).
    pub fn token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// The id that `text` encodes to, if it is exactly one.
    pub fn single_token(&self, text: &str) -> Result<Option<i32>> {
        let ids = self.encode(text)?;
        Ok(if let [id] = ids[..] { Some(id) } else { None })
    }

    /// One more than the largest id: the rows that an embedding must at least have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn bos(&self) -> Option<i32> {
        self.role("bos_token")
    }

    pub fn eos(&self) -> Option<i32> {
        self.role("eos_token")
    }

    pub fn pad(&self) -> Option<i32> {
        self.role("pad_token")
    }

    /// The ids at which generation stops: `eos_token_id` of `generation_config.json` (a number or a list) and the
    /// tokenizer's own end of sequence.
    pub fn stop(&self) -> &[i32] {
        &self.stop
    }

    /// Contents of the tokens that are marked special, sorted.
    pub fn special(&self) -> &[String] {
        &self.special
    }

    /// Contents of the added tokens that are not special, sorted.
    pub fn ordinary(&self) -> &[String] {
        &self.ordinary
    }

    /// `bos_token`, `eos_token`, ... with their contents, as chat templates see them.
    pub fn named(&self) -> &BTreeMap<String, String> {
        &self.named
    }

    fn role(&self, name: &str) -> Option<i32> {
        self.named.get(name).and_then(|token| self.token_id(token))
    }

    fn check_roles(&self) -> Result<()> {
        for (role, token) in &self.named {
            if self.token_id(token).is_none() {
                return Err(Error::model(format!(
                    "tokenizer_config.json names {token:?} as {role}, but tokenizer.json has no such token; \
                     take both files from the same model"
                )));
            }
        }
        Ok(())
    }

    fn stop_ids(&self) -> Result<Vec<i32>> {
        let config = self.files.json("generation_config.json")?;
        let listed = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(Value::Null) | None => Vec::new(),
            Some(id) => vec![id.clone()],
        };
        let mut ids = Vec::new();
        for id in listed {
            match id.as_i64() {
                Some(id) if (0..i32::MAX as i64).contains(&id) => ids.push(id as i32),
                _ => return Err(Error::model(format!("generation_config.json: eos_token_id {id} is not a token id"))),
            }
        }
        ids.extend(self.eos());
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

fn split_at(s: NormalizedString, cuts: &[usize]) -> Vec<NormalizedString> {
    let end = s.get().len();
    let mut bounds = vec![0];
    bounds.extend(cuts.iter().copied().filter(|&c| 0 < c && c < end));
    bounds.push(end);
    if bounds.len() == 2 {
        return vec![s];
    }
    let part = |w: &[usize]| s.slice(Referential::Normalized(w[0]..w[1])).expect("cuts are character boundaries");
    bounds.windows(2).map(part).collect()
}

fn normalize(inner: &tokenizers::Tokenizer, content: &str) -> Result<String> {
    let mut s = NormalizedString::from(content);
    if let Some(normalizer) = inner.get_normalizer() {
        normalizer
            .normalize(&mut s)
            .map_err(|e| Error::model(format!("the normalizer fails on token {content:?}: {e}")))?;
    }
    Ok(s.get().to_string())
}

/// A token as configuration files write it: a string, or an object with `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

fn named_tokens(config: &Map<String, Value>, map: &Map<String, Value>) -> BTreeMap<String, String> {
    let find = |role: &&str| config.get(*role).and_then(content).or_else(|| map.get(*role).and_then(content));
    ROLES.iter().filter_map(|role| Some((role.to_string(), find(role)?.to_string()))).collect()
}

fn declared_specials(config: &Map<String, Value>) -> Vec<String> {
    let lists = ["additional_special_tokens", "extra_special_tokens"].map(|key| config.get(key));
    let mut tokens: Vec<String> = Vec::new();
    for list in lists.into_iter().flatten() {
        match list {
            Value::Array(values) => tokens.extend(values.iter().filter_map(content).map(String::from)),
            Value::Object(named) => tokens.extend(named.values().filter_map(content).map(String::from)),
            _ => {}
        }
    }
    tokens
}

/// Makes added tokens of those entries of the plain vocabulary that the configuration names as special.
fn mark(inner: &mut tokenizers::Tokenizer, marked: &[String]) -> Result<()> {
    let added: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    let missing = marked.iter().filter(|m| !added.contains(m) && inner.token_to_id(m).is_some());
    let missing: Vec<_> = missing.map(|m| tokenizers::AddedToken::from(m.clone(), true)).collect();
    inner
        .add_special_tokens(missing)
        .map_err(|e| Error::model(format!("the tokenizer cannot take its tokens: {e}")))?;
    Ok(())
}

/// Adds the tokens that only `tokenizer_config.json` or `added_tokens.json` declares, in the order of their ids. An id that
/// contradicts `tokenizer.json` is an error: one of the files belongs to another model.
fn add_declared(
    inner: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
    added: &Map<String, Value>,
) -> Result<()> {
    let mut declared: BTreeMap<u64, tokenizers::AddedToken> = BTreeMap::new();
    for (token, id) in added {
        if let Some(id) = id.as_u64() {
            declared.insert(id, tokenizers::AddedToken::from(token.clone(), false).normalized(false));
        }
    }
    if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        for (id, token) in decoder {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            if let (Ok(id), Some(text)) = (id.parse(), content(token)) {
                let token = tokenizers::AddedToken::from(text, flag("special"))
                    .normalized(flag("normalized"))
                    .single_word(flag("single_word"))
                    .lstrip(flag("lstrip"))
                    .rstrip(flag("rstrip"));
                declared.insert(id, token);
            }
        }
    }
    for (id, token) in declared {
        let text = token.content.clone();
        if inner.token_to_id(&text).is_none() {
            inner
                .add_tokens([token])
                .map_err(|e| Error::model(format!("the tokenizer cannot take token {text:?}: {e}")))?;
        }
        let got = inner.token_to_id(&text);
        if got.map(u64::from) != Some(id) {
            return Err(Error::model(format!(
                "tokenizer_config.json gives token {text:?} the id {id}, tokenizer.json {}; take both files from the \
                 same model",
                got.map_or("none".to_string(), |got| got.to_string())
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
