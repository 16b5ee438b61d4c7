//! Turning the hue, through the 8-bit HSV of Pillow.
//!
//! Pillow keeps hue, saturation and value as whole numbers from 0 to 255, each cut off from single
//! precision with steps in double precision in between. What follows gives the same numbers for
//! every colour without a branch or a table, so that several pixels are turned at once. Single
//! precision stands where it gives the same number for all the values that there are.

use crate::canvas::Canvas;
use crate::wide::{Change, LANES, Lanes, by_block, wide};

/// Turns the hue by `turn` of the circle, from -0.5 to 0.5.
pub(crate) fn turn(canvas: &mut Canvas, turn: f64) {
    turn_pixels(&mut canvas.rgb, (turn * 255.0) as i32 as u8);
}

wide! {
    fn turn_pixels(rgb: &mut [[u8; 3]], shift: u8) {
        by_block(rgb, &Turn { shift });
    }
}

struct Turn {
    shift: u8,
}

impl Change for Turn {
    #[expect(clippy::inline_always, reason = "it is compiled for what its caller may use")]
    #[inline(always)]
    fn change(&self, [red, green, blue]: &mut [Lanes; 3]) {
        // Loop by loop, so that each is simple enough for the compiler to do many pixels at once.
        let mut hues = [0_u8; LANES];
        let mut quotients = [0.0_f32; LANES];
        let mut saturations = [0.0_f32; LANES];
        let mut starts = [0.0_f32; LANES];
        let mut signs = [0.0_f32; LANES];
        for lane in 0..LANES {
            let (red, green, blue) = (red[lane], green[lane], blue[lane]);
            let (value, lowest) = (red.max(green).max(blue), red.min(green).min(blue));
            let middle = red ^ green ^ blue ^ value ^ lowest;
            let chroma = value - lowest;
            // Grey has no hue; a chroma of 1 keeps its division defined, and saturation 0 discards it.
            quotients[lane] = f32::from(value - middle) / f32::from(chroma.max(1));
            saturations[lane] = 255.0 * f32::from(chroma) / f32::from(value.max(1));
            // Red, green and blue are at 0, 2 and 4 sixths of the circle; the middle channel says how
            // far from there, and which channel it is says in which direction.
            let of_green = green == value;
            let start = if of_green { 2.0 } else { 4.0 };
            starts[lane] = if red == value { 0.0 } else { start };
            let (above, below) = if of_green { (blue, red) } else { (red, green) };
            let (above, below) = if red == value { (green, blue) } else { (above, below) };
            signs[lane] = if above >= below { 1.0 } else { -1.0 };
        }
        for lane in 0..LANES {
            let distance = 1.0 - f64::from(quotients[lane]);
            let sixths = (f64::from(starts[lane]) + f64::from(signs[lane]) * distance) as f32;
            let whole = if sixths < 0.0 { 1.0 } else { 0.0 };
            let turns = (f64::from(sixths) * (1.0 / 6.0) + whole) as f32;
            hues[lane] = cut(f64::from(turns) * 255.0) as u8;
        }
        for lane in 0..LANES {
            let value = red[lane].max(green[lane]).max(blue[lane]);
            let sixths = 6 * u16::from(hues[lane].wrapping_add(self.shift));
            let sector = ((u32::from(sixths) * 257 + 257) >> 16) as u16;
            let fraction = f32::from(sixths - 255 * sector) / 255.0;
            // How much of the saturation the middle channel loses.
            let loss = if sector & 1 == 0 { 1.0 - fraction } else { fraction };
            let share = cut_single(saturations[lane]) as f32 / 255.0;
            let middle = cut_single(f32::from(value) * (1.0 - share * loss) + 0.5) as u8;
            let lowest = cut_single(f32::from(value) * (1.0 - share) + 0.5) as u8;
            let pick = |first: bool, second: bool| {
                let other = if second { middle } else { lowest };
                if first { value } else { other }
            };
            let is = |other: u16| sector == other;
            let at_red = is(0) | is(6);
            red[lane] = pick(at_red | is(5), is(1) | is(4));
            green[lane] = pick(is(1) | is(2), at_red | is(3));
            blue[lane] = pick(is(3) | is(4), is(2) | is(5));
        }
    }
}

/// The whole part of a number from 0 to 256.
fn cut(value: f64) -> i32 {
    // SAFETY: it fits, since hue, saturation and value are bytes.
    unsafe { value.to_int_unchecked() }
}

/// The whole part of a number from 0 to 256.
fn cut_single(value: f32) -> i32 {
    // SAFETY: as above.
    unsafe { value.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way back from HSV, as Pillow computes it.
    #[test]
    fn single_precision_gives_the_levels_of_double_precision() {
        for hue in 0..=255_u8 {
            let sixths = f64::from(hue) * 6.0 / 255.0;
            let fraction = f64::from(sixths.fract() as f32);
            let loss = if sixths as u8 & 1 == 0 { 1.0 - fraction } else { fraction };
            let whole = 6 * u16::from(hue);
            let single = f32::from(whole % 255) / 255.0;
            let single = if (whole / 255) & 1 == 0 { 1.0 - single } else { single };
            for saturation in 0..=255_u8 {
                let share = f64::from((f64::from(saturation) / 255.0) as f32);
                let found_share = f32::from(saturation) / 255.0;
                for value in 0..=255_u8 {
                    let expected = (f64::from(value) * (1.0 - share * loss) + 0.5) as i32;
                    let found = f32::from(value) * (1.0 - found_share * single) + 0.5;
                    assert_eq!(cut_single(found), expected, "{hue} {saturation} {value}");
                }
            }
        }
    }
}
