//! The interface between a method and the training loop, and the two usual shapes of methods.
//!
//! A [`Method`] states what it needs and gives the terms of its loss. Most methods have one of two
//! shapes, for which only the choice of target and denominator is left to write: [`PairMethod`]
//! compares online views with keys of other views, [`ViewMethod`] compares all online views of the
//! batch with one another.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::candidates::AnchorBlock;
use crate::choice::Choice;
use crate::encoded::Encoded;
use crate::labels::Labels;
use crate::requirements::{QueueUse, Requirements, Role};
use crate::term::Term;
use crate::{ParameterError, Progress};

/// A method: what it needs, and the terms of its loss.
pub trait Method: Send + Sync {
    /// What the method needs for this number of `views`, or why the number does not fit.
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError>;

    /// The terms of the loss for one batch.
    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError>;
}

/// Which keys stand beside the queue as candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The anchor's own key and nothing else.
    Own,
    /// The anchor's own key, then the queue.
    OwnAndQueue,
    /// The keys of the batch and nothing else.
    Batch,
    /// The keys of the batch, then the queue if there is one.
    BatchAndQueue,
}

impl Keys {
    fn queue(self) -> QueueUse {
        match self {
            Self::Own | Self::Batch => QueueUse::Never,
            Self::OwnAndQueue => QueueUse::Required,
            Self::BatchAndQueue => QueueUse::Optional,
        }
    }

    /// Whether every anchor sees the keys of the whole batch.
    fn are_shared(self) -> bool {
        matches!(self, Self::Batch | Self::BatchAndQueue)
    }
}

/// A method whose anchors are online views, compared with keys of other views.
///
/// Register it with [`Entry::pairs`](crate::Entry::pairs), or wrap it as [`Pairs`] to have a
/// [`Method`].
pub trait PairMethod: Send + Sync {
    /// Which views are anchors, and which make keys.
    fn pairing(&self) -> Pairing;

    /// The candidates.
    fn keys(&self) -> Keys;

    /// Divides the cosine similarities.
    fn temperature(&self) -> f64;

    /// Multiplies the mean over all pairs.
    fn scale(&self) -> f64 {
        1.0
    }

    /// Whether the encoder would collapse without a predictor.
    fn needs_predictor(&self) -> bool {
        false
    }

    /// Target and denominator of a block of anchors.
    fn choose(&self, block: &AnchorBlock<'_>, pair: &Pair<'_>) -> Result<Choice, TchError>;
}

/// What a [`PairMethod`] knows of a pair of views.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The anchors' own keys, `[anchors, dimensions]`: the teacher's embeddings.
    pub keys: &'a Tensor,
    /// How far the run is.
    pub progress: &'a Progress,
}

/// Makes a [`Method`] of a [`PairMethod`].
#[derive(Clone, Copy, Debug)]
pub struct Pairs<M>(pub M);

impl<M: PairMethod> Method for Pairs<M> {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        Ok(Requirements {
            queue: self.0.keys().queue(),
            predictor: self.0.needs_predictor(),
            ..Requirements::new(self.0.pairing().roles(views)?)
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let method = &self.0;
        let pairs = method.pairing().pairs(encoded.online.len()).into_iter();
        let term = |ViewPair { online, key, weight }| {
            let anchors = &encoded.online(online)?.local;
            let frame = if method.keys().are_shared() {
                encoded.against_all_keys(anchors, key)?
            } else {
                encoded.against_own_key(anchors, key)?
            };
            let pair = Pair { keys: &encoded.key(key)?.local, progress: &encoded.progress };
            let rule = Box::new(move |block: &AnchorBlock<'_>| method.choose(block, &pair));
            Ok(frame.term(method.temperature(), rule).weighing(weight * method.scale()))
        };
        pairs.map(term).collect()
    }
}

/// A method whose anchors and candidates are all views of the batch through the online encoder.
///
/// Register it with [`Entry::views`](crate::Entry::views), or wrap it as [`Views`] to have a
/// [`Method`].
pub trait ViewMethod: Send + Sync {
    /// Refuses a number of views that does not fit.
    fn check_views(&self, views: usize) -> Result<(), ParameterError> {
        at_least(views, 2, "")
    }

    /// Divides the cosine similarities.
    fn temperature(&self) -> f64;

    /// How the losses of the views become one.
    fn reduction(&self) -> Reduction;

    /// Multiplies the loss.
    fn scale(&self) -> f64 {
        1.0
    }

    /// Whether class labels enter the loss.
    fn needs_labels(&self) -> bool {
        false
    }

    /// Target and denominator of a block of anchors.
    fn choose(&self, block: &AnchorBlock<'_>, view: &AnchorView<'_>) -> Result<Choice, TchError>;
}

/// What a [`ViewMethod`] knows of the view that its anchors are.
#[derive(Clone, Copy, Debug)]
pub struct AnchorView<'a> {
    /// Unit rows, `[anchors, dimensions]`.
    pub anchors: &'a Tensor,
    /// Class labels, for a method that needs them.
    pub labels: Option<&'a Labels>,
}

/// Makes a [`Method`] of a [`ViewMethod`].
#[derive(Clone, Copy, Debug)]
pub struct Views<M>(pub M);

impl<M: ViewMethod> Method for Views<M> {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        self.0.check_views(views)?;
        Ok(Requirements {
            views_share_batch_norm: true,
            labels: self.0.needs_labels(),
            ..Requirements::new(vec![Role::ONLINE; views])
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let method = &self.0;
        let frames = encoded.among_online_views()?;
        let weight = method.scale() * method.reduction().weight(frames.len());
        let labels = if method.needs_labels() { Some(encoded.labels()?) } else { None };
        let anchors = encoded.online.iter().flatten().map(|view| &view.local);
        let term = |(frame, anchors): (crate::Frame, &'a Tensor)| {
            let view = AnchorView { anchors, labels };
            let rule = Box::new(move |block: &AnchorBlock<'_>| method.choose(block, &view));
            frame.term(method.temperature(), rule).weighing(weight)
        };
        Ok(frames.into_iter().zip(anchors).map(term).collect())
    }
}

/// At least this many views, or an error that says how many and `why`.
pub(crate) fn at_least(views: usize, needed: usize, why: &str) -> Result<(), ParameterError> {
    if views < needed {
        return Err(ParameterError::views(views, format!("at least {needed} are needed{why}")));
    }
    Ok(())
}

/// How the losses of all online views become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean over all anchors.
    #[default]
    Mean,
    /// Twice the mean: with two views the sum of the views' means.
    SumOfViews,
}

impl Reduction {
    /// Weight of one of `terms` terms.
    pub fn weight(self, terms: usize) -> f64 {
        match self {
            Self::Mean => 1.0 / terms as f64,
            Self::SumOfViews => 2.0 / terms as f64,
        }
    }
}

/// The two usual ways to pair an online view with a view that makes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// View 0 makes the keys, every other view the anchors.
    Asymmetric,
    /// Every view makes anchors, the first `global_views` make keys too; pairs are all
    /// (key i, online j) with i != j.
    Symmetric {
        /// How many views (from the first) make keys.
        global_views: usize,
    },
}

/// An online view and the view whose keys it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewPair {
    /// The view of the anchors.
    pub online: usize,
    /// The view of the keys.
    pub key: usize,
    /// One over the number of pairs.
    pub weight: f64,
}

impl Pairing {
    /// From a recipe's keys `symmetric` and `global_views`.
    pub fn from_keys(symmetric: bool, global_views: usize) -> Self {
        if symmetric { Self::Symmetric { global_views } } else { Self::Asymmetric }
    }

    /// The role of every view.
    pub fn roles(self, views: usize) -> Result<Vec<Role>, ParameterError> {
        at_least(views, 2, "")?;
        match self {
            Self::Asymmetric => {
                let role = |view| if view == 0 { Role::KEY } else { Role::ONLINE };
                Ok((0..views).map(role).collect())
            }
            Self::Symmetric { global_views } => {
                if global_views < 1 || global_views > views {
                    return Err(ParameterError::new(
                        "global_views",
                        &global_views,
                        "it must be at least 1 and at most the number of [[views]]",
                    ));
                }
                Ok((0..views).map(|view| Role::new(true, view < global_views)).collect())
            }
        }
    }

    /// All pairs of different views.
    pub fn pairs(self, views: usize) -> Vec<ViewPair> {
        let key_views = match self {
            Self::Asymmetric => 1,
            Self::Symmetric { global_views } => global_views,
        };
        let all = (0..key_views).flat_map(|key| (0..views).map(move |online| (online, key)));
        let pairs: Vec<_> = all.filter(|(online, key)| online != key).collect();
        let weight = 1.0 / pairs.len() as f64;
        pairs.into_iter().map(|(online, key)| ViewPair { online, key, weight }).collect()
    }
}
