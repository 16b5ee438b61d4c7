//! The formula itself, written once for every method.

use tch::{Kind, TchError, Tensor};

/// Which candidates stand in the denominator of each anchor.
#[derive(Debug)]
pub enum Denominator {
    /// Every candidate.
    All,
    /// Every candidate but those marked: a boolean mask, `[anchors, candidates]`.
    Except(Tensor),
}

/// The soft cross-entropy of section "formula" of the crate, one value per anchor: `[anchors]`.
///
/// * `logits`: `[anchors, candidates]`, already divided by the temperature; the gradient flows here.
/// * `target`: `[anchors, candidates]`, weights of at least 0; taken as constant.
///
/// Excluded candidates are masked before the maximum is taken, so that no gradient reaches them
/// through the denominator and nothing overflows. The anchor's own positive belongs to the
/// denominator unless the method says otherwise.
pub fn soft_cross_entropy(
    logits: &Tensor,
    target: &Tensor,
    denominator: &Denominator,
) -> Result<Tensor, TchError> {
    let normaliser = match denominator {
        Denominator::All => logits.f_logsumexp([1].as_slice(), true)?,
        Denominator::Except(excluded) => {
            logits.f_masked_fill(excluded, f64::NEG_INFINITY)?.f_logsumexp([1].as_slice(), true)?
        }
    };
    let surprise = normaliser.f_sub(logits)?;
    surprise.f_mul(&target.f_detach()?)?.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)
}

/// Divides each row by its Euclidean norm (at least 1e-12, as `torch.nn.functional.normalize`):
/// `[rows, dimensions]`.
pub fn unit_rows(rows: &Tensor) -> Result<Tensor, TchError> {
    let norm = rows.f_norm_scalaropt_dim(2.0, [-1].as_slice(), true)?.f_clamp_min(1e-12)?;
    rows.f_div(&norm)
}
