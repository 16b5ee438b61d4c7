//! A term is what a method hands over: anchors, candidates, and the rule that chooses target and
//! denominator for a block of anchors.

use tch::{TchError, Tensor};

use crate::candidates::{AnchorBlock, Candidates};
use crate::choice::Choice;

/// Chooses targets and denominators for a block of anchors.
pub type Rule<'a> = Box<dyn Fn(&AnchorBlock<'_>) -> Result<Choice, TchError> + 'a>;

/// Anchors that are mixtures: anchor `i` stands for its own image and for that of another anchor.
///
/// Its loss is `share_i L(as anchor i) + (1 - share_i) L(as anchor partner_i)`, each with the target
/// and denominator that the rule chooses for the image; with equal denominators that is the loss
/// with the mixed target.
#[derive(Debug)]
pub struct Mixture {
    /// `[anchors]`, indices of anchors.
    pub partner: Tensor,
    /// `[anchors]`, within 0 and 1.
    pub share: Tensor,
}

/// One soft cross-entropy between a batch of anchors and their candidates.
pub struct Term<'a> {
    /// Unit rows, `[anchors, dimensions]`; the gradient flows through them.
    pub anchors: Tensor,
    /// What each anchor is compared with.
    pub candidates: Candidates,
    /// Places of each anchor's known positives among the candidates, `[anchors, positives]`.
    pub positives: Tensor,
    /// Place of each anchor itself among the candidates, `[anchors, 1]`, if it is one of them.
    pub itself: Option<Tensor>,
    /// Cosine similarities are divided by this.
    pub temperature: f64,
    /// Chooses target and denominator.
    pub rule: Rule<'a>,
    /// Whether anchors are mixtures of two images. Their candidates must be shared.
    pub mixture: Option<Mixture>,
    /// Weight of this term's mean over anchors in the loss.
    pub weight: f64,
    /// Whether its targets are what the method is about, so that measures are taken of them.
    pub measured: bool,
    /// The row of the queue that takes each anchor's place, `[anchors]`, where one does.
    pub neighbors: Option<Tensor>,
}

impl<'a> Term<'a> {
    /// A term of weight 1 whose anchors are no mixtures and no candidates.
    pub fn new(
        anchors: Tensor,
        candidates: Candidates,
        positives: Tensor,
        temperature: f64,
        rule: Rule<'a>,
    ) -> Self {
        Self {
            anchors,
            candidates,
            positives,
            itself: None,
            temperature,
            rule,
            mixture: None,
            weight: 1.0,
            measured: true,
            neighbors: None,
        }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weighing(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    /// Cosine similarities to all candidates, `[anchors, candidates]`, without gradient.
    pub fn similarities(&self) -> Result<Tensor, TchError> {
        self.on_all_anchors(|block| block.similarities(&self.anchors))
    }

    /// What the rule chooses for all anchors at once (leaving mixtures aside).
    pub fn choice(&self) -> Result<Choice, TchError> {
        self.on_all_anchors(|block| (self.rule)(block))
    }

    fn on_all_anchors<T>(
        &self,
        look: impl FnOnce(&AnchorBlock<'_>) -> Result<T, TchError>,
    ) -> Result<T, TchError> {
        let candidates = self.candidates.detached()?;
        let count = self.anchors.size()[0];
        look(&AnchorBlock::range(&candidates, &self.positives, self.itself.as_ref(), 0, count))
    }
}

impl std::fmt::Debug for Term<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Term")
            .field("anchors", &self.anchors)
            .field("candidates", &self.candidates)
            .field("temperature", &self.temperature)
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}
