//! The interface between a method and the training loop.

use tch::{Kind, TchError, Tensor};

use crate::{ParameterError, Term, target};

/// Which encoders see a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The online encoder, through projector and predictor, with gradient.
    pub online: bool,
    /// The momentum encoder, through its projector, without gradient.
    pub momentum: bool,
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

/// What the encoders made of a batch, one slot per view of the recipe.
#[derive(Debug)]
pub struct Encoded {
    /// By the online encoder; `None` for a view without that role.
    pub online: Vec<Option<Embedding>>,
    /// By the momentum encoder; `None` for a view without that role.
    pub momentum: Vec<Option<Embedding>>,
    /// The queue as it was before this batch, `[length, dimensions]`, if there is one with any rows.
    pub queue: Option<Tensor>,
    /// Row of `everywhere` at which this process's rows begin.
    pub offset: i64,
}

impl Encoded {
    /// The embedding that a role promised; an error names the view if it is not there.
    pub(crate) fn online(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.online, view, "online")
    }

    pub(crate) fn momentum(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.momentum, view, "momentum")
    }

    /// The candidates of a momentum method: each anchor's own key and the queue, or, `in_batch`, the
    /// keys of the whole batch and the queue.
    pub(crate) fn keys_and_queue(
        &self,
        momentum_view: usize,
        in_batch: bool,
    ) -> Result<Candidates, TchError> {
        let keys = self.momentum(momentum_view)?;
        let rows = keys.local.size()[0];
        let queue = self.queue.iter().map(Tensor::shallow_clone);
        if in_batch {
            let keys_everywhere = std::iter::once(keys.everywhere.shallow_clone());
            let positives = target::diagonal(rows, self.offset, &keys.local)?;
            return Candidates::new(None, keys_everywhere.chain(queue).collect(), &positives);
        }
        let first = Tensor::f_zeros([rows], (Kind::Int64, keys.local.device()))?;
        Candidates::new(Some(keys.local.shallow_clone()), queue.collect(), &first)
    }
}

/// Candidates as a [`Term`] wants them, with the place of each anchor's own key among them.
pub(crate) struct Candidates {
    pub(crate) own: Option<Tensor>,
    pub(crate) shared: Vec<Tensor>,
    /// One-hot, `[anchors, candidates]`.
    pub(crate) positives: Tensor,
}

impl Candidates {
    fn new(own: Option<Tensor>, shared: Vec<Tensor>, positives: &Tensor) -> Result<Self, TchError> {
        let count = i64::from(own.is_some()) + shared.iter().map(|s| s.size()[0]).sum::<i64>();
        let kind = own.iter().chain(&shared).next().map_or(Kind::Float, Tensor::kind);
        let positives = target::one_hot(positives, count, kind)?;
        Ok(Self { own, shared, positives })
    }
}

fn promised<'a>(
    embeddings: &'a [Option<Embedding>],
    view: usize,
    encoder: &str,
) -> Result<&'a Embedding, TchError> {
    embeddings.get(view).and_then(Option::as_ref).ok_or_else(|| {
        TchError::Shape(format!("view {view} was not encoded by the {encoder} encoder"))
    })
}

/// A method: which encoder sees which view, and the terms of the loss.
pub trait Method: Send + Sync {
    /// The role of each of the recipe's `views`, or why this number of views does not fit.
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError>;

    /// Whether candidates come from a queue of past keys.
    fn needs_queue(&self) -> bool;

    /// Whether the online encoder sees its views as one batch, so that they share the statistics of
    /// batch norm, or each view as a batch of its own.
    fn encodes_views_together(&self) -> bool {
        false
    }

    /// The terms of the loss for one batch.
    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError>;

    /// The hyper-parameters with every default filled in, as in the recipe's `[method]` table.
    fn parameters(&self) -> toml::Table;
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
    pub(crate) fn roles(self, views: usize) -> Result<Vec<Role>, ParameterError> {
        if views < 2 {
            return Err(ParameterError::new(
                "views",
                &views,
                "a recipe needs at least two [[views]]",
            ));
        }
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
