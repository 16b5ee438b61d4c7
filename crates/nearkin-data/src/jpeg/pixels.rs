//! From the samples of the components to RGB pixels.
//!
//! A component with fewer samples is interpolated as libjpeg does: by a triangle filter where it has
//! half the samples across, down or both, otherwise by repeating samples.

use super::markers::{Component, FrameHeader, JpegColor};
use super::scan::Plane;

/// How a row of a component comes to the width of the image.
#[derive(Clone, Copy)]
enum Upsampling {
    None,
    /// A pixel is 3/4 of the nearer sample and 1/4 of the other.
    Across,
    Down,
    Both,
    Repeat {
        across: usize,
        down: usize,
    },
}

impl Upsampling {
    fn new(frame: &FrameHeader, component: &Component) -> Self {
        let (across, down) = (frame.h_max / component.h, frame.v_max / component.v);
        match (across, down) {
            (1, 1) => Self::None,
            (2, 1) if component.width > 2 => Self::Across,
            (1, 2) => Self::Down,
            (2, 2) if component.width > 2 => Self::Both,
            _ => Self::Repeat { across, down },
        }
    }
}

/// A component, one row of the image at a time.
struct Upsampler<'a> {
    plane: &'a Plane,
    width: usize,
    height: usize,
    upsampling: Upsampling,
    sums: Vec<u16>,
    upsampled: Vec<u8>,
}

impl<'a> Upsampler<'a> {
    fn new(frame: &FrameHeader, component: &Component, plane: &'a Plane) -> Self {
        let upsampling = Upsampling::new(frame, component);
        let (width, height) = (component.width, component.height);
        let upsampled = match upsampling {
            Upsampling::None => 0,
            _ => frame.h_max / component.h * width,
        };
        let sums = vec![0; if matches!(upsampling, Upsampling::Both) { width } else { 0 }];
        Self { plane, width, height, upsampling, sums, upsampled: vec![0; upsampled] }
    }

    fn stored(&self, row: usize) -> &'a [u8] {
        let plane = self.plane;
        &plane.samples[row * plane.stride..][..self.width]
    }

    /// The stored row that a row of the image is in, and the one that is next nearest.
    fn nearest(&self, row: usize) -> (&'a [u8], &'a [u8]) {
        let near = row / 2;
        let far = if row.is_multiple_of(2) { near.saturating_sub(1) } else { near + 1 };
        (self.stored(near), self.stored(far.min(self.height - 1)))
    }

    /// At least as many samples as the image is wide.
    fn row(&mut self, row: usize) -> &[u8] {
        match self.upsampling {
            Upsampling::None => return self.stored(row),
            Upsampling::Across => across(self.stored(row), &mut self.upsampled),
            Upsampling::Down => {
                let (near, far) = self.nearest(row);
                // Halves are rounded down in the upper row and up in the lower one.
                let rounding = if row.is_multiple_of(2) { 1 } else { 2 };
                for ((value, &near), &far) in self.upsampled.iter_mut().zip(near).zip(far) {
                    *value = ((3 * u16::from(near) + u16::from(far) + rounding) / 4) as u8;
                }
            }
            Upsampling::Both => {
                let (near, far) = self.nearest(row);
                for ((sum, &near), &far) in self.sums.iter_mut().zip(near).zip(far) {
                    *sum = 3 * u16::from(near) + u16::from(far);
                }
                both(&self.sums, &mut self.upsampled);
            }
            Upsampling::Repeat { across, down } => {
                let stored = self.stored(row / down);
                for (values, &sample) in self.upsampled.chunks_exact_mut(across).zip(stored) {
                    values.fill(sample);
                }
            }
        }
        &self.upsampled
    }
}

/// Of more than two samples.
fn across(samples: &[u8], values: &mut [u8]) {
    let (pairs, _) = values.as_chunks_mut::<2>();
    let (last, first) = (samples.len() - 1, u16::from(samples[0]));
    pairs[0] = [samples[0], ((3 * first + u16::from(samples[1]) + 2) / 4) as u8];
    for (pair, near) in pairs[1..last].iter_mut().zip(samples.windows(3)) {
        let [left, middle, right] = [near[0], near[1], near[2]].map(u16::from);
        *pair = [((3 * middle + left + 1) / 4) as u8, ((3 * middle + right + 2) / 4) as u8];
    }
    let middle = u16::from(samples[last]);
    pairs[last] = [((3 * middle + u16::from(samples[last - 1]) + 1) / 4) as u8, samples[last]];
}

/// Of more than two sums, each four times a sample.
fn both(sums: &[u16], values: &mut [u8]) {
    let (pairs, _) = values.as_chunks_mut::<2>();
    let last = sums.len() - 1;
    pairs[0] = [((4 * sums[0] + 8) / 16) as u8, ((3 * sums[0] + sums[1] + 7) / 16) as u8];
    for (pair, near) in pairs[1..last].iter_mut().zip(sums.windows(3)) {
        let (left, middle, right) = (near[0], 3 * near[1], near[2]);
        *pair = [((middle + left + 8) / 16) as u8, ((middle + right + 7) / 16) as u8];
    }
    pairs[last] =
        [((3 * sums[last] + sums[last - 1] + 8) / 16) as u8, ((4 * sums[last] + 7) / 16) as u8];
}

/// The whole image, row by row.
pub(super) fn to_rgb(frame: &FrameHeader, planes: &[Plane], color: JpegColor) -> Vec<u8> {
    let mut rgb = vec![0; 3 * frame.width * frame.height];
    let mut rows: Vec<Upsampler> = frame
        .components
        .iter()
        .zip(planes)
        .map(|(component, plane)| Upsampler::new(frame, component, plane))
        .collect();
    for (row, pixels) in rgb.chunks_exact_mut(3 * frame.width).enumerate() {
        let (pixels, _) = pixels.as_chunks_mut::<3>();
        match &mut rows[..] {
            [gray] => {
                for (pixel, &value) in pixels.iter_mut().zip(gray.row(row)) {
                    *pixel = [value; 3];
                }
            }
            [a, b, c] => {
                let (a, b, c) = (a.row(row), b.row(row), c.row(row));
                if color == JpegColor::Rgb {
                    let samples = a.iter().zip(b).zip(c).map(|((&a, &b), &c)| [a, b, c]);
                    pixels.iter_mut().zip(samples).for_each(|(pixel, sample)| *pixel = sample);
                } else {
                    ycc_row(a, b, c, pixels);
                }
            }
            [a, b, c, k] => {
                let (a, b, c, k) = (a.row(row), b.row(row), c.row(row), k.row(row));
                let samples = a.iter().zip(b).zip(c).map(|((&a, &b), &c)| [a, b, c]).zip(k);
                for (pixel, (sample, &k)) in pixels.iter_mut().zip(samples) {
                    // Inks are stored inverted, as Adobe does.
                    let [c, m, y] = if color == JpegColor::Ycck {
                        ycc_to_rgb(sample)
                    } else {
                        sample.map(|value| 255 - value)
                    };
                    *pixel = cmyk_to_rgb([c, m, y, 255 - k]);
                }
            }
            _ => {}
        }
    }
    rgb
}

/// With the factors of JFIF, in 16 bits behind the point.
#[inline]
pub(crate) fn ycc_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let y = i32::from(y);
    let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
    [
        y + ((91_881 * cr + HALF) >> 16),
        y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16),
        y + ((116_130 * cb + HALF) >> 16),
    ]
    .map(|value| value.clamp(0, 255) as u8)
}

/// As Pillow has it: black leaves some light, and each ink takes its part of that.
#[inline]
pub(crate) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(light) + 128;
        light.saturating_sub(((product + (product >> 8)) >> 8) as u8)
    })
}

fn ycc_row(y: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [[u8; 3]]) {
    #[cfg(target_arch = "x86_64")]
    let (y, cb, cr, pixels) = {
        // SAFETY: all x86-64 processors have SSE2.
        let done = unsafe { x86::ycc_row(y, cb, cr, pixels) };
        (&y[done..], &cb[done..], &cr[done..], &mut pixels[done..])
    };
    for (((pixel, &y), &cb), &cr) in pixels.iter_mut().zip(y).zip(cb).zip(cr) {
        *pixel = ycc_to_rgb([y, cb, cr]);
    }
}

/// Eight pixels at a time, with SSE2, which all processors of this kind have.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi16, _mm_add_epi32, _mm_cvtsi64_si128, _mm_cvtsi128_si64,
        _mm_madd_epi16, _mm_packs_epi32, _mm_packus_epi16, _mm_set1_epi16, _mm_set1_epi32,
        _mm_setzero_si128, _mm_srai_epi32, _mm_sub_epi16, _mm_unpackhi_epi16, _mm_unpackhi_epi64,
        _mm_unpacklo_epi8, _mm_unpacklo_epi16,
    };

    /// Returns how many pixels it has converted.
    #[target_feature(enable = "sse2")]
    pub(super) fn ycc_row(y: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [[u8; 3]]) -> usize {
        let (pixels, _) = pixels.as_flattened_mut().as_chunks_mut::<24>();
        let samples = y.as_chunks().0.iter().zip(cb.as_chunks().0).zip(cr.as_chunks().0);
        for (pixels, ((&y, &cb), &cr)) in pixels.iter_mut().zip(samples) {
            *pixels = ycc_to_rgb(y, cb, cr);
        }
        8 * pixels.len()
    }

    /// The factors of the plain form, less whole numbers, so that they fit 16 bits.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn ycc_to_rgb(y: [u8; 8], cb: [u8; 8], cr: [u8; 8]) -> [u8; 24] {
        let middle = _mm_set1_epi16(128);
        let y = widened(y);
        let cb = _mm_sub_epi16(widened(cb), middle);
        let cr = _mm_sub_epi16(widened(cr), middle);
        let pairs = [_mm_unpacklo_epi16(cb, cr), _mm_unpackhi_epi16(cb, cr)];
        let red = _mm_add_epi16(y, _mm_add_epi16(cr, weighted(pairs, 0, 91_881 - 65_536)));
        let green = _mm_sub_epi16(_mm_add_epi16(y, weighted(pairs, -22_554, 65_536 - 46_802)), cr);
        let blue = _mm_add_epi16(
            _mm_add_epi16(y, weighted(pairs, 116_130 - 131_072, 0)),
            _mm_add_epi16(cb, cb),
        );
        let red_green =
            _mm_unpacklo_epi8(_mm_packus_epi16(red, red), _mm_packus_epi16(green, green));
        let blue = _mm_unpacklo_epi8(_mm_packus_epi16(blue, blue), _mm_setzero_si128());
        let [a, b] = packed(_mm_unpacklo_epi16(red_green, blue));
        let [c, d] = packed(_mm_unpackhi_epi16(red_green, blue));
        let mut pixels = [0; 24];
        pixels[..8].copy_from_slice(&(a | b << 48).to_le_bytes());
        pixels[8..16].copy_from_slice(&(b >> 16 | c << 32).to_le_bytes());
        pixels[16..].copy_from_slice(&(c >> 32 | d << 16).to_le_bytes());
        pixels
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn widened(bytes: [u8; 8]) -> __m128i {
        _mm_unpacklo_epi8(_mm_cvtsi64_si128(i64::from_le_bytes(bytes)), _mm_setzero_si128())
    }

    /// The rounded `cb * x + cr * y` of eight pairs, with 16 bits of the factors behind the point.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn weighted(pairs: [__m128i; 2], x: i32, y: i32) -> __m128i {
        let weights = _mm_set1_epi32(y << 16 | (x & 0xffff));
        let half = _mm_set1_epi32(1 << 15);
        let [low, high] = pairs
            .map(|pair| _mm_srai_epi32::<16>(_mm_add_epi32(_mm_madd_epi16(pair, weights), half)));
        _mm_packs_epi32(low, high)
    }

    /// Four pixels without the byte between them, two in each number.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn packed(pixels: __m128i) -> [u64; 2] {
        [pixels, _mm_unpackhi_epi64(pixels, pixels)].map(|pair| {
            let pair = _mm_cvtsi128_si64(pair) as u64;
            pair & 0xff_ffff | pair >> 8 & 0xffff_ff00_0000
        })
    }
}
