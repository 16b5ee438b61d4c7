//! What a rule chooses for a block of anchors, and the choices that several methods share.

use tch::{TchError, Tensor};

use crate::candidates::AnchorBlock;
use crate::formula::{Denominator, Estimated};

/// What a rule chooses for a block of anchors.
#[derive(Debug)]
pub struct Choice {
    /// Weights of the candidates, `[block, candidates]`, without gradient.
    pub target: Tensor,
    /// Who stands in the denominator.
    pub denominator: Denominator,
    /// Candidates that the method took for further positives or false negatives, if it picks any: a
    /// boolean mask, `[block, candidates]`.
    pub selected: Option<Tensor>,
    /// The loss of each anchor, `[block]`, where it differs from the soft cross-entropy by a constant
    /// (an entropy). Stated directly, because the sum of the two cancels most digits of single
    /// precision. It has no gradient of its own: the gradient is that of the soft cross-entropy.
    pub value: Option<Tensor>,
    /// The loss of an anchor to which all candidates are equally similar, `[block]`, where it is not
    /// the target's sum times the log of the denominator.
    pub chance: Option<Tensor>,
}

impl Choice {
    /// A target against all candidates.
    pub fn against_all(target: Tensor) -> Self {
        Self::new(target, Denominator::All)
    }

    /// A target against some denominator.
    pub fn new(target: Tensor, denominator: Denominator) -> Self {
        Self { target, denominator, selected: None, value: None, chance: None }
    }

    /// Instance discrimination: equal weights on the known positives against all candidates.
    pub fn discriminate(block: &AnchorBlock<'_>) -> Result<Self, TchError> {
        Ok(Self::against_all(block.uniform_positives()?))
    }

    /// One-hot on the positive, against an [estimate](Estimated) of the sum over true negatives. An
    /// anchor without negatives has nothing to be told apart from.
    pub fn against_estimate(
        block: &AnchorBlock<'_>,
        class_prior: f64,
        concentration: f64,
        temperature: f64,
    ) -> Result<Self, TchError> {
        let (positive, own_image) = (block.positives()?, block.own_image()?);
        let target = block.uniform_positives()?;
        if own_image.size()[1] == block.candidates() {
            return Ok(Self::new(target, Denominator::without_anchor(block)?));
        }
        let estimated = Estimated {
            no_negatives: block.mask(&own_image)?,
            positive,
            class_prior,
            concentration,
            largest_logit: 1.0 / temperature,
        };
        Ok(Self::new(target, Denominator::Estimated(estimated)))
    }
}
