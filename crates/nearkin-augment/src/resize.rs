//! Resizing of whole images, for evaluation.

use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Pixels};
use crate::resample::{Interpolation, Resampler};
use crate::view::check;

/// Resizes so that the shorter side has `size` pixels (torchvision's `Resize`). Draws nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Shorter side of the result, in pixels.
    pub size: usize,
    /// How the image is resized.
    #[serde(default)]
    pub interpolation: Interpolation,
}

impl Resize {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::size("size", self.size)
    }

    pub(crate) fn apply(&self, source: Pixels<'_>, resampler: &mut Resampler, target: &mut Canvas) {
        let (width, height) = (source.width, source.height);
        let long = self.size * width.max(height) / width.min(height);
        let size = if width <= height { (self.size, long) } else { (long, self.size) };
        resampler.resize(source, size, self.interpolation, target);
    }
}
