#![doc = include_str!("nearest_keys.md")]

use nearkin::objective::{
    AnchorBlock, Choice, Define, Entry, Keys, Pair, PairMethod, Pairing, ParameterError, inventory,
    target,
};
use serde::{Deserialize, Serialize};
use tch::TchError;

// Recipes know it by its name from here on.
inventory::submit! { Entry::pairs::<NearestKeys>() }

/// Its hyper-parameters: the keys of a recipe's `[method]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NearestKeys {
    /// Divides the cosine similarities.
    temperature: f64,
    /// Weight of the own key.
    coefficient: f64,
    /// Other keys that are positives.
    neighbors: u32,
}

impl Default for NearestKeys {
    fn default() -> Self {
        Self { temperature: 0.1, coefficient: 0.5, neighbors: 4 }
    }
}

impl Define for NearestKeys {
    type Settings = Self;
    const NAME: &'static str = "nearest_keys";
    const CARD: &'static str = include_str!("nearest_keys.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        if !(0.0..=1.0).contains(&settings.coefficient) {
            let reason = "must be between 0 and 1";
            return Err(ParameterError::new("coefficient", &settings.coefficient, reason));
        }
        if !(0.01..f64::INFINITY).contains(&settings.temperature) {
            let reason = "must be at least 0.01";
            return Err(ParameterError::new("temperature", &settings.temperature, reason));
        }
        Ok(settings)
    }
}

impl PairMethod for NearestKeys {
    fn pairing(&self) -> Pairing {
        Pairing::from_keys(false, 2)
    }

    fn keys(&self) -> Keys {
        Keys::BatchAndQueue
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn choose(&self, block: &AnchorBlock<'_>, pair: &Pair<'_>) -> Result<Choice, TchError> {
        let own = block.positives()?;
        // A cosine is never below -1: the own key comes last.
        let others = block.similarities(pair.keys)?.f_scatter_value_(1, &own, -2.0)?;
        let count = i64::from(self.neighbors).min(block.candidates() - 1);
        let (_, nearest) = others.f_topk(count, 1, true, false)?;
        let nearest = target::uniform(&nearest, block.candidates(), block.kind())?;
        let target = target::mix(&block.uniform_positives()?, &nearest, self.coefficient)?;
        Ok(Choice::against_all(target))
    }
}
