//! Target rules that several methods share. All of them act on similarities of shape
//! `[anchors, candidates]` and give weights of the same shape, without gradient.

use tch::{Kind, TchError, Tensor};

/// Weight 1 on one candidate per anchor; `positives` holds its index, `[anchors]`.
pub fn one_hot(positives: &Tensor, candidates: i64, kind: Kind) -> Result<Tensor, TchError> {
    let zeros = Tensor::f_zeros([positives.size()[0], candidates], (kind, positives.device()))?;
    zeros.f_scatter_value(1, &positives.f_unsqueeze(1)?, 1.0)
}

/// Relations as a distribution: the softmax of the teacher's similarities divided by the
/// `temperature`, over every candidate but those of the mask `excluded`.
pub fn relations(
    teacher: &Tensor,
    excluded: &Tensor,
    temperature: f64,
) -> Result<Tensor, TchError> {
    teacher
        .f_detach()?
        .f_div_scalar(temperature)?
        .f_masked_fill(excluded, f64::NEG_INFINITY)?
        .f_softmax(1, None::<Kind>)
}

/// `coefficient * positive + (1 - coefficient) * relations`: both row-stochastic, so the mixture is.
pub fn mixture(
    positive: &Tensor,
    relations: &Tensor,
    coefficient: f64,
) -> Result<Tensor, TchError> {
    relations.f_lerp(positive, coefficient)
}

/// Indices `0..anchors` shifted by `offset`: where each anchor's positive stands when keys are
/// candidates in order.
pub fn diagonal(anchors: i64, offset: i64, like: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_arange_start(offset, offset + anchors, (Kind::Int64, like.device()))
}
