//! Pretraining: from a recipe to a run folder.
//!
//! The loop ([`Trainer::run`]) knows neither which method it trains nor how many processes there
//! are: a method hands over terms of a loss, a world sums gradients. Around it stand the schedules,
//! the optimiser, the guard against non-finite steps, checkpoints from which a killed run continues
//! bit by bit, and the records of what happened.

mod begun;
mod checkpoint;
mod error;
mod feed;
mod guard;
mod images;
mod interrupt;
mod job;
mod learner;
mod meter;
mod monitor;
mod optimizer;
mod phases;
mod placed;
mod ranges;
mod schedule;
mod setup;
mod tensors;
mod threads;
mod trainer;
mod verdict;

pub use checkpoint::{Checkpoint, Progress as CheckpointState, refuse_changes, restore_recipe};
pub use error::TrainError;
pub use images::ImagesDigest;
pub use interrupt::Interrupt;
pub use meter::{matmul_rate, peak_memory};
pub use monitor::{Baselines, KnnAccuracy, evaluate_knn};
pub use optimizer::Optimizer;
pub use phases::Phase;
pub use ranges::MOST_THREADS;
pub use schedule::{LearningRate, Momentum};
pub use setup::{Setup, SetupError};
pub use tensors::{load_tensors, save_tensors};
pub use threads::{Threads, choose};
pub use trainer::{Benchmark, Outcome, Resume, RunOptions, Trainer, batch_file};
