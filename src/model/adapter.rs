//! An adapter of a model: low-rank pairs (`lora.rs`) on disk as PEFT lays them out, and in memory beside a base that several
//! models may share.
//!
//! An adapter directory holds `adapter_config.json` ([`peft`]) and `adapter_model.safetensors`. Ours also say in the weights'
//! metadata which base they were trained on: a hash of a few numbers of each of its tensors, which neither sharding nor
//! storage as another type changes. On another base an adapter means nothing, and where the shapes fit nothing else would
//! tell.

pub mod merge;
pub mod peft;

use super::Model;
use super::config::{Config, HeadKind};
use super::lora::{SCORE, Shape};
use super::weights::{self, Checkpoint, Missing};
use crate::base::dtype::{Dtype, bf16};
use crate::device::{Arena, Device, Layout, View};
use crate::error::{Error, Result};
use peft::{CONFIG, Peft};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The weights' file inside an adapter directory.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The key of the base's hash in the metadata of that file.
const BASE: &str = "base_sha256";

/// What a model has beside its base.
pub struct Adapter {
    pub peft: Peft,
    pub shape: Shape,
    /// What is trained, named as PEFT names it.
    pub layout: Layout,
    pub weights: Arena,
    pub(super) constants: Arena,
    pub(super) constants_layout: Layout,
    /// [`fingerprint`] of the base.
    base: String,
}

/// Where an adapter's numbers come from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// It changes nothing yet: `a` is random, `b` zero, a reward row the base's.
    New { seed: u64 },
    /// An adapter directory.
    From(&'a Path),
}

/// The base that these adapters share: a model directory with the head that they were made for. The second value says
/// whether it can also run without one of them.
///
/// # Errors
/// As [`Model::open_base`]; adapters for different heads, or for a reward that neither they nor the base have.
pub fn open_base(dir: &Path, dtype: impl Fn(Dtype) -> Dtype, adapters: &[Peft]) -> Result<(Model, bool)> {
    let mut heads = adapters.iter().filter_map(|peft| peft.head);
    let head = heads.next();
    if heads.any(|other| Some(other) != head) {
        return Err(Error::model("the adapters were made for different heads (task_type); one base has one head"));
    }
    let (model, drawn) = Model::open_base(dir, dtype, head, 0)?;
    if !drawn.is_empty() && adapters.iter().any(|peft| !peft.score) {
        return Err(Error::model(format!(
            "{}: neither the base nor the adapter has a reward row (score)",
            dir.display()
        )));
    }
    Ok((model, drawn.is_empty()))
}

impl Model {
    /// This base with an adapter beside it. The base is shared, not copied; `dev` is where it lies.
    ///
    /// # Errors
    /// An adapter of another base: names the tensor and both shapes, or both models. Damaged files. No memory.
    pub fn adapted(&self, dev: &Device, peft: Peft, start: Start) -> Result<Model> {
        assert!(self.adapter.is_none(), "one adapter at a time");
        let place = match start {
            Start::New { .. } => "the adapter".to_string(),
            Start::From(dir) => dir.join(CONFIG).display().to_string(),
        };
        belongs(&peft, &self.config, &place)?;
        let shape = peft.resolve(&self.config, &place)?;
        let tables = self.params.adapted(&self.config, self.dtype, &shape);
        let base = fingerprint(dev, self)?;
        let weights = match start {
            Start::New { seed } => {
                let weights = weights::init(&tables.layout, seed)?;
                self.give_score(&tables.layout, &weights)?;
                weights
            }
            Start::From(dir) => open(dir, &tables.layout, &base)?,
        };
        let adapter = Adapter {
            peft,
            shape,
            weights: weights.on(dev, "an adapter", &tables.layout)?,
            constants: tables.constants(dev)?,
            layout: tables.layout,
            constants_layout: tables.constants,
            base,
        };
        Ok(Model {
            config: self.config.clone(),
            dtype: self.dtype,
            layout: self.layout.clone(),
            params: tables.params,
            weights: self.weights.clone(),
            adapter: Some(adapter),
        })
    }

    /// A reward row of an adapter's own starts as the base's.
    fn give_score(&self, layout: &Layout, weights: &Arena) -> Result<()> {
        let own = layout.slots().iter().find(|slot| slot.name == SCORE);
        if let (Some(own), Some(base)) = (own, &self.params.score_head) {
            weights.at(own).copy_bytes(&self.weights.fetch(base)?);
        }
        Ok(())
    }
}

impl Adapter {
    /// Writes an adapter directory that PEFT and we load, into one that exists. Pairs are written as they are stored in memory.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save(&self, dir: &Path, head: HeadKind) -> Result<()> {
        weights::save_json(&dir.join(CONFIG), self.peft.to_json(head))?;
        weights::save_tensors_with(&dir.join(WEIGHTS), &self.layout, &self.weights, &[(BASE, &self.base)])
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.layout.elements()
    }

    /// This adapter with its tensors on a device.
    pub(super) fn on(self, dev: &Device) -> Result<Adapter> {
        let weights = self.weights.on(dev, "an adapter", &self.layout)?;
        let constants = self.constants.on(dev, "an adapter's scales", &self.constants_layout)?;
        Ok(Adapter { weights, constants, ..self })
    }
}

/// The weights of an adapter directory as this layout has them.
fn open(dir: &Path, layout: &Layout, base: &str) -> Result<Arena> {
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        let advice = match dir.join("adapter_model.bin").exists() {
            true => "convert adapter_model.bin to safetensors first",
            false => "is this an adapter directory?",
        };
        return Err(Error::model(format!("{}: missing; {advice}", path.display())));
    }
    let file = Checkpoint::file(&path)?;
    let foreign = |e: Error| Error::new(e.kind(), format!("{e}. The adapter does not fit this base"));
    let (weights, _) = file.read(layout, Missing::Refuse).map_err(foreign)?;
    match file.metadata(BASE) {
        Some(theirs) if theirs != base => Err(Error::model(format!(
            "{}: this adapter was trained beside other weights than this base's ({:.12}, not {base:.12}); give the base it was \
             trained on",
            path.display(),
            theirs
        ))),
        _ => Ok(weights),
    }
}

/// What an adapter's config says of its base must not speak against this one.
fn belongs(peft: &Peft, c: &Config, place: &str) -> Result<()> {
    if let Some(head) = peft.head
        && head != c.head
    {
        let (theirs, ours) = (head_name(head), head_name(c.head));
        return Err(Error::model(format!("{place}: task_type asks for {theirs}, but the base has {ours}")));
    }
    let class = peft.source.get("auto_mapping").and_then(|m| m.get("base_model_class")).and_then(|c| c.as_str());
    if let Some(class) = class
        && !class.starts_with(c.family.class())
    {
        let ours = c.family.class();
        return Err(Error::model(format!("{place}: made for a {class}, but the base is a {ours}")));
    }
    let Some(theirs) = peft.base.as_ref().map(Path::new).filter(|dir| dir.join("config.json").is_file()) else {
        return Ok(());
    };
    let base = Config::open(theirs)?;
    let shape = |c: &Config| (c.family, c.vocab, c.width, c.layers, c.heads, c.ffn, c.tied);
    if shape(&base) == shape(c) {
        return Ok(());
    }
    Err(Error::model(format!(
        "{place}: made for {} ({}), which is another model than this base ({})",
        theirs.display(),
        describe(&base),
        describe(c)
    )))
}

fn describe(c: &Config) -> String {
    format!("{}, {} layers, width {}, ffn {}, vocabulary {}", c.family.name(), c.layers, c.width, c.ffn, c.vocab)
}

fn head_name(head: HeadKind) -> &'static str {
    match head {
        HeadKind::LanguageModel => "a language model's head",
        HeadKind::Scalar => "a scalar head",
    }
}

/// Numbers of each tensor that the hash takes in.
const SAMPLED: usize = 16;

/// A hash of the base's body: name, shape and first numbers of every tensor but the heads, rounded to bf16.
fn fingerprint(dev: &Device, model: &Model) -> Result<String> {
    let mut hash = Sha256::new();
    for slot in model.layout.slots().iter().filter(|slot| slot.name.starts_with("model.")) {
        hash.update(format!("{} {:?}\n", slot.name, slot.shape()));
        let row = model.weights.at(slot).top(1);
        for x in first(dev, row.cols_in(0..row.cols().min(SAMPLED)))? {
            hash.update(bf16::from_f32(x).to_bits().to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn first(dev: &Device, view: View) -> Result<Vec<f32>> {
    Ok(match view.dtype() {
        Dtype::F64 => dev.read::<f64>(view)?.into_iter().map(|x| x as f32).collect(),
        Dtype::Bf16 => dev.read::<bf16>(view)?.into_iter().map(|x| x.to_f32()).collect(),
        _ => dev.read::<f32>(view)?,
    })
}

#[cfg(test)]
mod tests;
