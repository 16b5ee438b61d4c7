#![doc = include_str!("sce.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    AnchorBlock, Choice, Define, Entry, Keys, Pair, PairMethod, Pairing, ParameterError, Scheduled,
    checks, target,
};

inventory::submit! { Entry::pairs::<Sce>() }

/// Hyper-parameters of SCE.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sce {
    /// Divides the online encoder's similarities.
    pub temperature: f64,
    /// Divides the momentum encoder's similarities; smaller, so that the relations are sharper.
    pub temperature_momentum: Scheduled,
    /// Weight of the positive in the target (lambda); 1 is MoCo.
    pub coefficient: Scheduled,
    /// Which keys are candidates, and what the teacher says of the own key.
    pub variant: Variant,
    /// All views online and the first `global_views` keys too, or view 0 the keys and the others
    /// online.
    pub symmetric: bool,
    /// How many views make keys if `symmetric`.
    pub global_views: usize,
}

/// What the teacher says of an anchor's own key, and which keys are candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Own key and queue; the own key has no part in the relations (the paper's `i != k`).
    Paper,
    /// Own key and queue; the own key enters the relations with similarity 0 (the authors' code).
    Leaky,
    /// All keys of the batch and the queue; the own key has no part in the relations.
    UseKeys,
}

impl Default for Sce {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            temperature_momentum: 0.05.into(),
            coefficient: 0.5.into(),
            variant: Variant::Paper,
            symmetric: false,
            global_views: 2,
        }
    }
}

impl Define for Sce {
    type Settings = Self;
    const NAME: &'static str = "sce";
    const CARD: &'static str = include_str!("sce.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_momentum", settings.temperature_momentum)?;
        checks::fraction("coefficient", settings.coefficient)?;
        Ok(settings)
    }
}

impl PairMethod for Sce {
    fn pairing(&self) -> Pairing {
        Pairing::from_keys(self.symmetric, self.global_views)
    }

    fn keys(&self) -> Keys {
        match self.variant {
            Variant::UseKeys => Keys::BatchAndQueue,
            Variant::Paper | Variant::Leaky => Keys::OwnAndQueue,
        }
    }

    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn choose(&self, block: &AnchorBlock<'_>, pair: &Pair<'_>) -> Result<Choice, TchError> {
        let (own, one_hot) = (block.positives()?, block.uniform_positives()?);
        let temperature = self.temperature_momentum.at(pair.progress);
        let mut teacher = block.similarities(pair.keys)?;
        let relations = if self.variant == Variant::Leaky {
            teacher = teacher.f_scatter_value_(1, &own, 0.0)?;
            target::softmax(&teacher, temperature)?
        } else {
            target::softmax_except(&teacher, &own, temperature)?
        };
        let coefficient = self.coefficient.at(pair.progress);
        Ok(Choice::against_all(target::mix(&one_hot, &relations, coefficient)?))
    }
}
