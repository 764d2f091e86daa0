//! Best of n, as GRAM-R² measures it: of the first n samples of each prompt, the one that a linear scan keeps, and how good it
//! is known to be. The incumbent meets each sample in turn and stays on a tie or without a verdict.

use super::comparison::{Answer, Choice, Comparison};
use super::item::{Item, Kind};
use super::judged::Ask;
use crate::error::Result;

/// Mean truth of the sample kept, for n = 1, 2, ...; over the prompts that have so many samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    pub judge: Vec<f64>,
    /// Always the best of the n.
    pub oracle: Vec<f64>,
    /// Any of the n.
    pub random: Vec<f64>,
    pub prompts: usize,
}

/// Makes the comparisons that the scans need: one step of all prompts at a time.
///
/// # Errors
/// Whatever `compare` returns.
pub fn scan(
    items: &[Item],
    answers: &mut [Answer],
    mut compare: impl FnMut(&[Ask<'_>]) -> Result<Vec<Comparison>>,
) -> Result<()> {
    let prompts: Vec<usize> = (0..items.len()).filter(|i| items[*i].kind == Kind::Samples).collect();
    let mut incumbents = vec![0usize; items.len()];
    let longest = prompts.iter().map(|i| items[*i].responses.len()).max().unwrap_or(0);
    for n in 1..longest {
        let open: Vec<usize> = prompts.iter().copied().filter(|i| n < items[*i].responses.len()).collect();
        let unknown: Vec<usize> =
            open.iter().copied().filter(|i| answers[*i].find((incumbents[*i], n)).is_none()).collect();
        let asks: Vec<Ask<'_>> = unknown.iter().map(|i| Ask { item: &items[*i], pair: (incumbents[*i], n) }).collect();
        for (i, comparison) in unknown.iter().zip(compare(&asks)?) {
            answers[*i].comparisons.push(comparison);
        }
        for i in open {
            let c = answers[i].find((incumbents[i], n)).expect("it was just made");
            incumbents[i] = step(incumbents[i], n, &c);
        }
    }
    Ok(())
}

fn step(incumbent: usize, challenger: usize, c: &Comparison) -> usize {
    if c.verdict == Choice::Second { challenger } else { incumbent }
}

/// The curve, if every comparison of the scans is known.
pub fn curve(items: &[Item], answers: &[Answer]) -> Option<Curve> {
    let mut sums: Vec<[f64; 4]> = Vec::new();
    let mut prompts = 0;
    for (item, answer) in items.iter().zip(answers).filter(|(item, _)| item.kind == Kind::Samples) {
        prompts += 1;
        let (mut best, mut most, mut total) = (0, f64::NEG_INFINITY, 0.0);
        for (n, truth) in item.truth.iter().enumerate() {
            if n > 0 {
                best = step(best, n, &answer.find((best, n))?);
            }
            most = most.max(*truth);
            total += truth;
            if sums.len() == n {
                sums.push([0.0; 4]);
            }
            let here = [item.truth[best], most, total / (n + 1) as f64, 1.0];
            sums[n].iter_mut().zip(here).for_each(|(sum, x)| *sum += x);
        }
    }
    let column = |k: usize| sums.iter().map(|s| s[k] / s[3]).collect();
    (prompts > 0).then(|| Curve { judge: column(0), oracle: column(1), random: column(2), prompts })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_scan_asks_once_for_each_step_and_the_curve_follows_it() {
        let item = fixture::samples(&[0.0, 1.0, 0.0, 1.0], &[(0, 1)]);
        let mut answers = vec![Answer::default()];
        let mut asked = Vec::new();
        // A judge that likes later samples better, but ties on the last.
        let judge = |asks: &[Ask<'_>]| {
            Ok(asks
                .iter()
                .map(|ask| {
                    asked.push(ask.pair);
                    let choice = if ask.pair.1 == 3 { Choice::Tie } else { Choice::Second };
                    Comparison::of_verdict(ask.pair, choice, None)
                })
                .collect())
        };
        let items = [item];
        scan(&items, &mut answers, judge).unwrap();
        assert_eq!(asked, [(0, 1), (1, 2), (2, 3)]);
        let curve = curve(&items, &answers).unwrap();
        assert_eq!((curve.judge, curve.prompts), (vec![0.0, 1.0, 0.0, 0.0], 1));
        assert_eq!(curve.oracle, [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(curve.random, [0.0, 0.5, 1.0 / 3.0, 0.5]);
    }

    #[test]
    fn rewards_need_no_scan_and_gaps_give_no_curve() {
        let items = [fixture::samples(&[0.0, 1.0], &[(0, 1)])];
        let rewards = Answer { rewards: Some(vec![0.0, 2.0]), ..Answer::default() };
        assert_eq!(curve(&items, &[rewards]).unwrap().judge, [0.0, 1.0]);
        assert_eq!(curve(&items, &[Answer::default()]), None);
        assert_eq!(curve(&[fixture::pair("s", true)], &[Answer::default()]), None);
    }
}
