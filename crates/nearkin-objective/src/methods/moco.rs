//! MoCo v2 (Chen, Fan, Girshick, He, 2020, arXiv 2003.04297): InfoNCE against a queue.
//!
//! ```text
//! candidates   k_i, then the queue           (queue)
//!              keys of the batch, then queue (keys_and_queue; without a queue: MoCo v3's in-batch form)
//! target       1 on the anchor's own key
//! denominator  all candidates
//! L_i = -log exp(q_i.k_i / temperature) / sum_c exp(q_i.c / temperature)
//! ```

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::{Denominator, Encoded, Entry, Method, ParameterError, Role, Term, checks};

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
pub(crate) struct Moco {
    parameters: Parameters,
    pairing: Pairing,
}

impl Define for Moco {
    type Parameters = Parameters;
    const NAME: &'static str = "moco";
    const TITLE: &'static str = "MoCo v2: InfoNCE against a queue of past keys";
    const PAPER: &'static str = "Chen, Fan, Girshick, He: Improved Baselines with Momentum Contrastive Learning, 2020, arXiv 2003.04297";

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        let pairing = match parameters.symmetric {
            true => Pairing::Symmetric { global_views: 2 },
            false => Pairing::Asymmetric,
        };
        Ok(Self { parameters, pairing })
    }
}

impl Method for Moco {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing.roles(views)
    }

    fn needs_queue(&self) -> bool {
        self.parameters.candidates == Candidates::Queue
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let mut terms = Vec::new();
        for (online, momentum, weight) in self.pairing.pairs(encoded.online.len()) {
            let anchors = encoded.online(online)?.local.shallow_clone();
            let in_batch = self.parameters.candidates == Candidates::KeysAndQueue;
            let candidates = encoded.keys_and_queue(momentum, in_batch)?;
            terms.push(Term {
                anchors,
                own: candidates.own,
                shared: candidates.shared,
                temperature: self.parameters.temperature,
                target: candidates.positives,
                denominator: Denominator::All,
                weight,
            });
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.parameters)
    }
}
