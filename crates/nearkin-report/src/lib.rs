//! What a run leaves behind, and what it shows while it runs.
//!
//! This crate exists so that training code only says what happened (a step, an epoch, a k-NN result)
//! and never how it is kept: metrics as JSON lines, TensorBoard event files, a progress bar or plain
//! lines, and one self-contained HTML page at the end. It depends on no other crate of the workspace
//! and builds without libtorch.

mod chart;
mod error;
mod files;
mod html;
mod metrics;
mod progress;
mod run_folder;
pub mod table;
mod tensorboard;
mod text;
mod verdict;

pub use error::ReportError;
pub use files::write_atomically;
pub use html::write_report;
pub use metrics::{Kind, MetricsWriter, Record, names, read_metrics};
pub use progress::{Progress, ProgressState};
pub use run_folder::RunFolder;
pub use tensorboard::EventWriter;
pub use text::{flop_rate, memory, percent};
pub use verdict::Verdict;
