//! Views that are begun here and finished on the device.
//!
//! What changes the size of an image stays on the host: it is where the exact weights of Pillow
//! matter, images of any size come out at one, and fewer bytes travel than went in. What follows looks
//! at one pixel or its neighbourhood at a time, which a GPU does for a whole batch at once. The random
//! numbers are drawn here in either case, the same ones in the same order, and handed over with the
//! pixels.

use std::sync::Arc;

use nearkin_data::Random;

use crate::color::Adjustment;
use crate::normalize::Normalize;
use crate::view::Transform;

/// What a transform that is left to the device drew for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drawn {
    /// Whether it applies: a flip, a loss of colour, a solarization.
    Applies(bool),
    /// Standard deviation of a blur in pixels; `None` to leave the image as it is.
    Sigma(Option<f64>),
    /// Changes of colour in the order in which they apply.
    Changes([Option<Adjustment>; 4]),
}

/// What is left to do for the images of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    /// `[images, size, size, 3]`.
    pub bytes: Vec<u8>,
    /// The transforms to come, but for `normalize`.
    pub transforms: Arc<[Transform]>,
    /// What they drew: for every image in turn, one of each of them.
    pub drawn: Vec<Drawn>,
    /// The last step.
    pub normalize: Normalize,
}

impl Transform {
    /// Whether it gives an image of another size.
    pub(crate) fn gives_size(&self) -> bool {
        matches!(
            self,
            Self::RandomResizedCrop(_)
                | Self::RandomCrop(_)
                | Self::Resize(_)
                | Self::CenterCrop(_)
        )
    }

    /// Whether [`draw`](Self::draw) gives something.
    pub(crate) fn has_device_form(&self) -> bool {
        matches!(
            self,
            Self::HorizontalFlip(_)
                | Self::ColorJitter(_)
                | Self::Grayscale(_)
                | Self::GaussianBlur(_)
                | Self::Solarize(_)
        )
    }

    /// The numbers of a transform that has a form on the device, as [`View::apply`] draws them.
    ///
    /// [`View::apply`]: crate::View::apply
    pub(crate) fn draw(&self, random: &mut Random) -> Option<Drawn> {
        Some(match self {
            Self::HorizontalFlip(transform) => Drawn::Applies(transform.sample(random)),
            Self::ColorJitter(transform) => {
                Drawn::Changes(transform.sample(random).unwrap_or_default())
            }
            Self::Grayscale(transform) => Drawn::Applies(transform.sample(random)),
            Self::GaussianBlur(transform) => Drawn::Sigma(transform.sample(random)),
            Self::Solarize(transform) => Drawn::Applies(transform.sample(random)),
            _ => return None,
        })
    }
}
