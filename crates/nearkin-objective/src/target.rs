//! Target rules that several methods share. All of them act on matrices of shape
//! `[anchors, candidates]` and give such matrices, without gradient.

use tch::{Kind, TchError, Tensor};

/// Equal weights on the candidates at `places`, `[anchors, some]`, that add up to 1.
pub fn uniform(places: &Tensor, candidates: i64, kind: Kind) -> Result<Tensor, TchError> {
    let shape = places.size();
    let mut weights = Tensor::f_zeros([shape[0], candidates], (kind, places.device()))?;
    weights.f_scatter_value_(1, places, 1.0 / shape[1].max(1) as f64)
}

/// Equal weights on the marked candidates that add up to 1, or 0 where none is marked.
pub fn uniform_on(mask: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
    let marked = mask.f_to_kind(kind)?;
    let count = marked.f_sum_dim_intlist([1].as_slice(), true, None::<Kind>)?;
    marked.f_div(&count.f_clamp_min(1.0)?)
}

/// The softmax of the teacher's similarities divided by the `temperature`, over every candidate:
/// `[anchors, candidates]`.
pub fn softmax(similarities: &Tensor, temperature: f64) -> Result<Tensor, TchError> {
    similarities.f_detach()?.f_div_scalar(temperature)?.f_softmax(1, None::<Kind>)
}

/// The same over every candidate but those at the places `without`, `[anchors, some]`. Where
/// nothing is left, all weights are 0.
pub fn softmax_except(
    similarities: &Tensor,
    without: &Tensor,
    temperature: f64,
) -> Result<Tensor, TchError> {
    let mut logits = similarities.f_detach()?.f_div_scalar(temperature)?;
    if logits.size()[1] == distinct(without) {
        return logits.f_zeros_like();
    }
    logits.f_scatter_value_(1, without, f64::NEG_INFINITY)?.f_softmax(1, None::<Kind>)
}

/// How many candidates the places of a row are; no row holds a place twice.
fn distinct(places: &Tensor) -> i64 {
    places.size()[1]
}

/// `coefficient * positives + (1 - coefficient) * relations` with a coefficient per anchor,
/// `[anchors, 1]`, or for all, `[1, 1]`. Where there are no relations (a row of zeros), their weight
/// goes to the positives.
pub fn mix_each(
    positives: &Tensor,
    relations: &Tensor,
    coefficient: &Tensor,
) -> Result<Tensor, TchError> {
    let related = relations.f_sum_dim_intlist([1].as_slice(), true, None::<Kind>)?;
    let none = related.f_eq(0.0)?.f_to_kind(relations.kind())?;
    let coefficient = coefficient.f_to_kind(relations.kind())?.f_maximum(&none)?;
    relations.f_lerp_tensor(positives, &coefficient)
}

/// [`mix_each`] with one coefficient.
pub fn mix(positives: &Tensor, relations: &Tensor, coefficient: f64) -> Result<Tensor, TchError> {
    let options = (relations.kind(), relations.device());
    mix_each(positives, relations, &Tensor::f_full([1, 1], coefficient, options)?)
}

/// The places `0..anchors` shifted by `offset`, `[anchors, 1]`: where each anchor's positive stands
/// when keys are candidates in order.
pub fn diagonal(anchors: i64, offset: i64, like: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_arange_start(offset, offset + anchors, (Kind::Int64, like.device()))?.f_unsqueeze(1)
}

/// SwAV's assignment of samples to prototypes (Caron, Misra, Mairal, Goyal, Bojanowski, Joulin,
/// NeurIPS 2020, arXiv 2006.09882): the Sinkhorn-Knopp iterations that give every prototype an equal
/// share of the batch, `[samples, prototypes]`. After at least one iteration rows add up to 1.
///
/// * `scores`: cosine similarities of samples to prototypes, `[samples, prototypes]`.
/// * `epsilon`: divides them; the smaller, the harder the assignment.
pub fn sinkhorn(scores: &Tensor, epsilon: f64, iterations: usize) -> Result<Tensor, TchError> {
    // Logarithms, since exponentials of scores over a small epsilon overflow.
    let scaled = scores.f_detach()?.f_div_scalar(epsilon)?;
    let samples = (scores.size()[0].max(1) as f64).ln();
    let mut plan =
        scaled.f_sub(&scaled.f_logsumexp([0, 1].as_slice(), true)?)?.f_add_scalar(samples)?;
    for _ in 0..iterations {
        plan = plan.f_sub(&plan.f_logsumexp([0].as_slice(), true)?)?;
        plan = plan.f_sub(&plan.f_logsumexp([1].as_slice(), true)?)?;
    }
    plan.f_exp()
}
