//! The interface between a method and the training loop.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::candidates::{Candidates, Origin, Shared};
use crate::measures::Labels;
use crate::term::{Mixture, Rule, Term};
use crate::{ParameterError, Progress, checks, target};

/// Which encoders see a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The online encoder, through projector and predictor, with gradient.
    pub online: bool,
    /// The momentum encoder, through its projector, without gradient.
    pub momentum: bool,
}

/// What a method does with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueUse {
    /// It has none.
    Never,
    /// It takes candidates from one if the recipe has one.
    Optional,
    /// It cannot do without.
    Required,
}

/// How two images are mixed, and their targets with them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixing {
    /// The first image's share is drawn from Beta(concentration, concentration).
    pub concentration: f64,
    /// One share for every sample, or one for the batch.
    #[serde(default)]
    pub per: Per,
    /// Take the larger of the share and one minus it, so that the first image prevails.
    #[serde(default)]
    pub larger_share: bool,
}

/// What has a share of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Every image.
    #[default]
    Sample,
    /// Every batch.
    Batch,
}

impl Mixing {
    /// `key` is that of the concentration.
    pub(crate) fn check(&self, key: &'static str) -> Result<(), ParameterError> {
        checks::concentration(key, self.concentration)
    }
}

/// A further input of the online encoder:
/// `share_i base_i + (1 - share_i) other_partner(i)`, pixel by pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixedInput {
    /// The view whose image leads.
    pub base: usize,
    /// The view from which the partner is taken.
    pub other: usize,
    /// How shares are drawn.
    pub mixing: Mixing,
}

/// Unit embeddings of one view by one encoder.
#[derive(Debug)]
pub struct Embedding {
    /// Of this process's images, `[batch, dimensions]`.
    pub local: Tensor,
    /// Of the images of all processes in rank order, `[batch * world, dimensions]`; the same tensor
    /// as `local` where there is one process.
    pub everywhere: Tensor,
}

/// The online encoder's embedding of a [`MixedInput`].
#[derive(Debug)]
pub struct Mixed {
    /// Unit rows, `[batch, dimensions]`.
    pub anchors: Tensor,
    /// Index of each row's partner within this process's batch, `[batch]`.
    pub partner: Tensor,
    /// Each row's share, `[batch]`.
    pub share: Tensor,
}

/// What the encoders made of a batch.
#[derive(Debug, Default)]
pub struct Encoded {
    /// By the online encoder, one slot per view; `None` for a view without that role.
    pub online: Vec<Option<Embedding>>,
    /// By the momentum encoder; `None` for a view without that role.
    pub momentum: Vec<Option<Embedding>>,
    /// By the online encoder before its predictor, without gradient; empty unless the method
    /// [asks for it](Method::needs_projections).
    pub projected: Vec<Option<Embedding>>,
    /// The method's [mixed inputs](Method::mixed_inputs).
    pub mixed: Vec<Mixed>,
    /// The queue as it was before this batch, `[length, dimensions]`, if there is one with any rows.
    pub queue: Option<Tensor>,
    /// Class labels, for a method that [uses them](Method::uses_labels).
    pub labels: Option<Labels>,
    /// Row of `everywhere` at which this process's rows begin.
    pub offset: i64,
    /// How far the run is.
    pub progress: Progress,
}

impl Encoded {
    /// The embedding that a role promised; an error names the view if it is not there.
    pub(crate) fn online(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.online, view, "online encoder")
    }

    pub(crate) fn momentum(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.momentum, view, "momentum encoder")
    }

    pub(crate) fn projected(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.projected, view, "projector")
    }

    pub(crate) fn labels(&self) -> Result<&Labels, TchError> {
        self.labels.as_ref().ok_or_else(|| TchError::Shape("there are no labels".into()))
    }

    fn queue(&self) -> Result<Option<Shared>, TchError> {
        let shared = |rows: &Tensor| Ok(Shared { rows: rows.f_detach()?, origin: Origin::Queue });
        self.queue.as_ref().map(shared).transpose()
    }

    /// Anchors of an online view against each one's own key and the queue, or, `in_batch`, against
    /// the keys of the whole batch and the queue.
    pub(crate) fn against_keys(
        &self,
        online_view: usize,
        momentum_view: usize,
        in_batch: bool,
    ) -> Result<Frame, TchError> {
        self.keys_frame(momentum_view, in_batch, &self.online(online_view)?.local)
    }

    /// The same for any anchors that stand for the images of the batch in order.
    pub(crate) fn keys_frame(
        &self,
        momentum_view: usize,
        in_batch: bool,
        anchors: &Tensor,
    ) -> Result<Frame, TchError> {
        let anchors = anchors.shallow_clone();
        let keys = self.momentum(momentum_view)?;
        let rows = keys.local.size()[0];
        let (candidates, positives) = if in_batch {
            let batch = Shared { rows: keys.everywhere.f_detach()?, origin: Origin::Batch };
            let shared = std::iter::once(batch).chain(self.queue()?).collect();
            let positives = target::diagonal(rows, self.offset, &keys.local)?;
            (Candidates { own: None, shared }, positives)
        } else {
            let own = Some(keys.local.shallow_clone());
            let candidates = Candidates { own, shared: self.queue()?.into_iter().collect() };
            (candidates, target::diagonal(rows, 0, &keys.local)?.f_zeros_like()?)
        };
        Ok(Frame { anchors, candidates, positives, itself: None })
    }

    /// Anchors against all views of the batch, and the queue if `with_queue`. `views` are embeddings
    /// of the batch, of which number `itself` shows what the anchors show: that one is the anchor
    /// itself, the others of its image are its positives.
    pub(crate) fn among(
        &self,
        anchors: &Tensor,
        views: &[&Embedding],
        itself: usize,
        with_queue: bool,
    ) -> Result<Frame, TchError> {
        let rows = anchors.size()[0];
        let (mut shared, mut positives, mut own_place) = (Vec::new(), Vec::new(), None);
        let mut begin = self.offset;
        for (number, view) in views.iter().enumerate() {
            let place = target::diagonal(rows, begin, anchors)?;
            match number == itself {
                true => own_place = Some(place),
                false => positives.push(place),
            }
            begin += view.everywhere.size()[0];
            shared.push(Shared { rows: view.everywhere.shallow_clone(), origin: Origin::Batch });
        }
        if with_queue {
            shared.extend(self.queue()?);
        }
        Ok(Frame {
            anchors: anchors.shallow_clone(),
            candidates: Candidates { own: None, shared },
            positives: Tensor::f_cat(&positives, 1)?,
            itself: own_place,
        })
    }

    /// For each online view, its anchors against all online views of the batch.
    pub(crate) fn among_online_views(&self) -> Result<Vec<Frame>, TchError> {
        let views: Vec<&Embedding> = self.online.iter().flatten().collect();
        let frame =
            |(itself, view): (usize, &&Embedding)| self.among(&view.local, &views, itself, false);
        views.iter().enumerate().map(frame).collect()
    }
}

/// Anchors and what they are compared with: a [`Term`] without its rule.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) anchors: Tensor,
    pub(crate) candidates: Candidates,
    /// `[anchors, positives]`.
    pub(crate) positives: Tensor,
    /// `[anchors, 1]`.
    pub(crate) itself: Option<Tensor>,
}

impl Frame {
    /// The term with this rule, of weight 1.
    pub(crate) fn term(self, temperature: f64, rule: Rule) -> Term {
        let Self { anchors, candidates, positives, itself } = self;
        Term { itself, ..Term::new(anchors, candidates, positives, temperature, rule) }
    }

    /// The term of anchors that are these mixtures.
    pub(crate) fn mixed_term(self, mixed: &Mixed, temperature: f64, rule: Rule) -> Term {
        let mixture =
            Mixture { partner: mixed.partner.shallow_clone(), share: mixed.share.shallow_clone() };
        Term { mixture: Some(mixture), ..self.term(temperature, rule) }
    }
}

fn promised<'a>(
    embeddings: &'a [Option<Embedding>],
    view: usize,
    encoder: &str,
) -> Result<&'a Embedding, TchError> {
    embeddings
        .get(view)
        .and_then(Option::as_ref)
        .ok_or_else(|| TchError::Shape(format!("view {view} was not encoded by the {encoder}")))
}

/// A method: which encoder sees which view, and the terms of the loss.
pub trait Method: Send + Sync {
    /// The role of each of the recipe's `views`, or why this number of views does not fit.
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError>;

    /// Whether candidates come from a queue of past keys.
    fn queue_use(&self) -> QueueUse {
        QueueUse::Never
    }

    /// Whether the online encoder sees its views as one batch, so that they share the statistics of
    /// batch norm, or each view as a batch of its own.
    fn encodes_views_together(&self) -> bool {
        false
    }

    /// Whether the method wants the online encoder's embeddings before the predictor.
    fn needs_projections(&self) -> bool {
        false
    }

    /// Whether the online encoder must have a predictor, without which it would collapse.
    fn needs_predictor(&self) -> bool {
        false
    }

    /// Whether class labels enter the loss: such a method is supervised, and good for comparisons
    /// only.
    fn uses_labels(&self) -> bool {
        false
    }

    /// Further inputs of the online encoder that are mixed from so many views.
    fn mixed_inputs(&self, _views: usize) -> Vec<MixedInput> {
        Vec::new()
    }

    /// The terms of the loss for one batch.
    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError>;

    /// The embeddings that enter the queue after the step.
    fn keys<'a>(&self, encoded: &'a Encoded) -> Vec<&'a Embedding> {
        encoded.momentum.iter().flatten().collect()
    }

    /// The hyper-parameters with every default filled in, as in the recipe's `[method]` table.
    fn parameters(&self) -> toml::Table;
}

/// At least so many views, or an error that says how many and `why`.
pub(crate) fn at_least(views: usize, needed: usize, why: &str) -> Result<(), ParameterError> {
    match views < needed {
        true => Err(ParameterError::views(views, format!("at least {needed} are needed{why}"))),
        false => Ok(()),
    }
}

/// Every view through the online encoder.
pub(crate) fn all_online(views: usize) -> Result<Vec<Role>, ParameterError> {
    at_least(views, 2, "")?;
    Ok(vec![Role { online: true, momentum: false }; views])
}

/// How the losses of all online views become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reduction {
    /// The mean over all anchors.
    #[default]
    Mean,
    /// Twice the mean: with two views the sum of the views' means.
    SumOfViews,
}

impl Reduction {
    /// Weight of one of so many terms.
    pub(crate) fn weight(self, terms: usize) -> f64 {
        match self {
            Self::Mean => 1.0 / terms as f64,
            Self::SumOfViews => 2.0 / terms as f64,
        }
    }
}

/// The two usual ways to pair an online view with a momentum view, and the weight that makes the
/// sum of all pairs a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// View 0 feeds the momentum encoder, every other view the online encoder.
    Asymmetric,
    /// Every view feeds the online encoder, the first `global_views` the momentum encoder too;
    /// pairs are all (momentum i, online j) with i != j.
    Symmetric {
        /// How many views (from the first) the momentum encoder sees.
        global_views: usize,
    },
}

impl Pairing {
    /// From the keys `symmetric` and `global_views`.
    pub(crate) fn new(symmetric: bool, global_views: usize) -> Self {
        match symmetric {
            true => Self::Symmetric { global_views },
            false => Self::Asymmetric,
        }
    }

    pub(crate) fn roles(self, views: usize) -> Result<Vec<Role>, ParameterError> {
        at_least(views, 2, "")?;
        match self {
            Self::Asymmetric => {
                Ok((0..views).map(|view| Role { online: view > 0, momentum: view == 0 }).collect())
            }
            Self::Symmetric { global_views } => {
                if global_views < 1 || global_views > views {
                    return Err(ParameterError::new(
                        "global_views",
                        &global_views,
                        "it must be at least 1 and at most the number of [[views]]",
                    ));
                }
                let role = |view| Role { online: true, momentum: view < global_views };
                Ok((0..views).map(role).collect())
            }
        }
    }

    /// All `(online view, momentum view, weight)`.
    pub(crate) fn pairs(self, views: usize) -> Vec<(usize, usize, f64)> {
        let momentum_views = match self {
            Self::Asymmetric => 1,
            Self::Symmetric { global_views } => global_views,
        };
        let mut pairs = Vec::new();
        for momentum in 0..momentum_views {
            for online in (0..views).filter(|&online| online != momentum) {
                pairs.push((online, momentum, 0.0));
            }
        }
        let weight = 1.0 / pairs.len() as f64;
        pairs.iter_mut().for_each(|pair| pair.2 = weight);
        pairs
    }
}
