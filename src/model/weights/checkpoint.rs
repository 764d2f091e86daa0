//! The weight files of one directory as one set of named tensors: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` lists.
//!
//! Names are those of the full model. Files of a bare backbone, whose names lack the prefix `model.`, are read as if
//! they had it. Two tensors may be there that a layout does not have, because other programs leave them behind and the
//! model does not depend on them: `lm_head.weight` where the output is tied or scalar, and rotary frequencies
//! (`….rotary_emb.inv_freq`), which follow from the config. Any other is an error: it means that the config describes
//! another model.

use super::Missing;
use super::safetensors::{File, Stored, Tensor};
use crate::base::dtype::{Dtype, Elem, Real, bf16};
use crate::base::par::Pool;
use crate::by_dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The tensors of a model directory, mapped and checked but not yet fitted to a layout.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file that says what there is, for messages.
    place: PathBuf,
    files: Vec<File>,
    /// Full name to file and tensor.
    names: BTreeMap<String, (usize, usize)>,
}

/// What a layout finds in a checkpoint, slot by slot.
struct Found<'a> {
    tensors: Vec<Option<(&'a File, &'a Tensor)>>,
    missing: Vec<String>,
}

impl Checkpoint {
    /// Maps the weight files of a directory.
    ///
    /// # Errors
    /// Missing or damaged files, and an index that does not agree with its shards.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let whole = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if whole.exists() {
            let file = File::open(&whole)?;
            return Checkpoint::of(whole, vec![file]);
        }
        if index.exists() {
            let map = read_index(&index)?;
            let shards: BTreeSet<&String> = map.values().collect();
            let files = shards.into_iter().map(|s| File::open(&dir.join(s)).map_err(|e| e.at(index.display())));
            let files = files.collect::<Result<Vec<_>>>()?;
            agree(&index, &map, &files)?;
            return Checkpoint::of(index, files);
        }
        let elsewhere = ["pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.safetensors"];
        let advice = match elsewhere.iter().find(|name| dir.join(name).exists()) {
            Some(name) if name.starts_with("adapter") => "there is only an adapter; its weights are not a model's",
            Some(_) => "convert pytorch_model.bin to safetensors first",
            None => "is this a model directory?",
        };
        Err(Error::model(format!("{}: model.safetensors is missing; {advice}", dir.display())))
    }

    /// Maps one file of tensors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn file(path: &Path) -> Result<Checkpoint> {
        Checkpoint::of(path.to_path_buf(), vec![File::open(path)?])
    }

    fn of(place: PathBuf, files: Vec<File>) -> Result<Checkpoint> {
        let all = || files.iter().flat_map(|f| &f.tensors).map(|t| t.name.as_str());
        let backbone = |name: &str| name.starts_with("layers.") || name == "embed_tokens.weight";
        let bare = all().any(backbone) && !all().any(|name| name.starts_with("model."));
        let mut names = BTreeMap::new();
        for (f, file) in files.iter().enumerate() {
            for (t, tensor) in file.tensors.iter().enumerate() {
                let head = ["lm_head.", "score."].iter().any(|head| tensor.name.starts_with(head));
                let prefix = if bare && !head { "model." } else { "" };
                let name = format!("{prefix}{}", tensor.name);
                if names.insert(name, (f, t)).is_some() {
                    return Err(Error::model(format!(
                        "{}: {} is in another shard too",
                        file.path.display(),
                        tensor.name
                    )));
                }
            }
        }
        Ok(Checkpoint { place, files, names })
    }

    /// The names that are there, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// What the (first) file's metadata says under a key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.files.first()?.metadata.get(key).map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The layout's tensors where they lie in the files, read-only: no copy is made. `None` when some tensor is stored
    /// as another type than its slot's, or not aligned for it.
    ///
    /// # Errors
    /// Names the tensor that is missing, has another shape, or does not belong.
    pub fn map(&self, layout: &Layout) -> Result<Option<Arena>> {
        let found = self.find(layout, &Missing::Refuse)?;
        let mut places = Vec::with_capacity(found.tensors.len());
        for (slot, (file, tensor)) in layout.slots().iter().zip(found.tensors.into_iter().flatten()) {
            if tensor.stored.same() != Some(slot.dtype) {
                return Ok(None);
            }
            places.push((file.map.clone(), tensor.bytes.start));
        }
        Ok(Arena::mapped(layout, &places))
    }

    /// A writable copy of the layout's tensors, converted to its types, and the names of those that were missing.
    /// Results do not depend on the number of threads.
    ///
    /// # Errors
    /// As [`Checkpoint::map`], and when the memory is not there.
    pub fn read(&self, layout: &Layout, missing: Missing) -> Result<(Arena, Vec<String>)> {
        let found = self.find(layout, &missing)?;
        let pool = Pool::start(0)?;
        let arena = Arena::new(&Device::Cpu(pool.clone()), "the weights", layout)?;
        for (slot, found) in layout.slots().iter().zip(&found.tensors) {
            match (found, &missing) {
                (Some((file, tensor)), _) => {
                    fill(&pool, arena.at(slot), tensor.stored, &file.map[tensor.bytes.clone()])
                }
                (None, Missing::Draw { seed, .. }) => super::draw(&pool, &arena, slot, *seed),
                (None, Missing::Refuse) => unreachable!("a missing tensor was refused"),
            }
        }
        Ok((arena, found.missing))
    }

    fn find(&self, layout: &Layout, missing: &Missing) -> Result<Found<'_>> {
        let mut found = Found { tensors: Vec::with_capacity(layout.slots().len()), missing: Vec::new() };
        for slot in layout.slots() {
            let tensor = self.names.get(&slot.name).map(|(f, t)| (&self.files[*f], &self.files[*f].tensors[*t]));
            match tensor {
                Some((file, tensor)) => fits(file, tensor, slot)?,
                None => found.missing.push(slot.name.clone()),
            }
            found.tensors.push(tensor);
        }
        if let Some(error) = self.refuse_missing(&found.missing, missing) {
            return Err(error);
        }
        let known: BTreeSet<&str> = layout.slots().iter().map(|s| s.name.as_str()).collect();
        match self.names().find(|name| !known.contains(name) && !harmless(name)) {
            Some(name) => {
                let advice = "the model that config.json describes has no such tensor; the two do not belong together";
                Err(Error::model(format!("{}: {name}: {advice}", self.place.display())))
            }
            None => Ok(found),
        }
    }

    fn refuse_missing(&self, names: &[String], missing: &Missing) -> Option<Error> {
        let allowed = |name: &String| matches!(missing, Missing::Draw { names, .. } if names.contains(&name.as_str()));
        let mut refused = names.iter().filter(|name| !allowed(name));
        let first = refused.next()?;
        let others = match refused.count() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let advice = match first.as_str() {
            "lm_head.weight" => {
                "; if the output is the embedding table, config.json must say tie_word_embeddings: true"
            }
            "score.weight" => "; this is not a scalar reward model",
            _ => "; the file is incomplete or config.json describes another model",
        };
        Some(Error::model(format!("{}: {first}{others} missing{advice}", self.place.display())))
    }
}

/// See the head of this file. Only asked about names that the layout does not have.
fn harmless(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq")
}

fn fits(file: &File, tensor: &Tensor, slot: &Slot) -> Result<()> {
    let wrong = |what: String| Err(Error::model(format!("{}: {} {what}", file.path.display(), tensor.name)));
    if tensor.shape != slot.shape() {
        return wrong(format!("has shape {:?}, but config.json asks for {:?}", tensor.shape, slot.shape()));
    }
    match (tensor.stored, slot.dtype) {
        (Stored::Other(name), _) => wrong(format!("is stored as {name}; the engine reads F32, BF16, F16 and F64")),
        (Stored::U8, Dtype::U8) => Ok(()),
        (Stored::U8, _) | (_, Dtype::U8) => wrong(
            "is one of 8-bit codes and numbers where the other is expected; it belongs to another optimizer".into(),
        ),
        _ => Ok(()),
    }
}

/// Tensor name to shard.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let wrong = |what: &str| Error::model(format!("{}: {what}", path.display()));
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let index: Value = serde_json::from_slice(&text).map_err(|e| wrong(&format!("not valid JSON: {e}")))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| wrong("weight_map is missing or no object"))?;
    let mut shards = BTreeMap::new();
    for (name, shard) in map {
        // A shard lies beside its index: nothing in a model directory leads out of it.
        let plain = |s: &&str| Path::new(s).file_name().is_some_and(|f| f == *s);
        let Some(shard) = shard.as_str().filter(plain) else {
            return Err(wrong(&format!("{name} is in {shard}, which is no file name")));
        };
        shards.insert(name.clone(), shard.to_string());
    }
    if shards.is_empty() {
        return Err(wrong("weight_map is empty"));
    }
    Ok(shards)
}

/// What the index says and what the shards hold must be the same.
fn agree(index: &Path, map: &BTreeMap<String, String>, files: &[File]) -> Result<()> {
    let wrong = |what: String| Err(Error::model(format!("{}: {what}", index.display())));
    let mut held = BTreeSet::new();
    for file in files {
        let shard = file.path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
        for tensor in &file.tensors {
            if map.get(&tensor.name).map(String::as_str) != Some(shard) {
                return wrong(format!("{} is in {shard}, but the index does not say so", tensor.name));
            }
            held.insert(tensor.name.as_str());
        }
    }
    match map.iter().find(|(name, _)| !held.contains(name.as_str())) {
        Some((name, shard)) => wrong(format!("{name} should be in {shard}, but is not")),
        None => Ok(()),
    }
}

/// Elements converted by one thread at a time.
const PIECE: usize = 1 << 16;

/// Copies stored elements into a tensor of a new arena, rounding each once.
fn fill(pool: &Pool, to: View, stored: Stored, bytes: &[u8]) {
    let size = bytes.len() / to.len().max(1);
    let row = to.reshape(1, to.len());
    pool.ranges(to.len(), PIECE, |range| {
        let from = &bytes[range.start * size..range.end * size];
        let to = row.cols_in(range);
        if stored == Stored::U8 {
            to.row_mut::<u8>(0).copy_from_slice(from);
            return;
        }
        by_dtype!(to.dtype(), To => {
            let to = to.row_mut::<To>(0);
            match stored {
                Stored::F64 => decode(to, from, f64::from_le_bytes),
                Stored::F32 => decode(to, from, |b| f32::from_le_bytes(b) as f64),
                Stored::Bf16 => decode(to, from, |b| bf16::from_le_bytes(b).get() as f64),
                Stored::F16 => decode(to, from, |b| half::f16::from_le_bytes(b).to_f64()),
                Stored::U8 => unreachable!("codes are only copied"),
                Stored::Other(name) => unreachable!("{name} was refused"),
            }
        });
    });
}

/// Stored tensors need not be aligned, so elements are put together from bytes.
fn decode<To: Elem, const N: usize>(to: &mut [To], from: &[u8], element: impl Fn([u8; N]) -> f64) {
    let (from, rest) = from.as_chunks::<N>();
    assert!(rest.is_empty() && from.len() == to.len(), "one stored element for each");
    for (to, from) in to.iter_mut().zip(from) {
        *to = To::put(To::Acc::of(element(*from)));
    }
}
