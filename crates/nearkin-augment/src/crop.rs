//! Crops: the resized one that most of contrastive learning rests on, the random one of small
//! images, and the central one.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Pixels};
use crate::resample::{Interpolation, Resampler};
use crate::view::check;

/// A random part of the image, resized to a square (torchvision's `RandomResizedCrop`).
///
/// Draws two numbers per try (area, aspect ratio), at most 10 tries, and two more for the position
/// once a try fits: from 4 to 22, depending on the shape of the image; 20 when none fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Side of the result, in pixels.
    pub size: usize,
    /// Range of the share of the area of the image that is kept, uniform.
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// Range of width / height of the crop before it is resized, log-uniform.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
    /// How the crop is resized.
    #[serde(default)]
    pub interpolation: Interpolation,
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

/// A rectangle of whole pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct CropBox {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

const TRIES: usize = 10;

impl RandomResizedCrop {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::size("size", self.size)?;
        check::range("scale", self.scale, 1.0)?;
        check::range("ratio", self.ratio, f64::MAX)
    }

    pub(crate) fn sample(&self, random: &mut Random, width: usize, height: usize) -> CropBox {
        let area = (width * height) as f64;
        for _ in 0..TRIES {
            let target = area * random.uniform(self.scale[0], self.scale[1]);
            let ratio = random.uniform(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let crop_width = (target * ratio).sqrt().round_ties_even() as usize;
            let crop_height = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                return CropBox {
                    top: random.below(height - crop_height + 1),
                    left: random.below(width - crop_width + 1),
                    width: crop_width,
                    height: crop_height,
                };
            }
        }
        self.central(width, height)
    }

    /// What is taken when no try fits: the largest central crop whose ratio is allowed.
    fn central(&self, width: usize, height: usize) -> CropBox {
        let ratio = width as f64 / height as f64;
        // An extreme range of ratios could round a side to nothing; it keeps at least one pixel.
        let side = |exact: f64| (exact.round_ties_even() as usize).max(1);
        let (crop_width, crop_height) = if ratio < self.ratio[0] {
            (width, side(width as f64 / self.ratio[0]))
        } else if ratio > self.ratio[1] {
            (side(height as f64 * self.ratio[1]), height)
        } else {
            (width, height)
        };
        CropBox {
            left: (width - crop_width) / 2,
            top: (height - crop_height) / 2,
            width: crop_width,
            height: crop_height,
        }
    }

    pub(crate) fn apply(
        &self,
        crop: CropBox,
        source: Pixels<'_>,
        resampler: &mut Resampler,
        target: &mut Canvas,
    ) {
        let window = source.window(crop.left, crop.top, crop.width, crop.height);
        resampler.resize(window, (self.size, self.size), self.interpolation, target);
    }
}

/// The central square (torchvision's `CenterCrop`); an axis that is too short gets black borders.
/// Draws nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CenterCrop {
    /// Side of the square, in pixels.
    pub size: usize,
}

impl CenterCrop {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::size("size", self.size)
    }

    /// Where the square starts on an axis of that length; below 0 where it has a border.
    pub(crate) fn start(&self, length: usize) -> i64 {
        let beyond = (length.saturating_sub(self.size) as f64 / 2.0).round_ties_even() as i64;
        beyond - (self.size.saturating_sub(length) / 2) as i64
    }

    pub(crate) fn apply(&self, source: Pixels<'_>, target: &mut Canvas) {
        let axis = |length: usize| {
            let start = self.start(length);
            (start.max(0) as usize, (-start).max(0) as usize, length.min(self.size))
        };
        place(source, axis(source.width), axis(source.height), self.size, target);
    }
}

/// A random square of the image with black borders (torchvision's `RandomCrop`). On an axis where
/// image and borders are shorter than the square, each border grows by what is missing
/// (`pad_if_needed`). Draws two numbers: top and left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomCrop {
    /// Side of the square, in pixels.
    pub size: usize,
    /// Width of the border on each of the four sides, in pixels.
    #[serde(default)]
    pub padding: usize,
}

impl RandomCrop {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::size("size", self.size)?;
        // With wider borders some squares would show nothing of the image.
        check::whole("padding", self.padding, 0, self.size - 1)
    }

    /// Left and top of the square, from the corner of the borders.
    pub(crate) fn sample(
        &self,
        random: &mut Random,
        width: usize,
        height: usize,
    ) -> (usize, usize) {
        let mut position =
            |length: usize| random.below(length + 2 * self.border(length) - self.size + 1);
        let top = position(height);
        (position(width), top)
    }

    /// The same from the corner of the image; below 0 where the square begins in a border.
    pub(crate) fn corner(&self, random: &mut Random, width: usize, height: usize) -> [i64; 2] {
        let (left, top) = self.sample(random, width, height);
        [left as i64 - self.border(width) as i64, top as i64 - self.border(height) as i64]
    }

    pub(crate) fn apply(
        &self,
        (left, top): (usize, usize),
        source: Pixels<'_>,
        target: &mut Canvas,
    ) {
        let axis = |position: usize, length: usize| {
            let border = self.border(length);
            let start = position.saturating_sub(border);
            let blank = border.saturating_sub(position);
            (start, blank, (length - start).min(self.size - blank))
        };
        place(source, axis(left, source.width), axis(top, source.height), self.size, target);
    }

    /// Width of the borders of an axis of the given length.
    fn border(&self, length: usize) -> usize {
        self.padding + self.size.saturating_sub(length + 2 * self.padding)
    }
}

/// Copies a part of `source` into a black square. Per axis: where the part starts in the source,
/// where it starts in the square, and its length.
fn place(
    source: Pixels<'_>,
    (left, border_left, width): (usize, usize, usize),
    (top, border_top, height): (usize, usize, usize),
    size: usize,
    target: &mut Canvas,
) {
    target.reshape(size, size);
    if (width, height) != (size, size) {
        target.rgb.fill([0; 3]);
    }
    let window = source.window(left, top, width, height);
    let rows = target.rgb.chunks_exact_mut(size).skip(border_top);
    for (y, row) in rows.take(height).enumerate() {
        row[border_left..][..width].copy_from_slice(window.row(y));
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::random::Purpose;
    use proptest::prelude::*;

    use super::*;

    fn crop(scale: [f64; 2], ratio: [f64; 2]) -> RandomResizedCrop {
        RandomResizedCrop { size: 8, scale, ratio, interpolation: Interpolation::Bilinear }
    }

    fn random(seed: u64) -> Random {
        Random::new(Purpose::Augmentation, seed, 0, 0)
    }

    #[test]
    fn area_is_uniform_and_ratio_log_uniform() {
        // Crops that always fit, in an image so large that whole pixels do not matter.
        let transform = crop([0.1, 0.5], [0.5, 2.0]);
        let (count, side) = (20_000, 10_000);
        let mut random = random(3);
        let mut areas = Vec::new();
        let mut ratios = Vec::new();
        for _ in 0..count {
            let part = transform.sample(&mut random, side, side);
            assert!(part.left + part.width <= side && part.top + part.height <= side);
            areas.push((part.width * part.height) as f64 / (side * side) as f64);
            ratios.push((part.width as f64 / part.height as f64).log2());
        }
        // Of a uniform variable on [low, high]: mean, and quarter points.
        for (mut values, low, high) in [(areas, 0.1, 0.5), (ratios, -1.0, 1.0)] {
            values.sort_by(f64::total_cmp);
            let width = high - low;
            for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
                let found = values[((count - 1) as f64 * share) as usize];
                assert!((found - (low + width * share)).abs() < 0.02 * width, "{share}: {found}");
            }
        }
    }

    #[test]
    fn positions_reach_both_borders_evenly() {
        let transform = crop([0.25, 0.25], [1.0, 1.0]);
        let mut random = random(4);
        let mut counts = [0_usize; 5];
        for _ in 0..10_000 {
            let part = transform.sample(&mut random, 8, 8);
            assert_eq!((part.width, part.height), (4, 4));
            counts[part.left] += 1;
        }
        assert!(counts.iter().all(|&count| count.abs_diff(2000) < 200), "{counts:?}");
    }

    #[test]
    fn padded_crops_reach_both_borders_evenly_and_draw_two_numbers() {
        let transform = RandomCrop { size: 8, padding: 2 };
        let (mut random, mut counted) = (random(7), random(7));
        let mut counts = [[0_usize; 5]; 2];
        for _ in 0..10_000 {
            let (left, top) = transform.sample(&mut random, 8, 8);
            counts[0][left] += 1;
            counts[1][top] += 1;
            (0..2).for_each(|_| _ = counted.bits());
        }
        assert!(counts.as_flattened().iter().all(|&n| n.abs_diff(2000) < 200), "{counts:?}");
        assert_eq!(random.bits(), counted.bits());
    }

    #[test]
    fn what_never_fits_falls_back_to_the_centre() {
        let square = crop([1.0, 1.0], [1.0, 1.0]);
        let wide = square.sample(&mut random(0), 100, 40);
        assert_eq!(wide, CropBox { left: 30, top: 0, width: 40, height: 40 });
        let tall = square.sample(&mut random(0), 10, 41);
        assert_eq!(tall, CropBox { left: 0, top: 15, width: 10, height: 10 });
        let narrow = crop([1.0, 1.0], [8.0, 9.0]).sample(&mut random(0), 1, 1);
        assert_eq!(narrow, CropBox { left: 0, top: 0, width: 1, height: 1 });
    }

    proptest! {
        #[test]
        fn a_padded_crop_shows_as_much_of_the_image_as_its_position_allows(
            seed: u64,
            (width, height) in (1_usize..20, 1_usize..20),
            (size, padding) in (1_usize..20).prop_flat_map(|size| (Just(size), 0..size)),
        ) {
            let transform = RandomCrop { size, padding };
            let rgb = (0..width * height).map(|index| [1, (index / 256) as u8, index as u8]);
            let image = Canvas { width, height, rgb: rgb.collect() };
            let (left, top) = transform.sample(&mut random(seed), width, height);
            let mut target = Canvas { width: 0, height: 0, rgb: vec![[9; 3]; 5] };
            transform.apply((left, top), image.pixels(), &mut target);
            let border = |length: usize| padding + size.saturating_sub(length + 2 * padding);
            for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y, x))) {
                let from_x = (left + x).checked_sub(border(width)).filter(|&x| x < width);
                let from_y = (top + y).checked_sub(border(height)).filter(|&y| y < height);
                let expected =
                    from_x.zip(from_y).map_or([0; 3], |(x, y)| image.rgb[y * width + x]);
                prop_assert_eq!(target.rgb[y * size + x], expected);
            }
            prop_assert!(target.rgb.iter().any(|pixel| *pixel != [0; 3]));
        }

        #[test]
        fn a_crop_lies_inside_its_image(
            seed: u64,
            (width, height) in (1_usize..200, 1_usize..200),
            (scale, ratio) in (0.001_f64..1.0, 0.05_f64..1.0),
        ) {
            let transform = crop([scale, 1.0], [ratio, 3.0]);
            let part = transform.sample(&mut random(seed), width, height);
            prop_assert!(part.width >= 1 && part.left + part.width <= width);
            prop_assert!(part.height >= 1 && part.top + part.height <= height);
        }
    }
}
