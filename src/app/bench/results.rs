//! What a benchmark found, and its JSON.

use super::{Ceilings, Environment, page};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::cost::Cost;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The layout of the file; raised when old readers would misread it.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// `kernels` or `engine`.
    pub benchmark: String,
    pub environment: Environment,
    pub ceilings: Ceilings,
    pub cases: Vec<Measured>,
    /// Cases that could not run, with the reason.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What the same work is called in every file.
    pub name: String,
    /// What must be moved and computed at least.
    pub bytes: f64,
    pub flops: f64,
    /// Which ceiling it is held against.
    pub bound: Bound,
    /// For one call.
    pub seconds: Seconds,
    /// The ceiling's time over the measured one.
    pub of_ceiling: f64,
    /// Tokens that one call reads or writes, where that is the measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<f64>,
    /// Tokens that the same answers take when each prompt is computed by itself, where fewer were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<f64>,
    /// How it was done, where there are several ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<String>,
    /// Every way that was measured, this one too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<Way>,
}

/// One of several ways to do a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    pub name: String,
    pub seconds: Seconds,
}

/// A case that could not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub name: String,
    pub reason: String,
}

/// The ceiling of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Memory, as fast as it can be copied.
    Copy,
    /// Memory, as fast as it can be read.
    Read,
    /// Matrix products.
    Matrix,
    /// Whichever of reading and products takes longer.
    Either,
}

/// The times of a case's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub median: f64,
    /// The quartiles: half of the samples lie between them.
    pub low: f64,
    pub high: f64,
    pub samples: usize,
}

impl Seconds {
    /// # Panics
    /// No samples.
    pub fn of(mut samples: Vec<f64>) -> Seconds {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
        Seconds { median: at(0.5), low: at(0.25), high: at(0.75), samples: samples.len() }
    }
    /// Half the distance of the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.median
    }
}

impl Measured {
    /// A case without tokens or ways.
    pub fn new(name: String, cost: Cost, bound: Bound, seconds: Seconds, ceilings: &Ceilings) -> Measured {
        let of_ceiling = ceilings.seconds(&cost, bound) / seconds.median;
        let Cost { bytes, flops } = cost;
        let (tokens, effective, way, ways) = (None, None, None, Vec::new());
        Measured { name, bytes, flops, bound, seconds, of_ceiling, tokens, effective, way, ways }
    }

    /// What must be moved and computed at least.
    pub fn cost(&self) -> Cost {
        Cost { bytes: self.bytes, flops: self.flops }
    }

    /// In tokens a second where tokens are the measure, else as [`Measured::rate`].
    pub fn speed(&self) -> String {
        let Some(tokens) = self.tokens else { return self.rate() };
        let rate = |tokens: f64| scaled(tokens / self.seconds.median, "tokens/s");
        match self.effective {
            None => rate(tokens),
            Some(all) => format!("{}, as good as {}", rate(tokens), rate(all)),
        }
    }

    /// In the case's own unit: `3.21 TB/s`, `640 TFLOP/s`.
    pub fn rate(&self) -> String {
        let matrix = match self.bound {
            Bound::Matrix => true,
            Bound::Copy | Bound::Read => false,
            Bound::Either => self.flops > 100.0 * self.bytes,
        };
        let (amount, unit) = if matrix { (self.flops, "FLOP/s") } else { (self.bytes, "B/s") };
        scaled(amount / self.seconds.median, unit)
    }
}

/// A number with its unit's prefix.
pub fn scaled(x: f64, unit: &str) -> String {
    let (x, prefix) = match x {
        x if x >= 1e12 => (x / 1e12, "T"),
        x if x >= 1e9 => (x / 1e9, "G"),
        x if x >= 1e6 => (x / 1e6, "M"),
        x => (x, ""),
    };
    format!("{} {prefix}{unit}", three_digits(x))
}

/// A time in the unit that suits it.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} us", three_digits(s * 1e6)),
        s if s < 1.0 => format!("{} ms", three_digits(s * 1e3)),
        s => format!("{} s", three_digits(s)),
    }
}

fn three_digits(x: f64) -> String {
    let digits = if x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    format!("{x:.digits$}")
}

impl Results {
    /// Of a benchmark that has just begun here.
    pub fn new(benchmark: &str, dev: &Device, ceilings: Ceilings) -> Results {
        let (environment, cases, left_out) = (Environment::of(dev), Vec::new(), Vec::new());
        Results { format: FORMAT, benchmark: benchmark.to_string(), environment, ceilings, cases, left_out }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts") + "\n"
    }

    /// Adds a case; a line about it.
    pub fn add(&mut self, case: Measured) -> String {
        let line = page::line(&case);
        self.cases.push(case);
        line
    }

    /// Notes a case that could not run; a line about it.
    pub fn leave_out(&mut self, name: String, reason: String) -> String {
        let line = format!("left out: {name}: {reason}");
        self.left_out.push(LeftOut { name, reason });
        line
    }

    /// # Errors
    /// Usage: a file that is not there, is no result of a benchmark, is of another format, or holds times that are none.
    pub fn open(path: &Path) -> Result<Results> {
        let fault = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| fault(format!("cannot be read: {e}")))?;
        let results: Results = serde_json::from_str(&text)
            .map_err(|e| fault(format!("is not a result of `gramophone bench` ({e}); make one with --json FILE")))?;
        if results.format != FORMAT {
            return Err(fault(format!("has format {}, this program reads {FORMAT}", results.format)));
        }
        match results.cases.iter().find(|c| !(c.seconds.low > 0.0 && c.seconds.high.is_finite())) {
            Some(case) => Err(fault(format!("the times of {:?} are not times", case.name))),
            None => Ok(results),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let s = Seconds::of(vec![3.0, 1.0, 2.0, 5.0, 4.0]);
        assert_eq!((s.median, s.low, s.high, s.samples), (3.0, 2.0, 4.0, 5));
        assert_eq!(s.spread(), 1.0 / 3.0);
        assert_eq!(scaled(3.214e12, "B/s"), "3.21 TB/s");
        assert_eq!(scaled(6.4e11, "FLOP/s"), "640 GFLOP/s");
        assert_eq!([time(12.34e-6), time(0.0123), time(2.0)], ["12.3 us", "12.3 ms", "2.00 s"]);
    }
}
