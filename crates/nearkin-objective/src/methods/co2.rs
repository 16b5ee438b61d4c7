#![doc = include_str!("co2.md")]

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    AnchorBlock, Choice, Define, Denominator, Encoded, Entry, Method, Pairing, ParameterError,
    QueueUse, Requirements, Scheduled, Term, ViewPair, checks,
};

inventory::submit! { Entry::new::<Co2>() }

/// Hyper-parameters of CO2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Co2 {
    /// Divides the similarities of InfoNCE.
    pub temperature: f64,
    /// Divides the similarities on which query and key should agree.
    pub temperature_consistency: f64,
    /// Weight of the consistency, beside an InfoNCE of weight 1.
    pub weight: Scheduled,
}

impl Default for Co2 {
    fn default() -> Self {
        Self { temperature: 0.2, temperature_consistency: 0.05, weight: 1.0.into() }
    }
}

impl Define for Co2 {
    type Settings = Self;
    const NAME: &'static str = "co2";
    const CARD: &'static str = include_str!("co2.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_consistency", settings.temperature_consistency)?;
        checks::weight("weight", settings.weight)?;
        Ok(settings)
    }
}

impl Method for Co2 {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        let roles = Pairing::Asymmetric.roles(views)?;
        Ok(Requirements { queue: QueueUse::Required, ..Requirements::new(roles) })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let consistency = 0.5 * self.weight.at(&encoded.progress);
        let mut terms = Vec::new();
        for ViewPair { online, key, weight } in Pairing::Asymmetric.pairs(encoded.online.len()) {
            let (queries, keys) = (&encoded.online(online)?.local, &encoded.key(key)?.local);
            let frame = || encoded.against_own_key(queries, key);
            let discrimination = frame()?.term(self.temperature, Box::new(Choice::discriminate));
            terms.push(Term { measured: false, ..discrimination.weighing(weight) });
            let key_to_query =
                move |block: &AnchorBlock<'_>| self.key_to_query(block, queries, keys);
            let term = frame()?.term(self.temperature_consistency, Box::new(key_to_query));
            terms.push(term.weighing(weight * consistency));
            let query_to_key =
                move |block: &AnchorBlock<'_>| self.query_to_key(block, queries, keys);
            let term = frame()?.term(self.temperature_consistency, Box::new(query_to_key));
            terms.push(Term { measured: false, ..term.weighing(weight * consistency) });
        }
        Ok(terms)
    }
}

impl Co2 {
    /// `KL(R || P)`, whose target is `R`.
    fn key_to_query(
        &self,
        block: &AnchorBlock<'_>,
        queries: &Tensor,
        keys: &Tensor,
    ) -> Result<Choice, TchError> {
        let Distributions { log_p, log_r, own } = self.distributions(block, queries, keys)?;
        let r = log_r.f_exp()?.f_masked_fill(&own, 0.0)?;
        let value = r.f_mul(&log_r.f_sub(&log_p)?)?;
        divergence(r, &value, own)
    }

    /// `KL(P || R)`. It has the gradient of a cross-entropy with the target `P log(R / P)`.
    fn query_to_key(
        &self,
        block: &AnchorBlock<'_>,
        queries: &Tensor,
        keys: &Tensor,
    ) -> Result<Choice, TchError> {
        let Distributions { log_p, log_r, own } = self.distributions(block, queries, keys)?;
        let p = log_p.f_exp()?.f_masked_fill(&own, 0.0)?;
        let target = p.f_mul(&log_r.f_sub(&log_p)?)?;
        let value = target.f_neg()?;
        divergence(target, &value, own)
    }

    fn distributions(
        &self,
        block: &AnchorBlock<'_>,
        queries: &Tensor,
        keys: &Tensor,
    ) -> Result<Distributions, TchError> {
        let own = block.mask(&block.positives()?)?;
        let log_p = self.log_softmax(block, queries, &own)?;
        let log_r = self.log_softmax(block, keys, &own)?;
        Ok(Distributions { log_p, log_r, own })
    }

    /// The logarithm of the distribution over the queue, with 0 at the own key.
    fn log_softmax(
        &self,
        block: &AnchorBlock<'_>,
        rows: &Tensor,
        own: &Tensor,
    ) -> Result<Tensor, TchError> {
        let logits = block.similarities(rows)?.f_div_scalar(self.temperature_consistency)?;
        let logits = logits.f_masked_fill(own, f64::NEG_INFINITY)?;
        logits.f_log_softmax(1, None::<Kind>)?.f_masked_fill(own, 0.0)
    }
}

/// The logarithms of both distributions over the queue.
struct Distributions {
    log_p: Tensor,
    log_r: Tensor,
    /// Where the own key is.
    own: Tensor,
}

/// A divergence that is the sum of `values`, `[block, candidates]`, with the gradient of `target`.
fn divergence(target: Tensor, values: &Tensor, own: Tensor) -> Result<Choice, TchError> {
    let value = values.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?;
    let chance = Some(value.f_zeros_like()?);
    Ok(Choice { value: Some(value), chance, ..Choice::new(target, Denominator::Except(own)) })
}
