//! SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709): NT-Xent in the batch.
//!
//! ```text
//! candidates   all views of the batch through the online encoder, all with gradient
//! target       1 on the other view of the same image (uniform on the others if there are several)
//! denominator  all but the anchor itself (masked, not subtracted)
//! L = 1/2N sum_i -log exp(z_i.z_j / temperature) / sum_{k != i} exp(z_i.z_k / temperature)
//! ```

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::registry::{Define, table};
use crate::{Denominator, Encoded, Entry, Method, ParameterError, Role, Term, checks, target};

inventory::submit! { Entry::of::<SimClr>() }

/// How the losses of all anchors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reduction {
    /// The mean over all anchors (the paper).
    Mean,
    /// Twice the mean: with two views the sum of the views' means (the authors' code).
    SumOfViews,
}

/// Hyper-parameters of [`SimClr`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
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
    const NAME: &'static str = "simclr";
    const TITLE: &'static str = "SimCLR: NT-Xent among the views of the batch";
    const PAPER: &'static str = "Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, arXiv 2002.05709";

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

impl Method for SimClr {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        if views < 2 {
            return Err(ParameterError::new("views", &views, "simclr needs at least two [[views]]"));
        }
        Ok(vec![Role { online: true, momentum: false }; views])
    }

    fn needs_queue(&self) -> bool {
        false
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let views = encoded.online.len();
        let embeddings: Vec<_> =
            (0..views).map(|view| encoded.online(view)).collect::<Result<_, _>>()?;
        let everywhere: Vec<_> = embeddings.iter().map(|embedding| &embedding.everywhere).collect();
        let candidates = Tensor::f_cat(&everywhere, 0)?;
        let (count, in_view) = (candidates.size()[0], everywhere[0].size()[0]);
        let weight = match self.0.reduction {
            Reduction::Mean => 1.0 / views as f64,
            Reduction::SumOfViews => 2.0 / views as f64,
        };
        let mut terms = Vec::with_capacity(views);
        for (view, embedding) in embeddings.iter().enumerate() {
            let anchors = embedding.local.shallow_clone();
            let rows = anchors.size()[0];
            let mut target = Tensor::f_zeros([rows, count], (anchors.kind(), anchors.device()))?;
            let mut own = None;
            for other in 0..views {
                let place = target::diagonal(rows, encoded.offset + other as i64 * in_view, &anchors)?;
                if other == view {
                    own = Some(target::one_hot(&place, count, Kind::Bool)?);
                } else {
                    let share = 1.0 / (views - 1) as f64;
                    target = target.f_scatter_value(1, &place.f_unsqueeze(1)?, share)?;
                }
            }
            terms.push(Term {
                anchors,
                own: None,
                shared: vec![candidates.shallow_clone()],
                temperature: self.0.temperature,
                target,
                denominator: own.map_or(Denominator::All, Denominator::Except),
                weight,
            });
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
