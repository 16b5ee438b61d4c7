//! Turning the hue, through the 8-bit HSV of Pillow.
//!
//! Pillow keeps hue, saturation and value as whole numbers from 0 to 255, each cut off from single
//! precision with steps in double precision in between. What follows gives the same numbers for
//! every colour without a branch that depends on it: in photographs such branches are mispredicted
//! at every other pixel.

use crate::canvas::Canvas;

/// Turns the hue by `turn` of the circle, from -0.5 to 0.5.
pub(crate) fn turn(canvas: &mut Canvas, turn: f64) {
    let shift = (turn * 255.0) as i32 as u8;
    for pixel in &mut canvas.rgb {
        let [hue, saturation, value] = hsv(*pixel);
        *pixel = rgb([hue.wrapping_add(shift), saturation, value]);
    }
}

fn hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let value = red.max(green).max(blue);
    let lowest = red.min(green).min(blue);
    let middle = red ^ green ^ blue ^ value ^ lowest;
    // Grey has no hue; a chroma of 1 keeps its division defined, and saturation 0 discards it.
    let chroma = f32::from((value - lowest).max(1));
    // Red, green and blue are at 0, 2 and 4 sixths of the circle; the middle channel says how far
    // from there, and which channel it is says in which direction.
    let highest = (usize::from(red == value) << 1) | usize::from(green == value);
    let greater =
        u8::from(red >= green) | (u8::from(blue >= red) << 1) | (u8::from(green >= blue) * 12);
    let forward = usize::from((greater >> highest) & 1);
    let distance = 1.0 - f64::from(f32::from(value - middle) / chroma);
    let sixths = (STARTS[highest] + SIGNS[forward] * distance) as f32;
    let turns = (f64::from(sixths) * (1.0 / 6.0) + WHOLE[usize::from(sixths < 0.0)]) as f32;
    let saturation = 255.0 * f32::from(value - lowest) / f32::from(value.max(1));
    [(f64::from(turns) * 255.0) as u8, saturation as u8, value]
}

/// Where on the circle the highest channel is, in sixths; red (2, or 3 if green is as high), green
/// (1) or blue (0).
static STARTS: [f64; 4] = [4.0, 2.0, 0.0, 0.0];
/// Direction from there: backward, forward.
static SIGNS: [f64; 2] = [-1.0, 1.0];
/// What brings a hue back into the circle: nothing, or a whole turn if it is negative.
static WHOLE: [f64; 2] = [0.0, 1.0];

/// For a hue, how much of the saturation the middle channel loses, and where red, green and blue
/// are found in `[highest, middle, lowest]`.
#[derive(Clone, Copy)]
struct Sector {
    loss: f64,
    order: [u8; 3],
}

static SECTORS: [Sector; 256] = {
    let orders = [[0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0], [0, 2, 1]];
    let mut sectors = [Sector { loss: 0.0, order: orders[0] }; 256];
    let mut hue = 0;
    while hue < 256 {
        let sixths = hue as f64 * 6.0 / 255.0;
        let sector = sixths as usize;
        let fraction = (sixths - sector as f64) as f32 as f64;
        let loss = if sector.is_multiple_of(2) { 1.0 - fraction } else { fraction };
        sectors[hue] = Sector { loss, order: orders[sector % 6] };
        hue += 1;
    }
    sectors
};

/// Saturations as shares of 1.
static SHARES: [f64; 256] = {
    let mut shares = [0.0; 256];
    let mut saturation = 0;
    while saturation < 256 {
        shares[saturation] = (saturation as f64 / 255.0) as f32 as f64;
        saturation += 1;
    }
    shares
};

fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    let Sector { loss, order } = SECTORS[usize::from(hue)];
    let share = SHARES[usize::from(saturation)];
    let level = |lost: f64| (f64::from(value) * (1.0 - lost) + 0.5) as u8;
    let levels = [value, level(share * loss), level(share)];
    order.map(|position| levels[usize::from(position)])
}
