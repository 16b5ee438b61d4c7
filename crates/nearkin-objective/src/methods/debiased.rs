//! Debiased contrastive learning (Chuang, Robinson, Lin, Torralba, Jegelka, NeurIPS 2020, arXiv
//! 2007.00224): the negatives' sum corrected for the share that is of the anchor's class.
//!
//! ```text
//! L_i = -log e^{s+} / (e^{s+} + G)
//! G = max( (sum_neg e^s - class_prior N e^{s+}) / (1 - class_prior), N e^{-1 / temperature} )     N = 2 batch - 2
//! ```
//!
//! With `class_prior` 0 it is NT-Xent.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::{Frame, Reduction, all_online};
use crate::registry::{Define, table};
use crate::{Card, Encoded, Entry, Method, ParameterError, Role, Rows, Term, checks};

inventory::submit! { Entry::of::<Debiased>() }

/// Hyper-parameters of [`Debiased`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    /// Probability that a negative is of the anchor's class (tau plus).
    class_prior: f64,
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.5, class_prior: 0.1, reduction: Reduction::Mean }
    }
}

/// Debiased contrastive learning.
#[derive(Debug)]
pub(crate) struct Debiased(Parameters);

impl Define for Debiased {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "debiased",
        title: "Debiased CL: the negatives' sum corrected for false negatives by a class prior",
        paper: "Chuang, Robinson, Lin, Torralba, Jegelka: Debiased Contrastive Learning, NeurIPS 2020, arXiv 2007.00224",
        equation: "L_i = -log e^{s+} / (e^{s+} + G)\nG = max( (sum_neg e^s - class_prior N e^{s+}) / (1 - class_prior), N e^{-1 / temperature} )",
        pieces: &[
            ("candidates", "both views of the batch through the online encoder, all with gradient"),
            ("positives", "the other view of the image, one-hot"),
            ("relations", "none"),
            ("denominator", "the positive and an estimate of the true negatives' sum"),
            ("teacher", "none"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::class_prior("class_prior", parameters.class_prior)?;
        Ok(Self(parameters))
    }
}

impl Method for Debiased {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        checks::two_views(views)?;
        all_online(views)
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, class_prior, reduction } = self.0;
        let frames = encoded.among_online_views()?;
        let weight = reduction.weight(frames.len());
        let rule = move |rows: &Rows<'_>| rows.against_estimate(class_prior, 0.0, temperature);
        let term = |frame: Frame| frame.term(temperature, Box::new(rule)).weighing(weight);
        Ok(frames.into_iter().map(term).collect())
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
