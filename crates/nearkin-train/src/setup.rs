//! From a recipe and its method to something that can be trained: the checks that need both.

use nearkin_augment::View;
use nearkin_objective::{Configured, Method, MethodError, ParameterError, QueueUse, Requirements};
use nearkin_recipe::{MomentumEncoder, Precision, Queue, Recipe};
use tch::Kind;

use crate::TrainError;
use crate::meter::flop_per_image;

/// A recipe whose method is known and fits the rest of it.
pub struct Setup {
    /// With every default filled in, the method's too.
    pub recipe: Recipe,
    /// The objective.
    pub method: Box<dyn Method>,
    /// What the objective asks for.
    pub(crate) requirements: Requirements,
    /// Of training, as the host makes them.
    pub(crate) views: Vec<View>,
    pub(crate) evaluation_view: View,
    pub(crate) momentum_encoder: Option<MomentumEncoder>,
    pub(crate) queue: Option<Queue>,
    /// Floating-point operations that the method needs for an image, forward and backward.
    pub flop_per_image: u64,
}

/// Why a recipe does not describe a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The `[method]` table is wrong.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// The method and another table do not fit.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// A view is not valid.
    #[error(transparent)]
    View(#[from] nearkin_augment::ViewError),
    /// A table that the method needs is missing, or one that it cannot use is there.
    #[error("method {method} {problem}")]
    Table {
        /// The method's name.
        method: String,
        /// Which table, and what to do.
        problem: &'static str,
    },
}

impl Setup {
    /// The method's name in the recipe.
    pub fn method_name(&self) -> &str {
        self.recipe.method.get("name").and_then(toml::Value::as_str).unwrap_or_default()
    }

    /// The kind of numbers that networks and views hold.
    pub(crate) fn kind(&self) -> Kind {
        match self.recipe.training.precision {
            Precision::Single | Precision::Bfloat16 => Kind::Float,
            Precision::Double => Kind::Double,
        }
    }

    /// Steps of an epoch, each with its own images of this many; what is left is not trained on in this
    /// epoch. Fails if there are not enough for one.
    pub fn steps_per_epoch(&self, training_images: usize) -> Result<u64, TrainError> {
        let needed = self.recipe.images_per_step();
        match training_images / needed {
            0 => Err(TrainError::TooFewImages { needed, images: training_images }),
            steps => Ok(steps as u64),
        }
    }

    /// Reads the recipe's `[method]` and checks that the tables it needs are there.
    pub fn new(recipe: Recipe) -> Result<Self, SetupError> {
        let Configured { method, table } = nearkin_objective::from_table(&recipe.method)?;
        Self::with_method(recipe.with_method(table), method)
    }

    /// With a method that need not be registered: the recipe's `[method]` only names it.
    pub fn with_method(recipe: Recipe, method: Box<dyn Method>) -> Result<Self, SetupError> {
        let requirements = method.requirements(recipe.views.len())?;
        let Requirements { roles, mixed_inputs, .. } = &requirements;
        let has_teacher = roles.iter().any(|role| role.is_momentum());
        let views = recipe.training_views()?;
        let mut online =
            views.iter().zip(roles).filter(|(_, role)| role.online).map(|(view, _)| view);
        let size = online.next().map(View::size_pixels);
        let sizes_differ = online.any(|view| Some(view.size_pixels()) != size);
        let size_of = |view: usize| views.get(view).map(View::size_pixels);
        let mixes_sizes = mixed_inputs.iter().any(|mix| size_of(mix.base) != size_of(mix.other));
        let problem = match (has_teacher, recipe.momentum_encoder, requirements.queue) {
            (true, None, _) => "needs a [momentum_encoder] table",
            (false, Some(_), _) => "has no momentum encoder: remove [momentum_encoder]",
            (_, _, QueueUse::Never) if recipe.queue.is_some() => "has no queue: remove [queue]",
            (_, _, QueueUse::Required) if recipe.queue.is_none() => "needs a [queue] table",
            _ if requirements.views_share_batch_norm && sizes_differ => {
                "encodes its views as one batch: give them one size"
            }
            _ if requirements.predictor && recipe.model.predictor.is_empty() => {
                "would collapse without a predictor: give model.predictor layers"
            }
            _ if mixes_sizes => "mixes views pixel by pixel: give those of a pair one size",
            _ => "",
        };
        if !problem.is_empty() {
            let method =
                recipe.method.get("name").and_then(toml::Value::as_str).unwrap_or_default();
            return Err(SetupError::Table { method: method.to_owned(), problem });
        }
        Ok(Self {
            evaluation_view: recipe.evaluation_view()?,
            momentum_encoder: recipe.momentum_encoder,
            queue: recipe.queue,
            flop_per_image: flop_per_image(&recipe.model, &views, roles, mixed_inputs),
            requirements,
            views,
            recipe,
            method,
        })
    }
}
