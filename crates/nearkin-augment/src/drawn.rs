//! Views that are begun here and finished on the device.
//!
//! A GPU makes a view of a whole batch at once. How much of it is left to the device depends on the
//! images. Where all have one size, that is everything, and only what was drawn travels with the
//! pixels, or without them if the device holds the set. Images of several sizes are cropped and
//! resized here, where they come out at one size and fewer bytes travel than went in; what follows
//! looks at one pixel or its neighbourhood at a time and is left to the device. The random numbers are
//! drawn here in either case, the same ones in the same order.

use std::sync::Arc;

use nearkin_data::Random;

use crate::color::Adjustment;
use crate::crop::CropBox;
use crate::normalize::Normalize;
use crate::resample::columns_first;
use crate::view::Transform;

/// A stretch of an axis of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first pixel; below 0 where it begins in a border.
    pub start: i64,
    /// Its length.
    pub length: usize,
}

/// The part of an image that a transform shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From left to right.
    pub columns: Span,
    /// From top to bottom.
    pub rows: Span,
    /// Whether columns are resized before rows, with whole levels in between; rows are as a rule.
    pub columns_first: bool,
}

/// What a transform that is left to the device drew for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drawn {
    /// Whether it applies: a flip, a loss of colour, a solarization.
    Applies(bool),
    /// Standard deviation of a blur in pixels; `None` to leave the image as it is.
    Sigma(Option<f64>),
    /// Changes of colour in the order in which they apply.
    Changes([Option<Adjustment>; 4]),
    /// What a crop or a change of size starts from.
    Part(Part),
}

/// Images of one size, of which the device gets every pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Of every image, in pixels.
    pub width: usize,
    /// Of every image, in pixels.
    pub height: usize,
    /// The device has them all; batches bring their indices only.
    pub held: bool,
}

/// What the transforms on the device begin with.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// What the host made: `[images, size, size, 3]`.
    Here(Vec<u8>),
    /// The images of the batch as they are in the set.
    Whole(Whole),
}

/// What is left to do for the images of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    /// Where it starts.
    pub begun: Begun,
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

    /// Width and height of what it makes of an image of that width and height.
    pub fn size_after(&self, (width, height): (usize, usize)) -> (usize, usize) {
        match self {
            Self::RandomResizedCrop(transform) => (transform.size, transform.size),
            Self::RandomCrop(transform) => (transform.size, transform.size),
            Self::CenterCrop(transform) => (transform.size, transform.size),
            Self::Resize(transform) => transform.target(width, height),
            _ => (width, height),
        }
    }

    /// Whether [`draw`](Self::draw) gives something.
    pub(crate) fn has_device_form(&self) -> bool {
        self.gives_size()
            || matches!(
                self,
                Self::HorizontalFlip(_)
                    | Self::ColorJitter(_)
                    | Self::Grayscale(_)
                    | Self::GaussianBlur(_)
                    | Self::Solarize(_)
            )
    }

    /// The numbers of a transform that has a form on the device, as [`View::apply`] draws them for
    /// an image of that width and height.
    ///
    /// [`View::apply`]: crate::View::apply
    pub(crate) fn draw(
        &self,
        random: &mut Random,
        (width, height): (usize, usize),
    ) -> Option<Drawn> {
        let resized = |crop: CropBox, target| Part {
            columns: Span { start: crop.left as i64, length: crop.width },
            rows: Span { start: crop.top as i64, length: crop.height },
            columns_first: columns_first((crop.width, crop.height), target),
        };
        let copied = |[left, top]: [i64; 2], size| Part {
            columns: Span { start: left, length: size },
            rows: Span { start: top, length: size },
            columns_first: false,
        };
        let target = self.size_after((width, height));
        Some(match self {
            Self::RandomResizedCrop(transform) => {
                Drawn::Part(resized(transform.sample(random, width, height), target))
            }
            Self::RandomCrop(transform) => {
                let corner = transform.corner(random, width, height);
                Drawn::Part(copied(corner, transform.size))
            }
            Self::CenterCrop(transform) => {
                let corner = [width, height].map(|length| transform.start(length));
                Drawn::Part(copied(corner, transform.size))
            }
            Self::Resize(_) => {
                let whole = CropBox { left: 0, top: 0, width, height };
                Drawn::Part(resized(whole, target))
            }
            Self::HorizontalFlip(transform) => Drawn::Applies(transform.sample(random)),
            Self::ColorJitter(transform) => {
                Drawn::Changes(transform.sample(random).unwrap_or_default())
            }
            Self::Grayscale(transform) => Drawn::Applies(transform.sample(random)),
            Self::GaussianBlur(transform) => Drawn::Sigma(transform.sample(random)),
            Self::Solarize(transform) => Drawn::Applies(transform.sample(random)),
            Self::RandAugment(_) | Self::ClsaStrong(_) | Self::Normalize(_) => return None,
        })
    }
}
