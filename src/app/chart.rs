//! A line chart as inline SVG: no script, no asset; colours come from the page's style sheet.
//!
//! Many points are thinned in a way that keeps peaks. A noisy series is drawn thin with a smooth line over it.
//! Hovering shows the values at a step: an invisible column over each step holds them, and the style sheet reveals it.

use super::axis::{Scale, Unit};
use super::report::escape;

/// Size of the drawing in SVG units, about a pixel each: half a page wide, or all of it.
const HALF: f64 = 560.0;
const FULL: f64 = 1130.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 64.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 28.0;
/// Most points of a drawn line, and most columns that can be hovered.
const DRAWN: usize = 480;
const COLUMNS: usize = 110;
/// A noisy series of at least so many points gets a smooth line; one of at most so many gets dots.
const SMOOTHED: usize = 40;
const DOTTED: usize = 30;

/// Where the vertical axis begins and how it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Around the data; logarithmic where all is above 0 and the largest is over 30 times the smallest.
    Fit,
    /// Linear from zero.
    FromZero,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// (x, y) by ascending x. Values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// (x, low, high) by ascending x: how far off the points may be, drawn as a shade. Empty for none.
    pub band: Vec<(f64, f64, f64)>,
}

/// A line chart.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    /// What the horizontal axis counts: `step`.
    pub x: String,
    pub unit: Unit,
    pub axis: Axis,
    pub series: Vec<Series>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub(super) fn has_points(&self) -> bool {
        self.series.iter().any(|s| s.points.iter().any(|(x, y)| x.is_finite() && y.is_finite()))
    }

    /// A figure with title, legend and drawing. The chart has points.
    pub(super) fn to_html(&self, span: Span) -> String {
        let lines = self.series.iter().enumerate().filter_map(|(i, s)| Line::new(i, s)).collect();
        let plot = Plot::new(self, lines, span);
        let (title, width, class) = (escape(&self.title), plot.width, if span == Span::Full { " full" } else { "" });
        format!(
            "<figure class=\"card{class}\"><figcaption><h3>{title}</h3><div class=\"legend\">{}</div></figcaption>\n\
             <svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n{}{}{}{}</svg></figure>\n",
            plot.legend(),
            plot.grid(),
            plot.curves(),
            plot.last_values(),
            plot.columns(&self.x),
        )
    }
}

/// How much of the page's width a chart takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Half,
    Full,
}

/// A series with its finite points only, and the number of its colour.
struct Line {
    name: String,
    colour: usize,
    points: Vec<(f64, f64)>,
    band: Vec<(f64, f64, f64)>,
    noisy: bool,
    /// What is drawn strongly: the points, or a smooth line through noise.
    strong: Vec<(f64, f64)>,
}

impl Line {
    fn new(colour: usize, series: &Series) -> Option<Line> {
        let points: Vec<_> = series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let noisy = points.len() >= SMOOTHED && is_noisy(&points);
        let strong = if noisy { smoothed(&points) } else { thinned(&points) };
        let finite = |b: &&(f64, f64, f64)| b.0.is_finite() && b.1.is_finite() && b.2.is_finite();
        let band = series.band.iter().filter(finite).copied().collect();
        (!points.is_empty()).then(|| Line { name: series.name.clone(), colour, points, band, noisy, strong })
    }

    fn last(&self) -> (f64, f64) {
        *self.strong.last().expect("lines have points")
    }

    /// The point nearest to `x`.
    fn nearest(&self, x: f64) -> (f64, f64) {
        let after = self.points.partition_point(|p| p.0 < x);
        let candidates = &self.points[after.saturating_sub(1)..(after + 1).min(self.points.len())];
        *candidates.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs())).expect("one on some side")
    }
}

/// Lines laid out between their axes.
struct Plot {
    width: f64,
    lines: Vec<Line>,
    x: Scale,
    y: Scale,
    unit: Unit,
}

impl Plot {
    fn new(chart: &Chart, lines: Vec<Line>, span: Span) -> Plot {
        let width = if span == Span::Full { FULL } else { HALF };
        let bounds =
            |l: &'_ Line| l.band.iter().flat_map(|(x, low, high)| [(*x, *low), (*x, *high)]).collect::<Vec<_>>();
        let all = || lines.iter().flat_map(|l| l.points.iter().copied().chain(bounds(l)));
        let x = Scale::whole(all().map(|p| p.0), LEFT, width - RIGHT);
        let y = match chart.axis {
            Axis::Fit => Scale::fit(all().map(|p| p.1), HEIGHT - BOTTOM, TOP, chart.unit),
            Axis::FromZero => Scale::from_zero(all().map(|p| p.1), HEIGHT - BOTTOM, TOP),
        };
        Plot { width, lines, x, y, unit: chart.unit }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }

    fn legend(&self) -> String {
        let key = |l: &Line| format!("<span class=\"key s{}\">{}</span>", l.colour, escape(&l.name));
        self.lines.iter().map(key).collect()
    }

    fn grid(&self) -> String {
        let (right, bottom) = (self.width - RIGHT, HEIGHT - BOTTOM);
        let mut svg = String::from("<g class=\"axis\">");
        let ticks = self.y.ticks(5);
        for (tick, label) in ticks.iter().zip(self.y.labels(&ticks, self.unit)) {
            let y = self.y.place(*tick);
            svg += &format!(
                "<path d=\"M{LEFT} {y:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" class=\"e\">{label}</text>",
                LEFT - 8.0,
                y + 3.5
            );
        }
        let ticks = self.x.ticks((self.width / 90.0) as usize);
        for (tick, label) in ticks.iter().zip(self.x.labels(&ticks, Unit::Count)) {
            let x = self.x.place(*tick);
            svg += &format!(
                "<path d=\"M{x:.1} {bottom}v4\"/><text x=\"{x:.1}\" y=\"{}\" class=\"m\">{label}</text>",
                bottom + 17.0
            );
        }
        svg + &format!("<path class=\"base\" d=\"M{LEFT} {bottom}H{right}\"/></g>\n")
    }

    fn curves(&self) -> String {
        let mut svg = String::new();
        for line in self.lines.iter().filter(|line| line.band.len() > 1) {
            let up = line.band.iter().map(|(x, _, high)| (*x, *high));
            let down = line.band.iter().rev().map(|(x, low, _)| (*x, *low));
            svg += &self.path(&up.chain(down).collect::<Vec<_>>(), line.colour, "band");
        }
        for line in &self.lines {
            if line.noisy {
                svg += &self.path(&thinned(&line.points), line.colour, "thin");
            }
            svg += &self.path(&line.strong, line.colour, "line");
            if line.points.len() <= DOTTED {
                for (x, y) in line.points.iter().map(|p| self.at(*p)) {
                    svg += &format!("<circle class=\"dot s{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.4\"/>", line.colour);
                }
            }
        }
        svg + "\n"
    }

    fn path(&self, points: &[(f64, f64)], colour: usize, class: &str) -> String {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().map(|p| self.at(*p)).enumerate() {
            d += &format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        format!("<path class=\"{class} s{colour}\" d=\"{d}\"/>")
    }

    /// The last value of each line at its end, moved apart where they would overlap.
    fn last_values(&self) -> String {
        let mut ends: Vec<(f64, &Line)> = self.lines.iter().map(|l| (self.at(l.last()).1, l)).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut floor = TOP;
        let mut svg = String::new();
        for (y, line) in ends {
            let y = y.max(floor);
            floor = y + 13.0;
            let value = self.unit.show(line.last().1);
            svg += &format!(
                "<text class=\"last s{}\" x=\"{}\" y=\"{:.1}\">{value}</text>",
                line.colour,
                self.width - RIGHT + 7.0,
                y + 3.5
            );
        }
        svg + "\n"
    }

    /// One hidden group per step that can be hovered: a rule, and of each line the nearest point, with a dot and in words.
    fn columns(&self, counts: &str) -> String {
        let mut steps: Vec<f64> = self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect();
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let kept: Vec<f64> = match steps.len() {
            n if n <= COLUMNS => steps,
            n => (0..COLUMNS).map(|i| steps[i * (n - 1) / (COLUMNS - 1)]).collect(),
        };
        let place = |i: usize| self.x.place(kept[i]);
        let mut svg = String::from("<g class=\"hover\">");
        for (i, step) in kept.iter().enumerate() {
            let left = if i == 0 { LEFT } else { (place(i - 1) + place(i)) / 2.0 };
            let right = if i + 1 == kept.len() { self.width - RIGHT } else { (place(i) + place(i + 1)) / 2.0 };
            svg += &self.column(counts, *step, (left, right), (right - left).max(6.0));
        }
        svg + "</g>\n"
    }

    fn column(&self, counts: &str, step: f64, (left, right): (f64, f64), reach: f64) -> String {
        let (x, height) = (self.x.place(step), HEIGHT - BOTTOM - TOP);
        let mut words = vec![format!("{counts} {}", Unit::Count.show(step))];
        let mut dots = String::new();
        for line in &self.lines {
            let point = line.nearest(step);
            let (px, py) = self.at(point);
            let elsewhere =
                if (px - x).abs() <= reach { String::new() } else { format!(" at {}", Unit::Count.show(point.0)) };
            words.push(format!("{} {}{elsewhere}", escape(&line.name), self.unit.show(point.1)));
            dots += &format!("<circle class=\"dot s{}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\"/>", line.colour);
        }
        let (title, text) = (words.join(", "), words.join(" \u{b7} "));
        format!(
            "<g><title>{title}</title><rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{height}\"/>\
             <path d=\"M{x:.1} {TOP}v{height}\"/>{dots}<text x=\"{LEFT}\" y=\"{}\">{text}</text></g>",
            right - left,
            TOP - 11.0,
        )
    }
}

/// Whether neighbours differ by much against the whole: a rate that follows a formula does not.
fn is_noisy(points: &[(f64, f64)]) -> bool {
    let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let turns = points.windows(3).filter(|w| (w[1].1 - w[0].1) * (w[2].1 - w[1].1) < 0.0).count();
    high > low && turns * 5 > points.len()
}

/// A smooth line through noise: at up to [`DRAWN`] points, the mean of the middle half of the values in a window of a
/// fifteenth of the series. A single outlier does not move it.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 30).max(2);
    let middle = |i: usize| {
        let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        let mut values: Vec<f64> = window.iter().map(|p| p.1).collect();
        values.sort_by(f64::total_cmp);
        let inner = &values[values.len() / 4..values.len() - values.len() / 4];
        inner.iter().sum::<f64>() / inner.len() as f64
    };
    let kept = points.len().min(DRAWN);
    (0..kept).map(|k| k * (points.len() - 1) / (kept - 1)).map(|i| (points[i].0, middle(i))).collect()
}

/// At most about [`DRAWN`] points: of each stretch the lowest and the highest, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= DRAWN {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(DRAWN / 2);
    let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let mut kept = Vec::with_capacity(DRAWN + 2);
    for part in points.chunks(stretch) {
        let (low, high) = (part.iter().min_by(by_y).expect("not empty"), part.iter().max_by(by_y).expect("not empty"));
        kept.extend(if low.0 <= high.0 { [*low, *high] } else { [*high, *low] });
    }
    kept.push(points[points.len() - 1]);
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<(f64, f64)> {
        (0..n).map(|i| (i as f64, (i * 7919 % 101) as f64)).collect()
    }

    fn chart(series: Vec<Series>) -> Chart {
        Chart { title: "Loss & co".into(), x: "step".into(), unit: Unit::Plain, axis: Axis::Fit, series }
    }

    #[test]
    fn thinning_keeps_peaks_ends_and_order() {
        let mut points = noise(10_000);
        points[5_123].1 = 1e6;
        let kept = thinned(&points);
        assert!(kept.len() <= DRAWN + 2 && kept.contains(&(5_123.0, 1e6)) && kept.last() == points.last());
        assert!(kept.windows(2).all(|w| w[0].0 <= w[1].0));
        assert_eq!(thinned(&points[..DRAWN]), points[..DRAWN]);
    }

    #[test]
    fn smoothing_is_for_noise() {
        let line: Vec<_> = (0..300).map(|i| (i as f64, 3.0 * i as f64)).collect();
        assert!(!is_noisy(&line) && is_noisy(&noise(300)));
        let smooth = smoothed(&line);
        assert!(smooth[10..290].iter().zip(&line[10..290]).all(|(s, exact)| (s.1 - exact.1).abs() < 1e-9));
        let mut spiked = noise(3000);
        let calm = smoothed(&spiked);
        spiked[1500].1 = 1e9;
        assert!(smoothed(&spiked).iter().zip(&calm).all(|(s, c)| (s.1 - c.1).abs() < 3.0) && calm.len() == DRAWN);
    }

    #[test]
    fn every_coordinate_is_inside_the_drawing() {
        let series = |name: &str, points| Series { name: name.into(), points, band: Vec::new() };
        let cases = [
            vec![series("one", vec![(5.0, 0.7)])],
            vec![series("flat", vec![(1.0, 0.0), (2.0, 0.0)])],
            vec![series("gap", vec![(1.0, f64::NAN), (2.0, 1e-30), (3.0, 1e30)])],
            vec![series("a", noise(5000)), series("b", vec![(0.0, 5.0), (4999.0, -5.0)])],
            vec![Series {
                band: vec![(0.0, -9.0, 9.0), (3.0, 1.0, 40.0)],
                ..series("banded", vec![(0.0, 1.0), (3.0, 2.0)])
            }],
        ];
        for case in cases {
            let html = chart(case).to_html(Span::Full);
            assert!(html.contains("Loss &amp; co") && !html.contains("NaN") && !html.contains("inf"), "{html}");
            for (x, y) in coordinates(&html) {
                assert!((0.0..=FULL).contains(&x) && (0.0..=HEIGHT).contains(&y), "({x}, {y})");
            }
            assert!(html.len() < 120_000, "{} bytes", html.len());
        }
        assert!(!chart(vec![series("none", vec![(1.0, f64::NAN)])]).has_points());
    }

    #[test]
    fn a_band_is_drawn_under_its_line_and_widens_the_axis() {
        let of = |band: Vec<(f64, f64, f64)>| {
            chart(vec![Series { name: "a".into(), points: vec![(0.0, 1.0), (10.0, 2.0)], band }]).to_html(Span::Half)
        };
        let html = of(vec![(0.0, 0.5, 1.5), (10.0, 1.0, 7.0)]);
        assert!(html.find("class=\"band s0").unwrap() < html.find("class=\"line s0").unwrap());
        let heights = |html: &str| {
            coordinates(html).iter().map(|p| p.1).fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)))
        };
        let ((top, bottom), line) = (heights(&html), coordinates(&html[html.find("class=\"line").unwrap()..]));
        assert!(line.iter().all(|p| p.1 > top + 1.0 && p.1 < bottom), "{line:?} {top} {bottom}");
        assert!(!of(vec![(0.0, 0.5, 1.5)]).contains("class=\"band"), "one bound is no band");
    }

    #[test]
    fn noise_is_drawn_thin_under_a_smooth_line() {
        for (n, thin) in [(SMOOTHED - 1, 0), (SMOOTHED, 1), (2 * DRAWN, 1)] {
            let html = chart(vec![Series { name: "a".into(), points: noise(n), band: Vec::new() }]).to_html(Span::Half);
            assert_eq!((html.matches("class=\"thin").count(), html.matches("class=\"line").count()), (thin, 1), "{n}");
        }
    }

    /// The points of all curves.
    fn coordinates(html: &str) -> Vec<(f64, f64)> {
        let paths = html.split(" d=\"M").skip(1).map(|t| t.split('"').next().unwrap()).filter(|d| d.contains('L'));
        let points = paths.flat_map(|d| d.split('L'));
        points.map(|p| p.split_once(' ').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap()).collect()
    }

    #[test]
    fn hovering_tells_the_nearest_value_of_every_series() {
        let a = Series { name: "loss".into(), points: vec![(10.0, 0.5), (20.0, 0.25)], band: Vec::new() };
        let b = Series { name: "eval".into(), points: vec![(20.0, 0.75)], band: Vec::new() };
        let html = chart(vec![a, b]).to_html(Span::Half);
        assert!(html.contains("<title>step 10, loss 0.5000, eval 0.7500 at 20</title>"), "{html}");
        assert!(html.contains("<title>step 20, loss 0.2500, eval 0.7500</title>"), "{html}");
    }
}
