//! Picking out false negatives: candidates so similar to an anchor that they may show the same thing
//! (FNC, Huynh et al., WACV 2022, arXiv 2011.11765, section 3).

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{AnchorBlock, ParameterError};

/// How the scores of an anchor's support views become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The largest.
    Maximum,
    /// The mean.
    Mean,
}

/// Which scores are high enough; with both keys, a candidate has to pass both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Among so many best candidates of the anchor; of equal scores the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Above this cosine similarity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

impl Selection {
    /// Refuses a selection without a rule. `prefix` stands before the keys in messages.
    pub(crate) fn check(self, prefix: &str) -> Result<Self, ParameterError> {
        let key = |name: &str| format!("{prefix}{name}");
        match self {
            Self { top_k: None, threshold: None } => Err(ParameterError::new(
                key("top_k"),
                &"nothing",
                "give top_k, threshold, or both: they say which candidates are false negatives",
            )),
            Self { top_k: Some(0), .. } => {
                Err(ParameterError::new(key("top_k"), &0, "it must be at least 1"))
            }
            Self { threshold: Some(threshold), .. } if !threshold.is_finite() => {
                let reason = "a cosine is a finite number";
                Err(ParameterError::new(key("threshold"), &threshold, reason))
            }
            _ => Ok(self),
        }
    }

    /// Marks the selected candidates: `[block, candidates]`. Those at the places `never`,
    /// `[block, some]`, are not considered.
    pub fn select(self, scores: &Tensor, never: &Tensor) -> Result<Tensor, TchError> {
        let scores = scores.f_detach()?.f_scatter_value(1, never, f64::NEG_INFINITY)?;
        let mut selected = scores.f_gt(self.threshold.unwrap_or(f64::NEG_INFINITY))?;
        if let Some(top_k) = self.top_k {
            selected = selected.f_logical_and(&best(&scores, top_k as i64)?)?;
        }
        Ok(selected)
    }
}

/// Marks the `top_k` largest scores of each row; of equal ones those with the lowest index.
fn best(scores: &Tensor, top_k: i64) -> Result<Tensor, TchError> {
    let candidates = scores.size()[1];
    if top_k >= candidates {
        return scores.f_ones_like()?.f_to_kind(Kind::Bool);
    }
    let (values, _) = scores.f_topk(top_k, 1, true, true)?;
    let least = values.f_narrow(1, top_k - 1, 1)?;
    let above = scores.f_gt_tensor(&least)?;
    let ties = scores.f_eq_tensor(&least)?;
    let count = |mask: &Tensor| mask.f_sum_dim_intlist([1].as_slice(), true, Kind::Int64);
    let room = count(&above)?.f_neg()?.f_add_scalar(top_k)?;
    let first = ties.f_cumsum(1, Kind::Int64)?.f_le_tensor(&room)?;
    above.f_logical_or(&ties.f_logical_and(&first)?)
}

/// Scores of the candidates of a block: cosine similarities to each of the anchors' support
/// embeddings, aggregated: `[block, candidates]`. Each support is `[anchors, dimensions]`.
pub fn scores(
    block: &AnchorBlock<'_>,
    support: &[Tensor],
    aggregation: Aggregation,
) -> Result<Tensor, TchError> {
    let mut total: Option<Tensor> = None;
    for rows in support {
        let scores = block.similarities(rows)?;
        total = Some(match (total, aggregation) {
            (None, _) => scores,
            (Some(total), Aggregation::Maximum) => total.f_maximum(&scores)?,
            (Some(mut total), Aggregation::Mean) => total.f_add_(&scores)?,
        });
    }
    let total = total.ok_or_else(|| TchError::Shape("there are no support embeddings".into()))?;
    match aggregation {
        Aggregation::Maximum => Ok(total),
        Aggregation::Mean => total.f_div_scalar(support.len() as f64),
    }
}
