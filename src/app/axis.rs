//! Axes of charts: from values to places, ticks at round numbers, and how numbers are written.

/// How the values of an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `0.6931`
    Plain,
    /// Fractions as `69.3%`
    Percent,
    /// `1.5e-5`
    Scientific,
    /// Whole numbers: `12,345`, and on the axis `12k`
    Count,
}

impl Unit {
    /// One value, as exact as a reader can use.
    pub fn show(self, x: f64) -> String {
        match self {
            Unit::Plain if x != 0.0 && !(1e-3..1e5).contains(&x.abs()) => format!("{x:.2e}"),
            Unit::Plain => format!("{x:.*}", (3 - magnitude(x)).clamp(0, 4) as usize),
            Unit::Percent => format!("{:.1}%", 100.0 * x),
            Unit::Scientific if x == 0.0 => "0".into(),
            Unit::Scientific => format!("{x:.2e}"),
            Unit::Count => grouped(x.round() as i64),
        }
    }

    /// Labels of evenly spaced ticks: all with the same number of decimals and the same power of ten.
    fn labels(self, ticks: &[f64]) -> Vec<String> {
        let largest = ticks.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
        let gap = ticks.windows(2).map(|w| (w[1] - w[0]).abs()).fold(f64::MAX, f64::min).min(largest);
        let (unit, suffix) = match self {
            Unit::Percent => (0.01, "%".to_string()),
            Unit::Count if largest >= 2e6 => (1e6, "M".into()),
            Unit::Count if largest >= 2e4 => (1e3, "k".into()),
            Unit::Count => return ticks.iter().map(|t| grouped(*t as i64)).collect(),
            Unit::Plain if (1e-3..1e5).contains(&largest) && gap >= 1e-4 => (1.0, String::new()),
            Unit::Plain | Unit::Scientific => {
                let power = magnitude(largest);
                (10f64.powi(power), format!("e{power}"))
            }
        };
        let decimals = decimals_of(gap / unit);
        let label = |t: &f64| if *t == 0.0 { "0".to_string() } else { format!("{:.decimals$}{suffix}", t / unit) };
        ticks.iter().map(label).collect()
    }

    /// Label of a tick of a logarithmic axis: 1, 2 or 5 times a power of ten.
    fn label(self, tick: f64) -> String {
        match self {
            Unit::Count => self.labels(&[tick]).remove(0),
            Unit::Percent => format!("{}%", 100.0 * tick),
            _ if (0.999e-3..1e5).contains(&tick) => format!("{tick:.*}", decimals_of(tick)),
            _ => format!("{:.0}e{}", tick / 10f64.powi(magnitude(tick)), magnitude(tick)),
        }
    }
}

/// The power of ten at or below `x`; what rounding left just below one counts as it.
fn magnitude(x: f64) -> i32 {
    if x == 0.0 { 0 } else { (x.abs() * (1.0 + 1e-12)).log10().floor() as i32 }
}

/// Decimals that tell multiples of `gap` apart, where `gap` is 1, 2, 2.5 or 5 times a power of ten.
fn decimals_of(gap: f64) -> usize {
    (0..9).find(|d| ((gap * 10f64.powi(*d)).round() - gap * 10f64.powi(*d)).abs() < 1e-6).unwrap_or(9) as usize
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::from(if n < 0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Maps values onto the places between two pixels, linearly or by the logarithm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Where `low` and `high` are drawn.
    places: (f64, f64),
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    /// Linear, with ticks at whole numbers only.
    Whole,
    Log,
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
}

impl Scale {
    /// From the smallest to the largest value, such as steps.
    pub fn whole(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (low, high) = extent(values);
        let (low, high) = if low == high { (low - 1.0, high + 1.0) } else { (low, high) };
        Scale { low, high, places: (from, to), kind: Kind::Whole }
    }

    /// From zero to a little above the largest value.
    pub fn from_zero(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (low, high) = extent(values);
        if low < 0.0 || high <= 0.0 {
            return Scale::padded(low.min(0.0), high.max(0.0), from, to);
        }
        Scale { low: 0.0, high: high * 1.06, places: (from, to), kind: Kind::Linear }
    }

    /// A little more than the values cover; logarithmic where they span more than a factor of 30.
    pub fn fit(values: impl Iterator<Item = f64>, from: f64, to: f64, unit: Unit) -> Scale {
        let (low, high) = extent(values);
        if low > 0.0 && high / low > 30.0 && unit != Unit::Percent {
            let pad = (high / low).powf(0.05);
            return Scale { low: low / pad, high: high * pad, places: (from, to), kind: Kind::Log };
        }
        let scale = Scale::padded(low, high, from, to);
        match unit {
            // Fractions end at 0 and at 1.
            Unit::Percent if low >= 0.0 && high <= 1.0 => {
                Scale { low: scale.low.max(0.0), high: scale.high.min(1.0), ..scale }
            }
            _ if low >= 0.0 => Scale { low: scale.low.max(0.0), ..scale },
            _ => scale,
        }
    }

    fn padded(low: f64, high: f64, from: f64, to: f64) -> Scale {
        let pad = match high - low {
            0.0 if low == 0.0 => 1.0,
            0.0 => low.abs() * 0.1,
            span => span * 0.06,
        };
        Scale { low: low - pad, high: high + pad, places: (from, to), kind: Kind::Linear }
    }

    pub fn place(&self, value: f64) -> f64 {
        let part = match self.kind {
            Kind::Log => (value / self.low).ln() / (self.high / self.low).ln(),
            _ => (value - self.low) / (self.high - self.low),
        };
        self.places.0 + part * (self.places.1 - self.places.0)
    }

    /// Round numbers inside the scale, about `count` of them, ascending.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        match self.kind {
            Kind::Log => self.log_ticks(count),
            kind => {
                let step = round_step((self.high - self.low) / count as f64, kind);
                let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
                (first..=last).map(|i| i as f64 * step).collect()
            }
        }
    }

    pub fn labels(&self, ticks: &[f64], unit: Unit) -> Vec<String> {
        match self.kind {
            Kind::Log => ticks.iter().map(|t| unit.label(*t)).collect(),
            _ => unit.labels(ticks),
        }
    }

    /// Powers of ten, with 2 and 5 times them where there is room; every second or third power where there is none.
    fn log_ticks(&self, count: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let inside = |t: &f64| (self.low..=self.high).contains(t);
        let all = |mantissas: &'static [f64], every: usize| -> Vec<f64> {
            let powers = (first..=last).filter(|p| p.rem_euclid(every as i32) == 0);
            powers.flat_map(|p| mantissas.iter().map(move |m| m * 10f64.powi(p))).filter(inside).collect()
        };
        let fine = all(&[1.0, 2.0, 5.0], 1);
        if fine.len() <= count + 4 {
            return fine;
        }
        let every = (1..).find(|every| all(&[1.0], *every).len() <= count + 1).expect("fewer and fewer");
        all(&[1.0], every)
    }
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_step(at_least: f64, kind: Kind) -> f64 {
    let power = 10f64.powf(at_least.log10().floor());
    let fits = |m: &f64| m * power >= at_least * (1.0 - 1e-9) && (kind != Kind::Whole || (m * power).fract() == 0.0);
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(fits).map_or(1.0, |m| m * power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(scale: Scale, unit: Unit) -> Vec<String> {
        scale.labels(&scale.ticks(5), unit)
    }
    fn fit(values: &[f64], unit: Unit) -> Vec<String> {
        labels(Scale::fit(values.iter().copied(), 0.0, 1.0, unit), unit)
    }

    #[test]
    fn ticks_are_round_and_labels_short() {
        assert_eq!(fit(&[0.412, 0.703], Unit::Plain), ["0.4", "0.5", "0.6", "0.7"]);
        assert_eq!(fit(&[0.5, 0.93], Unit::Percent), ["50%", "60%", "70%", "80%", "90%"]);
        assert_eq!(fit(&[0.01, 5.0], Unit::Plain), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        assert_eq!(fit(&[1e-6, 1e4], Unit::Plain), ["1e-6", "1e-4", "0.01", "1", "100", "10000"]);
        assert_eq!(fit(&[3.0, 3.0], Unit::Plain), ["2.8", "3.0", "3.2"]);
        let zero = |high: f64, unit| labels(Scale::from_zero([0.0, high].into_iter(), 0.0, 1.0), unit);
        assert_eq!(zero(2e-5, Unit::Scientific), ["0", "0.5e-5", "1.0e-5", "1.5e-5", "2.0e-5"]);
        assert_eq!(zero(14_200.0, Unit::Count), ["0", "5,000", "10,000", "15,000"]);
        assert_eq!(zero(142_000.0, Unit::Count), ["0", "50k", "100k", "150k"]);
        let steps = |low: f64, high: f64| labels(Scale::whole([low, high].into_iter(), 0.0, 1.0), Unit::Count);
        assert_eq!(steps(1.0, 4.0), ["1", "2", "3", "4"]);
        assert_eq!(steps(10.0, 1000.0), ["200", "400", "600", "800", "1,000"]);
    }

    #[test]
    fn values_are_as_exact_as_useful() {
        assert_eq!(
            [0.69314, 12.345, 1234.5, 0.0, 1e-7, -0.5].map(|x| Unit::Plain.show(x)),
            ["0.6931", "12.35", "1234", "0.000", "1.00e-7", "-0.5000"]
        );
        assert_eq!((Unit::Percent.show(0.8125), Unit::Count.show(1234567.0)), ("81.2%".into(), "1,234,567".into()));
        assert_eq!([0, 999, 1000, -1234567].map(grouped), ["0", "999", "1,000", "-1,234,567"]);
    }

    proptest! {
        #[test]
        fn any_values_get_a_few_distinct_ticks_inside(
            a in prop_oneof![-1e9f64..1e9, 1e-9f64..1e-3, 0.0f64..1.0],
            b in prop_oneof![-1e9f64..1e9, 1e-9f64..1e-3, 0.0f64..1.0],
            unit in prop_oneof![Just(Unit::Plain), Just(Unit::Percent), Just(Unit::Scientific)],
        ) {
            for scale in [Scale::fit([a, b].into_iter(), 0.0, 100.0, unit), Scale::from_zero([a, b].into_iter(), 0.0, 100.0)] {
                let ticks = scale.ticks(5);
                prop_assert!((1..=10).contains(&ticks.len()), "{:?} {:?}", scale, ticks);
                for tick in &ticks {
                    prop_assert!((-0.01..=100.01).contains(&scale.place(*tick)));
                }
                for v in [a, b] {
                    prop_assert!((-0.01..=100.01).contains(&scale.place(v)));
                }
                let labels = scale.labels(&ticks, unit);
                let mut distinct = labels.clone();
                distinct.dedup();
                prop_assert_eq!(labels, distinct);
            }
        }
    }
}
