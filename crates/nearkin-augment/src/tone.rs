//! Changes that look at one value of one channel at a time, as Pillow's `ImageOps` makes them.

use crate::canvas::Canvas;

/// Inverts the values from `first_inverted` on; 256 inverts nothing.
pub(crate) fn solarize(canvas: &mut Canvas, first_inverted: u16) {
    for value in canvas.rgb.as_flattened_mut() {
        *value = if u16::from(*value) < first_inverted { *value } else { 255 - *value };
    }
}

/// Keeps the given number of leading bits of each value, from 1 to 8.
pub(crate) fn posterize(canvas: &mut Canvas, bits: u32) {
    let mask = 255 << (8 - bits);
    canvas.rgb.as_flattened_mut().iter_mut().for_each(|value| *value &= mask);
}

/// Stretches each channel so that its darkest value becomes 0 and its brightest 255 (254 where the
/// fraction that is cut off was almost 1, as in Pillow); a channel with one value stays as it is.
pub(crate) fn stretch(canvas: &mut Canvas) {
    let (mut lowest, mut highest) = ([255; 3], [0; 3]);
    for pixel in &canvas.rgb {
        for channel in 0..3 {
            lowest[channel] = pixel[channel].min(lowest[channel]);
            highest[channel] = pixel[channel].max(highest[channel]);
        }
    }
    let levels: [[u8; 256]; 3] = std::array::from_fn(|channel| {
        let (low, high) = (f64::from(lowest[channel]), f64::from(highest[channel]));
        if high <= low {
            return IDENTITY;
        }
        let scale = 255.0 / (high - low);
        let offset = -low * scale;
        // The cast cuts off the fraction and clips.
        std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
    });
    look_up(canvas, &levels);
}

/// Makes the values of each channel about equally frequent (histogram equalization); a channel with
/// one value, or with too few pixels, stays as it is.
pub(crate) fn equalize(canvas: &mut Canvas) {
    let mut counts = [[0_usize; 256]; 3];
    for pixel in &canvas.rgb {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    look_up(canvas, &counts.map(|counts| equal_levels(&counts, canvas.rgb.len())));
}

fn equal_levels(counts: &[usize; 256], pixels: usize) -> [u8; 256] {
    // The brightest value does not count: whatever lies below it is spread over the levels.
    let brightest = counts.iter().rev().find(|&&count| count > 0);
    let step = (pixels - brightest.unwrap_or(&0)) / 255;
    if step == 0 {
        return IDENTITY;
    }
    let mut below = step / 2;
    counts.map(|count| {
        let level = (below / step).min(255) as u8;
        below += count;
        level
    })
}

/// What leaves every value as it is.
static IDENTITY: [u8; 256] = {
    let mut levels = [0; 256];
    let mut value = 0;
    while value < 256 {
        levels[value] = value as u8;
        value += 1;
    }
    levels
};

fn look_up(canvas: &mut Canvas, levels: &[[u8; 256]; 3]) {
    for pixel in &mut canvas.rgb {
        *pixel = std::array::from_fn(|channel| levels[channel][usize::from(pixel[channel])]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[u8]) -> Canvas {
        let rgb: Vec<[u8; 3]> = values.iter().map(|&value| [value; 3]).collect();
        Canvas { width: rgb.len(), height: 1, rgb }
    }

    fn red(canvas: &Canvas) -> Vec<u8> {
        canvas.rgb.iter().map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn a_channel_with_one_value_stays_as_it_is() {
        let gray = row(&[77; 1000]);
        for change in [stretch, equalize] {
            let mut canvas = row(&[77; 1000]);
            change(&mut canvas);
            assert_eq!(canvas.rgb, gray.rgb);
        }
    }

    #[test]
    fn too_few_pixels_are_not_equalized() {
        let values: Vec<u8> = (100..200).collect();
        let mut canvas = row(&values);
        equalize(&mut canvas);
        assert_eq!(red(&canvas), values);
    }

    proptest! {
        #[test]
        fn tone_changes_keep_the_order_of_values(
            mut values in prop::collection::vec(20_u8..200, 300..600),
        ) {
            values.sort_unstable();
            for change in [stretch, equalize] {
                let mut canvas = row(&values);
                change(&mut canvas);
                prop_assert!(red(&canvas).is_sorted());
            }
            let mut canvas = row(&values);
            stretch(&mut canvas);
            prop_assume!(values[0] < values[values.len() - 1]);
            let stretched = red(&canvas);
            prop_assert_eq!(stretched[0], 0);
            prop_assert!(stretched[values.len() - 1] >= 254);
        }

        #[test]
        fn posterized_values_differ_by_less_than_a_step(value: u8, bits in 1_u32..=8) {
            let mut canvas = row(&[value]);
            posterize(&mut canvas, bits);
            let found = red(&canvas)[0];
            prop_assert!(found <= value && u32::from(value - found) < 1 << (8 - bits));
            prop_assert_eq!(u32::from(found) % (1 << (8 - bits)), 0);
        }
    }
}
