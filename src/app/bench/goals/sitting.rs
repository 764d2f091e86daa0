//! The files of a sitting.

use super::Whose;
use crate::app::bench::{Ceilings, Measured, Results};
use crate::error::{Error, Result};
use std::path::Path;

/// All results in a directory: ours and the peers'.
pub struct Sitting {
    ours: Vec<Results>,
    peers: Vec<Results>,
    /// The best of every file.
    pub(super) ceilings: Ceilings,
}

impl Sitting {
    /// Reads the result files in a directory; those of other kinds are passed over.
    ///
    /// # Errors
    /// Usage: a directory that cannot be read or has no result of ours, a result that cannot be read, results of different devices.
    pub fn open(dir: &Path) -> Result<Sitting> {
        let fault = |what: String| Error::usage(format!("{}: {what}", dir.display()));
        let entries = std::fs::read_dir(dir).map_err(|e| fault(format!("cannot be read: {e}")))?;
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
        paths.sort();
        let mut all = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|e| fault(format!("{}: {e}", path.display())))?;
            let value: serde_json::Value = serde_json::from_str(&text)
                .map_err(|e| Error::usage(format!("{}: is not whole JSON ({e})", path.display())))?;
            if value.get("benchmark").is_some() {
                all.push(Results::open(&path)?);
            }
        }
        Sitting::of(all).map_err(|e| e.at(dir.display().to_string()))
    }

    /// Sorts results by who made them.
    ///
    /// # Errors
    /// As [`Sitting::open`].
    pub(super) fn of(all: Vec<Results>) -> Result<Sitting> {
        let device = |r: &Results| r.environment.device.clone();
        if let Some(pair) = all.windows(2).find(|pair| device(&pair[0]) != device(&pair[1])) {
            let (a, b) = (device(&pair[0]), device(&pair[1]));
            return Err(Error::usage(format!("results of different devices ({a}; {b}) are no one sitting")));
        }
        let (ours, peers): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|r| r.environment.program.starts_with("gramophone"));
        if ours.is_empty() {
            return Err(Error::usage(
                "no result of `gramophone bench kernels` or `bench engine` is there; make one with --json FILE",
            ));
        }
        let best = |of: fn(&Ceilings) -> f64| ours.iter().chain(&peers).map(|r| of(&r.ceilings)).fold(0.0, f64::max);
        let ceilings = Ceilings { copy: best(|c| c.copy), read: best(|c| c.read), matrix: best(|c| c.matrix) };
        Ok(Sitting { ours, peers, ceilings })
    }

    /// Every file, ours first.
    pub(super) fn files(&self) -> impl Iterator<Item = &Results> {
        self.ours.iter().chain(&self.peers)
    }

    /// Our case of this name.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn own(&self, name: &str) -> std::result::Result<&Measured, String> {
        find(&self.ours, name)
    }

    /// How fast someone does a case, in what [`speed`] counts, and how.
    ///
    /// # Errors
    /// Why nobody did it.
    pub(super) fn other(&self, whose: Whose, name: &str) -> std::result::Result<Other<'_>, String> {
        let ways: &[&str] = match whose {
            Whose::Own(_) => {
                let case = self.own(name)?;
                return Ok(Other { case, way: "", speed: speed(case) });
            }
            Whose::Best => &[],
            Whose::Ways(_, ways) => ways,
        };
        let case = find(&self.peers, name)?;
        let whole = (case.way.as_deref().unwrap_or(""), &case.seconds);
        let all = case.ways.iter().map(|w| (w.name.as_str(), &w.seconds)).chain([whole]);
        let best = all
            .filter(|(way, _)| ways.is_empty() || ways.contains(way))
            .min_by(|a, b| a.1.median.total_cmp(&b.1.median));
        match best {
            Some((way, seconds)) => Ok(Other { case, way, speed: amount(case) / seconds.median }),
            None => {
                Err(match self.peers.iter().flat_map(|r| &r.left_out).find(|l| left_out_way(&l.name, name, ways)) {
                    Some(left_out) => format!("left out: {}", left_out.reason),
                    None => "not measured".to_string(),
                })
            }
        }
    }
}

/// A case of someone else's.
pub(super) struct Other<'a> {
    pub case: &'a Measured,
    pub way: &'a str,
    pub speed: f64,
}

/// Peers name a way that did not run as `CASE (WAY)`.
fn left_out_way(left_out: &str, case: &str, ways: &[&str]) -> bool {
    ways.iter().any(|way| left_out == format!("{case} ({way})"))
}

fn find<'a>(files: &'a [Results], name: &str) -> std::result::Result<&'a Measured, String> {
    if let Some(case) = files.iter().flat_map(|r| &r.cases).find(|c| c.name == name) {
        return Ok(case);
    }
    match files.iter().flat_map(|r| &r.left_out).find(|l| l.name == name) {
        Some(left_out) => Err(left_out.reason.clone()),
        None => Err("not in the files".to_string()),
    }
}

/// What a case gets done: tokens, those that sharing saved included, or itself.
fn amount(case: &Measured) -> f64 {
    case.effective.or(case.tokens).unwrap_or(1.0)
}

/// What it gets done in a second.
pub(super) fn speed(case: &Measured) -> f64 {
    amount(case) / case.seconds.median
}
