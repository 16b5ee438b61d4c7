//! The stronger augmentation of CLSA, which SANE uses too.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::operation::{Kind, Operation};
use crate::rand_augment::MOST_OPERATIONS;
use crate::view::check;

/// Applies operations of random strength, one after the other, each with a given probability (CLSA,
/// with the list of FixMatch).
///
/// The 14 operations are those of [`RandAugment`](crate::RandAugment), here with a level `v`, a
/// whole number from 1 to 9. In either direction: shear by `0.03 v`, translation by `0.03 v` of the
/// side, rotation by `3 v` degrees. Brightness, colour, contrast and sharpness have the factor
/// `0.09 v + 0.05`, so they only take away. Posterization leaves `4 + 0.4 v` bits and solarization
/// starts at `256 - 25.6 v`, the fractions of the products cut off. The rest has no strength.
///
/// Draws four numbers per repetition, whether or not they are used: which operation, its level,
/// whether to apply it, and its direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClsaStrong {
    /// How many operations are drawn.
    #[serde(default = "default_repetitions")]
    pub repetitions: usize,
    /// How often a drawn operation is applied.
    #[serde(default = "default_probability")]
    pub probability: f64,
}

fn default_repetitions() -> usize {
    5
}

fn default_probability() -> f64 {
    0.5
}

const LOWEST_LEVEL: usize = 1;
const HIGHEST_LEVEL: usize = 9;

impl ClsaStrong {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::whole("repetitions", self.repetitions, 1, MOST_OPERATIONS)?;
        check::probability(self.probability)
    }

    /// One operation for an image of the given size, or `None` to leave it as it is.
    pub(crate) fn sample(
        &self,
        random: &mut Random,
        width: usize,
        height: usize,
    ) -> Option<Operation> {
        let kind = Kind::sample(random);
        let level = LOWEST_LEVEL + random.below(HIGHEST_LEVEL + 1 - LOWEST_LEVEL);
        let applies = random.chance(self.probability);
        let negative = random.chance(0.5);
        applies.then(|| operation(kind, level, negative, width, height))
    }

    /// Changes `canvas`; `spare` is overwritten.
    pub(crate) fn apply(&self, random: &mut Random, canvas: &mut Canvas, spare: &mut Canvas) {
        for _ in 0..self.repetitions {
            if let Some(operation) = self.sample(random, canvas.width, canvas.height) {
                operation.apply(canvas, spare);
            }
        }
    }
}

/// What a level means for `kind`. The terms stand in the order of the reference, since what they
/// give is cut off to whole pixels and levels.
pub(crate) fn operation(
    kind: Kind,
    level: usize,
    negative: bool,
    width: usize,
    height: usize,
) -> Operation {
    let sign = if negative { -1.0 } else { 1.0 };
    let scaled = |largest: f64| level as f64 * largest / 10.0;
    let factor = scaled(0.9) + 0.05;
    // Positive is to the left and upwards, as in an affine map from the result to the image.
    let shift = |side: usize| (-sign * scaled(0.3) * side as f64) as isize;
    match kind {
        Kind::Identity => Operation::Identity,
        Kind::ShearX => Operation::ShearX(sign * scaled(0.3)),
        Kind::ShearY => Operation::ShearY(sign * scaled(0.3)),
        Kind::TranslateX => Operation::TranslateX(shift(width)),
        Kind::TranslateY => Operation::TranslateY(shift(height)),
        Kind::Rotate => Operation::Rotate(sign * scaled(30.0)),
        Kind::Brightness => Operation::Brightness(factor),
        Kind::Color => Operation::Color(factor),
        Kind::Contrast => Operation::Contrast(factor),
        Kind::Sharpness => Operation::Sharpness(factor),
        Kind::Posterize => Operation::Posterize(4 + scaled(4.0) as u32),
        Kind::Solarize => Operation::Solarize(256.0 - scaled(256.0).floor()),
        Kind::AutoContrast => Operation::AutoContrast,
        Kind::Equalize => Operation::Equalize,
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::random::Purpose;

    use super::*;

    #[test]
    fn operations_levels_and_directions_are_equally_frequent() {
        let transform = ClsaStrong { repetitions: 5, probability: 0.8 };
        let mut random = Random::new(Purpose::Augmentation, 2, 0, 0);
        let mut counted = random.clone();
        let count = 70_000;
        let mut kinds = [0_usize; 14];
        let mut degrees = [0_usize; 19];
        let mut factors = [0_usize; 10];
        for _ in 0..count {
            (0..4).for_each(|_| _ = counted.bits());
            let Some(operation) = transform.sample(&mut random, 40, 30) else { continue };
            let same = |kind: &Kind| {
                let example = operation_of(*kind);
                std::mem::discriminant(&example) == std::mem::discriminant(&operation)
            };
            kinds[Kind::ALL.iter().position(same).expect("one of the list")] += 1;
            match operation {
                Operation::Rotate(turn) => degrees[((turn + 27.0) / 3.0).round() as usize] += 1,
                Operation::Brightness(factor) => {
                    factors[((factor - 0.05) / 0.09).round() as usize] += 1;
                }
                _ => {}
            }
        }
        assert_eq!(random.bits(), counted.bits());
        // 56000 are applied: 4000 of a kind, of which 222 have one turn and 444 one factor.
        assert!(kinds.iter().all(|&times| times.abs_diff(4000) < 250), "{kinds:?}");
        let (none, turns) = (degrees[9], [&degrees[..9], &degrees[10..]].concat());
        assert!(none == 0 && turns.iter().all(|&n| n.abs_diff(222) < 60), "{degrees:?}");
        assert!(factors[0] == 0 && factors[1..].iter().all(|&n| n.abs_diff(444) < 90));
    }

    fn operation_of(kind: Kind) -> Operation {
        operation(kind, 5, false, 40, 30)
    }

    #[test]
    fn the_outermost_levels_mean_what_the_reference_states() {
        let lowest = |kind| operation(kind, 1, false, 100, 50);
        assert_eq!(lowest(Kind::Brightness), Operation::Brightness(0.09 + 0.05));
        assert_eq!(lowest(Kind::Posterize), Operation::Posterize(4));
        assert_eq!(lowest(Kind::Solarize), Operation::Solarize(231.0));
        assert_eq!(lowest(Kind::Rotate), Operation::Rotate(3.0));
        assert_eq!(lowest(Kind::ShearY), Operation::ShearY(0.03));
        assert_eq!(lowest(Kind::TranslateX), Operation::TranslateX(-3));
        let highest = |kind| operation(kind, 9, true, 100, 50);
        assert_eq!(highest(Kind::Sharpness), Operation::Sharpness(0.86));
        assert_eq!(highest(Kind::Posterize), Operation::Posterize(7));
        assert_eq!(highest(Kind::Solarize), Operation::Solarize(26.0));
        assert_eq!(highest(Kind::Rotate), Operation::Rotate(-27.0));
        assert_eq!(highest(Kind::TranslateY), Operation::TranslateY(13));
    }

    #[test]
    fn a_probability_of_zero_leaves_the_image() {
        let transform = ClsaStrong { repetitions: 5, probability: 0.0 };
        let mut random = Random::for_view(3, 0, 0, 0);
        assert!((0..1000).all(|_| transform.sample(&mut random, 9, 9).is_none()));
    }
}
