#![doc = include_str!("moco_v3.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Entry, Keys, Pair, PairMethod, Pairing, ParameterError, checks,
};

inventory::submit! { Entry::pairs::<MocoV3>() }

/// Hyper-parameters of MoCo v3.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MocoV3 {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// Multiply the loss by 2 temperature, so that the temperature does not change the size of the
    /// gradient (the paper), or not.
    pub scale_by_temperature: bool,
}

impl Default for MocoV3 {
    fn default() -> Self {
        Self { temperature: 0.2, scale_by_temperature: true }
    }
}

impl Define for MocoV3 {
    type Settings = Self;
    const NAME: &'static str = "moco_v3";
    const CARD: &'static str = include_str!("moco_v3.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        Ok(settings)
    }
}

impl PairMethod for MocoV3 {
    fn pairing(&self) -> Pairing {
        Pairing::Symmetric { global_views: 2 }
    }

    fn keys(&self) -> Keys {
        Keys::Batch
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The sum of both directions, times 2 temperature.
    fn scale(&self) -> f64 {
        2.0 * if self.scale_by_temperature { 2.0 * self.temperature } else { 1.0 }
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &Pair<'_>) -> Result<Choice, TchError> {
        Choice::discriminate(block)
    }
}
