#![doc = include_str!("hcl.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, AnchorView, Choice, Define, Entry, ParameterError, Reduction, ViewMethod, checks,
};

inventory::submit! { Entry::views::<Hcl>() }

/// Hyper-parameters of hard negative contrastive learning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hcl {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// Probability that a negative is of the anchor's class (tau plus).
    pub class_prior: f64,
    /// How much more near negatives weigh (beta).
    pub concentration: f64,
    /// The mean over all anchors, or the sum of the views' means.
    pub reduction: Reduction,
}

impl Default for Hcl {
    fn default() -> Self {
        Self { temperature: 0.5, class_prior: 0.1, concentration: 1.0, reduction: Reduction::Mean }
    }
}

impl Define for Hcl {
    type Settings = Self;
    const NAME: &'static str = "hcl";
    const CARD: &'static str = include_str!("hcl.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::class_prior("class_prior", settings.class_prior)?;
        checks::weight("concentration", settings.concentration)?;
        Ok(settings)
    }
}

impl ViewMethod for Hcl {
    fn check_views(&self, views: usize) -> Result<(), ParameterError> {
        checks::two_views(views)
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn reduction(&self) -> Reduction {
        self.reduction
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &AnchorView<'_>) -> Result<Choice, TchError> {
        Choice::against_estimate(block, self.class_prior, self.concentration, self.temperature)
    }
}
