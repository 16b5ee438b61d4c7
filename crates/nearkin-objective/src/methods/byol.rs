//! BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): positives alone, nothing in the denominator.
//!
//! ```text
//! L = sum over both directions of mean_i || p_i - k_i ||^2 = 2 - 2 cos(p_i, k_i)
//! ```
//!
//! `p` comes through the online encoder's predictor, `k` from the momentum encoder.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::{Pairing, Reduction};
use crate::registry::{Define, table};
use crate::{Card, Choice, Denominator, Encoded, Entry, Method, ParameterError, Role, Rows, Term};

inventory::submit! { Entry::of::<Byol>() }

/// Hyper-parameters of [`Byol`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Add up both directions (the paper), or take their mean.
    reduction: Reduction,
    /// How many views (from the first) the momentum encoder sees.
    global_views: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { reduction: Reduction::SumOfViews, global_views: 2 }
    }
}

/// BYOL.
#[derive(Debug)]
pub(crate) struct Byol(Parameters);

impl Define for Byol {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "byol",
        title: "BYOL: predict the momentum encoder's embedding of the other view, no negatives",
        paper: "Grill et al.: Bootstrap Your Own Latent, NeurIPS 2020, arXiv 2006.07733",
        equation: "L = sum over both directions of mean_i (2 - 2 cos(p_i, k_i))",
        pieces: &[
            ("candidates", "the own key"),
            ("positives", "the own key, one-hot"),
            ("relations", "none"),
            ("denominator", "nothing"),
            ("teacher", "momentum encoder; give the online encoder a predictor ([model] predictor)"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        Ok(Self(parameters))
    }
}

impl Byol {
    fn pairing(&self) -> Pairing {
        Pairing::new(true, self.0.global_views)
    }
}

impl Method for Byol {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing().roles(views)
    }

    fn needs_predictor(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let pairs = self.pairing().pairs(encoded.online.len());
        let weight = 2.0 * self.0.reduction.weight(1);
        pairs
            .into_iter()
            .map(|(online, momentum, mean)| {
                let frame = encoded.against_keys(online, momentum, false)?;
                let rule = |rows: &Rows<'_>| {
                    let nothing = Denominator::Nothing { largest_logit: 1.0 };
                    Ok(Choice::new(rows.uniform_positives()?, nothing))
                };
                Ok(frame.term(1.0, Box::new(rule)).weighing(weight * mean))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
