//! Memory that is not there: what was to lie in it, and the most of it that would have fitted.

use crate::device::{Device, GRANULE};
use crate::error::{Error, Kind, Result};
use std::ops::RangeInclusive;

/// What a piece of work wants to allocate.
pub struct Needs<'a> {
    /// What its parts are called; each is an allocation of its own.
    pub parts: &'a [&'a str],
    /// The bytes of the parts for a size.
    pub bytes: &'a dyn Fn(usize) -> Vec<usize>,
    /// The size that is wanted.
    pub size: usize,
    /// What sizes are counted in, such as "sequences", and by which setting.
    pub unit: &'a str,
}

impl Needs<'_> {
    /// Allocates; where the memory is not there, the error says what was wanted, part by part, and which size would fit.
    ///
    /// # Errors
    /// A GPU has less memory free than all parts take; those of `make`.
    pub fn allocate<T>(&self, dev: &Device, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let free = dev.free_memory();
        // A GPU's memory is taken when it is allocated, even if later parts turn out not to fit; a CPU's when it is touched.
        if let (Device::Cuda(gpu), Some(free)) = (dev, free)
            && self.taken(self.size) > free
        {
            return Err(self.explain(Error::device(format!("{}: not enough memory", gpu.name())), free));
        }
        make().map_err(|e| match free {
            // Only what does not fit is explained: a device may fail for other reasons.
            Some(free) if e.kind() == Kind::Device && self.taken(self.size) > free => self.explain(e, free),
            _ => e,
        })
    }

    fn taken(&self, size: usize) -> usize {
        taken((self.bytes)(size))
    }

    fn explain(&self, e: Error, free: usize) -> Error {
        let bytes = (self.bytes)(self.size);
        let parts: Vec<String> =
            self.parts.iter().zip(bytes).map(|(name, bytes)| format!("{name} {}", gigabytes(bytes))).collect();
        let advice = match largest(|n| self.taken(n) <= free) {
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

/// The bytes of a GPU's memory that allocations of so many bytes take.
pub fn taken(allocations: impl IntoIterator<Item = usize>) -> usize {
    allocations.into_iter().map(|bytes| bytes.next_multiple_of(GRANULE)).sum()
}

/// The largest of these sizes whose allocations fit into what a GPU has free, or the smallest if none does; on a CPU, whose memory
/// costs nothing until it is touched, the largest of all.
pub fn fitting(dev: &Device, sizes: RangeInclusive<usize>, bytes: impl Fn(usize) -> Vec<usize>) -> usize {
    let (least, most) = sizes.into_inner();
    match (dev, dev.free_memory()) {
        (Device::Cuda(_), Some(free)) => largest(|n| n <= least || (n <= most && taken(bytes(n)) <= free)),
        _ => most,
    }
}

/// A number of bytes for people.
pub fn gigabytes(bytes: usize) -> String {
    match bytes {
        b if b >= 100_000_000 => format!("{:.2} GB", b as f64 / 1e9),
        b => format!("{:.2} MB", b as f64 / 1e6),
    }
}

/// More of anything than any memory holds.
const ENDLESS: usize = 1 << 40;

/// The largest n for which `fits` holds, which it does up to some n and not beyond; 2^40 if that is not the end yet.
pub fn largest(fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, 1);
    // No further than twice what fits: sizes in bytes of what is far beyond might not be numbers any more.
    while fits(high) {
        if high == ENDLESS {
            return ENDLESS;
        }
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_that_fits_is_said() {
        let bytes = |n: usize| vec![n << 20, 5];
        let needs = |size| Needs { parts: &["activations", "lists"], bytes: &bytes, size, unit: "sequences (--batch)" };
        let failed = || Error::device("cuda:0: not enough memory");
        // Three whole pieces are free, of which the lists take one.
        let said = needs(9).explain(failed(), (7 << 20) + 5).to_string();
        assert!(
            said.contains("activations 9.44 MB, lists 0.00 MB")
                && said.contains("at most 4 sequences (--batch) would fit"),
            "{said}"
        );
        assert!(needs(9).explain(failed(), 100).to_string().contains("nothing fits"));
        assert_eq!(taken([1, GRANULE, GRANULE + 1]), 4 * GRANULE);
    }

    #[test]
    fn failures_of_other_kinds_are_left_alone() {
        let needs = |size| Needs { parts: &["activations"], bytes: &|n| vec![n], size, unit: "sequences (--batch)" };
        let tried = |size, e: fn() -> Error| needs(size).allocate(&Device::cpu(1), || Err::<(), _>(e())).unwrap_err();
        let broken = || Error::device("cuda:0: broken");
        assert_eq!(tried(1, broken).to_string(), broken().to_string());
        assert!(
            tried(1 << 60, broken).to_string().contains("cuda:0: broken; wanted besides the weights: activations ")
        );
        assert!(!tried(1 << 60, || Error::data("odd")).to_string().contains("wanted"));
    }

    #[test]
    fn the_largest_is_found_however_large_it_is() {
        for most in [0, 1, 2, 3, 41, 12345, 1 << 20, (1 << 20) + 1, 3_000_000_000] {
            assert_eq!(largest(|n| n <= most), most);
        }
        assert_eq!(largest(|_| true), ENDLESS);
        assert_eq!(fitting(&Device::cpu(1), 3..=9, |_| vec![usize::MAX / 2]), 9);
    }
}
