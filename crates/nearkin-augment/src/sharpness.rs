//! Sharpness: from the smoothed image towards the image and beyond.

use crate::canvas::Canvas;
use crate::color::blend;

/// Weights of the smoothing kernel: 5 in the centre and 1 on the 8 places around it.
const TOTAL_WEIGHT: u16 = 13;

/// Changes the sharpness (Pillow's `ImageEnhance.Sharpness`): a factor of 0 smoothes, 1 changes
/// nothing. The outermost pixels are not smoothed, so they stay as they are.
pub(crate) fn sharpen(canvas: &mut Canvas, factor: f64, spare: &mut Canvas) {
    let (length, height) = (canvas.width * 3, canvas.height);
    if canvas.width < 3 || height < 3 {
        return;
    }
    spare.copy_from(canvas.pixels());
    let factor = factor as f32;
    let row = |y: usize| &spare.rgb.as_flattened()[y * length..][..length];
    let rows = canvas.rgb.as_flattened_mut().chunks_exact_mut(length);
    for (y, out) in rows.enumerate().take(height - 1).skip(1) {
        let (above, here, below) = (row(y - 1), row(y), row(y + 1));
        for (x, out) in out[3..length - 3].iter_mut().enumerate() {
            let three =
                |row: &[u8]| u16::from(row[x]) + u16::from(row[x + 3]) + u16::from(row[x + 6]);
            let value = here[x + 3];
            let sum = three(above) + three(here) + three(below) + 4 * u16::from(value);
            // To the nearest level; an odd total weight leaves no halves.
            let smooth = (sum + TOTAL_WEIGHT / 2) / TOTAL_WEIGHT;
            *out = blend(f32::from(smooth), f32::from(value), factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkers(width: usize, height: usize) -> Canvas {
        let value = |index: usize| if index.is_multiple_of(2) { 10 } else { 150 };
        let rgb = (0..width * height).map(|index| [value(index); 3]).collect();
        Canvas { width, height, rgb }
    }

    #[test]
    fn only_pixels_with_eight_neighbours_change() {
        for (width, height) in [(1, 1), (2, 9), (9, 2), (3, 3), (7, 5)] {
            let mut canvas = checkers(width, height);
            sharpen(&mut canvas, 0.0, &mut Canvas::default());
            let before = checkers(width, height);
            for (index, (after, before)) in canvas.rgb.iter().zip(&before.rgb).enumerate() {
                let (x, y) = (index % width, index / width);
                let inner = x > 0 && x + 1 < width && y > 0 && y + 1 < height;
                assert_eq!(after != before, inner, "{width} x {height}: ({x}, {y})");
            }
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let mut canvas = checkers(7, 5);
        sharpen(&mut canvas, 1.0, &mut Canvas::default());
        assert_eq!(canvas.rgb, checkers(7, 5).rgb);
    }
}
