//! ASCL (Feng and Patras, ICPR 2022, arXiv 2207.11163): relations weigh as much as the teacher is
//! sure of them.
//!
//! ```text
//! s_ik = softmax over the queue of k_i.c_k / temperature_momentum      c_i = 1 - H(s_i) / log M
//! u_ik = min(1, strength c_i s_ik)      target: 1 on the own key and u_ik on the queue, scaled to a sum of 1
//! L_i  = cross-entropy of that target against the own key and the queue
//! ```

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Encoded, Entry, Method, ParameterError, QueueUse, Role, Rows, Scheduled, Term,
    checks, refinery, target,
};

inventory::submit! { Entry::of::<Ascl>() }

/// Hyper-parameters of [`Ascl`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the online encoder's similarities.
    temperature: f64,
    /// Divides the momentum encoder's similarities.
    temperature_momentum: f64,
    /// How many candidates the relations are meant to find (K).
    strength: Scheduled,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    symmetric: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            temperature_momentum: 0.05,
            strength: 1.0.into(),
            symmetric: false,
        }
    }
}

/// ASCL.
#[derive(Debug)]
pub(crate) struct Ascl(Parameters);

impl Define for Ascl {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "ascl",
        title: "ASCL: relations weigh as much as the teacher is sure of them",
        paper: "Feng, Patras: Adaptive Soft Contrastive Learning, ICPR 2022, arXiv 2207.11163",
        equation: "s_ik = softmax over the queue of k_i.c_k / temperature_momentum      c_i = 1 - H(s_i) / log M\nu_ik = min(1, strength c_i s_ik)\ntarget_i = (1 on the own key, u_ik on the queue) / (1 + sum_k u_ik)",
        pieces: &[
            ("candidates", "the anchor's own key, then the queue"),
            ("positives", "the own key, one-hot"),
            ("relations", "softmax of the teacher's similarities over the queue, times confidence and strength, at most 1"),
            ("coefficient", "1 / (1 + sum of the relations' weights), per sample"),
            ("denominator", "all candidates"),
            ("teacher", "momentum encoder"),
        ],
        combination: Some(
            "candidates = \"queue\"\ntemperature = 0.1\n\
             target = { relations = { kind = \"softmax\", temperature = 0.05 }, coefficient = { rule = \"entropy\", strength = 1.0 } }",
        ),
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_momentum", parameters.temperature_momentum)?;
        checks::weight("strength", parameters.strength)?;
        Ok(Self(parameters))
    }
}

impl Ascl {
    fn pairing(&self) -> Pairing {
        Pairing::new(self.0.symmetric, 2)
    }
}

impl Method for Ascl {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing().roles(views)
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Required
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let sharpened = self.0.temperature_momentum;
        let strength = self.0.strength.at(&encoded.progress);
        let pairs = self.pairing().pairs(encoded.online.len()).into_iter();
        pairs
            .map(|(online, momentum, weight)| {
                let frame = encoded.against_keys(online, momentum, false)?;
                let keys = encoded.momentum(momentum)?.local.shallow_clone();
                let rule = move |rows: &Rows<'_>| {
                    let own = rows.positives()?;
                    let relations = target::relations(&rows.similarities(&keys)?, &own, sharpened)?;
                    let (one_hot, negatives) = (rows.uniform_positives()?, rows.candidates() - 1);
                    refinery::confident(&relations, &one_hot, negatives, strength)
                        .map(Choice::against_all)
                };
                Ok(frame.term(self.0.temperature, Box::new(rule)).weighing(weight))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
