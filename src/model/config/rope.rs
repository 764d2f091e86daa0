//! Rotary positions in a config: the old spelling (`rope_theta` beside `rope_scaling`) and the new one (everything in
//! `rope_parameters`) are both read, must agree, and are both written.

use super::keys::Keys;
use crate::error::Result;
use serde_json::{Map, Value, json};

/// Llama 3's stretched frequencies: long wavelengths are divided by `factor`, short ones kept, those between blended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are divided by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` are kept. Greater than `low_freq_factor`.
    pub high_freq_factor: f64,
    pub original_max_positions: usize,
}

/// What a config says about rotary positions.
pub(super) struct Rope {
    pub theta: f64,
    pub scaling: Option<Llama3Scaling>,
}

/// Reads every spelling. `theta` is the family's default; a scaling without its own length was trained at
/// `max_positions`, as transformers has it.
pub(super) fn read(keys: &Keys, theta: f64, max_positions: usize) -> Result<Rope> {
    let (old, new) = (keys.object("rope_scaling")?, keys.object("rope_parameters")?);
    let inner = |keys: &Option<Keys>| keys.as_ref().map_or(Ok(None), theta_of);
    let thetas = [theta_of(keys)?, inner(&old)?, inner(&new)?];
    let found = thetas.into_iter().flatten().next();
    if thetas.iter().any(|t| t.is_some() && *t != found) {
        return Err(keys.wrong("rope_theta", "rope_parameters gives another value; make them agree"));
    }
    if thetas[0].or(thetas[1]).is_none() && found.is_some() && old.is_some_and(|o| o.entries().next().is_some()) {
        // transformers takes rope_scaling for the whole and then assumes the default.
        return Err(keys.wrong("rope_theta", "beside rope_scaling, write the value of rope_parameters here too"));
    }
    let mut scalings = Vec::new();
    for inner in [old, new].iter().flatten() {
        scalings.extend(kind(inner, keys, max_positions)?);
    }
    if scalings.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(keys.wrong("rope_scaling", "rope_parameters gives another scaling; make them agree"));
    }
    Ok(Rope { theta: found.unwrap_or(theta), scaling: scalings.into_iter().next().flatten() })
}

fn theta_of(keys: &Keys) -> Result<Option<f64>> {
    keys.number("rope_theta", "above 0", |x| x > 0.0)
}

/// The scaling that one object describes: nothing, the plain kind, or Llama 3's.
fn kind(inner: &Keys, outer: &Keys, max_positions: usize) -> Result<Option<Option<Llama3Scaling>>> {
    if let Some((key, _)) = inner.entries().find(|(_, v)| v.is_object()) {
        return Err(inner.wrong(key, "rotary positions that differ from layer to layer are not implemented"));
    }
    rotates_everything(inner)?;
    let (new, old) = (inner.text("rope_type")?, inner.text("type")?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        return Err(inner.wrong("rope_type", &format!("type says {old:?}; make them agree")));
    }
    let key = if new.is_some() { "rope_type" } else { "type" };
    match new.or(old) {
        None if inner.get("factor").is_some() => Err(inner.wrong("rope_type", "a scaling factor needs a rope_type")),
        None => Ok(inner.get("rope_theta").is_some().then_some(None)),
        Some("default") => Ok(Some(None)),
        Some("llama3") => llama3(inner, outer, max_positions).map(|s| Some(Some(s))),
        Some(_) => Err(inner.wrong(key, "this kind of rotary positions is not implemented; default and llama3 are")),
    }
}

/// Refuses heads of which only a part is rotated.
pub(super) fn rotates_everything(keys: &Keys) -> Result<()> {
    match keys.number("partial_rotary_factor", "from 0 to 1", |x| (0.0..=1.0).contains(&x))? {
        Some(part) if part != 1.0 => {
            Err(keys.wrong("partial_rotary_factor", "rotating a part of each head is not implemented"))
        }
        _ => Ok(()),
    }
}

fn llama3(inner: &Keys, outer: &Keys, max_positions: usize) -> Result<Llama3Scaling> {
    let needed = |key| -> Result<f64> {
        let found = inner.number(key, "above 0", |x| x > 0.0)?;
        found.ok_or_else(|| inner.wrong(key, "rope_type llama3 needs a number above 0"))
    };
    let key = "original_max_position_embeddings";
    let most = i32::MAX as usize;
    let (own, beside) = (inner.size(key, most)?, outer.size(key, most)?);
    if let (Some(a), Some(b)) = (own, beside)
        && a != b
    {
        return Err(inner.wrong(key, &format!("beside it, {key} is {b}; make them agree")));
    }
    let scaling = Llama3Scaling {
        factor: needed("factor")?,
        low_freq_factor: needed("low_freq_factor")?,
        high_freq_factor: needed("high_freq_factor")?,
        original_max_positions: own.or(beside).unwrap_or(max_positions),
    };
    if scaling.high_freq_factor <= scaling.low_freq_factor {
        return Err(inner.wrong("high_freq_factor", "it must be greater than low_freq_factor"));
    }
    Ok(scaling)
}

/// Writes every spelling, so that old and new versions of transformers read the same positions.
pub(super) fn write(map: &mut Map<String, Value>, theta: f64, scaling: Option<&Llama3Scaling>) {
    let old = match scaling {
        None => Value::Null,
        Some(s) => json!({
            "factor": s.factor,
            "high_freq_factor": s.high_freq_factor,
            "low_freq_factor": s.low_freq_factor,
            "original_max_position_embeddings": s.original_max_positions,
            "rope_type": "llama3",
        }),
    };
    let mut new = old.as_object().cloned().unwrap_or_default();
    new.entry("rope_type").or_insert_with(|| "default".into());
    new.insert("rope_theta".into(), theta.into());
    map.insert("rope_theta".into(), theta.into());
    map.insert("rope_scaling".into(), old);
    map.insert("rope_parameters".into(), new.into());
}
