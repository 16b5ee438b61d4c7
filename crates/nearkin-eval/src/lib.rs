//! Evaluation of frozen encoders.
//!
//! Numbers of different tools can only be compared when what was measured is stated, so every
//! result here carries its definition: which features, of which images, with which metric.

mod features;
mod knn;

pub use features::{EvaluationError, FeatureOptions, FeatureSource, stream};
pub use knn::{KnnResult, Search, Votes, knn, scores};
