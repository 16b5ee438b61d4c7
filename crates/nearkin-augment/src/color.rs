//! Changes of colour: jitter and grayscale.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::hue;
use crate::view::check;
use crate::wide::{Change, LANES, Lanes, by_block, wide};

/// Changes brightness, contrast, saturation and hue in a random order (torchvision's `ColorJitter`
/// inside `RandomApply`).
///
/// A factor of the first three is uniform in `[max(0, 1 - v), 1 + v]`; hue turns by a share of the
/// circle uniform in `[-v, v]`. What is 0 is left out. Always draws 8 numbers: whether to apply,
/// three for the order, and the four factors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// How often.
    #[serde(default = "always")]
    pub probability: f64,
    /// Largest change of the factor of brightness.
    #[serde(default)]
    pub brightness: f64,
    /// Largest change of the factor of contrast.
    #[serde(default)]
    pub contrast: f64,
    /// Largest change of the factor of saturation.
    #[serde(default)]
    pub saturation: f64,
    /// Largest turn of the hue, up to 0.5 (half of the circle).
    #[serde(default)]
    pub hue: f64,
}

fn always() -> f64 {
    1.0
}

/// One of the four changes of [`ColorJitter`] with its factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjustment {
    /// From black (0) to the image (1) and beyond.
    Brightness(f64),
    /// From the mean luma (0) to the image (1) and beyond.
    Contrast(f64),
    /// From the luma of each pixel (0) to the image (1) and beyond.
    Saturation(f64),
    /// Share of the circle, from -0.5 to 0.5.
    Hue(f64),
}

impl ColorJitter {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::probability(self.probability)?;
        check::within("brightness", self.brightness, 0.0, f64::MAX)?;
        check::within("contrast", self.contrast, 0.0, f64::MAX)?;
        check::within("saturation", self.saturation, 0.0, f64::MAX)?;
        check::within("hue", self.hue, 0.0, 0.5)
    }

    /// The changes in the order in which they apply, or `None` to leave the image as it is.
    pub(crate) fn sample(&self, random: &mut Random) -> Option<[Option<Adjustment>; 4]> {
        let applies = random.chance(self.probability);
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        let mut factor = |spread: f64, lowest: f64, center: f64| {
            let value = random.uniform((center - spread).max(lowest), center + spread);
            (spread > 0.0).then_some(value)
        };
        let changes = [
            factor(self.brightness, 0.0, 1.0).map(Adjustment::Brightness),
            factor(self.contrast, 0.0, 1.0).map(Adjustment::Contrast),
            factor(self.saturation, 0.0, 1.0).map(Adjustment::Saturation),
            factor(self.hue, -self.hue, 0.0).map(Adjustment::Hue),
        ];
        applies.then(|| order.map(|position| changes[position]))
    }

    pub(crate) fn apply(changes: Option<[Option<Adjustment>; 4]>, canvas: &mut Canvas) {
        for change in changes.into_iter().flatten().flatten() {
            change.apply(canvas);
        }
    }
}

impl Adjustment {
    pub(crate) fn apply(self, canvas: &mut Canvas) {
        match self {
            Self::Brightness(factor) => blend_with_level(canvas, 0, factor as f32),
            Self::Contrast(factor) => {
                let level = mean_luma(canvas);
                blend_with_level(canvas, level, factor as f32);
            }
            Self::Saturation(factor) => blend_with_luma(canvas, factor as f32),
            Self::Hue(turn) => hue::turn(canvas, turn),
        }
    }
}

/// Replaces colours by their luma (torchvision's `RandomGrayscale`). Draws one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grayscale {
    /// How often.
    pub probability: f64,
}

impl Grayscale {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::probability(self.probability)
    }

    pub(crate) fn sample(&self, random: &mut Random) -> bool {
        random.chance(self.probability)
    }

    pub(crate) fn apply(gray: bool, canvas: &mut Canvas) {
        if gray {
            remove_color(&mut canvas.rgb);
        }
    }
}

wide! {
    fn remove_color(rgb: &mut [[u8; 3]]) {
        rgb.iter_mut().for_each(|pixel| *pixel = [luma(*pixel); 3]);
    }
}

/// ITU-R 601 luma with 16 fraction bits, as Pillow converts RGB to L.
#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471;
    ((sum + 0x8000) >> 16) as u8
}

/// Mean luma, rounded.
fn mean_luma(canvas: &Canvas) -> u8 {
    let sum: u64 = canvas.rgb.chunks(canvas.width).map(|row| u64::from(sum_of_luma(row))).sum();
    (sum as f64 / canvas.rgb.len() as f64 + 0.5) as u8
}

wide! {
    /// Of one row.
    fn sum_of_luma(rgb: &[[u8; 3]]) -> u32 {
        rgb.iter().map(|&pixel| u32::from(luma(pixel))).sum()
    }
}

/// From `base` towards `value` and beyond; the fraction is cut off and the range clipped (the cast
/// does both).
pub(crate) fn blend(base: f32, value: f32, factor: f32) -> u8 {
    (base + factor * (value - base)) as u8
}

/// The same in a form of which the compiler makes one instruction per step.
#[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
#[inline(always)]
fn blend_lane(base: f32, value: f32, factor: f32) -> u8 {
    let blended = (base + factor * (value - base)).clamp(0.0, 255.0);
    // SAFETY: it is within a byte, and finite since factors are.
    unsafe { blended.to_int_unchecked::<i32>() as u8 }
}

fn blend_with_level(canvas: &mut Canvas, level: u8, factor: f32) {
    blend_values(canvas.rgb.as_flattened_mut(), f32::from(level), factor);
}

wide! {
    fn blend_values(values: &mut [u8], base: f32, factor: f32) {
        values.iter_mut().for_each(|value| *value = blend_lane(base, f32::from(*value), factor));
    }
}

fn blend_with_luma(canvas: &mut Canvas, factor: f32) {
    blend_pixels_with_luma(&mut canvas.rgb, factor);
}

wide! {
    fn blend_pixels_with_luma(rgb: &mut [[u8; 3]], factor: f32) {
        by_block(rgb, &Saturate { factor });
    }
}

struct Saturate {
    factor: f32,
}

impl Change for Saturate {
    #[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
    #[inline(always)]
    fn change(&self, [red, green, blue]: &mut [Lanes; 3]) {
        for lane in 0..LANES {
            let base = f32::from(luma([red[lane], green[lane], blue[lane]]));
            for channel in [&mut *red, &mut *green, &mut *blue] {
                channel[lane] = blend_lane(base, f32::from(channel[lane]), self.factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::random::Purpose;

    use super::*;

    fn jitter(probability: f64) -> ColorJitter {
        ColorJitter { probability, brightness: 0.4, contrast: 1.5, saturation: 0.0, hue: 0.1 }
    }

    #[test]
    fn factors_are_uniform_in_their_ranges_and_orders_equally_frequent() {
        let mut random = Random::new(Purpose::Augmentation, 0, 0, 0);
        let count = 24_000;
        let mut factors = [Vec::new(), Vec::new(), Vec::new()];
        let mut first = [0_usize; 4];
        for _ in 0..count {
            let changes = jitter(1.0).sample(&mut random).expect("always applies");
            for (position, change) in changes.into_iter().enumerate() {
                let (kind, factor) = match change {
                    Some(Adjustment::Brightness(factor)) => (0, factor),
                    Some(Adjustment::Contrast(factor)) => (1, factor),
                    Some(Adjustment::Hue(factor)) => (2, factor),
                    Some(Adjustment::Saturation(_)) => panic!("saturation is off"),
                    None => {
                        first[3] += usize::from(position == 0);
                        continue;
                    }
                };
                first[kind] += usize::from(position == 0);
                factors[kind].push(factor);
            }
        }
        for (mut values, low, high) in factors
            .into_iter()
            .zip([(0.6, 1.4), (0.0, 2.5), (-0.1, 0.1)])
            .map(|(v, r)| (v, r.0, r.1))
        {
            assert_eq!(values.len(), count);
            values.sort_by(f64::total_cmp);
            for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
                let found = values[((count - 1) as f64 * share) as usize];
                let expected = low + (high - low) * share;
                assert!((found - expected).abs() < 0.02 * (high - low), "{share}: {found}");
            }
        }
        assert!(first.iter().all(|&times| times.abs_diff(count / 4) < 300), "{first:?}");
    }

    #[test]
    fn draws_are_a_function_of_the_transform_only() {
        for probability in [0.0, 0.5, 1.0] {
            let mut random = Random::for_view(1, 2, 3, 4);
            jitter(probability).sample(&mut random);
            let mut counted = Random::for_view(1, 2, 3, 4);
            (0..8).for_each(|_| _ = counted.bits());
            assert_eq!(random.bits(), counted.bits());
        }
    }

    #[test]
    fn probability_is_how_often_it_applies() {
        let mut random = Random::for_view(5, 0, 0, 0);
        let times = (0..10_000).filter(|_| jitter(0.8).sample(&mut random).is_some()).count();
        assert!(times.abs_diff(8000) < 150, "{times}");
        assert!(jitter(0.0).sample(&mut random).is_none());
    }
}
