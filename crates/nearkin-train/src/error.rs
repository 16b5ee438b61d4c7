//! Why a run cannot start or go on.

use std::path::{Path, PathBuf};

use nearkin_augment::{LoadError, ViewError};
use nearkin_data::DataError;
use nearkin_dist::DistError;
use nearkin_eval::EvaluationError;
use nearkin_model::WeightsError;
use nearkin_recipe::RecipeError;
use nearkin_report::ReportError;
use tch::TchError;

use crate::SetupError;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe does not describe a run.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A view of the recipe is not valid.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The images cannot be opened.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The evaluation failed.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The run folder cannot be written or read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The weights to start from cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Tensor(#[from] TchError),
    /// The processes cannot train together.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// Another process was started with another recipe.
    #[error(
        "process {rank} has another recipe than process 0:\n{differences}\nStart all processes with \
         the same recipe and changes"
    )]
    OtherRecipe {
        /// The process that differs.
        rank: usize,
        /// One line per key.
        differences: String,
    },
    /// A recipe that another process sent cannot be read.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Another process was lost or failed; this names it.
    #[error("{message}")]
    Lost {
        /// Which one, and what is known.
        message: String,
    },
    /// A number of images does not divide as it has to.
    #[error("{what} = {number} does not divide by {into} = {parts}; change one of them")]
    Division {
        /// The key of what is divided.
        what: &'static str,
        /// What it says.
        number: usize,
        /// What divides it.
        into: &'static str,
        /// Into how many parts.
        parts: usize,
    },
    /// A supervised method and images without labels.
    #[error(
        "method {method} is supervised, but the training images have no labels; give labelled images \
         or another method"
    )]
    NeedsLabels {
        /// The method's name.
        method: String,
    },
    /// There are fewer images than a step takes.
    #[error(
        "a step takes {needed} images (training.batch_size x training.accumulate_batches), but the \
         training set has {images}; make the batch smaller or give more images"
    )]
    TooFewImages {
        /// Images of a step.
        needed: usize,
        /// Images there are.
        images: usize,
    },
    /// Too many steps in a row had a non-finite loss or gradient.
    #[error(
        "{in_a_row} steps in a row had a non-finite loss or gradient, the last one step {step} (its inputs: \
         {}); {}", dump.display(), after_divergence(last_good.as_deref())
    )]
    NotFinite {
        /// Skipped steps in a row.
        in_a_row: u64,
        /// The last of them.
        step: u64,
        /// Where inputs and values were written.
        dump: PathBuf,
        /// The newest checkpoint.
        last_good: Option<PathBuf>,
    },
    /// Weights, or what else a checkpoint holds, are not finite or too large to train on.
    #[error(
        "the run has diverged: weights or optimizer state are infinite, NaN or too large after step {step}; \
         {}", after_divergence(last_good.as_deref())
    )]
    Diverged {
        /// Steps done.
        step: u64,
        /// The newest checkpoint, which was written before.
        last_good: Option<PathBuf>,
    },
    /// The features of the backbone are not finite, although its weights may be.
    #[error("{}, step {step}: the encoder's features are not finite: it has diverged", run.display())]
    FeaturesNotFinite {
        /// The run folder.
        run: PathBuf,
        /// Steps done.
        step: u64,
    },
    /// A caller of a learner gave it other batches than it was made for.
    #[error("the batches do not fit the learner: {0}")]
    Batches(String),
    /// The loader had no batch for a step, which its plan rules out.
    #[error("the loader ended before step {step}; please report this")]
    NoBatch {
        /// The step.
        step: u64,
    },
    /// A checkpoint is damaged, and the run cannot continue from another.
    #[error("{}: {reason}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A checkpoint of a version that has another layout.
    #[error(
        "{} has format {format}, and this version of nearkin reads {}; use the version that wrote it",
        path.display(), crate::checkpoint::FORMAT
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// A checkpoint file is damaged or from something else.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The run was begun with another recipe.
    #[error(
        "{} was begun with another recipe; a run continues only as it began:\n{differences}\nLeave \
         the changes out, or start a new run with another --out. If recipe.toml in the run folder was \
         changed, delete it: --resume restores it from the newest checkpoint", run.display()
    )]
    ChangedRecipe {
        /// The run folder.
        run: PathBuf,
        /// One line per key.
        differences: String,
    },
    /// The run was begun on other images, of the same number.
    #[error(
        "{} was begun with other images than these, which have {differences}; give the same images with \
         --data, or start a new run with another --out", run.display()
    )]
    OtherImages {
        /// The run folder.
        run: PathBuf,
        /// What differs.
        differences: String,
    },
    /// The run was begun on other images.
    #[error(
        "the run was begun with {before} training images, but there are {now}; give the same --data"
    )]
    ChangedData {
        /// Then.
        before: usize,
        /// Now.
        now: usize,
    },
}

/// What is left of a run that diverged, and what to do.
fn after_divergence(last_good: Option<&Path>) -> String {
    let remedy = "hint: start a new run with a smaller optimizer.learning_rate or a longer \
                  schedule.warmup_epochs";
    match last_good.map(Path::display) {
        Some(path) => format!(
            "the last good checkpoint is {path}\n{remedy}; --init {path}/model.safetensors begins with its \
             backbone"
        ),
        None => format!("there is no checkpoint from before\n{remedy}"),
    }
}
