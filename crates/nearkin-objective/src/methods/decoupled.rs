#![doc = include_str!("decoupled.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, AnchorView, Choice, Define, Denominator, Entry, ParameterError, Reduction,
    ViewMethod, checks,
};

inventory::submit! { Entry::views::<Decoupled>() }

/// Hyper-parameters of decoupled contrastive learning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decoupled {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// The mean over all anchors, or the sum of the views' means.
    pub reduction: Reduction,
}

impl Default for Decoupled {
    fn default() -> Self {
        Self { temperature: 0.1, reduction: Reduction::Mean }
    }
}

impl Define for Decoupled {
    type Settings = Self;
    const NAME: &'static str = "decoupled";
    const CARD: &'static str = include_str!("decoupled.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        Ok(settings)
    }
}

impl ViewMethod for Decoupled {
    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn reduction(&self) -> Reduction {
        self.reduction
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &AnchorView<'_>) -> Result<Choice, TchError> {
        let without_own_image = Denominator::without(block, &block.own_image()?)?;
        Ok(Choice::new(block.uniform_positives()?, without_own_image))
    }
}
