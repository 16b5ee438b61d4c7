//! SCE (Denize, Rabarisoa, Orcesi, Herault, Canu, WACV 2023, arXiv 2111.14585): Similarity
//! Contrastive Estimation.
//!
//! ```text
//! s2_ik = [i != k] exp(z2_i.z2_k / temperature_momentum) / sum_{j != i} exp(z2_i.z2_j / temperature_momentum)
//! w2_ik = coefficient [i = k] + (1 - coefficient) s2_ik
//! p1_ik = exp(z1_i.z2_k / temperature) / sum_j exp(z1_i.z2_j / temperature)
//! L = -1/N sum_ik w2_ik log p1_ik
//! ```
//!
//! `z1` comes from the online encoder, `z2` from the momentum encoder; `coefficient` is the paper's
//! lambda. The positive stands in the denominator. The candidates are the anchor's own key and the
//! queue, or with `use_keys` all keys of the batch and the queue.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Encoded, Entry, Method, ParameterError, QueueUse, Role, Rows, Scheduled, Term,
    checks, target,
};

inventory::submit! { Entry::of::<Sce>() }

/// What the teacher says of an anchor's own key, and which keys are candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variant {
    /// Own key and queue; the own key has no part in the relations (the paper's `i != k`).
    Paper,
    /// Own key and queue; the own key enters the relations with similarity 0 (the authors' code).
    Leaky,
    /// All keys of the batch and the queue; the own key has no part in the relations.
    UseKeys,
}

/// Hyper-parameters of [`Sce`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the online encoder's similarities.
    temperature: f64,
    /// Divides the momentum encoder's similarities; smaller, so that the relations are sharper.
    temperature_momentum: Scheduled,
    /// Weight of the positive in the target (lambda); 1 is MoCo.
    coefficient: Scheduled,
    variant: Variant,
    /// All views online and the first `global_views` in the momentum encoder too, or view 0 in the
    /// momentum encoder and the others online.
    symmetric: bool,
    global_views: usize,
}

impl Default for Parameters {
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

/// SCE.
#[derive(Debug)]
pub(crate) struct Sce(Parameters);

impl Define for Sce {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "sce",
        title: "SCE: one-hot mixed with the teacher's sharpened similarities",
        paper: "Denize, Rabarisoa, Orcesi, Herault, Canu: Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning, WACV 2023, arXiv 2111.14585",
        equation: "s_ik = [k != i] exp(k_i.k_k / temperature_momentum) / sum_{j != i} exp(k_i.k_j / temperature_momentum)\nw_ik = coefficient [k = i] + (1 - coefficient) s_ik\nL_i = -sum_k w_ik log( exp(q_i.k_k / temperature) / sum_j exp(q_i.k_j / temperature) )",
        pieces: &[
            ("candidates", "the anchor's own key, then the queue (variant = \"use_keys\": all keys of the batch, then the queue)"),
            ("positives", "the own key, one-hot"),
            ("relations", "softmax of the teacher's similarities over all others, temperature_momentum (variant = \"leaky\": the own key takes part with similarity 0)"),
            ("coefficient", "constant or scheduled"),
            ("denominator", "all candidates"),
            ("teacher", "momentum encoder"),
        ],
        combination: Some(
            "candidates = \"queue\"\ntemperature = 0.1\n\
             target = { relations = { kind = \"softmax\", temperature = 0.05 }, coefficient = 0.5 }",
        ),
        official_code: &[
            "the own key takes part in the relations with similarity 0: variant = \"leaky\"",
            "its momentum encoder starts from random weights of its own, here from the online encoder's",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_momentum", parameters.temperature_momentum)?;
        checks::fraction("coefficient", parameters.coefficient)?;
        Ok(Self(parameters))
    }
}

impl Sce {
    fn pairing(&self) -> Pairing {
        Pairing::new(self.0.symmetric, self.0.global_views)
    }
}

/// The target of a block whose teacher's embeddings are among `keys`, `[anchors, dimensions]`.
fn target_of(
    rows: &Rows<'_>,
    keys: &Tensor,
    variant: Variant,
    temperature: f64,
    coefficient: f64,
) -> Result<Tensor, TchError> {
    let mut teacher = rows.similarities(keys)?;
    let own = rows.positives()?;
    let relations = match variant {
        Variant::Paper | Variant::UseKeys => target::relations(&teacher, &own, temperature)?,
        Variant::Leaky => {
            let teacher = teacher.f_scatter_value_(1, &own, 0.0)?;
            target::relations(&teacher, &own.f_narrow(1, 0, 0)?, temperature)?
        }
    };
    target::mixture_of(&rows.uniform_positives()?, &relations, coefficient)
}

impl Method for Sce {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing().roles(views)
    }

    fn queue_use(&self) -> QueueUse {
        match self.0.variant {
            Variant::UseKeys => QueueUse::Optional,
            Variant::Paper | Variant::Leaky => QueueUse::Required,
        }
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, variant, .. } = self.0;
        let sharpened = self.0.temperature_momentum.at(&encoded.progress);
        let coefficient = self.0.coefficient.at(&encoded.progress);
        let pairs = self.pairing().pairs(encoded.online.len()).into_iter();
        pairs
            .map(|(online, momentum, weight)| {
                let frame = encoded.against_keys(online, momentum, variant == Variant::UseKeys)?;
                let keys = encoded.momentum(momentum)?.local.shallow_clone();
                let rule = move |rows: &Rows<'_>| {
                    target_of(rows, &keys, variant, sharpened, coefficient).map(Choice::against_all)
                };
                Ok(frame.term(temperature, Box::new(rule)).weighing(weight))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
