//! Seeded augmentation with the semantics of torchvision, and the loader that feeds the network.
//!
//! Published recipes state their augmentations in torchvision's terms, so this crate repeats what
//! torchvision does to 8-bit images, down to the rounding of Pillow; the parity tests hold it to
//! that. What it does not repeat is torchvision's random generator: numbers come from
//! [`nearkin_data::Random`], keyed by seed, epoch, image and view, so that the pixels of a batch do
//! not depend on how many threads made it. The crate builds without libtorch.

mod affine;
mod blur;
mod canvas;
mod clsa_strong;
mod color;
mod cpu_time;
mod crop;
mod drawn;
mod flip;
mod hue;
mod loader;
mod normalize;
mod operation;
mod order;
#[cfg(test)]
mod parity;
mod preset;
mod rand_augment;
mod resample;
mod resize;
mod sharpness;
mod solarize;
mod tone;
mod view;
mod wide;

pub use blur::GaussianBlur;
pub use canvas::Scratch;
pub use clsa_strong::ClsaStrong;
pub use color::{Adjustment, ColorJitter, Grayscale};
pub use crop::{CenterCrop, RandomCrop, RandomResizedCrop};
pub use drawn::{Begun, Drawn, Part, Span, Unfinished, Whole};
pub use flip::HorizontalFlip;
pub use loader::{Batch, LoadError, Loader, LoaderOptions, ViewBatch};
pub use normalize::Normalize;
pub use order::{Order, Plan, Sequential};
pub use rand_augment::RandAugment;
pub use resample::Interpolation;
pub use resize::Resize;
pub use solarize::Solarize;
pub use view::{Transform, View, ViewError, ViewOptions};
