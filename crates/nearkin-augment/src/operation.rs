//! The operations from which the random policies choose (RandAugment, the strong view of CLSA).
//!
//! Both take theirs from the list of AutoAugment and differ in what a magnitude means. So a policy
//! draws a [`Kind`] and makes of it an [`Operation`] whose parameters are in plain units.

use nearkin_data::Random;
use serde::Deserialize;

use crate::affine::Affine;
use crate::canvas::Canvas;
use crate::color::Adjustment;
use crate::{sharpness, tone};

/// What an operation does, without how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Kind {
    /// In the order of torchvision.
    pub(crate) const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Any of them, equally likely. Draws one number.
    pub(crate) fn sample(random: &mut Random) -> Self {
        Self::ALL[random.below(Self::ALL.len())]
    }
}

/// One change of an image with its parameter, as torchvision's PIL backend makes it. The nearest
/// pixel is taken, and what lies outside of the image is black.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Identity,
    /// Row `y` moves to the left by this times `y`.
    ShearX(f64),
    /// Column `x` moves upwards by this times `x`.
    ShearY(f64),
    /// Pixels to the right.
    TranslateX(isize),
    /// Pixels downwards.
    TranslateY(isize),
    /// Degrees, counter-clockwise about the centre.
    Rotate(f64),
    /// Factor: 0 is black, 1 the image.
    Brightness(f64),
    /// Factor of saturation: 0 is grey, 1 the image.
    Color(f64),
    /// Factor: 0 is the mean luma, 1 the image.
    Contrast(f64),
    /// Factor: 0 is smooth, 1 the image.
    Sharpness(f64),
    /// Leading bits kept of each value, from 1 to 8.
    Posterize(u32),
    /// Values not below this are inverted, from 0 to 256.
    Solarize(f64),
    AutoContrast,
    Equalize,
}

impl Operation {
    /// Changes `canvas`, whose size stays; `spare` is overwritten.
    pub(crate) fn apply(self, canvas: &mut Canvas, spare: &mut Canvas) {
        let affine = match self {
            Self::Identity => return,
            Self::ShearX(slope) => Affine::shear_x(slope),
            Self::ShearY(slope) => Affine::shear_y(slope),
            Self::TranslateX(pixels) => Affine::translation(pixels, 0),
            Self::TranslateY(pixels) => Affine::translation(0, pixels),
            Self::Rotate(degrees) => Affine::rotation(degrees, canvas.width, canvas.height),
            Self::Brightness(factor) => return Adjustment::Brightness(factor).apply(canvas),
            Self::Color(factor) => return Adjustment::Saturation(factor).apply(canvas),
            Self::Contrast(factor) => return Adjustment::Contrast(factor).apply(canvas),
            Self::Sharpness(factor) => return sharpness::sharpen(canvas, factor, spare),
            Self::Posterize(bits) => return tone::posterize(canvas, bits),
            Self::Solarize(threshold) => return tone::solarize(canvas, threshold.ceil() as u16),
            Self::AutoContrast => return tone::stretch(canvas),
            Self::Equalize => return tone::equalize(canvas),
        };
        affine.apply(canvas, spare);
        std::mem::swap(canvas, spare);
    }
}
