#![doc = include_str!("ressl.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Denominator, Entry, Keys, Pair, PairMethod, Pairing,
    ParameterError, Scheduled, checks, target,
};

inventory::submit! { Entry::pairs::<ReSsl>() }

/// Hyper-parameters of ReSSL.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReSsl {
    /// Divides the online encoder's similarities.
    pub temperature: f64,
    /// Divides the momentum encoder's similarities.
    pub temperature_momentum: Scheduled,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    pub symmetric: bool,
}

impl Default for ReSsl {
    fn default() -> Self {
        Self { temperature: 0.1, temperature_momentum: 0.04.into(), symmetric: false }
    }
}

impl Define for ReSsl {
    type Settings = Self;
    const NAME: &'static str = "ressl";
    const CARD: &'static str = include_str!("ressl.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_momentum", settings.temperature_momentum)?;
        Ok(settings)
    }
}

impl PairMethod for ReSsl {
    fn pairing(&self) -> Pairing {
        Pairing::from_keys(self.symmetric, 2)
    }

    fn keys(&self) -> Keys {
        Keys::OwnAndQueue
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn choose(&self, block: &AnchorBlock<'_>, pair: &Pair<'_>) -> Result<Choice, TchError> {
        let own = block.positives()?;
        let temperature = self.temperature_momentum.at(pair.progress);
        let relations = target::softmax_except(&block.similarities(pair.keys)?, &own, temperature)?;
        Ok(Choice::new(relations, Denominator::without(block, &own)?))
    }
}
