//! Hard negative contrastive learning (Robinson, Chuang, Sra, Jegelka, ICLR 2021, arXiv 2010.04592):
//! debiased contrastive learning whose negatives weigh more the nearer they are.
//!
//! ```text
//! L_i = -log e^{s+} / (e^{s+} + G)                     w_c = e^{concentration s_c}
//! G = max( (sum_neg w e^s / mean_neg w - class_prior N e^{s+}) / (1 - class_prior), N e^{-1 / temperature} )
//! ```
//!
//! The weights have a gradient, as in the authors' code. With `concentration` 0 it is Debiased CL.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::{Frame, Reduction, all_online};
use crate::registry::{Define, table};
use crate::{Card, Encoded, Entry, Method, ParameterError, Role, Rows, Term, checks};

inventory::submit! { Entry::of::<Hcl>() }

/// Hyper-parameters of [`Hcl`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    /// Probability that a negative is of the anchor's class (tau plus).
    class_prior: f64,
    /// How much more near negatives weigh (beta).
    concentration: f64,
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.5,
            class_prior: 0.1,
            concentration: 1.0,
            reduction: Reduction::Mean,
        }
    }
}

/// Hard negative contrastive learning.
#[derive(Debug)]
pub(crate) struct Hcl(Parameters);

impl Define for Hcl {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "hcl",
        title: "HCL: debiased, and near negatives weigh more",
        paper: "Robinson, Chuang, Sra, Jegelka: Contrastive Learning with Hard Negative Samples, ICLR 2021, arXiv 2010.04592",
        equation: "L_i = -log e^{s+} / (e^{s+} + G)                     w_c = e^{concentration s_c}\nG = max( (sum_neg w e^s / mean_neg w - class_prior N e^{s+}) / (1 - class_prior), N e^{-1 / temperature} )",
        pieces: &[
            ("candidates", "both views of the batch through the online encoder, all with gradient"),
            ("positives", "the other view of the image, one-hot"),
            ("relations", "none"),
            ("denominator", "the positive and an estimate of the true negatives' sum, near ones stressed"),
            ("teacher", "none"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::class_prior("class_prior", parameters.class_prior)?;
        checks::weight("concentration", parameters.concentration)?;
        Ok(Self(parameters))
    }
}

impl Method for Hcl {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        checks::two_views(views)?;
        all_online(views)
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, class_prior, concentration, reduction } = self.0;
        let frames = encoded.among_online_views()?;
        let weight = reduction.weight(frames.len());
        let rule =
            move |rows: &Rows<'_>| rows.against_estimate(class_prior, concentration, temperature);
        let term = |frame: Frame| frame.term(temperature, Box::new(rule)).weighing(weight);
        Ok(frames.into_iter().map(term).collect())
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
