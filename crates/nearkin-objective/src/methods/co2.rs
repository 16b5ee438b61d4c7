//! CO2 (Wei, Wang, Shen, Yuille, ICLR 2021, arXiv 2010.02217): InfoNCE, and query and key have to
//! agree on their similarities to the negatives.
//!
//! ```text
//! P = softmax(q_i.c / temperature_consistency)      R = softmax(k_i.c / temperature_consistency)      over the queue
//! L_i = InfoNCE_i + weight / 2 ( KL(R || P) + KL(P || R) )
//! ```
//!
//! Both divergences are the common formula up to a constant: KL(R || P) has the target R, and the
//! gradient of KL(P || R) is that of the target `P log(R / P)`.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::method::Pairing;
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{
    Card, Choice, Denominator, Encoded, Entry, Method, ParameterError, QueueUse, Role, Rows,
    Scheduled, Term, checks,
};

inventory::submit! { Entry::of::<Co2>() }

/// Hyper-parameters of [`Co2`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the similarities of InfoNCE.
    temperature: f64,
    /// Divides the similarities on which query and key have to agree.
    temperature_consistency: f64,
    /// Of the consistency, beside an InfoNCE of weight 1.
    weight: Scheduled,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.2, temperature_consistency: 0.05, weight: 1.0.into() }
    }
}

/// CO2.
#[derive(Debug)]
pub(crate) struct Co2(Parameters);

impl Define for Co2 {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "co2",
        title: "CO2: InfoNCE, and query and key agree on their similarities to the negatives",
        paper: "Wei, Wang, Shen, Yuille: CO2: Consistent Contrast for Unsupervised Visual Representation Learning, ICLR 2021, arXiv 2010.02217",
        equation: "P = softmax(q_i.c / temperature_consistency)      R = softmax(k_i.c / temperature_consistency)      over the queue\nL_i = InfoNCE_i + weight / 2 ( KL(R || P) + KL(P || R) )",
        pieces: &[
            ("candidates", "the anchor's own key, then the queue"),
            ("positives", "the own key, one-hot"),
            ("relations", "a second term: softmax of key and of query over the queue, symmetrised KL divergence"),
            ("denominator", "all candidates; the queue in the second term"),
            ("teacher", "momentum encoder"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_consistency", parameters.temperature_consistency)?;
        checks::weight("weight", parameters.weight)?;
        Ok(Self(parameters))
    }
}

/// Which of the two divergences.
#[derive(Clone, Copy, Debug)]
enum Direction {
    /// KL(R || P).
    KeyToQuery,
    /// KL(P || R).
    QueryToKey,
}

/// A divergence of a block: the target that has its gradient, and its value.
fn divergence(
    rows: &Rows<'_>,
    [queries, keys]: [&Tensor; 2],
    temperature: f64,
    direction: Direction,
) -> Result<Choice, TchError> {
    let own = rows.mask(&rows.positives()?)?;
    let log_distribution = |of: &Tensor| {
        let logits = rows.similarities(of)?.f_div_scalar(temperature)?;
        let logits = logits.f_masked_fill(&own, f64::NEG_INFINITY)?;
        logits.f_log_softmax(1, None::<Kind>)?.f_masked_fill(&own, 0.0)
    };
    let distribution = |log: &Tensor| log.f_exp()?.f_masked_fill(&own, 0.0);
    let (log_r, log_p) = (log_distribution(keys)?, log_distribution(queries)?);
    let log_ratio = log_r.f_sub(&log_p)?;
    let (target, terms) = match direction {
        Direction::KeyToQuery => {
            let r = distribution(&log_r)?;
            let terms = r.f_mul(&log_ratio)?;
            (r, terms)
        }
        Direction::QueryToKey => {
            let target = distribution(&log_p)?.f_mul(&log_ratio)?;
            let terms = target.f_neg()?;
            (target, terms)
        }
    };
    let value = terms.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?;
    let chance = Some(value.f_zeros_like()?);
    let choice = Choice::new(target, Denominator::Except(own));
    Ok(Choice { value: Some(value), chance, ..choice })
}

impl Method for Co2 {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        Pairing::Asymmetric.roles(views)
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Required
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let consistency = self.0.temperature_consistency;
        let weight_of_consistency = self.0.weight.at(&encoded.progress);
        let mut terms = Vec::new();
        for (online, momentum, weight) in Pairing::Asymmetric.pairs(encoded.online.len()) {
            let frame = encoded.against_keys(online, momentum, false)?;
            let discrimination = frame.term(self.0.temperature, Box::new(discriminate));
            terms.push(Term { measured: false, ..discrimination.weighing(weight) });

            for direction in [Direction::KeyToQuery, Direction::QueryToKey] {
                let frame = encoded.against_keys(online, momentum, false)?;
                let queries = frame.anchors.f_detach()?;
                let keys = encoded.momentum(momentum)?.local.shallow_clone();
                let rule = move |rows: &Rows<'_>| {
                    divergence(rows, [&queries, &keys], consistency, direction)
                };
                let term = frame.term(consistency, Box::new(rule));
                let measured = matches!(direction, Direction::KeyToQuery);
                let weight = 0.5 * weight * weight_of_consistency;
                terms.push(Term { measured, ..term.weighing(weight) });
            }
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
