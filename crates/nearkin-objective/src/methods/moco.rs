//! MoCo v2 (Chen, Fan, Girshick, He, 2020, arXiv 2003.04297): InfoNCE against a queue.
//!
//! ```text
//! L_i = -log exp(q_i.k_i / temperature) / sum_c exp(q_i.c / temperature)
//! ```
//!
//! The candidates are the anchor's own key and the queue; with `keys_and_queue` the keys of the whole
//! batch and the queue, as in SANE's equation 4 with one-hot labels.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{Card, Encoded, Entry, Method, ParameterError, QueueUse, Role, Term, checks};

inventory::submit! { Entry::of::<Moco>() }

/// Where candidates other than the anchor's own key come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Candidates {
    /// From the queue only.
    Queue,
    /// From the other keys of the batch, then the queue if there is one.
    KeysAndQueue,
}

/// Hyper-parameters of [`Moco`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    candidates: Candidates,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    symmetric: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.2, candidates: Candidates::Queue, symmetric: false }
    }
}

/// MoCo v2.
#[derive(Debug)]
pub(crate) struct Moco(Parameters);

impl Define for Moco {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "moco",
        title: "MoCo v2: InfoNCE against a queue of past keys",
        paper: "Chen, Fan, Girshick, He: Improved Baselines with Momentum Contrastive Learning, 2020, arXiv 2003.04297",
        equation: "L_i = -log exp(q_i.k_i / temperature) / sum_c exp(q_i.c / temperature)",
        pieces: &[
            ("candidates", "the anchor's own key, then the queue (candidates = \"keys_and_queue\": all keys of the batch, then the queue)"),
            ("positives", "the own key, one-hot"),
            ("relations", "none"),
            ("denominator", "all candidates"),
            ("teacher", "momentum encoder, for the keys"),
        ],
        combination: Some("candidates = \"queue\"\ntemperature = 0.2\ntarget = { coefficient = 1.0 }"),
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

impl Moco {
    fn pairing(&self) -> Pairing {
        Pairing::new(self.0.symmetric, 2)
    }
}

impl Method for Moco {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing().roles(views)
    }

    fn queue_use(&self) -> QueueUse {
        match self.0.candidates {
            Candidates::Queue => QueueUse::Required,
            Candidates::KeysAndQueue => QueueUse::Optional,
        }
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let in_batch = self.0.candidates == Candidates::KeysAndQueue;
        let pairs = self.pairing().pairs(encoded.online.len()).into_iter();
        pairs
            .map(|(online, momentum, weight)| {
                let frame = encoded.against_keys(online, momentum, in_batch)?;
                Ok(frame.term(self.0.temperature, Box::new(discriminate)).weighing(weight))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
