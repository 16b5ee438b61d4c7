#![doc = include_str!("moco.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Entry, Keys, Pair, PairMethod, Pairing, ParameterError, checks,
};

inventory::submit! { Entry::pairs::<Moco>() }

/// Hyper-parameters of MoCo v2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moco {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// Where candidates other than the own key come from.
    pub candidates: OtherCandidates,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    pub symmetric: bool,
}

/// Where candidates other than the anchor's own key come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherCandidates {
    /// From the queue only.
    Queue,
    /// From the other keys of the batch, then the queue if there is one.
    KeysAndQueue,
}

impl Default for Moco {
    fn default() -> Self {
        Self { temperature: 0.2, candidates: OtherCandidates::Queue, symmetric: false }
    }
}

impl Define for Moco {
    type Settings = Self;
    const NAME: &'static str = "moco";
    const CARD: &'static str = include_str!("moco.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        Ok(settings)
    }
}

impl PairMethod for Moco {
    fn pairing(&self) -> Pairing {
        Pairing::from_keys(self.symmetric, 2)
    }

    fn keys(&self) -> Keys {
        match self.candidates {
            OtherCandidates::Queue => Keys::OwnAndQueue,
            OtherCandidates::KeysAndQueue => Keys::BatchAndQueue,
        }
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn choose(&self, block: &AnchorBlock<'_>, _: &Pair<'_>) -> Result<Choice, TchError> {
        Choice::discriminate(block)
    }
}
