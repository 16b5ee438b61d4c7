//! Mirroring.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::view::check;

/// Mirrors left and right (torchvision's `RandomHorizontalFlip`). Draws one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HorizontalFlip {
    /// How often.
    #[serde(default = "default_probability")]
    pub probability: f64,
}

fn default_probability() -> f64 {
    0.5
}

impl HorizontalFlip {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::probability(self.probability)
    }

    pub(crate) fn sample(&self, random: &mut Random) -> bool {
        random.chance(self.probability)
    }

    pub(crate) fn apply(flips: bool, canvas: &mut Canvas) {
        if flips {
            canvas.rgb.chunks_exact_mut(canvas.width).for_each(<[_]>::reverse);
        }
    }
}
