//! Pretraining: from a recipe to a run folder.
//!
//! The loop ([`Run::train`]) knows neither which method it trains nor how many processes there
//! are: a method hands over terms of a loss, a world sums gradients. Around it stand the schedules,
//! the optimizer, the guard against non-finite steps, checkpoints from which a killed run continues
//! bit by bit, and the records of what happened.

mod batches;
mod begun;
mod bench;
mod checkpoint;
mod error;
mod guard;
mod images;
mod interrupt;
mod job;
mod learner;
mod machine;
mod meter;
mod monitor;
mod optimizer;
mod phases;
mod placed;
mod ranges;
mod run;
mod schedule;
mod setup;
mod tensors;
mod threads;
mod verdict;

pub use batches::{Batches, TrainingBatch};
pub use bench::{BenchOptions, Benchmark, bench};
pub use checkpoint::{Checkpoint, Progress as CheckpointState, refuse_changes, restore_recipe};
pub use error::TrainError;
pub use images::ImagesDigest;
pub use interrupt::Interrupt;
pub use learner::{Learner, Step, StepReport};
pub use machine::Machine;
pub use meter::{matmul_rate, peak_memory};
pub use monitor::{Baselines, KnnAccuracy, evaluate_knn};
pub use optimizer::Optimizer;
pub use phases::Phase;
pub use ranges::MOST_THREADS;
pub use run::{Outcome, Resume, Run, RunOptions, batch_file};
pub use schedule::{LearningRate, Momentum};
pub use setup::{Setup, SetupError};
pub use tensors::{load_tensors, save_tensors};
pub use threads::{Threads, choose};
