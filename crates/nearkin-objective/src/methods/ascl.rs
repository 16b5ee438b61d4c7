#![doc = include_str!("ascl.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Entry, Keys, Pair, PairMethod, Pairing, ParameterError, Scheduled,
    checks, refinery, target,
};

inventory::submit! { Entry::pairs::<Ascl>() }

/// Hyper-parameters of ASCL.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ascl {
    /// Divides the online encoder's similarities.
    pub temperature: f64,
    /// Divides the momentum encoder's similarities.
    pub temperature_momentum: f64,
    /// How many candidates the relations are meant to find (K).
    pub strength: Scheduled,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    pub symmetric: bool,
}

impl Default for Ascl {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            temperature_momentum: 0.05,
            strength: 1.0.into(),
            symmetric: false,
        }
    }
}

impl Define for Ascl {
    type Settings = Self;
    const NAME: &'static str = "ascl";
    const CARD: &'static str = include_str!("ascl.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_momentum", settings.temperature_momentum)?;
        checks::weight("strength", settings.strength)?;
        Ok(settings)
    }
}

impl PairMethod for Ascl {
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
        let (own, one_hot) = (block.positives()?, block.uniform_positives()?);
        let teacher = block.similarities(pair.keys)?;
        let relations = target::softmax_except(&teacher, &own, self.temperature_momentum)?;
        let (negatives, strength) = (block.candidates() - 1, self.strength.at(pair.progress));
        let target = refinery::confident(&relations, &one_hot, negatives, strength)?;
        Ok(Choice::against_all(target))
    }
}
