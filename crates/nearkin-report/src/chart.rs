//! Line charts as inline SVG, for a report that needs neither scripts nor a network.
//!
//! Colours are classes (`s0` to `s3`, `axis`, `grid`, `reference`), so that the page decides on them
//! for light and dark.

use std::io::{self, Write};

use crate::html::Escaped;
use crate::text;

/// Size of the drawing in its own units, and the part of it inside the axes.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 548.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 210.0;

/// A series of more points is drawn as the mean and range of groups of them.
const MAX_POINTS: usize = 300;
/// A series of up to this many points shows each of them.
const MAX_MARKERS: usize = 60;
/// Values beyond this (or not finite) are counted below the chart, not drawn.
const LARGEST: f64 = 1e60;
/// Number of line colours in the page.
const COLOURS: usize = 4;

/// A line chart. A chart without any drawable point is not written.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Heading.
    pub(crate) title: String,
    /// Quantity and unit of the horizontal axis, in whole numbers.
    pub(crate) x_label: &'static str,
    /// Quantity and unit of the vertical axis.
    pub(crate) y_label: String,
    /// Whether the vertical axis begins at zero even if all values are far from it.
    pub(crate) from_zero: bool,
    /// The lines.
    pub(crate) series: Vec<Series>,
    /// A value to compare with, as a dashed line, and its name.
    pub(crate) reference: Option<(f64, String)>,
}

/// One line of a chart.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    /// What the legend says, where there is more than one line.
    pub(crate) name: String,
    /// `(x, y)` in order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A point of a line, or several drawn as one.
#[derive(Debug, PartialEq)]
struct Mark {
    x: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// The visible range of one axis and its ticks.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Chart {
    /// Writes the chart as a `<figure>`.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let drawable = || points().filter(|&(_, y)| is_drawable(y));
        let reference = self.reference.as_ref().filter(|(value, _)| is_drawable(*value));
        if drawable().next().is_none() {
            return Ok(());
        }
        let (x_low, x_high) = range(points().map(|(x, _)| x).chain([0.0]));
        let (y_low, y_high) = range(
            drawable()
                .map(|(_, y)| y)
                .chain(reference.map(|&(value, _)| value))
                .chain(self.from_zero.then_some(0.0)),
        );
        let x_axis = Axis::new(x_low, x_high, 6, 1.0);
        let y_axis = Axis::new(y_low, y_high, 4, 0.0).widened();
        let to_x = |x: f64| LEFT + x_axis.position(x) * (RIGHT - LEFT);
        let to_y = |y: f64| BOTTOM - y_axis.position(y) * (BOTTOM - TOP);

        writeln!(out, "<figure>\n<figcaption>{}</figcaption>", Escaped(&self.title))?;
        if self.series.len() > 1 {
            writeln!(out, r#"<ul class="legend">"#)?;
            for (index, series) in self.series.iter().enumerate() {
                let colour = index % COLOURS;
                writeln!(out, r#"<li class="s{colour}">{}</li>"#, Escaped(&series.name))?;
            }
            writeln!(out, "</ul>")?;
        }
        writeln!(
            out,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}: {} by {}">"#,
            Escaped(&self.title),
            Escaped(&self.y_label),
            Escaped(self.x_label)
        )?;

        writeln!(out, r#"<text x="4" y="14">{}</text>"#, Escaped(&self.y_label))?;
        for value in y_axis.ticks() {
            let y = to_y(value);
            writeln!(
                out,
                r#"<path class="grid" d="M{LEFT} {y:.1}H{RIGHT}"/><text class="end" x="{:.0}" y="{:.1}">{}</text>"#,
                LEFT - 7.0,
                y + 4.0,
                y_axis.label(value)
            )?;
        }
        for value in x_axis.ticks() {
            let x = to_x(value);
            writeln!(
                out,
                r#"<path class="axis" d="M{x:.1} {BOTTOM}v4"/><text class="middle" x="{x:.1}" y="{:.0}">{}</text>"#,
                BOTTOM + 17.0,
                x_axis.label(value)
            )?;
        }
        writeln!(out, r#"<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>"#)?;
        writeln!(
            out,
            r#"<text class="middle" x="{:.0}" y="{:.0}">{}</text>"#,
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 34.0,
            Escaped(self.x_label)
        )?;

        for (index, series) in self.series.iter().enumerate() {
            let group = series.group();
            let colour = index % COLOURS;
            for segment in segments(&series.points, group) {
                let line = path(segment.iter().map(|mark| (to_x(mark.x), to_y(mark.mean))));
                if group > 1 {
                    let there = segment.iter().map(|mark| (to_x(mark.x), to_y(mark.high)));
                    let back = segment.iter().rev().map(|mark| (to_x(mark.x), to_y(mark.low)));
                    let outline = path(there.chain(back));
                    writeln!(out, r#"<path class="band s{colour}" d="{outline}Z"/>"#)?;
                }
                writeln!(out, r#"<path class="line s{colour}" d="{line}"/>"#)?;
                if series.points.len() <= MAX_MARKERS || segment.len() == 1 {
                    for mark in &segment {
                        writeln!(
                            out,
                            r#"<circle class="s{colour}" cx="{:.1}" cy="{:.1}" r="2.6"><title>{} {}: {}</title></circle>"#,
                            to_x(mark.x),
                            to_y(mark.mean),
                            Escaped(self.x_label),
                            mark.x,
                            significant(mark.mean)
                        )?;
                    }
                }
            }
        }
        if let Some((value, name)) = reference {
            let y = to_y(*value);
            let label_y = if y < TOP + 18.0 { y + 13.0 } else { y - 5.0 };
            writeln!(
                out,
                r#"<path class="reference" d="M{LEFT} {y:.1}H{RIGHT}"/><text class="end halo" x="{RIGHT}" y="{label_y:.1}">{}</text>"#,
                Escaped(name)
            )?;
        }
        writeln!(out, "</svg>")?;

        let missing = points().filter(|&(_, y)| !is_drawable(y)).count();
        if let Some((first, _)) = points().find(|&(_, y)| !is_drawable(y)) {
            writeln!(
                out,
                r#"<p class="warning">Not drawn: {missing} {} not finite, the first at {} {first}.</p>"#,
                if missing == 1 { "value that is" } else { "values that are" },
                Escaped(self.x_label)
            )?;
        }
        writeln!(out, "</figure>")
    }

    /// How many points of its longest line are drawn as one.
    pub(crate) fn group(&self) -> usize {
        self.series.iter().map(Series::group).max().unwrap_or(1)
    }
}

impl Series {
    fn group(&self) -> usize {
        self.points.len().div_ceil(MAX_POINTS).max(1)
    }
}

fn is_drawable(value: f64) -> bool {
    value.abs() <= LARGEST
}

/// The smallest and the largest of at least one value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// Groups of `group` points, in runs that points which cannot be drawn separate.
fn segments(points: &[(f64, f64)], group: usize) -> Vec<Vec<Mark>> {
    points
        .split(|&(_, y)| !is_drawable(y))
        .filter(|run| !run.is_empty())
        .map(|run| run.chunks(group).map(mark).collect())
        .collect()
}

/// The mark for one group of points.
fn mark(points: &[(f64, f64)]) -> Mark {
    let (low, high) = range(points.iter().map(|&(_, y)| y));
    let mean = |coordinate: fn(&(f64, f64)) -> f64| {
        points.iter().map(coordinate).sum::<f64>() / points.len() as f64
    };
    Mark { x: mean(|point| point.0), mean: mean(|point| point.1), low, high }
}

/// A polyline in SVG path syntax.
fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    format!("M{}", points.join("L"))
}

impl Axis {
    /// An axis over `low..=high` with about `ticks` ticks that are multiples of 1, 2 or 5 times a
    /// power of ten, and at least `smallest_step` apart.
    fn new(low: f64, high: f64, ticks: u32, smallest_step: f64) -> Self {
        let scale = low.abs().max(high.abs());
        // A single value gets room around it.
        let (low, high) = if high - low > 1e-9 * scale {
            (low, high)
        } else {
            let margin = if scale > 0.0 { (0.1 * scale).max(smallest_step) } else { 1.0 };
            (low - margin, high + margin)
        };
        let raw = ((high - low) / f64::from(ticks)).max(smallest_step);
        let magnitude = 10_f64.powf(raw.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * magnitude >= raw * 0.999);
        Self { low, high, step: factor.unwrap_or(10.0) * magnitude }
    }

    /// The axis with its ends moved out to ticks.
    fn widened(self) -> Self {
        let low = (self.low / self.step + 1e-6).floor() * self.step;
        let high = (self.high / self.step - 1e-6).ceil() * self.step;
        Self { low, high, ..self }
    }

    /// Where a value is: 0 at the low end, 1 at the high end.
    fn position(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.step - 1e-6).ceil();
        let last = (self.high / self.step + 1e-6).floor();
        let step = self.step;
        (0..=(last - first) as u64).map(move |index| (first + index as f64) * step)
    }

    /// A tick's value with the digits that tell it from its neighbours.
    fn label(&self, value: f64) -> String {
        let exponent = self.step.log10().floor();
        let largest = self.low.abs().max(self.high.abs());
        if value.abs() < 0.5 * self.step {
            "0".to_owned()
        } else if !(1e-3..1e7).contains(&largest) {
            let digits = (value.abs().log10() + 1e-6).floor() - exponent;
            format!("{value:.*e}", digits.max(0.0) as usize)
        } else if exponent >= 0.0 && value >= 0.0 {
            text::grouped(value.round() as u64)
        } else {
            format!("{value:.*}", (-exponent).max(0.0) as usize)
        }
    }
}

/// A value with five significant digits.
fn significant(value: f64) -> String {
    let exponent = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if (-4.0..6.0).contains(&exponent) {
        format!("{value:.*}", (4.0 - exponent).max(0.0) as usize)
    } else {
        format!("{value:.4e}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "Loss".to_owned(),
            x_label: "step",
            y_label: "loss".to_owned(),
            from_zero: false,
            series: vec![Series { name: "loss".to_owned(), points }],
            reference: Some((8.318, "chance".to_owned())),
        }
    }

    fn drawn(chart: &Chart) -> String {
        let mut out = Vec::new();
        chart.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|value| axis.label(value)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&Axis::new(0.0, 20.0, 6, 1.0)), ["0", "5", "10", "15", "20"]);
        assert_eq!(labels(&Axis::new(0.0, 3.0, 6, 1.0)), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Axis::new(5.63, 8.318, 4, 0.0).widened()), ["5", "6", "7", "8", "9"]);
        assert_eq!(labels(&Axis::new(0.99, 1.0, 4, 0.0).widened()), ["0.990", "0.995", "1.000"]);
        assert_eq!(labels(&Axis::new(0.0, 6e-4, 4, 0.0).widened()), ["0", "2e-4", "4e-4", "6e-4"]);
        assert_eq!(
            labels(&Axis::new(0.0, 100_000.0, 4, 1.0)),
            ["0", "50\u{202f}000", "100\u{202f}000"]
        );
        assert_eq!(labels(&Axis::new(-1.0, 1.0, 4, 0.0)), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(&Axis::new(7.0, 7.0, 6, 1.0)), ["6", "7", "8"]);
    }

    #[test]
    fn lines_break_where_values_are_missing() {
        let points = [(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0), (4.0, 5.0), (5.0, f64::INFINITY)];
        let runs = segments(&points, 1);
        assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        let svg = drawn(&chart(points.to_vec()));
        assert!(svg.contains("Not drawn: 2 values that are not finite, the first at step 2."));
        assert_eq!(svg.matches(r#"class="line s0""#).count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn long_series_are_grouped_without_losing_their_extremes() {
        let points: Vec<(f64, f64)> =
            (0..10_000).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        let runs = segments(&points, 34);
        assert_eq!(runs[0].len(), 295);
        assert!(runs[0].iter().all(|mark| mark.low <= mark.mean && mark.mean <= mark.high));
        assert_eq!(range(runs[0].iter().flat_map(|mark| [mark.low, mark.high])), (0.0, 6.0));
        let svg = drawn(&chart(points));
        assert!(svg.contains("class=\"band s0\"") && !svg.contains("<circle"));
        assert!(svg.len() < 40_000, "{} bytes", svg.len());
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert_eq!(drawn(&chart(vec![])), "");
        assert_eq!(drawn(&chart(vec![(1.0, f64::NAN)])), "");
    }

    #[test]
    fn values_in_tooltips_have_five_digits() {
        let shown = [0.0, 8.318_01, 0.000_3, 412.345, 99_999.9, 1e-9].map(significant);
        assert_eq!(shown, ["0.0000", "8.3180", "0.00030000", "412.35", "100000", "1.0000e-9"]);
    }

    proptest! {
        #[test]
        fn any_range_has_a_few_ticks_inside_it(low in -1e40..1e40_f64, span in 0.0..1e40_f64) {
            let axis = Axis::new(low, low + span, 5, 0.0);
            let ticks: Vec<f64> = axis.ticks().collect();
            prop_assert!((2..=7).contains(&ticks.len()), "{ticks:?}");
            let tolerance = 1e-5 * axis.step;
            prop_assert!(ticks.iter().all(|tick| *tick >= axis.low - tolerance && *tick <= axis.high + tolerance));
            let leading = axis.step / 10_f64.powf((axis.step.log10() + 1e-9).floor());
            prop_assert!([1.0, 2.0, 5.0].iter().any(|nice| (leading - nice).abs() < 1e-6), "{leading}");
        }

        #[test]
        fn no_value_leaves_the_frame(values in prop::collection::vec(any::<f64>(), 1..40)) {
            let points = values.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let svg = drawn(&chart(points));
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for circle in svg.split("cy=\"").skip(1) {
                let y: f64 = circle.split('"').next().unwrap().parse().unwrap();
                prop_assert!((TOP - 0.1..=BOTTOM + 0.1).contains(&y));
            }
        }
    }
}
