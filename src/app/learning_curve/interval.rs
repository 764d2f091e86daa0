//! The mean of a few numbers and how far off it may be: Student's t.

/// A mean with its 95% confidence interval, `mean ± t(0.975, n-1) s / sqrt(n)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    pub n: usize,
    pub mean: f64,
    /// Standard deviation of the sample; `None` for a single number, and with it the interval.
    pub sd: Option<f64>,
    pub interval: Option<(f64, f64)>,
}

impl Mean {
    /// `None` for no numbers.
    pub fn of(x: &[f64]) -> Option<Mean> {
        let n = x.len();
        if n == 0 {
            return None;
        }
        let mean = x.iter().sum::<f64>() / n as f64;
        if n == 1 {
            return Some(Mean { n, mean, sd: None, interval: None });
        }
        let sd = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
        let half = t_975(n - 1) * sd / (n as f64).sqrt();
        Some(Mean { n, mean, sd: Some(sd), interval: Some((mean - half, mean + half)) })
    }
}

/// The 97.5% quantile of Student's t with so many degrees of freedom.
fn t_975(df: usize) -> f64 {
    const SMALL: [f64; 12] = [
        12.70620474,
        4.30265273,
        3.18244631,
        2.77644511,
        2.57058184,
        2.44691185,
        2.36462425,
        2.30600414,
        2.26215716,
        2.22813885,
        2.20098516,
        2.17881283,
    ];
    if let Some(t) = SMALL.get(df.wrapping_sub(1)) {
        return *t;
    }
    // Cornish and Fisher's expansion around the normal quantile.
    let (z, n) = (1.959963984540054f64, df as f64);
    let [z3, z5, z7, z9] = [3, 5, 7, 9].map(|k| z.powi(k));
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3))
        + (79.0 * z9 + 776.0 * z7 + 1482.0 * z5 - 1920.0 * z3 - 945.0 * z) / (92160.0 * n.powi(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability of a value between -t and t: Student's density summed by Simpson's rule. Its constant is a ratio of gamma
    /// functions, a product over every second number.
    fn probability(t: f64, df: usize) -> f64 {
        let n = df as f64;
        let ratio: f64 = (3..=df).rev().step_by(2).map(|k| (k - 1) as f64 / (k - 2) as f64).product();
        let constant = ratio / if df.is_multiple_of(2) { 2.0 } else { std::f64::consts::PI } / n.sqrt();
        let density = |x: f64| constant * (1.0 + x * x / n).powf(-(n + 1.0) / 2.0);
        let steps = 200_000;
        let h = t / steps as f64;
        let weight = |i: usize| {
            if i == 0 || i == steps {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            }
        };
        2.0 * h / 3.0 * (0..=steps).map(|i| weight(i) * density(i as f64 * h)).sum::<f64>()
    }

    #[test]
    fn quantiles_cut_off_five_percent() {
        for df in (1..=20).chain([29, 60, 199]) {
            let p = probability(t_975(df), df);
            assert!((p - 0.95).abs() < 5e-6, "{df}: {p}");
        }
    }

    #[test]
    fn a_mean_of_one_has_no_interval_and_one_of_none_is_none() {
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::of(&[0.5]), Some(Mean { n: 1, mean: 0.5, sd: None, interval: None }));
        let three = Mean::of(&[0.5, 0.6, 0.7]).unwrap();
        let (low, high) = three.interval.unwrap();
        // t(0.975, 2) = 4.3027, s = 0.1.
        assert!((three.mean - 0.6).abs() < 1e-12 && (high - low - 2.0 * 4.30265 * 0.1 / 3f64.sqrt()).abs() < 1e-5);
    }
}
