//! Straight lines to straight lines: shear, translation and rotation, the nearest pixel each.
//!
//! Pillow walks over the result in steps of 1/65536 of a pixel and takes the pixel of the source on
//! which it lands. Rounding the way back once per pixel would land on other pixels along the edges
//! between them, so the steps are repeated here.

use crate::canvas::Canvas;

/// Where a pixel of the result is found: `(x, y)` comes from
/// `(x_x * x + x_y * y + x_0, y_x * x + y_y * y + y_0)`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    x: [f64; 3],
    y: [f64; 3],
}

/// Fraction bits of a position.
const FRACTION_BITS: u32 = 16;
const ONE: i64 = 1 << FRACTION_BITS;

/// To the nearest step; wider than Pillow's 32 bits, so that no image is too large.
fn fix(value: f64) -> i64 {
    (value * ONE as f64 + 0.5).floor() as i64
}

impl Affine {
    /// Shifts row `y` to the left by `slope * y`.
    pub(crate) fn shear_x(slope: f64) -> Self {
        Self { x: [1.0, slope, 0.0], y: [0.0, 1.0, 0.0] }
    }

    /// Shifts column `x` upwards by `slope * x`.
    pub(crate) fn shear_y(slope: f64) -> Self {
        Self { x: [1.0, 0.0, 0.0], y: [slope, 1.0, 0.0] }
    }

    /// Shifts to the right and downwards by whole pixels.
    pub(crate) fn translation(right: isize, down: isize) -> Self {
        Self { x: [1.0, 0.0, -right as f64], y: [0.0, 1.0, -down as f64] }
    }

    /// Turns the image about its centre, counter-clockwise.
    pub(crate) fn rotation(degrees: f64, width: usize, height: usize) -> Self {
        let (sine, cosine) = (-degrees.to_radians()).sin_cos();
        let (center_x, center_y) = (width as f64 / 2.0, height as f64 / 2.0);
        Self {
            x: [cosine, sine, center_x - cosine * center_x - sine * center_y],
            y: [-sine, cosine, center_y + sine * center_x - cosine * center_y],
        }
    }

    /// Writes to `target`, in the size of `source`; what lies outside of `source` is black.
    pub(crate) fn apply(self, source: &Canvas, target: &mut Canvas) {
        let (width, height) = (source.width, source.height);
        target.reshape(width, height);
        // Positions are those of the centres of pixels.
        let start = |[by_x, by_y, offset]: [f64; 3]| fix(offset + by_x * 0.5 + by_y * 0.5);
        let [x_by_x, x_by_y, y_by_x, y_by_y] =
            [self.x[0], self.x[1], self.y[0], self.y[1]].map(fix);
        let (mut x_start, mut y_start) = (start(self.x), start(self.y));
        for out in target.rgb.chunks_exact_mut(width) {
            if (x_by_x, y_by_x) == (ONE, 0) {
                let row = usize::try_from(y_start >> FRACTION_BITS).ok();
                let row = row.and_then(|y| source.rgb.chunks_exact(width).nth(y));
                shift(row.unwrap_or(&[]), x_start >> FRACTION_BITS, out);
            } else {
                let (mut x, mut y) = (x_start, y_start);
                for pixel in out {
                    // As an unsigned number, a negative position is larger than any side.
                    let column = (x >> FRACTION_BITS) as usize;
                    let row = (y >> FRACTION_BITS) as usize;
                    *pixel = if column < width && row < height {
                        source.rgb[row * width + column]
                    } else {
                        [0; 3]
                    };
                    x += x_by_x;
                    y += y_by_x;
                }
            }
            x_start += x_by_y;
            y_start += y_by_y;
        }
    }
}

/// Fills `out` with `row` from the position `first` on, and with black where there is no pixel.
fn shift(row: &[[u8; 3]], first: i64, out: &mut [[u8; 3]]) {
    let skipped = usize::try_from(first).unwrap_or(0).min(row.len());
    let border = usize::try_from(-first).unwrap_or(0).min(out.len());
    let (before, rest) = out.split_at_mut(border);
    let length = (row.len() - skipped).min(rest.len());
    let (middle, after) = rest.split_at_mut(length);
    before.fill([0; 3]);
    middle.copy_from_slice(&row[skipped..][..length]);
    after.fill([0; 3]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every pixel different, none black.
    fn numbered(width: usize, height: usize) -> Canvas {
        let rgb = (0..width * height).map(|index| [1, (index / 256) as u8, index as u8]).collect();
        Canvas { width, height, rgb }
    }

    fn apply(affine: Affine, source: &Canvas) -> Canvas {
        let mut target = Canvas { width: 0, height: 0, rgb: vec![[9; 3]; 7] };
        affine.apply(source, &mut target);
        assert_eq!((target.width, target.height), (source.width, source.height));
        target
    }

    #[test]
    fn a_quarter_turn_of_a_square_goes_counter_clockwise() {
        let source = numbered(5, 5);
        let turned = apply(Affine::rotation(90.0, 5, 5), &source);
        for (y, x) in (0..5).flat_map(|y| (0..5).map(move |x| (y, x))) {
            assert_eq!(turned.rgb[y * 5 + x], source.rgb[x * 5 + (4 - y)]);
        }
    }

    #[test]
    fn a_shear_shifts_row_by_row_or_column_by_column() {
        let source = numbered(4, 4);
        let rows = apply(Affine::shear_x(1.0), &source);
        let columns = apply(Affine::shear_y(1.0), &source);
        for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
            // The centre of row 0 is half a pixel below the axis, so it shifts by half a pixel too.
            let shifted = |along: usize, across: usize| along + across + 1;
            let pixel =
                |y: usize, x: usize| if y < 4 && x < 4 { source.rgb[y * 4 + x] } else { [0; 3] };
            assert_eq!(rows.rgb[y * 4 + x], pixel(y, shifted(x, y)));
            assert_eq!(columns.rgb[y * 4 + x], pixel(shifted(y, x), x));
        }
    }

    proptest! {
        #[test]
        fn translations_shift_by_whole_pixels(
            (width, height) in (1_usize..12, 1_usize..12),
            (right, down) in (-15_isize..15, -15_isize..15),
        ) {
            let source = numbered(width, height);
            let target = apply(Affine::translation(right, down), &source);
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let (from_x, from_y) = (x as isize - right, y as isize - down);
                let inside = (0..width as isize).contains(&from_x)
                    && (0..height as isize).contains(&from_y);
                let expected = if inside {
                    source.rgb[from_y as usize * width + from_x as usize]
                } else {
                    [0; 3]
                };
                prop_assert_eq!(target.rgb[y * width + x], expected);
            }
        }

        #[test]
        fn nothing_but_pixels_of_the_source_and_black_comes_out(
            (width, height) in (1_usize..40, 1_usize..40),
            (degrees, slope) in (-360.0_f64..360.0, -3.0_f64..3.0),
        ) {
            let source = numbered(width, height);
            for affine in [
                Affine::rotation(degrees, width, height),
                Affine::shear_x(slope),
                Affine::shear_y(slope),
            ] {
                let target = apply(affine, &source);
                let known = |pixel: &[u8; 3]| *pixel == [0; 3] || source.rgb.contains(pixel);
                prop_assert!(target.rgb.iter().all(known));
            }
        }
    }
}
