//! Gaussian blur.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::view::check;
use crate::wide::wide;

/// Blurs with a Gaussian kernel (torchvision's `GaussianBlur` inside `RandomApply`). Beyond its
/// border the image is mirrored about its outermost pixels. Always draws two numbers: whether to
/// apply, and sigma.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// How often.
    pub probability: f64,
    /// Side of the kernel, in pixels; odd.
    pub kernel_size: usize,
    /// Range of the standard deviation in pixels, uniform.
    #[serde(default = "default_sigma")]
    pub sigma: [f64; 2],
}

fn default_sigma() -> [f64; 2] {
    [0.1, 2.0]
}

const LARGEST_KERNEL: usize = 1023;

impl GaussianBlur {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::probability(self.probability)?;
        if self.kernel_size.is_multiple_of(2) || self.kernel_size > LARGEST_KERNEL {
            return Err(format!(
                "kernel_size = {}: give an odd number from 1 to {LARGEST_KERNEL}",
                self.kernel_size
            ));
        }
        check::range("sigma", self.sigma, f64::MAX)
    }

    /// The kernel for a standard deviation in pixels: `kernel_size` weights with a sum of 1, along a
    /// row or a column.
    pub fn weights(&self, sigma: f64) -> Vec<f32> {
        let mut buffers = BlurBuffers::default();
        buffers.set_kernel(self.kernel_size, sigma as f32);
        let half = buffers.kernel;
        half.iter().skip(1).rev().chain(&half).copied().collect()
    }

    /// The standard deviation, or `None` to leave the image as it is.
    pub(crate) fn sample(&self, random: &mut Random) -> Option<f64> {
        let applies = random.chance(self.probability);
        let sigma = random.uniform(self.sigma[0], self.sigma[1]);
        applies.then_some(sigma)
    }

    pub(crate) fn apply(&self, sigma: Option<f64>, canvas: &mut Canvas, buffers: &mut BlurBuffers) {
        let Some(sigma) = sigma else { return };
        buffers.set_kernel(self.kernel_size, sigma as f32);
        buffers.blur_rows(canvas);
        buffers.blur_columns(canvas);
    }
}

/// What a blur needs besides the image.
#[derive(Default)]
pub(crate) struct BlurBuffers {
    /// The kernel from its centre outwards; it is symmetric.
    kernel: Vec<f32>,
    /// One row with its mirrored borders.
    padded: Vec<f32>,
    /// The image blurred along its rows.
    rows: Vec<f32>,
    /// One row of the result.
    sums: Vec<f32>,
    /// For every weight, where in a buffer the values on either side begin.
    places: Vec<(usize, usize)>,
}

impl BlurBuffers {
    fn set_kernel(&mut self, size: usize, sigma: f32) {
        self.kernel.clear();
        self.kernel.extend((0..=size / 2).map(|x| (-0.5 * (x as f32 / sigma).powi(2)).exp()));
        let total = self.kernel[0] + 2.0 * self.kernel[1..].iter().sum::<f32>();
        self.kernel.iter_mut().for_each(|weight| *weight /= total);
    }

    fn blur_rows(&mut self, canvas: &Canvas) {
        let kernel = weighty(&self.kernel);
        let (width, border) = (canvas.width, kernel.len() - 1);
        self.rows.resize(canvas.rgb.len() * 3, 0.0);
        self.padded.resize((width + 2 * border) * 3, 0.0);
        let images = canvas.rgb.chunks_exact(width);
        for (image, out) in images.zip(self.rows.chunks_exact_mut(width * 3)) {
            let middle = &mut self.padded[border * 3..][..width * 3];
            for (padded, &value) in middle.iter_mut().zip(image.as_flattened()) {
                *padded = f32::from(value);
            }
            let (pixels, _) = self.padded.as_chunks_mut::<3>();
            for x in 0..border {
                pixels[x] = image[mirror(x as isize - border as isize, width)].map(f32::from);
                pixels[border + width + x] =
                    image[mirror((width + x) as isize, width)].map(f32::from);
            }
            self.places.clear();
            let place = |offset| ((border - offset) * 3, (border + offset) * 3);
            self.places.extend((0..kernel.len()).map(place));
            weigh(kernel, &self.padded, &self.places, out);
        }
    }

    fn blur_columns(&mut self, canvas: &mut Canvas) {
        let (width, height) = (canvas.width, canvas.height);
        self.sums.resize(width * 3, 0.0);
        let kernel = weighty(&self.kernel);
        for (y, out) in canvas.rgb.chunks_exact_mut(width).enumerate() {
            let row = |y: isize| mirror(y, height) * width * 3;
            let y = y as isize;
            self.places.clear();
            self.places.extend((0..kernel.len() as isize).map(|x| (row(y - x), row(y + x))));
            weigh(kernel, &self.rows, &self.places, &mut self.sums);
            round_all(&self.sums, out.as_flattened_mut());
        }
    }
}

/// The kernel without the zeros at its end, into which the weights of a small sigma vanish.
fn weighty(kernel: &[f32]) -> &[f32] {
    let zeros = kernel.iter().rev().take_while(|&&weight| weight == 0.0).count();
    &kernel[..(kernel.len() - zeros).max(1)]
}

/// Sums that stay in registers while the kernel is gone through.
const BLOCK: usize = 32;

wide! {
    /// Writes the weighted sums of the pairs of parts of `source` that begin at `places`.
    fn weigh(kernel: &[f32], source: &[f32], places: &[(usize, usize)], out: &mut [f32]) {
        let [(center, _), pairs @ ..] = places else { return };
        let pairs = || kernel[1..].iter().zip(pairs);
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let mut done = 0;
        for block in blocks {
            let part = |place: usize| -> &[f32] { &source[place + done..][..BLOCK] };
            let middle = part(*center);
            let mut sums = [0.0; BLOCK];
            for lane in 0..BLOCK {
                sums[lane] = kernel[0] * middle[lane];
            }
            for (&weight, &(before, after)) in pairs() {
                let (before, after) = (part(before), part(after));
                for lane in 0..BLOCK {
                    sums[lane] += weight * (before[lane] + after[lane]);
                }
            }
            *block = sums;
            done += BLOCK;
        }
        for (at, sum) in (done..).zip(rest) {
            let weighed = |&weight: &f32, before: usize, after: usize| {
                weight * (source[before + at] + source[after + at])
            };
            let parts = pairs().map(|(weight, &(before, after))| weighed(weight, before, after));
            *sum = parts.fold(kernel[0] * source[center + at], |sum, part| sum + part);
        }
    }
}

wide! {
    fn round_all(sums: &[f32], out: &mut [u8]) {
        for (value, &sum) in out.iter_mut().zip(sums) {
            *value = round(sum);
        }
    }
}

/// The position inside `0..length` that `position` is mirrored to; the outermost is not repeated.
fn mirror(position: isize, length: usize) -> usize {
    let last = length as isize - 1;
    if last == 0 {
        return 0;
    }
    let folded = position.rem_euclid(2 * last);
    folded.min(2 * last - folded) as usize
}

/// To the nearest whole number, halves to even. Adding 2^23 leaves no bits for a fraction, which is
/// faster than an instruction that not every processor has.
fn round(value: f32) -> u8 {
    (value + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use nearkin_data::random::Purpose;

    use super::*;

    #[test]
    fn rounding_goes_to_the_nearest_and_halves_to_even() {
        for (value, expected) in
            [(0.0, 0), (0.5, 0), (1.5, 2), (2.5, 2), (254.51, 255), (255.0, 255)]
        {
            assert_eq!(round(value), expected, "{value}");
        }
    }

    #[test]
    fn positions_beyond_the_border_are_mirrored() {
        let found: Vec<usize> = (-4..7).map(|position| mirror(position, 3)).collect();
        assert_eq!(found, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert_eq!(mirror(-5, 1), 0);
    }

    /// Expected values are a normal distribution's at whole numbers, scaled to a sum of 1.
    #[test]
    fn weights_are_gaussian_and_mirrored_about_the_centre() {
        let blur = GaussianBlur { probability: 1.0, kernel_size: 5, sigma: [0.1, 2.0] };
        let expected = [0.05448868, 0.24420135, 0.40261996, 0.24420135, 0.05448868];
        let weights = blur.weights(1.0);
        assert_eq!(weights.len(), expected.len());
        for (weight, expected) in weights.iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-6, "{weights:?}");
        }
        let single = GaussianBlur { kernel_size: 1, ..blur };
        assert_eq!(single.weights(0.7), [1.0]);
    }

    #[test]
    fn sigma_is_uniform_and_drawn_whether_or_not_it_is_used() {
        let blur = GaussianBlur { probability: 0.5, kernel_size: 3, sigma: [0.1, 2.0] };
        let mut random = Random::new(Purpose::Augmentation, 0, 0, 0);
        let mut counted = random.clone();
        let mut sigmas: Vec<f64> = Vec::new();
        for _ in 0..20_000 {
            sigmas.extend(blur.sample(&mut random));
            (0..2).for_each(|_| _ = counted.bits());
        }
        assert_eq!(random.bits(), counted.bits());
        assert!(sigmas.len().abs_diff(10_000) < 200, "{}", sigmas.len());
        let mean = sigmas.iter().sum::<f64>() / sigmas.len() as f64;
        assert!((mean - 1.05).abs() < 0.02, "{mean}");
        assert!(sigmas.iter().all(|sigma| (0.1..2.0).contains(sigma)));
    }
}
