//! Why an evaluation cannot be done.

use std::path::PathBuf;

use nearkin_augment::{LoadError, ViewError};
use nearkin_data::DataError;
use nearkin_eval::EvaluationError;
use nearkin_model::WeightsError;
use nearkin_report::ReportError;
use nearkin_train::TrainError;
use tch::TchError;

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Training, a checkpoint or a file of weights.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Features, or sets that do not go together.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The images cannot be opened.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A view is not valid.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The run folder cannot be read or written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// libtorch refused an operation.
    #[error("evaluation failed in libtorch: {0}")]
    Tensor(#[from] TchError),
    /// The run has nothing to evaluate.
    #[error("{} has no checkpoint yet", .0.display())]
    NoCheckpoint(PathBuf),
    /// The weights cannot be read, or are not those of the recipe's model.
    #[error(transparent)]
    Unfit(#[from] WeightsError),
    /// The file of weights does not have the projector of the recipe.
    #[error(
        "{} does not have the projector of the recipe{problem}\nhint: use the features of the backbone \
         (embed without --projector, eval semi with --preset plain)",
        path.display()
    )]
    NoProjector {
        /// The file.
        path: PathBuf,
        /// What does not fit, in brackets.
        problem: String,
    },
    /// The protocol cannot be used here.
    #[error("{0}")]
    Request(String),
    /// A file of names does not fit the images.
    #[error("{}: {problem}", path.display())]
    Names {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of results cannot be added to.
    #[error("cannot add to the results in {}: {problem}; move the file away to begin a new one", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The encoder has diverged.
    #[error("{subject}: the encoder's features are not finite: it has diverged")]
    NotFinite {
        /// Run and step, or the file of weights.
        subject: String,
    },
    /// An encoder that had to stay as it was did not.
    #[error(
        "the backbone changed while a classifier was trained on it ({0}), so its accuracy would not \
         be that of frozen features; please report this"
    )]
    NotFrozen(String),
    /// The classifier diverged.
    #[error(
        "the loss of the classifier is not finite after step {step}: a smaller learning rate is the \
         usual remedy"
    )]
    Diverged {
        /// Steps done.
        step: u64,
    },
    /// Fine-tuning diverged in its last steps.
    #[error(
        "the features are not finite after {steps} steps of fine-tuning: a smaller learning rate is \
         the usual remedy"
    )]
    FineTuningDiverged {
        /// Steps done.
        steps: u64,
    },
    /// L-BFGS gave up.
    #[error("L-BFGS failed at l2 = {l2:e}: {reason}")]
    Optimise {
        /// The penalty.
        l2: f64,
        /// What the solver said.
        reason: String,
    },
}
