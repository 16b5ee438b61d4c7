//! From a recipe and its method to something that can be trained: the checks that need both.

use std::sync::Arc;

use nearkin_augment::View;
use nearkin_objective::{Method, MethodError, ParameterError, Role};
use nearkin_recipe::{MomentumEncoder, Queue, Recipe};

/// A recipe whose method is known and fits the rest of it.
pub struct Setup {
    /// With every default filled in, the method's too.
    pub recipe: Recipe,
    /// The objective.
    pub method: Box<dyn Method>,
    /// Which encoders see each view.
    pub(crate) roles: Vec<Role>,
    pub(crate) views: Arc<[View]>,
    pub(crate) evaluation_view: View,
    pub(crate) momentum_encoder: Option<MomentumEncoder>,
    pub(crate) queue: Option<Queue>,
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
    /// Reads the recipe's `[method]` and checks that the tables it needs are there.
    pub fn new(recipe: Recipe) -> Result<Self, SetupError> {
        let method = nearkin_objective::from_table(&recipe.method)?;
        let roles = method.roles(recipe.views.len())?;
        let has_teacher = roles.iter().any(|role| role.momentum);
        let problem = match (has_teacher, recipe.momentum_encoder, recipe.queue) {
            (true, None, _) => "needs a [momentum_encoder] table",
            (false, Some(_), _) => "has no momentum encoder: remove [momentum_encoder]",
            (false, None, Some(_)) => "has no queue: remove [queue]",
            (true, Some(_), None) if method.needs_queue() => "needs a [queue] table",
            _ => "",
        };
        let views = recipe.training_views()?;
        let mut online =
            views.iter().zip(&roles).filter(|(_, role)| role.online).map(|(view, _)| view);
        let size = online.next().map(View::size_pixels);
        let problem = match problem {
            "" if method.encodes_views_together()
                && online.any(|view| Some(view.size_pixels()) != size) =>
            {
                "encodes its views as one batch: give them one size"
            }
            problem => problem,
        };
        if !problem.is_empty() {
            let method =
                recipe.method.get("name").and_then(toml::Value::as_str).unwrap_or_default();
            return Err(SetupError::Table { method: method.to_owned(), problem });
        }
        Ok(Self {
            views: views.into(),
            evaluation_view: recipe.evaluation_view()?,
            momentum_encoder: recipe.momentum_encoder,
            queue: recipe.queue,
            roles,
            recipe: recipe.with_method(method.parameters()),
            method,
        })
    }
}
