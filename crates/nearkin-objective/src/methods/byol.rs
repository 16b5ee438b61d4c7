#![doc = include_str!("byol.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Denominator, Entry, Keys, Pair, PairMethod, Pairing,
    ParameterError, Reduction,
};

inventory::submit! { Entry::pairs::<Byol>() }

/// Hyper-parameters of BYOL.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Byol {
    /// Add up both directions (the paper), or take their mean.
    pub reduction: Reduction,
    /// How many views (from the first) make keys.
    pub global_views: usize,
}

impl Default for Byol {
    fn default() -> Self {
        Self { reduction: Reduction::SumOfViews, global_views: 2 }
    }
}

impl Define for Byol {
    type Settings = Self;
    const NAME: &'static str = "byol";
    const CARD: &'static str = include_str!("byol.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        Ok(settings)
    }
}

impl PairMethod for Byol {
    fn pairing(&self) -> Pairing {
        Pairing::Symmetric { global_views: self.global_views }
    }

    fn keys(&self) -> Keys {
        Keys::Own
    }

    fn temperature(&self) -> f64 {
        1.0
    }

    /// The formula gives 1 - cos of each pair.
    fn scale(&self) -> f64 {
        2.0 * self.reduction.weight(1)
    }

    fn needs_predictor(&self) -> bool {
        true
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &Pair<'_>) -> Result<Choice, TchError> {
        let nothing = Denominator::Constant { logarithm: 1.0 };
        Ok(Choice::new(block.uniform_positives()?, nothing))
    }
}
