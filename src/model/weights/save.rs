//! Writing a model directory that transformers and we can load: config, weights, and the files beside them.
//!
//! Everything goes into a directory that the caller has made and will rename into place once it is whole; nothing here
//! replaces a file.

use super::safetensors::{create, write};
use crate::base::dtype::Dtype;
use crate::device::{Arena, Layout, Slot};
use crate::error::{Error, Result};
use crate::model::config::Config;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

/// Larger models are split into files of at most this many bytes of weights.
const SHARD: usize = 5_000_000_000;

/// Writes `config.json` and the weights, rounded to `dtype` (float32 or bfloat16), without a second copy of them in
/// memory. Tensors lie in the layout's order, a tied output is not written, and every file is on the disk on return.
///
/// # Errors
/// What the system refuses, files that are already there included.
pub fn save(dir: &Path, config: &Config, layout: &Layout, arena: &Arena, dtype: Dtype) -> Result<()> {
    save_sharded(dir, config, layout, arena, dtype, SHARD)
}

/// As [`save`], with files of at most `most` bytes of weights (or one tensor, where that is larger).
///
/// # Errors
/// As [`save`].
pub fn save_sharded(
    dir: &Path,
    config: &Config,
    layout: &Layout,
    arena: &Arena,
    dtype: Dtype,
    most: usize,
) -> Result<()> {
    save_json(&dir.join("config.json"), config.to_json(dtype))?;
    let shards = split(layout, dtype, most);
    if let [all] = shards.as_slice() {
        return create(&dir.join("model.safetensors"), |out| write(out, all, arena, dtype, &[]));
    }
    let mut map = Map::new();
    for (i, slots) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        create(&dir.join(&name), |out| write(out, slots, arena, dtype, &[]))?;
        map.extend(slots.iter().map(|slot| (slot.name.clone(), Value::from(name.as_str()))));
    }
    let total = layout.elements() * dtype.size();
    let mut index = Map::new();
    index.insert("metadata".into(), json!({ "total_parameters": layout.elements(), "total_size": total }));
    index.insert("weight_map".into(), map.into());
    save_json(&dir.join("model.safetensors.index.json"), index)
}

/// Writes the tensors of any arena of `layout` (moments, master copies) to one file, in their own type.
///
/// # Errors
/// As [`save`].
pub fn save_tensors(path: &Path, layout: &Layout, arena: &Arena) -> Result<()> {
    save_tensors_with(path, layout, arena, &[])
}

/// As [`save_tensors`], with more in the file's metadata.
///
/// # Errors
/// As [`save`].
pub fn save_tensors_with(path: &Path, layout: &Layout, arena: &Arena, metadata: &[(&str, &str)]) -> Result<()> {
    let slots: Vec<&Slot> = layout.slots().iter().collect();
    let dtype = slots.first().map_or(Dtype::F32, |slot| slot.dtype);
    create(path, |out| write(out, &slots, arena, dtype, metadata))
}

fn split(layout: &Layout, dtype: Dtype, most: usize) -> Vec<Vec<&Slot>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for slot in layout.slots() {
        let bytes = slot.len() * dtype.size();
        if filled > 0 && filled + bytes > most {
            shards.push(Vec::new());
            filled = 0;
        }
        shards.last_mut().expect("there is always one").push(slot);
        filled += bytes;
    }
    shards
}

pub(in crate::model) fn save_json(path: &Path, map: Map<String, Value>) -> Result<()> {
    create(path, |out| {
        serde_json::to_writer_pretty(&mut *out, &map)?;
        out.write_all(b"\n")
    })
}

/// What a model directory holds beside config and weights: the tokenizer and how to generate.
const SIDECARS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];
/// Chat templates with names of their own.
const TEMPLATES: &str = "additional_chat_templates";

/// Copies the tokenizer and generation files of one model directory to another, and gives the names of those that were
/// there.
///
/// # Errors
/// What the system refuses, files that are already there included.
pub fn copy_sidecars(from: &Path, to: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = SIDECARS.iter().map(|name| name.to_string()).collect();
    if from.join(TEMPLATES).is_dir() {
        let folder = from.join(TEMPLATES);
        let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
        let mut inside = entries.collect::<std::io::Result<Vec<_>>>().map_err(|e| Error::io("read", &folder, e))?;
        inside.sort_by_key(|entry| entry.file_name());
        let jinja = inside.iter().filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.ends_with(".jinja"));
        names.extend(jinja.map(|name| format!("{TEMPLATES}/{name}")));
        let folder = to.join(TEMPLATES);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    }
    names.retain(|name| from.join(name).is_file());
    for name in &names {
        let source = from.join(name);
        let bytes = fs::read(&source).map_err(|e| Error::io("read", &source, e))?;
        create(&to.join(name), |out| out.write_all(&bytes))?;
    }
    Ok(names)
}
