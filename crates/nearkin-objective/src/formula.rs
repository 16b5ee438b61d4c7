//! The formula itself, written once for every method: its value, and its gradient.

use tch::{Kind, TchError, Tensor};

use crate::AnchorBlock;

/// Which candidates stand in the denominator of each anchor, or what takes its place.
#[derive(Debug)]
pub enum Denominator {
    /// Every candidate.
    All,
    /// Every candidate but those marked: a boolean mask, `[anchors, candidates]`.
    Except(Tensor),
    /// No candidate: its logarithm is a constant, without gradient (BYOL). The largest value that a
    /// logit can take, 1 / temperature, makes the loss 0 where the anchor meets its target.
    Constant {
        /// The logarithm.
        logarithm: f64,
    },
    /// The negatives' sum is estimated ([`Estimated`]).
    Estimated(Estimated),
}

/// A denominator `exp a_i+ + G` with an estimate `G` of the sum over true negatives, which takes the
/// class prior into account (Chuang et al., NeurIPS 2020) and may stress negatives near the anchor
/// (Robinson et al., ICLR 2021; their weights have a gradient, as in their code):
///
/// ```text
/// w_c = exp(concentration a_c)          S = sum_c w_c exp(a_c) / mean_c w_c         over N negatives
/// G   = max( (S - prior N exp(a_i+)) / (1 - prior), N exp(-1 / temperature) )
/// ```
#[derive(Debug)]
pub struct Estimated {
    /// All candidates that are no negatives: a boolean mask, `[anchors, candidates]`.
    pub no_negatives: Tensor,
    /// Place of the positive, `[anchors, 1]`.
    pub positive: Tensor,
    /// Probability that a negative is of the anchor's class, at least 0 and below 1.
    pub class_prior: f64,
    /// How much nearer negatives weigh more; 0 for none.
    pub concentration: f64,
    /// The largest logit, 1 / temperature.
    pub largest_logit: f64,
}

impl Estimated {
    /// The estimate `G` for logits, `[anchors, candidates]`, already divided by the temperature:
    /// `[anchors, 1]`.
    pub fn estimate(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let (_, estimate, largest) = self.parts(logits)?;
        estimate.f_mul(&largest.f_exp()?)
    }

    /// Logarithm of the denominator, `[anchors, 1]`, with gradient.
    fn logarithm(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let (positive, estimate, largest) = self.parts(logits)?;
        positive.f_add(&estimate)?.f_log()?.f_add(&largest)
    }

    /// `exp a_i+` and the estimate, both divided by the exponential of the third, which has no
    /// gradient: relative to the largest term no exponential overflows. Each `[anchors, 1]`.
    fn parts(&self, logits: &Tensor) -> Result<(Tensor, Tensor, Tensor), TchError> {
        let last = [1].as_slice();
        let negatives = logits.f_masked_fill(&self.no_negatives, f64::NEG_INFINITY)?;
        let count =
            self.no_negatives.f_logical_not()?.f_sum_dim_intlist(last, true, logits.kind())?;
        let positive = logits.f_gather(1, &self.positive, false)?;
        let sum = if self.concentration == 0.0 {
            negatives.f_logsumexp(last, true)?
        } else {
            let stressed = negatives.f_mul_scalar(1.0 + self.concentration)?;
            let weights = negatives.f_mul_scalar(self.concentration)?;
            stressed
                .f_logsumexp(last, true)?
                .f_sub(&weights.f_logsumexp(last, true)?)?
                .f_add(&count.f_log()?)?
        };
        let largest = sum.f_maximum(&positive)?.f_detach()?;
        let positive = positive.f_sub(&largest)?.f_exp()?;
        let biased = positive.f_mul(&count)?.f_mul_scalar(self.class_prior)?;
        let estimate = sum.f_sub(&largest)?.f_exp()?.f_sub(&biased)?;
        let estimate = estimate.f_div_scalar(1.0 - self.class_prior)?;
        let least = largest.f_neg()?.f_sub_scalar(self.largest_logit)?.f_exp()?.f_mul(&count)?;
        Ok((positive, estimate.f_maximum(&least)?, largest))
    }
}

impl Denominator {
    /// Every candidate but those at these places, `[block, some]`.
    pub fn without(block: &AnchorBlock<'_>, places: &Tensor) -> Result<Self, TchError> {
        Ok(Self::Except(block.mask(places)?))
    }

    /// Every candidate but the anchor itself, if it is one.
    pub fn without_anchor(block: &AnchorBlock<'_>) -> Result<Self, TchError> {
        block.itself()?.map_or(Ok(Self::All), |itself| Self::without(block, &itself))
    }

    /// Every candidate but the anchor itself and those marked, `[block, candidates]`.
    pub fn without_anchor_and(block: &AnchorBlock<'_>, marked: &Tensor) -> Result<Self, TchError> {
        Ok(Self::Except(match block.itself()? {
            Some(itself) => marked.f_logical_or(&block.mask(&itself)?)?,
            None => marked.shallow_clone(),
        }))
    }

    /// Logarithm of the denominator, `[anchors, 1]`, with gradient.
    fn logarithm(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let last = [1].as_slice();
        match self {
            Self::All => logits.f_logsumexp(last, true),
            Self::Except(excluded) => {
                logits.f_masked_fill(excluded, f64::NEG_INFINITY)?.f_logsumexp(last, true)
            }
            Self::Constant { logarithm } => {
                let shape = [logits.size()[0], 1];
                Tensor::f_full(shape, *logarithm, (logits.kind(), logits.device()))
            }
            Self::Estimated(estimated) => estimated.logarithm(logits),
        }
    }

    /// The logarithm where all logits are 0, `[anchors, 1]`: what an encoder that knows nothing has.
    pub(crate) fn of_equal_logits(&self, like: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Estimated(estimated) => {
                let last = [1].as_slice();
                let negatives = estimated.no_negatives.f_logical_not()?;
                negatives.f_sum_dim_intlist(last, true, like.kind())?.f_log1p()
            }
            _ => self.logarithm(&like.f_zeros_like()?),
        }
    }

    /// The mask of excluded candidates, if any are.
    pub(crate) fn excluded(&self) -> Option<&Tensor> {
        match self {
            Self::Except(excluded) => Some(excluded),
            _ => None,
        }
    }
}

/// The soft cross-entropy of section "formula" of the crate, one value per anchor: `[anchors]`.
///
/// * `logits`: `[anchors, candidates]`, already divided by the temperature; the gradient flows here.
/// * `target`: `[anchors, candidates]`, weights; taken as constant.
///
/// Excluded candidates are masked before the maximum is taken, so that no gradient reaches them
/// through the denominator and nothing overflows. The anchor's own positive belongs to the
/// denominator unless the method says otherwise.
///
/// This is the definition, with whole matrices kept for the backward pass; training goes through
/// [`evaluate`](crate::evaluate), which gives the same value and gradient block by block.
pub fn soft_cross_entropy(
    logits: &Tensor,
    target: &Tensor,
    denominator: &Denominator,
) -> Result<Tensor, TchError> {
    let (log_denominator, present) = present(&denominator.logarithm(logits)?)?;
    let surprise = log_denominator.f_sub(logits)?;
    let target = target.f_detach()?.f_mul(&present)?;
    surprise.f_mul(&target)?.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)
}

/// An anchor without any candidate in its denominator has nothing to be told apart from: it adds
/// neither loss nor gradient. Gives the logarithm with 0 there, and 1 where there is a denominator,
/// each `[anchors, 1]`.
fn present(log_denominator: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let absent = log_denominator.f_eq(f64::NEG_INFINITY)?;
    let kind = log_denominator.kind();
    let log_denominator = log_denominator.f_masked_fill(&absent, 0.0)?;
    Ok((log_denominator, absent.f_logical_not()?.f_to_kind(kind)?))
}

/// Value and gradient of [`soft_cross_entropy`] for logits that nothing else needs any more: the
/// loss per anchor, `[anchors]`, and its derivative by the logits, `m p [in D] - target`,
/// `[anchors, candidates]`.
pub(crate) fn value_and_gradient(
    mut logits: Tensor,
    target: &Tensor,
    denominator: &Denominator,
) -> Result<(Tensor, Tensor), TchError> {
    let last = [1].as_slice();
    if let Denominator::Estimated(estimated) = denominator {
        let leaf = logits.f_detach()?.f_set_requires_grad(true)?;
        let surprise = estimated.logarithm(&leaf)?.f_sub(&leaf)?;
        let loss = surprise.f_mul(target)?.f_sum_dim_intlist(last, false, None::<Kind>)?;
        let total = loss.f_sum(None::<Kind>)?;
        let mut gradients = Tensor::f_run_backward(&[total], &[leaf], false, false)?;
        return Ok((loss.f_detach()?, gradients.swap_remove(0)));
    }
    let log_denominator = denominator.logarithm(&logits)?;
    let Denominator::Except(excluded) = denominator else {
        let _ = logits.f_sub_(&log_denominator)?;
        let loss = logits.f_mul(target)?.f_sum_dim_intlist(last, false, None::<Kind>)?.f_neg()?;
        let gradient = if let Denominator::Constant { .. } = denominator {
            target.f_neg()?
        } else {
            let mass = target.f_sum_dim_intlist(last, true, None::<Kind>)?;
            logits.f_exp_()?.f_mul_(&mass)?.f_sub_(target)?
        };
        return Ok((loss, gradient));
    };
    let (log_denominator, present) = present(&log_denominator)?;
    let target = target.f_mul(&present)?;
    let _ = logits.f_sub_(&log_denominator)?;
    let loss = logits.f_mul(&target)?.f_sum_dim_intlist(last, false, None::<Kind>)?.f_neg()?;
    let mass = target.f_sum_dim_intlist(last, true, None::<Kind>)?;
    let probabilities = logits.f_masked_fill_(excluded, f64::NEG_INFINITY)?.f_exp_()?;
    Ok((loss, probabilities.f_mul(&mass)?.f_sub_(&target)?))
}

/// Divides each row by its Euclidean norm (at least 1e-12, as `torch.nn.functional.normalize`):
/// `[rows, dimensions]`.
pub fn unit_rows(rows: &Tensor) -> Result<Tensor, TchError> {
    let norm = rows.f_norm_scalaropt_dim(2.0, [-1].as_slice(), true)?.f_clamp_min(1e-12)?;
    rows.f_div(&norm)
}
