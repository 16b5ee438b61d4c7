//! A term is what a method hands over: anchors, candidates, target and denominator.

use tch::{Kind, TchError, Tensor};

use crate::formula::{Denominator, soft_cross_entropy};

/// One soft cross-entropy between a batch of anchors and their candidates.
///
/// The candidates of an anchor are, in this order: one of its own (a positive that no other anchor
/// sees), then all rows of `shared`, which every anchor sees.
#[derive(Debug)]
pub struct Term {
    /// Unit rows, `[anchors, dimensions]`; the gradient flows through them.
    pub anchors: Tensor,
    /// Row `i` is a candidate of anchor `i` only, `[anchors, dimensions]`.
    pub own: Option<Tensor>,
    /// Candidates of every anchor, each `[some, dimensions]`.
    pub shared: Vec<Tensor>,
    /// Cosine similarities are divided by this.
    pub temperature: f64,
    /// `[anchors, candidates]`, no gradient.
    pub target: Tensor,
    /// Who stands in the denominator.
    pub denominator: Denominator,
    /// Weight of this term's mean over anchors in the loss.
    pub weight: f64,
}

impl Term {
    /// Cosine similarities, `[anchors, candidates]`.
    pub fn similarities(&self) -> Result<Tensor, TchError> {
        similarities(&self.anchors, self.own.as_ref(), &self.shared)
    }
}

/// Cosine similarities of unit rows to their own candidate, if any, and the shared ones.
pub(crate) fn similarities(
    anchors: &Tensor,
    own: Option<&Tensor>,
    shared: &[Tensor],
) -> Result<Tensor, TchError> {
    let mut blocks = Vec::with_capacity(shared.len() + 1);
    if let Some(own) = own {
        blocks.push(anchors.f_mul(own)?.f_sum_dim_intlist([1].as_slice(), true, None::<Kind>)?);
    }
    for candidates in shared {
        blocks.push(anchors.f_matmul(&candidates.f_transpose(0, 1)?)?);
    }
    Tensor::f_cat(&blocks, 1)
}

/// What the terms of one step amount to.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a scalar with gradient.
    pub loss: Tensor,
    /// The loss of an encoder that cannot tell candidates apart: the weighted log of their number.
    pub chance: f64,
    /// Share of anchors whose nearest candidate is the one with the largest target; a scalar.
    pub agreement: Tensor,
}

/// Adds up the terms: the weighted sum of each term's mean over its anchors.
pub fn evaluate(terms: &[Term]) -> Result<Evaluated, TchError> {
    let mut losses = Vec::with_capacity(terms.len());
    let mut agreements = Vec::with_capacity(terms.len());
    let mut chance = 0.0;
    for term in terms {
        let logits = term.similarities()?.f_div_scalar(term.temperature)?;
        let per_anchor = soft_cross_entropy(&logits, &term.target, &term.denominator)?;
        losses.push(per_anchor.f_mean(None::<Kind>)?.f_mul_scalar(term.weight)?);

        let detached = logits.f_detach()?;
        let (ranked, candidates) = match &term.denominator {
            Denominator::All => (detached.shallow_clone(), detached.size()[1] as f64),
            Denominator::Except(excluded) => {
                let kept = excluded.f_logical_not()?.f_sum_dim_intlist(
                    [1].as_slice(),
                    false,
                    Kind::Double,
                )?;
                let ranked = detached.f_masked_fill(excluded, f64::NEG_INFINITY)?;
                (ranked, kept.f_mean(None::<Kind>)?.f_double_value(&[])?)
            }
        };
        chance += term.weight * candidates.ln();
        let nearest = ranked.f_argmax(1, false)?;
        let wanted = term.target.f_argmax(1, false)?;
        agreements
            .push(nearest.f_eq_tensor(&wanted)?.f_to_kind(Kind::Float)?.f_mean(None::<Kind>)?);
    }
    Ok(Evaluated {
        loss: Tensor::f_stack(&losses, 0)?.f_sum(None::<Kind>)?,
        chance,
        agreement: Tensor::f_stack(&agreements, 0)?.f_mean(None::<Kind>)?,
    })
}
