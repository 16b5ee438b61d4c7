//! Recipes: one TOML file describes a whole pretraining run.
//!
//! A run must be reproducible from a file and refused early when the file is wrong. So a recipe is
//! read once into checked types ([`Recipe`]), and nothing behind it checks again; unknown keys are
//! errors that name the nearest known one; what a run really used, every default filled in, is
//! written back beside its results and compared when the run is resumed.
//!
//! Only the method's own hyper-parameters stay a table here: they belong to the crate of the
//! objectives, and this crate builds without libtorch.

mod error;
#[cfg(test)]
mod example;
mod model;
mod numbers;
mod recipe;
mod table;

pub use error::{RecipeError, clarify};
pub use model::{
    Backbone, Initialization, Model, PositionEmbedding, ResNet, ResNetLayers, Stem,
    TransformerSize, VisionTransformer,
};
pub use numbers::{Fraction, NonNegative, Positive};
pub use recipe::{
    Augment, BatchNorm, Checkpoint, Decay, Evaluation, Layer, LearningRateScaling, MomentumEncoder,
    MomentumForm, MomentumSchedule, Neighbours, Optimizer, Place, Precision, Queue, QueueStart,
    Recipe, Schedule, StepForm, Training, UpdateRule, WarmUp,
};
pub use table::{Difference, Override, Source};
