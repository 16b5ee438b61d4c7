//! Antialiased resizing with the integer arithmetic of Pillow.
//!
//! Pillow resizes 8-bit images in two passes and rounds to 8 bits in between. A resizer that takes
//! the passes in the other order differs from it by several levels where bicubic weights overshoot
//! at a hard edge (by 10 in noise), which is why the passes are written here.

use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Pixels};

/// How a resized pixel is weighed from its neighbours; when shrinking, both widen (antialias).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// A triangle of radius 1.
    #[default]
    Bilinear,
    /// The cubic kernel of radius 2 with a = -0.5 (Keys).
    Bicubic,
}

impl Interpolation {
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Fraction bits of a weight: 32 less 8 for the pixel and 2 for overshoot.
const FRACTION_BITS: u32 = 22;
const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn round(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// For every output position of one axis, the first input position and the weights from there on.
#[derive(Default)]
struct Taps {
    spans: Vec<(usize, usize)>,
    weights: Vec<i32>,
    exact: Vec<f64>,
}

impl Taps {
    fn compute(&mut self, input: usize, output: usize, interpolation: Interpolation) {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let reach = interpolation.radius() * stretch;
        let shrink = 1.0 / stretch;
        self.spans.clear();
        self.weights.clear();
        for position in 0..output {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as usize;
            let end = ((center + reach + 0.5) as usize).min(input);
            self.exact.clear();
            self.exact.extend(
                (first..end).map(|x| interpolation.weight((x as f64 - center + 0.5) * shrink)),
            );
            let total: f64 = self.exact.iter().sum();
            self.weights.extend(self.exact.iter().map(|weight| {
                let scaled = weight / total * f64::from(1 << FRACTION_BITS);
                (scaled + 0.5_f64.copysign(scaled)) as i32
            }));
            self.spans.push((first, end - first));
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut rest = self.weights.as_slice();
        self.spans.iter().map(move |&(first, count)| {
            let (weights, after) = rest.split_at(count);
            rest = after;
            (first, weights)
        })
    }
}

/// The resizer with its buffers.
#[derive(Default)]
pub(crate) struct Resampler {
    horizontal: Taps,
    vertical: Taps,
    middle: Canvas,
    sums: Vec<i32>,
}

impl Resampler {
    /// Resizes `source` to `width` x `height`; an axis that keeps its size is copied.
    pub(crate) fn resize(
        &mut self,
        source: Pixels<'_>,
        (width, height): (usize, usize),
        interpolation: Interpolation,
        target: &mut Canvas,
    ) {
        let Self { horizontal, vertical, middle, sums } = self;
        let mut rows = |source: Pixels<'_>, target: &mut Canvas| {
            horizontal.compute(source.width, width, interpolation);
            resize_rows(source, horizontal, target);
        };
        let mut columns = |source: Pixels<'_>, target: &mut Canvas| {
            vertical.compute(source.height, height, interpolation);
            resize_columns(source, vertical, sums, target);
        };
        match (source.width == width, source.height == height) {
            (true, true) => target.copy_from(source),
            (false, true) => rows(source, target),
            (true, false) => columns(source, target),
            (false, false) if columns_first(source, width, height) => {
                columns(source, middle);
                rows(middle.pixels(), target);
            }
            (false, false) => {
                rows(source, middle);
                columns(middle.pixels(), target);
            }
        }
    }
}

/// Pillow since version 13 resizes columns first where the height shrinks by more than twice what
/// the width does; rows first otherwise, as all versions before did. (The rule was found by trying
/// sizes, all of which it explains.)
fn columns_first(source: Pixels<'_>, width: usize, height: usize) -> bool {
    let (lost_width, lost_height) =
        (source.width as i64 - width as i64, source.height as i64 - height as i64);
    lost_height > 0 && lost_height > 2 * lost_width
}

fn resize_rows(source: Pixels<'_>, taps: &Taps, target: &mut Canvas) {
    let width = taps.spans.len();
    target.reshape(width, source.height);
    for (y, out) in target.rgb.chunks_exact_mut(width).enumerate() {
        let row = source.row(y);
        for (pixel, (first, weights)) in out.iter_mut().zip(taps.iter()) {
            let mut sum = [HALF; 3];
            for (value, weight) in row[first..][..weights.len()].iter().zip(weights) {
                for channel in 0..3 {
                    sum[channel] += i32::from(value[channel]) * weight;
                }
            }
            *pixel = sum.map(round);
        }
    }
}

fn resize_columns(source: Pixels<'_>, taps: &Taps, sums: &mut Vec<i32>, target: &mut Canvas) {
    target.reshape(source.width, taps.spans.len());
    for (out, (first, weights)) in target.rgb.chunks_exact_mut(source.width).zip(taps.iter()) {
        sums.clear();
        sums.resize(source.width * 3, HALF);
        for (offset, &weight) in weights.iter().enumerate() {
            let row = source.row(first + offset).as_flattened();
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in out.as_flattened_mut().iter_mut().zip(&*sums) {
            *value = round(sum);
        }
    }
}
