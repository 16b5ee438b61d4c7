//! What a method asks of the training loop, stated once per run and checked against the recipe.

use serde::{Deserialize, Serialize};

use crate::{Embedding, Encoded, ParameterError, checks};

/// What becomes of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The online encoder embeds it, through projector and predictor, with gradient.
    pub online: bool,
    /// What makes a key of it, without gradient, if anything does.
    pub key: Option<KeyEncoder>,
}

impl Role {
    /// Through the online encoder only.
    pub const ONLINE: Self = Self { online: true, key: None };
    /// Through the momentum encoder only.
    pub const KEY: Self = Self { online: false, key: Some(KeyEncoder::Momentum) };
    /// Through both encoders.
    pub const BOTH: Self = Self { online: true, key: Some(KeyEncoder::Momentum) };

    /// Through the online encoder if `online`, and the momentum encoder if `momentum`.
    pub fn new(online: bool, momentum: bool) -> Self {
        Self { online, key: momentum.then_some(KeyEncoder::Momentum) }
    }

    /// Whether the momentum encoder sees the view.
    pub fn is_momentum(self) -> bool {
        self.key == Some(KeyEncoder::Momentum)
    }
}

/// What makes keys: embeddings without gradient, which may be candidates and enter the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoder {
    /// The momentum encoder with its projector.
    Momentum,
    /// The online encoder's projector, before the predictor.
    Projector,
}

/// What a method does with the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueUse {
    /// It has none.
    #[default]
    Never,
    /// It takes candidates from one if the recipe has one.
    Optional,
    /// It cannot do without.
    Required,
}

/// All that a method asks for, given a number of views.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    /// One for each of the recipe's `views`.
    pub roles: Vec<Role>,
    /// Whether candidates come from a queue of past keys.
    pub queue: QueueUse,
    /// The views whose keys enter the queue after the step, in this order.
    pub enqueued: Vec<usize>,
    /// Whether the online encoder sees its views as one batch, so that they share the statistics of
    /// batch norm, or each view as a batch of its own.
    pub views_share_batch_norm: bool,
    /// Whether the online encoder must have a predictor, without which it would collapse.
    pub predictor: bool,
    /// Whether class labels enter the loss: such a method is supervised, and good for comparisons
    /// only.
    pub labels: bool,
    /// Further inputs of the online encoder.
    pub mixed_inputs: Vec<MixedInput>,
}

impl Requirements {
    /// Views with these roles, every key into the queue, and nothing else.
    pub fn new(roles: Vec<Role>) -> Self {
        let enqueued = (0..roles.len()).filter(|&view| roles[view].key.is_some()).collect();
        Self { roles, enqueued, ..Self::default() }
    }

    /// The keys of a batch that enter the queue after the step.
    pub fn new_keys<'a>(&self, encoded: &'a Encoded) -> impl Iterator<Item = &'a Embedding> {
        self.enqueued.iter().filter_map(|&view| encoded.keys.get(view)?.as_ref())
    }
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
