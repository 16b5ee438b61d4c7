//! What embeddings are good for once an encoder is trained: to find similar images, images that are
//! there twice, and a few images that stand for many.
//!
//! This crate exists because a folder of a million images is past what tools that keep all pairs can
//! do, and because features have to reach other tools as files that these read. It takes vectors
//! from any source and builds without libtorch: a product of two blocks of rows is all that it
//! computes.
//!
//! - [`FeatureWriter`] streams rows into an `.npy`, `.safetensors` or `.parquet` file, and
//!   [`Features::read`] reads one.
//! - [`search`] finds the nearest rows by cosine, exactly.
//! - [`find_duplicates`] joins rows above a similarity into groups and misses no pair.
//! - [`k_center`] and [`facility_location`] choose diverse subsets.

mod duplicates;
mod error;
mod features;
mod npy;
mod parallel;
#[cfg(feature = "parquet")]
mod parquet;
mod search;
mod select;
mod tensors;
mod vectors;
mod write;

pub use duplicates::{Duplicates, find_duplicates};
pub use error::EmbedError;
pub use features::Features;
pub use search::{Match, search, similar_to};
pub use select::{FacilityOptions, Selection, facility_location, k_center};
pub use vectors::Vectors;
pub use write::{FeatureFormat, FeatureWriter, Row};
