//! From bytes to the numbers that a network reads.

use serde::{Deserialize, Serialize};

use crate::view::check;

/// Per channel, `(byte / 255 - mean) / std`; the last transform of a view. Draws nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Means of red, green and blue of the training images scaled to `[0, 1]`.
    pub mean_rgb: [f64; 3],
    /// Standard deviations of the same.
    pub std_rgb: [f64; 3],
}

/// What each byte of each channel becomes.
pub(crate) type Levels = [[f32; 3]; 256];

impl Normalize {
    /// `byte / 255`, for views that do not normalize.
    pub(crate) const IDENTITY: Self = Self { mean_rgb: [0.0; 3], std_rgb: [1.0; 3] };

    pub(crate) fn check(&self) -> Result<(), String> {
        for channel in 0..3 {
            check::within("mean_rgb", self.mean_rgb[channel], f64::MIN, f64::MAX)?;
            check::within(
                "std_rgb",
                self.std_rgb[channel],
                f64::from(f32::MIN_POSITIVE),
                f64::MAX,
            )?;
        }
        Ok(())
    }

    pub(crate) fn levels(&self) -> Box<Levels> {
        let level = |byte: usize, channel: usize| {
            (byte as f32 / 255.0 - self.mean_rgb[channel] as f32) / self.std_rgb[channel] as f32
        };
        Box::new(std::array::from_fn(|byte| std::array::from_fn(|channel| level(byte, channel))))
    }
}

/// Writes `[height, width, 3]`.
pub(crate) fn write(levels: &Levels, rgb: &[[u8; 3]], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<3>();
    for (out, pixel) in out.iter_mut().zip(rgb) {
        *out = std::array::from_fn(|channel| levels[usize::from(pixel[channel])][channel]);
    }
}
