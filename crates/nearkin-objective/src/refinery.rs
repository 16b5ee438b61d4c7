//! SANE's self-labeling refinery: labels mended by the momentum encoder's own predictions (Zhou,
//! Xiong, Yuan, Hoi, NeurIPS 2021, arXiv 2106.14749, equation 5).
//!
//! ```text
//! p_ik = softmax over all candidates of cos(g_i, k) / T      q_ik = the same over all k != i, q_ii = 0
//! z_i = 1 + mu max_k p_ik + mu max_k q_ik     alpha_i = mu max_k p_ik / z_i     beta_i = mu max_k q_ik / z_i
//! label_i = (1 - alpha_i - beta_i) 1hot_i + alpha_i p_i + beta_i q_i
//! ```
//!
//! With p_i = p_ii 1hot_i + (1 - p_ii) q_i this is SCE's target with a coefficient of its own for
//! every sample: `coefficient_i = 1 - beta_i - alpha_i (1 - p_ii)`.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::target;

/// Which predictions mend the labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictions {
    /// Both p and q.
    #[default]
    Both,
    /// Only p; q leaves the labels and z.
    OnlyP,
    /// Only q; p leaves the labels and z.
    OnlyQ,
    /// None: labels stay one-hot.
    Neither,
}

/// Refined labels and what they are made of.
#[derive(Debug)]
pub struct Refined {
    /// `[anchors, candidates]`.
    pub p: Tensor,
    /// `[anchors, candidates]`.
    pub q: Tensor,
    /// `[anchors, 1]`.
    pub alpha: Tensor,
    /// `[anchors, 1]`.
    pub beta: Tensor,
    /// `[anchors, candidates]`.
    pub labels: Tensor,
}

/// Refines one-hot labels.
///
/// * `similarities`: the teacher's cosines, `[anchors, candidates]`; no gradient flows back.
/// * `positives`: the place of the one, `[anchors, 1]`; the anchor itself is no candidate.
/// * `temperature`: the paper's tau tau'.
/// * `strength`: the paper's mu.
pub fn refine(
    similarities: &Tensor,
    positives: &Tensor,
    temperature: f64,
    strength: f64,
    predictions: Predictions,
) -> Result<Refined, TchError> {
    let candidates = similarities.size()[1];
    let p = target::softmax(similarities, temperature)?;
    let q = target::softmax_except(similarities, positives, temperature)?;
    let weight = |distribution: &Tensor, used: bool| {
        let largest = distribution.f_amax([1].as_slice(), true)?;
        largest.f_mul_scalar(if used { strength } else { 0.0 })
    };
    let of_p = weight(&p, matches!(predictions, Predictions::Both | Predictions::OnlyP))?;
    let of_q = weight(&q, matches!(predictions, Predictions::Both | Predictions::OnlyQ))?;
    let z = of_p.f_add(&of_q)?.f_add_scalar(1.0)?;
    let (alpha, beta) = (of_p.f_div(&z)?, of_q.f_div(&z)?);
    let kept = alpha.f_add(&beta)?.f_neg()?.f_add_scalar(1.0)?;
    let one_hot = target::uniform(positives, candidates, similarities.kind())?;
    let labels = one_hot.f_mul(&kept)?.f_add(&p.f_mul(&alpha)?)?.f_add(&q.f_mul(&beta)?)?;
    Ok(Refined { p, q, alpha, beta, labels })
}

/// ASCL's adaptive weights of relations: `u = min(1, strength c_i s_ic)` with the confidence
/// `c_i = 1 - H(s_i) / log(negatives)`, beside a positive of weight 1, scaled to a sum of 1 (Feng and
/// Patras, ICPR 2022, arXiv 2207.11163).
///
/// * `relations`: a distribution over `negatives` of the candidates, `[anchors, candidates]`;
/// * `positives`: the positive's one-hot, `[anchors, candidates]`.
pub fn confident(
    relations: &Tensor,
    positives: &Tensor,
    negatives: i64,
    strength: f64,
) -> Result<Tensor, TchError> {
    let last = [1].as_slice();
    let entropy = relations.f_special_entr()?.f_sum_dim_intlist(last, true, None::<Kind>)?;
    // One negative is certain whatever it is.
    let most = (negatives.max(2) as f64).ln();
    // Rounding may put the entropy of equal weights above its maximum.
    let confidence = entropy.f_div_scalar(-most)?.f_add_scalar(1.0)?.f_clamp_min(0.0)?;
    let weights = relations.f_mul(&confidence)?.f_mul_scalar(strength)?.f_clamp_max(1.0)?;
    let total = weights.f_add(positives)?;
    total.f_div(&total.f_sum_dim_intlist(last, true, None::<Kind>)?)
}
