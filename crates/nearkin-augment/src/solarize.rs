//! Solarization: bright values inverted, as in an overexposed photograph.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::tone;
use crate::view::check;

/// Inverts the bright values (torchvision's `RandomSolarize` on PIL images): of each channel, a
/// value `v` with `v / 255 >= threshold` becomes `255 - v`. Draws one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    /// How often.
    pub probability: f64,
    /// From which share of full brightness values are inverted, 0 to 1. The default of 0.5 inverts
    /// from 128, as torchvision is used with `threshold=128`.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
}

fn default_threshold() -> f64 {
    0.5
}

impl Solarize {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::probability(self.probability)?;
        check::within("threshold", self.threshold, 0.0, 1.0)
    }

    pub(crate) fn sample(&self, random: &mut Random) -> bool {
        random.chance(self.probability)
    }

    pub(crate) fn apply(&self, inverts: bool, canvas: &mut Canvas) {
        if inverts {
            tone::solarize(canvas, self.first_inverted());
        }
    }

    /// The lowest value that is inverted. The quotient is compared, so that a threshold written as
    /// `v / 255` means `v` to the bit.
    pub fn first_inverted(&self) -> u16 {
        (0..=255).find(|&value| f64::from(value) / 255.0 >= self.threshold).unwrap_or(255)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solarize(probability: f64, threshold: f64) -> Solarize {
        Solarize { probability, threshold }
    }

    #[test]
    fn a_threshold_of_a_whole_value_inverts_from_that_value() {
        assert_eq!(solarize(1.0, 0.5).first_inverted(), 128);
        for value in 0..=255_u16 {
            assert_eq!(solarize(1.0, f64::from(value) / 255.0).first_inverted(), value);
        }
    }

    #[test]
    fn values_from_the_threshold_on_are_inverted() {
        let mut canvas = Canvas { width: 2, height: 1, rgb: vec![[0, 127, 128], [254, 255, 1]] };
        solarize(1.0, 0.5).apply(true, &mut canvas);
        assert_eq!(canvas.rgb, [[0, 127, 127], [1, 0, 1]]);
        solarize(1.0, 0.5).apply(false, &mut canvas);
        assert_eq!(canvas.rgb, [[0, 127, 127], [1, 0, 1]]);
    }

    #[test]
    fn probability_is_how_often_it_applies() {
        let mut random = Random::for_view(6, 0, 0, 0);
        let mut counted = random.clone();
        let times = (0..10_000).filter(|_| solarize(0.2, 0.5).sample(&mut random)).count();
        assert!(times.abs_diff(2000) < 150, "{times}");
        (0..10_000).for_each(|_| _ = counted.bits());
        assert_eq!(random.bits(), counted.bits());
    }
}
