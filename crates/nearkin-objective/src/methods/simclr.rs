//! SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709): NT-Xent in the batch.
//!
//! ```text
//! L = 1/2N sum_i -log exp(z_i.z_j / temperature) / sum_{k != i} exp(z_i.z_k / temperature)
//! ```
//!
//! The anchor itself is masked, not subtracted. Of several other views of an image all are positives
//! with equal weights.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::{Reduction, all_online};
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Denominator, Encoded, Entry, Method, ParameterError, Role, Rows, Term, checks,
};

inventory::submit! { Entry::of::<SimClr>() }

/// Hyper-parameters of [`SimClr`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    /// The mean over all anchors (the paper), or the sum of the views' means (the authors' code).
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.5, reduction: Reduction::Mean }
    }
}

/// SimCLR.
#[derive(Debug)]
pub(crate) struct SimClr(Parameters);

impl Define for SimClr {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "simclr",
        title: "SimCLR: NT-Xent among the views of the batch",
        paper: "Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, arXiv 2002.05709",
        equation: "L_i = -log exp(z_i.z_j / temperature) / sum_{k != i} exp(z_i.z_k / temperature)",
        pieces: &[
            ("candidates", "all views of the batch through the online encoder, all with gradient"),
            ("positives", "the other views of the image, equal weights"),
            ("relations", "none"),
            ("denominator", "all but the anchor itself"),
            ("teacher", "none"),
        ],
        combination: Some(
            "candidates = \"views\"\ntemperature = 0.5\ntarget = { coefficient = 1.0 }",
        ),
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

impl Method for SimClr {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        all_online(views)
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let frames = encoded.among_online_views()?;
        let weight = self.0.reduction.weight(frames.len());
        let rule = |rows: &Rows<'_>| {
            let target = rows.uniform_positives()?;
            Ok(Choice::new(target, Denominator::without(rows, rows.itself()?.as_ref())?))
        };
        let term = |frame: crate::method::Frame| {
            frame.term(self.0.temperature, Box::new(rule)).weighing(weight)
        };
        Ok(frames.into_iter().map(term).collect())
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
