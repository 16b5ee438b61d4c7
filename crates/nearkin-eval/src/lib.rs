//! Evaluation of frozen encoders.
//!
//! Numbers of different tools can only be compared when what was measured is stated, so every
//! result here carries its definition: which features, of which images, with which metric.

mod features;
mod knn;
mod quality;

pub use features::{
    EvaluationError, FeatureOptions, FeatureSource, Features, Stop, check_classes, check_labels,
    labels_of, stream, stream_raw, unit_rows,
};
pub use knn::{Knn, KnnResult, Search, Votes, knn, knn_together, scores};
pub use quality::{Quality, Spread, alignment, quality, rank_me, spread, uniformity};
