//! Pretrains image encoders without labels, by contrastive learning.
//!
//! The program `nearkin` is a command line around this library. The library has the same parts, for
//! programs of your own:
//!
//! | to | use |
//! |---|---|
//! | train as a recipe says, into a run folder | [`Run`] |
//! | train in a loop of your own | [`Learner`], [`Batches`] |
//! | train on images of your own | [`ImageSet`] |
//! | train with a loss of your own | [`PairMethod`], [`ViewMethod`] or [`Method`] |
//! | evaluate, embed, search and export | [`eval`], [`probe`], [`embed`], [`export`] |
//!
//! The folder `examples` of the repository has a program for each. This one makes three steps on images
//! that nearkin draws itself:
//!
//! ```
//! use nearkin::{SingleProcess, Batches, Learner, Recipe, Setup};
//!
//! let recipe: Recipe = r#"
//!     data = { dataset = "shapes", train_images = 64, size_pixels = 16 }
//!     method = { name = "simclr", temperature = 0.5 }
//!     model = { backbone = "resnet18", stem = "cifar", base_width = 4, projector = [{ width = 16 }] }
//!     training = { epochs = 1, batch_size = 16 }
//!     optimizer = { name = "sgd", learning_rate = 0.05 }
//!     views = [
//!         { name = "first", transforms = [{ random_resized_crop = { size = 16 } }] },
//!         { name = "second", transforms = [{ random_resized_crop = { size = 16 } }] },
//!     ]
//! "#
//! .parse()?;
//! let images = recipe.open_training_images()?;
//! let mut learner =
//!     Learner::new(Setup::new(recipe)?, images.len(), tch::Device::Cpu, SingleProcess::shared())?;
//! let mut batches = Batches::new(&learner, images, 0)?;
//! for _ in 0..3 {
//!     let report = learner.step(&mut batches)?.read()?;
//!     assert!(report.finite && report.loss > 0.0);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Tensors are those of [`tch`], which has to be the version that nearkin uses.

pub use nearkin_augment as augment;
pub use nearkin_data as data;
pub use nearkin_dist as dist;
pub use nearkin_embed as embed;
pub use nearkin_eval as eval;
pub use nearkin_export as export;
pub use nearkin_model as model;
pub use nearkin_objective as objective;
pub use nearkin_probe as probe;
pub use nearkin_recipe as recipe;
pub use nearkin_report as report;
pub use nearkin_train as train;
pub use tch;

pub use nearkin_data::{Image, ImageSet};
pub use nearkin_dist::{SingleProcess, World};
pub use nearkin_model::{DeviceChoice, Encoder};
pub use nearkin_objective::{Method, PairMethod, ViewMethod};
pub use nearkin_recipe::Recipe;
pub use nearkin_report::RunFolder;
pub use nearkin_train::{
    Batches, Interrupt, Learner, Machine, Outcome, Resume, Run, RunOptions, Setup, StepReport,
    TrainingBatch,
};
