//! What to do with the features of a trained encoder: search similar images, find duplicates and
//! near-duplicates, and select a representative subset.
//!
//! This crate exists because a folder of a million images is past what tools that keep all pairs can
//! do, and because features have to reach other tools as files that these read. It takes vectors
//! from any source and builds without libtorch: a product of two blocks of rows is all that it
//! computes.
//!
//! - [`FeatureWriter`] streams rows into an `.npy`, `.safetensors` or `.parquet` file, and
//!   [`Features::read`] reads one.
//! - [`Vectors::into_centered`] takes the mean of a set out of its rows, without which the cosines of
//!   most encoders are all close to 1.
//! - [`search`] finds the nearest rows by cosine, exactly.
//! - [`find_duplicates`] groups rows above a similarity and misses no pair, and
//!   [`nearest_similarities`] shows whether that similarity separates duplicates from the rest.
//! - [`k_center`] and [`facility_location`] choose diverse subsets.

mod cells;
mod center;
mod distribution;
mod duplicates;
mod error;
mod features;
mod kept;
mod npy;
mod parallel;
#[cfg(feature = "parquet")]
mod parquet;
mod search;
mod select;
mod tensors;
mod vectors;
mod write;

pub use center::{Center, FEWEST_CENTERED};
pub use distribution::{Bin, Distribution, nearest_similarities};
pub use duplicates::{Duplicates, Group, Grouping, find_duplicates};
pub use error::EmbedError;
pub use features::Features;
pub use search::{Match, search, similar_to};
pub use select::{FacilityOptions, Selection, facility_location, k_center};
pub use vectors::Vectors;
pub use write::{FeatureFormat, FeatureWriter, Row};
