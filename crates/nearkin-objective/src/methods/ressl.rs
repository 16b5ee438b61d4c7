//! ReSSL (Zheng, You, Wang, Qian, Zhang, Wang, Xu, NeurIPS 2021, arXiv 2107.09282): the student
//! repeats the teacher's relations; no positive at all.
//!
//! ```text
//! t_ik = exp(k_i.c_k / temperature_momentum) / sum_j exp(k_i.c_j / temperature_momentum)     over the queue
//! L_i = -sum_k t_ik log( exp(q_i.c_k / temperature) / sum_j exp(q_i.c_j / temperature) )
//! ```

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Denominator, Encoded, Entry, Method, ParameterError, QueueUse, Role, Rows,
    Scheduled, Term, checks, target,
};

inventory::submit! { Entry::of::<ReSsl>() }

/// Hyper-parameters of [`ReSsl`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the online encoder's similarities.
    temperature: f64,
    /// Divides the momentum encoder's similarities.
    temperature_momentum: Scheduled,
    /// Both views as queries (the mean of both directions), or view 0 as key only.
    symmetric: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.1, temperature_momentum: 0.04.into(), symmetric: false }
    }
}

/// ReSSL.
#[derive(Debug)]
pub(crate) struct ReSsl(Parameters);

impl Define for ReSsl {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "ressl",
        title: "ReSSL: the teacher's relations to the queue, without a positive",
        paper: "Zheng, You, Wang, Qian, Zhang, Wang, Xu: ReSSL: Relational Self-Supervised Learning with Weak Augmentation, NeurIPS 2021, arXiv 2107.09282",
        equation: "t_ik = exp(k_i.c_k / temperature_momentum) / sum_j exp(k_i.c_j / temperature_momentum)     over the queue\nL_i = -sum_k t_ik log( exp(q_i.c_k / temperature) / sum_j exp(q_i.c_j / temperature) )",
        pieces: &[
            ("candidates", "the queue (the own key is neither target nor in the denominator)"),
            ("positives", "none"),
            ("relations", "softmax of the teacher's similarities, temperature_momentum"),
            ("coefficient", "0"),
            ("denominator", "the queue"),
            ("teacher", "momentum encoder"),
        ],
        combination: Some(
            "candidates = \"queue\"\ntemperature = 0.1\ndenominator = \"negatives\"\n\
             target = { relations = { kind = \"softmax\", temperature = 0.04 }, coefficient = 0.0 }",
        ),
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_momentum", parameters.temperature_momentum)?;
        Ok(Self(parameters))
    }
}

impl ReSsl {
    fn pairing(&self) -> Pairing {
        Pairing::new(self.0.symmetric, 2)
    }
}

impl Method for ReSsl {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        self.pairing().roles(views)
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Required
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let sharpened = self.0.temperature_momentum.at(&encoded.progress);
        let pairs = self.pairing().pairs(encoded.online.len()).into_iter();
        pairs
            .map(|(online, momentum, weight)| {
                let frame = encoded.against_keys(online, momentum, false)?;
                let keys = encoded.momentum(momentum)?.local.shallow_clone();
                let rule = move |rows: &Rows<'_>| {
                    let own = rows.positives()?;
                    let target = target::relations(&rows.similarities(&keys)?, &own, sharpened)?;
                    Ok(Choice::new(target, Denominator::Except(rows.mask(&own)?)))
                };
                Ok(frame.term(self.0.temperature, Box::new(rule)).weighing(weight))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
