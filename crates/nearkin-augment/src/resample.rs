//! Antialiased resizing with the integer arithmetic of Pillow.
//!
//! Pillow resizes 8-bit images in two passes and rounds to 8 bits in between. A resizer that takes
//! the passes in the other order differs from it by several levels where bicubic weights overshoot
//! at a hard edge (by 10 in noise), which is why the passes are written here.

use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Pixels};
use crate::wide::wide;

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
    /// How far a pixel reaches at most, in pixels of the larger scale.
    pub fn radius(self) -> f64 {
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
    pairs: Vec<[u8; 8]>,
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
        let Self { horizontal, vertical, middle, pairs } = self;
        let mut rows = |source: Pixels<'_>, target: &mut Canvas| {
            horizontal.compute(source.width, width, interpolation);
            resize_rows(source, horizontal, pairs, target);
        };
        let mut columns = |source: Pixels<'_>, target: &mut Canvas| {
            vertical.compute(source.height, height, interpolation);
            resize_columns(source, vertical, target);
        };
        match (source.width == width, source.height == height) {
            (true, true) => target.copy_from(source),
            (false, true) => rows(source, target),
            (true, false) => columns(source, target),
            (false, false) if columns_first((source.width, source.height), (width, height)) => {
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
pub(crate) fn columns_first(before: (usize, usize), after: (usize, usize)) -> bool {
    let (lost_width, lost_height) =
        (before.0 as i64 - after.0 as i64, before.1 as i64 - after.1 as i64);
    lost_height > 0 && lost_height > 2 * lost_width
}

fn resize_rows(source: Pixels<'_>, taps: &Taps, pairs: &mut Vec<[u8; 8]>, target: &mut Canvas) {
    let width = taps.spans.len();
    target.reshape(width, source.height);
    pairs.resize(source.width, [0; 8]);
    for (pair, out) in target.rgb.chunks_mut(2 * width).enumerate() {
        let (upper, lower) = (source.row(2 * pair), (2 * pair + 1).min(source.height - 1));
        interleave(upper, source.row(lower), pairs);
        let (upper, lower) = out.split_at_mut(width);
        resize_pair(pairs, taps, upper, lower);
    }
}

wide! {
    /// Pixels of two rows side by side, with a byte more each: so both are weighed in one step.
    fn interleave(upper: &[[u8; 3]], lower: &[[u8; 3]], pairs: &mut [[u8; 8]]) {
        for ((pair, [a, b, c]), [d, e, f]) in pairs.iter_mut().zip(upper).zip(lower) {
            *pair = [*a, *b, *c, 0, *d, *e, *f, 0];
        }
    }
}

/// Of the last pair of an odd number of rows, `lower` is empty.
fn resize_pair(pairs: &[[u8; 8]], taps: &Taps, upper: &mut [[u8; 3]], lower: &mut [[u8; 3]]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::resize_pair(pairs, taps, upper, lower) };
    }
    resize_pair_by(weigh_pair, pairs, taps, upper, lower);
}

#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
fn resize_pair_by(
    weigh: impl Fn(&[[u8; 8]], &[i32]) -> [u8; 8],
    pairs: &[[u8; 8]],
    taps: &Taps,
    upper: &mut [[u8; 3]],
    lower: &mut [[u8; 3]],
) {
    let mut lower = lower.iter_mut();
    for (upper, (first, weights)) in upper.iter_mut().zip(taps.iter()) {
        let [a, b, c, _, d, e, f, _] = weigh(&pairs[first..][..weights.len()], weights);
        *upper = [a, b, c];
        if let Some(lower) = lower.next() {
            *lower = [d, e, f];
        }
    }
}

fn weigh_pair(pairs: &[[u8; 8]], weights: &[i32]) -> [u8; 8] {
    let mut sums = [HALF; 8];
    for (pair, &weight) in pairs.iter().zip(weights) {
        for lane in 0..8 {
            sums[lane] += i32::from(pair[lane]) * weight;
        }
    }
    sums.map(round)
}

/// What the compiler does not make of [`weigh_pair`] by itself.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm_cvtsi128_si64, _mm_packs_epi32, _mm_packus_epi16, _mm_set1_epi64x, _mm256_add_epi32,
        _mm256_castsi256_si128, _mm256_cvtepu8_epi32, _mm256_extracti128_si256, _mm256_mullo_epi32,
        _mm256_set1_epi32, _mm256_srai_epi32,
    };

    use super::{FRACTION_BITS, HALF, Taps, resize_pair_by};

    #[target_feature(enable = "avx2")]
    pub(super) fn resize_pair(
        pairs: &[[u8; 8]],
        taps: &Taps,
        upper: &mut [[u8; 3]],
        lower: &mut [[u8; 3]],
    ) {
        resize_pair_by(|pairs, weights| weigh_pair(pairs, weights), pairs, taps, upper, lower);
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn weigh_pair(pairs: &[[u8; 8]], weights: &[i32]) -> [u8; 8] {
        let mut sums = _mm256_set1_epi32(HALF);
        for (pair, &weight) in pairs.iter().zip(weights) {
            let values = _mm256_cvtepu8_epi32(_mm_set1_epi64x(i64::from_le_bytes(*pair)));
            sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(values, _mm256_set1_epi32(weight)));
        }
        let whole = _mm256_srai_epi32::<{ FRACTION_BITS as i32 }>(sums);
        // Both packings saturate, the second one to a byte.
        let short =
            _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
        _mm_cvtsi128_si64(_mm_packus_epi16(short, short)).to_le_bytes()
    }
}

fn resize_columns(source: Pixels<'_>, taps: &Taps, target: &mut Canvas) {
    target.reshape(source.width, taps.spans.len());
    for (out, (first, weights)) in target.rgb.chunks_exact_mut(source.width).zip(taps.iter()) {
        weigh_rows(source, first, weights, out.as_flattened_mut());
    }
}

/// Sums that stay in registers while the weights are gone through.
const BLOCK: usize = 32;

wide! {
    /// One row of the result, from as many rows of the source as there are weights.
    fn weigh_rows(source: Pixels<'_>, first: usize, weights: &[i32], out: &mut [u8]) {
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let mut done = 0;
        for values in blocks {
            let mut sums = [HALF; BLOCK];
            for (y, &weight) in (first..).zip(weights) {
                let row = &source.row(y).as_flattened()[done..][..BLOCK];
                for lane in 0..BLOCK {
                    sums[lane] += i32::from(row[lane]) * weight;
                }
            }
            for lane in 0..BLOCK {
                values[lane] = round(sums[lane]);
            }
            done += BLOCK;
        }
        for (x, value) in (done..).zip(rest) {
            let rows = (first..).zip(weights);
            let parts = rows.map(|(y, weight)| i32::from(source.row(y).as_flattened()[x]) * weight);
            *value = round(parts.fold(HALF, |sum, part| sum + part));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_ways_to_weigh_give_the_same(
            (pairs, weights) in (1_usize..40).prop_flat_map(|count| (
                prop::collection::vec(prop::array::uniform8(any::<u8>()), count),
                prop::collection::vec(-(1_i32 << 20)..(1_i32 << 20), count),
            )),
        ) {
            // As much as bicubic weights go beyond 1 in sum.
            let limit = 5_i64 << (FRACTION_BITS - 2);
            let sum: i64 = weights.iter().map(|&weight| i64::from(weight.abs())).sum();
            prop_assume!(sum < limit);
            let plain = weigh_pair(&pairs, &weights);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                prop_assert_eq!(plain, unsafe { avx2::weigh_pair(&pairs, &weights) });
            }
            let expected = |lane: usize| {
                let products = pairs.iter().zip(&weights);
                let sum: i64 = products.map(|(p, &w)| i64::from(p[lane]) * i64::from(w)).sum();
                ((sum + i64::from(HALF)) >> FRACTION_BITS).clamp(0, 255) as u8
            };
            prop_assert_eq!(plain, std::array::from_fn(expected));
        }
    }
}
