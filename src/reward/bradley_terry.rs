//! Bradley-Terry strengths from comparisons: `P(i beats j) = sigmoid(s_i - s_j)`. Pure, and in a fixed order of sums.
//!
//! A comparison answered `p` counts as the fraction `p` of a win for `i` and `1 - p` of one for `j`. The strengths
//! maximise
//!
//! ```text
//! sum over comparisons   p ln sigmoid(s_i - s_j) + (1 - p) ln sigmoid(s_j - s_i)
//! + PRIOR / n  times  sum over all pairs   (ln sigmoid(s_i - s_j) + ln sigmoid(s_j - s_i)) / 2
//! ```
//! The second line is the prior: it is as if each response had also drawn `PRIOR (n - 1) / n` of a comparison, spread evenly
//! over all others. So whoever lost or won everything stays finite, and what was never compared is joined to the rest. Both
//! lines are concave and depend on differences alone; the sum of the strengths is held at zero, where Newton's method
//! finds the one maximum.
//!
//! The covariance is the inverse of the observed Fisher information (a Laplacian) on the vectors that sum to zero. It takes
//! each comparison for one vote, drawn with probability `p`. Repeated votes are covered by the intervals as often as they
//! say, or more often where comparisons are few; a judge whose probabilities agree among each other deserves narrower
//! ones, which would have to be paid for with the cases in which it does not.

/// Draws that each response is given against all others together.
pub const PRIOR: f64 = 0.1;
/// Newton's method stops after a step that promises to raise the likelihood by less: about 1e-10 standard errors.
const STILL: f64 = 1e-20;
/// Relative rounding of the likelihood.
const ROUNDING: f64 = 1e-13;
/// Half the width of a 95% interval, in standard errors.
const NINETY_FIVE: f64 = 1.959_963_984_540_054;

/// Strengths of responses, their sum zero, and how well they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// In logits: a response that is 1 stronger wins with probability 0.73.
    pub strengths: Vec<f64>,
    /// Row-major `[n, n]`; rows sum to zero.
    covariance: Vec<f64>,
    /// Root of the mean squared difference between the answers and what the strengths say of them; 0 without answers.
    pub residual: f64,
}

/// Fits the strengths of `n` responses to comparisons `(i, j, p)`; a pair may occur more than once.
pub fn fit(n: usize, comparisons: &[(usize, usize, f64)]) -> Fit {
    let votes = Votes::of(n, comparisons);
    let mut strengths = vec![0.0; n];
    // Newton's method doubles its digits each time once it is near; far away, its steps are halved until they climb.
    for _ in 0..100 {
        let (step, rise) = votes.newton(&strengths);
        let here = votes.likelihood(&strengths);
        let floor = here - ROUNDING * here.abs();
        let mut scale = 1.0;
        loop {
            let there: Vec<f64> = strengths.iter().zip(&step).map(|(s, d)| s + scale * d).collect();
            if votes.likelihood(&there) >= floor {
                strengths = there;
                break;
            }
            scale /= 2.0;
        }
        if rise < STILL {
            break;
        }
    }
    let mean = strengths.iter().sum::<f64>() / n.max(1) as f64;
    strengths.iter_mut().for_each(|s| *s -= mean);
    let covariance = covariance(n, |i, j| votes.weight(i, j) * spread(strengths[i] - strengths[j]));
    let errors = comparisons.iter().map(|(i, j, p)| (p - sigmoid(strengths[*i] - strengths[*j])).powi(2));
    let residual = (errors.sum::<f64>() / comparisons.len().max(1) as f64).sqrt();
    Fit { strengths, covariance, residual }
}

impl Fit {
    /// Standard error of a strength.
    pub fn error(&self, i: usize) -> f64 {
        self.covariance(i, i).max(0.0).sqrt()
    }

    /// The 95% interval of a strength.
    pub fn interval(&self, i: usize) -> [f64; 2] {
        let half = NINETY_FIVE * self.error(i);
        [self.strengths[i] - half, self.strengths[i] + half]
    }

    /// Probability that `i` is stronger than `j`.
    pub fn above(&self, i: usize, j: usize) -> f64 {
        let difference = self.strengths[i] - self.strengths[j];
        let variance = self.difference_covariance((i, j), (i, j));
        if variance > 0.0 { normal(difference / variance.sqrt()) } else { 0.5 }
    }

    /// The same fit as if every pair had been compared once and had come out as the strengths expect.
    pub fn completed(&self) -> Fit {
        let (n, s) = (self.strengths.len(), &self.strengths);
        let covariance = covariance(n, |i, j| (1.0 + PRIOR / n as f64) * spread(s[i] - s[j]));
        Fit { covariance, ..self.clone() }
    }

    /// By how much one more comparison of `asked` lowers the variance of the difference of the two in `doubted`.
    pub fn gain(&self, doubted: (usize, usize), asked: (usize, usize)) -> f64 {
        let information = spread(self.strengths[asked.0] - self.strengths[asked.1]);
        let shared = self.difference_covariance(doubted, asked);
        information * shared * shared / (1.0 + information * self.difference_covariance(asked, asked))
    }

    fn covariance(&self, i: usize, j: usize) -> f64 {
        self.covariance[i * self.strengths.len() + j]
    }

    /// Covariance of `s_a - s_b` and `s_x - s_y`.
    fn difference_covariance(&self, (a, b): (usize, usize), (x, y): (usize, usize)) -> f64 {
        let c = |i, j| self.covariance(i, j);
        (c(a, x) - c(a, y)) - (c(b, x) - c(b, y))
    }
}

/// Comparisons and prior together, for each pair `i < j`: how many votes were given, and how many of them to `i`.
struct Votes {
    n: usize,
    given: Vec<f64>,
    won: Vec<f64>,
}

impl Votes {
    fn of(n: usize, comparisons: &[(usize, usize, f64)]) -> Votes {
        let prior = PRIOR / n.max(1) as f64;
        let mut votes = Votes { n, given: vec![prior; n * n], won: vec![0.5 * prior; n * n] };
        for (i, j, p) in comparisons {
            let (at, p) = if i < j { (i * n + j, *p) } else { (j * n + i, 1.0 - p) };
            votes.given[at] += 1.0;
            votes.won[at] += p;
        }
        votes
    }

    fn weight(&self, i: usize, j: usize) -> f64 {
        self.given[i * self.n + j]
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize, f64, f64)> + '_ {
        let n = self.n;
        (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j, self.given[i * n + j], self.won[i * n + j])))
    }

    fn likelihood(&self, s: &[f64]) -> f64 {
        self.pairs()
            .map(|(i, j, given, won)| won * ln_sigmoid(s[i] - s[j]) + (given - won) * ln_sigmoid(s[j] - s[i]))
            .sum()
    }

    /// The step to the maximum of the second-order approximation at `s`, and twice what it rises there.
    fn newton(&self, s: &[f64]) -> (Vec<f64>, f64) {
        let mut gradient = vec![0.0; self.n];
        for (i, j, given, won) in self.pairs() {
            let pull = won - given * sigmoid(s[i] - s[j]);
            gradient[i] += pull;
            gradient[j] -= pull;
        }
        let information = laplacian(self.n, |i, j| self.weight(i, j) * spread(s[i] - s[j]));
        let step = Cholesky::of(self.n, information).solve(gradient.clone());
        let rise = step.iter().zip(&gradient).map(|(d, g)| d * g).sum();
        (step, rise)
    }
}

/// Probability of a standard normal below `x`: 1/2 + density(x) (x + x^3/3 + x^5/15 + ...).
pub fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

/// The probability that the stronger of two wins, by the difference `x` of their strengths.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn ln_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// Variance of one vote: the information that it carries about the difference `x`.
fn spread(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// Information matrix of pairs that weigh `weight(i, j)`, `i < j`, plus `1 / n` everywhere. Its null space, the shift of all
/// strengths together, thereby gets eigenvalue 1.
fn laplacian(n: usize, weight: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut a = vec![1.0 / n.max(1) as f64; n * n];
    for i in 0..n {
        for j in i + 1..n {
            let w = weight(i, j);
            a[i * n + i] += w;
            a[j * n + j] += w;
            a[i * n + j] -= w;
            a[j * n + i] -= w;
        }
    }
    a
}

/// The inverse of the information on the vectors that sum to zero.
fn covariance(n: usize, weight: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut inverse = Cholesky::of(n, laplacian(n, weight)).inverse();
    inverse.iter_mut().for_each(|c| *c -= 1.0 / n as f64);
    inverse
}

/// `A = L L'` of a symmetric positive definite matrix, row-major.
struct Cholesky {
    n: usize,
    lower: Vec<f64>,
}

impl Cholesky {
    fn of(n: usize, mut a: Vec<f64>) -> Cholesky {
        for i in 0..n {
            for j in 0..=i {
                let rest = a[i * n + j] - dot(&a[i * n..i * n + j], &a[j * n..j * n + j]);
                // Weights can be as small as the prior allows; rounding must not make a pivot negative.
                a[i * n + j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / a[j * n + j] };
            }
        }
        Cholesky { n, lower: a }
    }

    fn solve(&self, mut b: Vec<f64>) -> Vec<f64> {
        let (n, l) = (self.n, &self.lower);
        for i in 0..n {
            b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
        }
        for i in (0..n).rev() {
            b[i] /= l[i * n + i];
            let known = b[i];
            for (b, l) in b[..i].iter_mut().zip(&l[i * n..i * n + i]) {
                *b -= known * l;
            }
        }
        b
    }

    fn inverse(&self) -> Vec<f64> {
        let n = self.n;
        let column = |j: usize| {
            let mut unit = vec![0.0; n];
            unit[j] = 1.0;
            self.solve(unit)
        };
        (0..n).flat_map(column).collect()
    }
}

/// Eight partial sums, which vector units take at once, then their sum: always in the same order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in a.0.iter().zip(b.0) {
        (0..8).for_each(|lane| sums[lane] += x[lane] * y[lane]);
    }
    sums.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(x, y)| x * y).sum::<f64>()
}

#[cfg(test)]
mod tests;
