//! Evaluations that train something on top of an encoder: linear probes, logistic regression, and
//! fine-tuning with few labels or on other images.
//!
//! Published accuracies differ by points with the protocol alone, so each protocol of the papers is
//! here by name, and every [`Score`] carries the definition of what was measured. Two rules hold for
//! all of them. Whatever is chosen (a learning rate, a penalty) is chosen on a held-out part of the
//! training images, and the test images are looked at once. An encoder that counts as frozen is
//! proven to be ([`Frozen`]).

mod average_precision;
mod classifier;
mod error;
mod fine_tune;
mod frozen;
mod groups;
mod linear;
mod logistic;
mod paired;
mod results;
mod score;
mod semi;
mod sets;
mod side_by_side;
mod subject;
mod suite;
mod summary;
mod transfer;
mod views;

pub use average_precision::{AveragePrecision, Precision};
pub use classifier::{Accuracies, Machine, Passes, Tally};
pub use error::ProbeError;
pub use frozen::Frozen;
pub use groups::{Group, KeyDifference};
pub use linear::{LinearOptions, LinearPreset, linear};
pub use logistic::{Logistic, Regression, l2_grid};
pub use paired::Difference;
pub use results::{Evaluation, ResultsFolder, results_json};
pub use score::{Score, Unit};
pub use semi::{Labels, SemiOptions, SemiPreset, semi};
pub use sets::{balanced_share, hold_out, named};
pub use side_by_side::{Setting, SideBySide, grid};
pub use subject::Subject;
pub use suite::{Listener, SuiteOptions, knn, knn_scores, quality_of, quality_scores, suite};
pub use summary::{Line, Summary, summary_table};
pub use transfer::{Target, TransferOptions, transfer};
