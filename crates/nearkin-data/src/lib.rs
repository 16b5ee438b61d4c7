//! Image sets: where pixels and labels come from.
//!
//! This crate exists so that everything behind it (augmentation, the loader, evaluation) sees one
//! interface, [`ImageSet`], whether images are drawn by code ([`shapes`]), sit in memory (CIFAR) or
//! are decoded from files. It knows nothing of tensors and builds without libtorch.

mod image;
pub mod random;
mod set;

pub use image::Image;
pub use random::Random;
pub use set::{DataError, ImageSet, Subset};
