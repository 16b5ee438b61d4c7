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
use tch::{Kind, TchError, Tensor};

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::term::similarities;
use crate::{Denominator, Encoded, Entry, Method, ParameterError, Role, Term, checks, target};

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
    temperature_momentum: f64,
    /// Weight of the positive in the target (lambda); 1 is MoCo.
    coefficient: f64,
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
            temperature_momentum: 0.05,
            coefficient: 0.5,
            variant: Variant::Paper,
            symmetric: false,
            global_views: 2,
        }
    }
}

/// SCE.
#[derive(Debug)]
pub(crate) struct Sce {
    parameters: Parameters,
    pairing: Pairing,
}

impl Define for Sce {
    type Parameters = Parameters;
    const NAME: &'static str = "sce";
    const TITLE: &'static str = "SCE: one-hot mixed with the teacher's sharpened similarities";
    const PAPER: &'static str = "Denize, Rabarisoa, Orcesi, Herault, Canu: Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning, WACV 2023, arXiv 2111.14585";

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_momentum", parameters.temperature_momentum)?;
        checks::fraction("coefficient", parameters.coefficient)?;
        let pairing = match parameters.symmetric {
            true => Pairing::Symmetric { global_views: parameters.global_views },
            false => Pairing::Asymmetric,
        };
        Ok(Self { parameters, pairing })
    }
}

impl Sce {
    /// The target for teacher similarities `[anchors, candidates]` (cosines, not divided by a
    /// temperature), where `positives` marks each anchor's own key.
    fn target(&self, teacher: &Tensor, positives: &Tensor) -> Result<Tensor, TchError> {
        let own = positives.f_to_kind(Kind::Bool)?;
        let relations = match self.parameters.variant {
            Variant::Paper | Variant::UseKeys => {
                target::relations(teacher, &own, self.parameters.temperature_momentum)?
            }
            Variant::Leaky => target::relations(
                &teacher.f_masked_fill(&own, 0.0)?,
                &own.f_zeros_like()?,
                self.parameters.temperature_momentum,
            )?,
        };
        target::mixture(positives, &relations, self.parameters.coefficient)
    }
}

impl Method for Sce {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing.roles(views)
    }

    fn needs_queue(&self) -> bool {
        self.parameters.variant != Variant::UseKeys
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let mut terms = Vec::new();
        for (online, momentum, weight) in self.pairing.pairs(encoded.online.len()) {
            let anchors = encoded.online(online)?.local.shallow_clone();
            let in_batch = self.parameters.variant == Variant::UseKeys;
            let candidates = encoded.keys_and_queue(momentum, in_batch)?;
            let keys = &encoded.momentum(momentum)?.local;
            let teacher = similarities(keys, candidates.own.as_ref(), &candidates.shared)?;
            terms.push(Term {
                anchors,
                target: self.target(&teacher, &candidates.positives)?,
                own: candidates.own,
                shared: candidates.shared,
                temperature: self.parameters.temperature,
                denominator: Denominator::All,
                weight,
            });
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.parameters)
    }
}
