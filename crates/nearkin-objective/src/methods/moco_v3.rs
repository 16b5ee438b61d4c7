//! MoCo v3 (Chen, Xie, He, ICCV 2021, arXiv 2104.02057): InfoNCE among the keys of the batch, both
//! ways, with a predictor behind the online projector and no queue.
//!
//! ```text
//! L = ctr(q_1, k_2) + ctr(q_2, k_1)
//! ctr(q, k) = 2 temperature mean_i -log exp(q_i.k_i / temperature) / sum_j exp(q_i.k_j / temperature)
//! ```

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{Card, Encoded, Entry, Method, ParameterError, Role, Term, checks};

inventory::submit! { Entry::of::<MocoV3>() }

/// Hyper-parameters of [`MocoV3`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    /// Multiply the loss by 2 temperature, so that the temperature does not change the size of the
    /// gradient (the paper), or not.
    scale_by_temperature: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.2, scale_by_temperature: true }
    }
}

/// MoCo v3.
#[derive(Debug)]
pub(crate) struct MocoV3(Parameters);

const PAIRING: Pairing = Pairing::Symmetric { global_views: 2 };

impl Define for MocoV3 {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "moco_v3",
        title: "MoCo v3: InfoNCE among the keys of the batch, both ways, with a predictor",
        paper: "Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021, arXiv 2104.02057",
        equation: "L = ctr(q_1, k_2) + ctr(q_2, k_1)\nctr(q, k) = 2 temperature mean_i -log exp(q_i.k_i / temperature) / sum_j exp(q_i.k_j / temperature)",
        pieces: &[
            ("candidates", "the keys of the batch"),
            ("positives", "the own key, one-hot"),
            ("relations", "none"),
            ("denominator", "all candidates"),
            ("teacher", "momentum encoder, for the keys; give the online encoder a predictor ([model] predictor)"),
        ],
        combination: None,
        official_code: &[
            "the ResNet form has no batch norm at the end of the predictor, the transformer form has one: a matter of [model] predictor",
            "the momentum encoder is updated before a step's keys are computed, with momentum_encoder.schedule = \"cosine\" as a function of step / steps; here after the step, of step / (steps - 1)",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

impl Method for MocoV3 {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        PAIRING.roles(views)
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let pairs = PAIRING.pairs(encoded.online.len());
        let Parameters { temperature, scale_by_temperature } = self.0;
        let scale = if scale_by_temperature { 2.0 * temperature } else { 1.0 };
        pairs
            .into_iter()
            .map(|(online, momentum, mean)| {
                let frame = encoded.against_keys(online, momentum, true)?;
                Ok(frame.term(temperature, Box::new(discriminate)).weighing(2.0 * mean * scale))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
