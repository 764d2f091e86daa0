//! Memory that is not there: what was to lie in it, and the most of it that would have fitted.

use crate::device::Device;
use crate::error::{Error, Kind, Result};

/// What a piece of work wants to allocate.
pub struct Needs<'a> {
    /// Names and bytes of its parts.
    pub parts: Vec<(&'a str, usize)>,
    /// What its size is counted in, such as "sequences", and by which setting.
    pub unit: &'a str,
    /// Bytes of a size.
    pub bytes: &'a dyn Fn(usize) -> usize,
}

impl Needs<'_> {
    /// Allocates; where the memory is not there, the error says what was wanted, part by part, and which size would fit.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn allocate<T>(&self, dev: &Device, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let free = dev.free_memory();
        make().map_err(|e| match free {
            Some(free) if e.kind() == Kind::Device => self.explain(e, free),
            _ => e,
        })
    }

    /// Only what does not fit is explained: a device may fail for other reasons.
    fn explain(&self, e: Error, free: usize) -> Error {
        if self.parts.iter().map(|(_, bytes)| bytes).sum::<usize>() <= free {
            return e;
        }
        let parts: Vec<String> =
            self.parts.iter().map(|(name, bytes)| format!("{name} {}", gigabytes(*bytes))).collect();
        let advice = match largest(|n| (self.bytes)(n) <= free) {
            0 => "nothing fits; take weights in bf16, a smaller model or a device with more memory".to_string(),
            n => format!("at most {n} {} would fit", self.unit),
        };
        Error::device(format!(
            "{e}; wanted besides the weights: {}; free: {}; {advice}",
            parts.join(", "),
            gigabytes(free)
        ))
    }
}

/// A number of bytes for people.
pub fn gigabytes(bytes: usize) -> String {
    match bytes {
        b if b >= 100_000_000 => format!("{:.2} GB", b as f64 / 1e9),
        b => format!("{:.2} MB", b as f64 / 1e6),
    }
}

/// The largest n up to a million for which `fits` holds; `fits` holds up to some n and not beyond.
pub fn largest(fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0usize, 1usize << 20);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_that_fits_is_said_and_other_failures_are_left_alone() {
        let bytes = |n: usize| n * 1_000_000;
        let needs = |wanted| Needs { parts: vec![("activations", wanted)], unit: "sequences (--batch)", bytes: &bytes };
        let failed = || Error::device("cuda:0: not enough memory");
        let said = needs(9_000_000).explain(failed(), 7_500_000).to_string();
        assert!(
            said.contains("activations 9.00 MB") && said.contains("at most 7 sequences (--batch) would fit"),
            "{said}"
        );
        assert!(needs(9_000_000).explain(failed(), 100).to_string().contains("nothing fits"));
        assert_eq!(needs(9_000_000).explain(failed(), 9_000_000).to_string(), failed().to_string());
        assert_eq!((largest(|n| n <= 41), largest(|_| false)), (41, 0));
    }
}
