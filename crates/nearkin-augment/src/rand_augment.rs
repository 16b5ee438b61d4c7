//! RandAugment: a few operations of equal strength, drawn anew for every view.

use nearkin_data::Random;
use serde::{Deserialize, Serialize};

use crate::canvas::Canvas;
use crate::operation::{Kind, Operation};
use crate::view::check;

/// Applies operations drawn with equal chances, one after the other (torchvision's `RandAugment`).
///
/// There are 14 operations, and an operation may be drawn more than once: identity, shear and
/// translation along either axis, rotation, brightness, colour, contrast, sharpness, posterization,
/// solarization, automatic contrast and equalization. From shear to sharpness, each goes in either
/// direction. Geometric ones take the nearest pixel and fill with black.
///
/// Draws two numbers per operation: which, and its direction, whether or not it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// How many operations.
    #[serde(default = "default_operations")]
    pub operations: usize,
    /// Their strength: a step of the 31 from 0 (weak) to 30 (strong).
    #[serde(default = "default_magnitude")]
    pub magnitude: usize,
}

fn default_operations() -> usize {
    2
}

fn default_magnitude() -> usize {
    9
}

const LARGEST_MAGNITUDE: usize = 30;
/// More would only be a slip of the pen: after so many, nothing of the image is left.
pub(crate) const MOST_OPERATIONS: usize = 100;

impl RandAugment {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::whole("operations", self.operations, 1, MOST_OPERATIONS)?;
        check::whole("magnitude", self.magnitude, 0, LARGEST_MAGNITUDE)
    }

    /// One operation for an image of the given size.
    pub(crate) fn sample(&self, random: &mut Random, width: usize, height: usize) -> Operation {
        let kind = Kind::sample(random);
        let negative = random.chance(0.5);
        self.operation(kind, negative, width, height)
    }

    /// What the magnitude means for `kind`, in the direction that `negative` tells.
    pub(crate) fn operation(
        &self,
        kind: Kind,
        negative: bool,
        width: usize,
        height: usize,
    ) -> Operation {
        let sign = if negative { -1.0 } else { 1.0 };
        let share = self.magnitude as f64 / LARGEST_MAGNITUDE as f64;
        // At most 150 / 331 of the side; the fraction of a pixel is cut off.
        let shift = |side: usize| {
            let pixels = (5 * side * self.magnitude / 331) as isize;
            if negative { -pixels } else { pixels }
        };
        let factor = 1.0 + sign * enhancement(self.magnitude);
        match kind {
            Kind::Identity => Operation::Identity,
            Kind::ShearX => Operation::ShearX(sign * 0.3 * share),
            Kind::ShearY => Operation::ShearY(sign * 0.3 * share),
            Kind::TranslateX => Operation::TranslateX(shift(width)),
            Kind::TranslateY => Operation::TranslateY(shift(height)),
            Kind::Rotate => Operation::Rotate(sign * 30.0 * share),
            Kind::Brightness => Operation::Brightness(factor),
            Kind::Color => Operation::Color(factor),
            Kind::Contrast => Operation::Contrast(factor),
            Kind::Sharpness => Operation::Sharpness(factor),
            Kind::Posterize => Operation::Posterize(8 - (4.0 * share).round() as u32),
            Kind::Solarize => Operation::Solarize(255.0 - 8.5 * self.magnitude as f64),
            Kind::AutoContrast => Operation::AutoContrast,
            Kind::Equalize => Operation::Equalize,
        }
    }

    /// Changes `canvas`; `spare` is overwritten.
    pub(crate) fn apply(&self, random: &mut Random, canvas: &mut Canvas, spare: &mut Canvas) {
        for _ in 0..self.operations {
            self.sample(random, canvas.width, canvas.height).apply(canvas, spare);
        }
    }
}

/// How far a factor of colour or sharpness is from 1, up to 0.9. The steps are those of PyTorch's
/// `linspace` in single precision, which counts from the nearer end: blending cuts fractions off,
/// so the last bit of a factor can decide about a level.
fn enhancement(magnitude: usize) -> f64 {
    let largest = 0.9_f32;
    let step = f64::from(largest / LARGEST_MAGNITUDE as f32);
    let value = if magnitude < LARGEST_MAGNITUDE.div_ceil(2) {
        step * magnitude as f64
    } else {
        f64::from(largest) - step * (LARGEST_MAGNITUDE - magnitude) as f64
    };
    f64::from(value as f32)
}

#[cfg(test)]
mod tests {
    use nearkin_data::random::Purpose;

    use super::*;

    #[test]
    fn operations_and_directions_are_equally_frequent() {
        let transform = RandAugment { operations: 2, magnitude: 15 };
        let mut random = Random::new(Purpose::Augmentation, 0, 0, 0);
        let mut counted = random.clone();
        let possible =
            |negative: bool| Kind::ALL.map(|kind| transform.operation(kind, negative, 40, 30));
        let (positive, negative) = (possible(false), possible(true));
        let mut counts = [[0_usize; 2]; 14];
        let count = 28_000;
        for _ in 0..count {
            let operation = transform.sample(&mut random, 40, 30);
            let found = |list: &[Operation]| list.iter().position(|&other| other == operation);
            match (found(&positive), found(&negative)) {
                (Some(kind), _) => counts[kind][0] += 1,
                (None, Some(kind)) => counts[kind][1] += 1,
                (None, None) => panic!("{operation:?}"),
            }
            (0..2).for_each(|_| _ = counted.bits());
        }
        assert_eq!(random.bits(), counted.bits());
        for (kind, [first, second]) in Kind::ALL.into_iter().zip(counts) {
            let one = count / Kind::ALL.len();
            assert!((first + second).abs_diff(one) < 200, "{kind:?}: {first} + {second}");
            let has_direction = (1..10).contains(&(kind as usize));
            let expected = if has_direction { one / 2 } else { 0 };
            assert!(second.abs_diff(expected) < 150, "{kind:?}: {first} + {second}");
        }
    }

    #[test]
    fn a_strong_magnitude_means_what_torchvision_states() {
        let transform = RandAugment { operations: 2, magnitude: 30 };
        let of = |kind| transform.operation(kind, true, 331, 662);
        assert_eq!(of(Kind::ShearX), Operation::ShearX(-0.3));
        assert_eq!(of(Kind::TranslateX), Operation::TranslateX(-150));
        assert_eq!(of(Kind::TranslateY), Operation::TranslateY(-300));
        assert_eq!(of(Kind::Rotate), Operation::Rotate(-30.0));
        assert_eq!(of(Kind::Color), Operation::Color(1.0 - f64::from(0.9_f32)));
        assert_eq!(of(Kind::Posterize), Operation::Posterize(4));
        assert_eq!(of(Kind::Solarize), Operation::Solarize(0.0));
    }

    #[test]
    fn as_many_operations_are_drawn_as_are_asked_for() {
        for operations in [1, 3] {
            let transform = RandAugment { operations, magnitude: 5 };
            let mut canvas = Canvas { width: 2, height: 2, rgb: vec![[5; 3]; 4] };
            let mut random = Random::for_view(1, 2, 3, 4);
            let mut counted = random.clone();
            transform.apply(&mut random, &mut canvas, &mut Canvas::default());
            (0..2 * operations).for_each(|_| _ = counted.bits());
            assert_eq!(random.bits(), counted.bits());
        }
    }
}
