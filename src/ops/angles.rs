//! The frequencies of rotary embeddings, and the tables that [`rope`](super::rope) reads.
//!
//! ```text
//! frequency[i] = theta^(-2i/K)                        i < K/2, then stretched by the model's scaling
//! cos[p,i], sin[p,i] = cos, sin(p frequency[i])
//! ```

/// How Llama 3.1 and later stretch the low frequencies for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_positions: usize,
}

/// Cosines and sines of a [`RopeTable`](super::rope::RopeTable) for heads of `size` columns and `positions` positions, row by row.
///
/// Frequencies and angles take the rounding steps that transformers takes in float32, because checkpoints were trained with
/// them; the cosine and sine of an angle are exact to the last bit.
pub fn rope_angles(theta: f64, scaling: Option<Llama3Scaling>, size: usize, positions: usize) -> (Vec<f32>, Vec<f32>) {
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / size as f32;
        let inverse = 1.0 / (theta.powf(exponent as f64) as f32);
        scaling.map_or(inverse, |s| s.apply(inverse))
    };
    let frequencies: Vec<f32> = (0..size / 2).map(frequency).collect();
    let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| (p as f32 * f) as f64));
    angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip()
}

impl Llama3Scaling {
    /// Long wavelengths are divided by `factor`, short ones kept, those between interpolated; all in float32.
    fn apply(&self, frequency: f32) -> f32 {
        const TURN: f32 = (2.0 * std::f64::consts::PI) as f32;
        let context = self.original_max_positions as f64;
        let low = self.low_freq_factor as f32;
        let factor = self.factor as f32;
        let wavelength = (1.0 / frequency) * TURN;
        if wavelength > (context / self.low_freq_factor) as f32 {
            return frequency / factor;
        }
        if wavelength < (context / self.high_freq_factor) as f32 {
            return frequency;
        }
        let span = (self.high_freq_factor - self.low_freq_factor) as f32;
        let smooth = ((1.0 / wavelength) * context as f32 - low) / span;
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wavelengths of Llama 3.1 8B (theta 500000, head size 128, factor 8), by the published rule in f64.
    #[test]
    fn llama3_scaling_follows_the_rule() {
        let scaling =
            Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
        let (mut kept, mut smooth, mut divided) = (0, 0, 0);
        for i in 0..64 {
            let inverse = 500_000f64.powf(-(2.0 * i as f64) / 128.0);
            let wavelength = 2.0 * std::f64::consts::PI / inverse;
            let want = if wavelength < 8192.0 / 4.0 {
                kept += 1;
                inverse
            } else if wavelength > 8192.0 {
                divided += 1;
                inverse / 8.0
            } else {
                smooth += 1;
                let s = (8192.0 / wavelength - 1.0) / 3.0;
                (1.0 - s) * inverse / 8.0 + s * inverse
            };
            let got = scaling.apply(inverse as f32) as f64;
            assert!((got / want - 1.0).abs() < 1e-5, "{i}: {got} {want}");
        }
        assert_eq!((kept, smooth, divided), (29, 6, 29));
    }

    #[test]
    fn angles_are_those_of_the_formula() {
        let (cos, sin) = rope_angles(10_000.0, None, 8, 50);
        assert_eq!((cos.len(), sin.len()), (200, 200));
        assert_eq!((cos[0], sin[0], cos[4], sin[4]), (1.0, 0.0, 1f64.cos() as f32, 1f64.sin() as f32));
        for p in 0..50 {
            for i in 0..4 {
                let angle = p as f64 * 10_000f64.powf(-(2.0 * i as f64) / 8.0);
                assert!((cos[p * 4 + i] as f64 - angle.cos()).abs() < 1e-5);
                assert!((sin[p * 4 + i] as f64 - angle.sin()).abs() < 1e-5);
            }
        }
    }
}
