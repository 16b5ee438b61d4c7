//! Decoupled contrastive learning (Yeh et al., ECCV 2022, arXiv 2110.06848): NT-Xent whose positive
//! does not stand in the denominator.
//!
//! ```text
//! L_i = -z_i.z_j / temperature + log sum_{k not of the image} exp(z_i.z_k / temperature)
//! ```

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::{Reduction, all_online};
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Denominator, Encoded, Entry, Method, ParameterError, Role, Rows, Term, checks,
};

inventory::submit! { Entry::of::<Decoupled>() }

/// Hyper-parameters of [`Decoupled`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.1, reduction: Reduction::Mean }
    }
}

/// Decoupled contrastive learning.
#[derive(Debug)]
pub(crate) struct Decoupled(Parameters);

impl Define for Decoupled {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "decoupled",
        title: "DCL: NT-Xent without the positive in the denominator",
        paper: "Yeh, Hong, Hsu, Liu, Chen, LeCun: Decoupled Contrastive Learning, ECCV 2022, arXiv 2110.06848",
        equation: "L_i = -z_i.z_j / temperature + log sum_{k not of the image} exp(z_i.z_k / temperature)",
        pieces: &[
            ("candidates", "all views of the batch through the online encoder, all with gradient"),
            ("positives", "the other views of the image, equal weights"),
            ("relations", "none"),
            ("denominator", "all but the views of the image"),
            ("teacher", "none"),
        ],
        combination: Some(
            "candidates = \"views\"\ntemperature = 0.1\ndenominator = \"negatives\"\n\
             target = { coefficient = 1.0 }",
        ),
        official_code: &[
            "the weights of its positives (DCLW) are not offered",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

impl Method for Decoupled {
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
            let without = Denominator::without(rows, Some(&rows.own_image()?))?;
            Ok(Choice::new(rows.uniform_positives()?, without))
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
