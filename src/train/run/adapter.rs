//! The adapter of a run that trains one: what `[lora]` asks for, and where its numbers come from.

use super::super::config::{ALL_LINEAR, Run, Stage};
use super::super::log::Sink;
use super::{dtype, head, no_model, note_drawn};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::adapter::Start;
use crate::model::adapter::peft::{CONFIG, Peft, Targets};
use serde_json::Map;
use std::path::Path;

/// The adapter that the run file asks for, if it does.
///
/// # Errors
/// An adapter directory that cannot be trained on.
pub fn wanted(run: &Run) -> Result<Option<Peft>> {
    let lora = &run.lora;
    let peft = match (&lora.adapter, lora.rank) {
        (Some(dir), _) => {
            let peft = Peft::open(dir)?;
            if peft.dropout > 0.0 {
                return Err(Error::model(format!(
                    "{}: lora_dropout is {}; training with dropout is not implemented: set it to 0 to go on without",
                    dir.join(CONFIG).display(),
                    peft.dropout
                )));
            }
            peft
        }
        (None, Some(rank)) => Peft {
            rank: rank as usize,
            alpha: lora.alpha.unwrap_or(2.0 * rank as f64),
            rslora: lora.rslora,
            targets: match lora.targets.as_slice() {
                [all] if all == ALL_LINEAR => Targets::AllLinear,
                names => Targets::Names(names.to_vec()),
            },
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            score: run.train.stage == Stage::Scalar,
            dropout: 0.0,
            head: Some(head(run)),
            base: None,
            source: Map::new(),
        },
        (None, None) => return Ok(None),
    };
    Ok(Some(Peft { base: base(run)?, ..peft }))
}

/// The base by a name that stays right wherever the adapter goes.
fn base(run: &Run) -> Result<Option<String>> {
    let Some(path) = &run.model.path else { return Ok(None) };
    let whole = path.canonicalize().map_err(|e| Error::io("open", path, e))?;
    Ok(Some(whole.display().to_string()))
}

/// The adapter of a run that starts or goes on: [`wanted`], which a checkpoint must agree with.
///
/// # Errors
/// As [`wanted`]; a checkpoint of a run that trained something else.
pub fn of(run: &Run, resumed: Option<&Path>) -> Result<Option<Peft>> {
    let wanted = wanted(run)?;
    let Some(dir) = resumed else { return Ok(wanted) };
    let other = |what: &str| {
        Err(Error::usage(format!(
            "the checkpoint {} {what}: a run cannot change that on the way; choose another checkpoint.dir",
            dir.display()
        )))
    };
    let there = if dir.join(CONFIG).is_file() { Some(Peft::open(dir)?) } else { None };
    match (&wanted, &there) {
        (None, Some(_)) => other("is an adapter's, but this run trains the whole model"),
        (Some(_), None) => other("is a whole model's, but this run trains an adapter"),
        (Some(now), Some(then)) if pairs(now) != pairs(then) => other("is of another adapter than [lora] describes"),
        _ => Ok(wanted),
    }
}

/// All that decides which pairs there are: written and read again, every way of saying it is one.
fn pairs(peft: &Peft) -> serde_json::Value {
    let map = peft.to_json(peft.head.unwrap_or(crate::model::config::HeadKind::LanguageModel));
    let keys = ["r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern", "modules_to_save"];
    keys.iter().map(|key| (key.to_string(), map[*key].clone())).collect::<Map<_, _>>().into()
}

/// The run's frozen model with its adapter: a checkpoint's, that of `lora.adapter`, or a new one.
///
/// # Errors
/// As [`Model::open_base`] and [`Model::adapted`].
pub fn open(run: &Run, peft: Peft, resumed: Option<&Path>, sink: &mut dyn Sink) -> Result<Model> {
    let path = run.model.path.as_deref().ok_or_else(no_model)?;
    let (base, drawn) = Model::open_base(path, |stored| dtype(run, stored), Some(head(run)), run.train.seed)?;
    let start = match resumed.or(run.lora.adapter.as_deref()) {
        Some(dir) => Start::From(dir),
        None => {
            note_drawn(&drawn, sink);
            Start::New { seed: run.train.seed }
        }
    };
    base.adapted(&Device::cpu(0), peft, start)
}
