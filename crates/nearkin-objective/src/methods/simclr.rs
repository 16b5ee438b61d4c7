#![doc = include_str!("simclr.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, AnchorView, Choice, Define, Denominator, Entry, ParameterError, Reduction,
    ViewMethod, checks,
};

inventory::submit! { Entry::views::<SimClr>() }

/// Hyper-parameters of SimCLR.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimClr {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// The mean over all anchors (the paper), or the sum of the views' means (the authors' code).
    pub reduction: Reduction,
}

impl Default for SimClr {
    fn default() -> Self {
        Self { temperature: 0.5, reduction: Reduction::Mean }
    }
}

impl Define for SimClr {
    type Settings = Self;
    const NAME: &'static str = "simclr";
    const CARD: &'static str = include_str!("simclr.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        Ok(settings)
    }
}

impl ViewMethod for SimClr {
    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn reduction(&self) -> Reduction {
        self.reduction
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &AnchorView<'_>) -> Result<Choice, TchError> {
        Ok(Choice::new(block.uniform_positives()?, Denominator::without_anchor(block)?))
    }
}
