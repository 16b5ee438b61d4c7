#![doc = include_str!("imix.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::{
    Choice, Define, Encoded, Entry, Method, MixedInput, Mixing, ParameterError, Per, QueueUse,
    Requirements, Role, Term, checks,
};

inventory::submit! { Entry::new::<IMix>() }

/// Hyper-parameters of i-Mix and MixCo.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IMix {
    /// Divides the similarities of queries that are not mixed.
    pub temperature: f64,
    /// Divides the similarities of mixed queries.
    pub temperature_mixed: f64,
    /// Weight of the mixed queries.
    pub coefficient: f64,
    /// How queries are mixed.
    pub mixup: Mixing,
}

impl Default for IMix {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            temperature_mixed: 0.2,
            coefficient: 1.0,
            mixup: Mixing { concentration: 1.0, per: Per::Sample, larger_share: true },
        }
    }
}

impl Define for IMix {
    type Settings = Self;
    const NAME: &'static str = "imix";
    const CARD: &'static str = include_str!("imix.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_mixed", settings.temperature_mixed)?;
        checks::fraction("coefficient", settings.coefficient)?;
        settings.mixup.check("mixup.concentration")?;
        Ok(settings)
    }
}

/// The view of the keys, and the view of the queries.
const KEY: usize = 0;
const QUERY: usize = 1;

impl Method for IMix {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        checks::two_views(views)?;
        // What has no weight is not encoded.
        let query = if self.coefficient < 1.0 { Role::ONLINE } else { Role::default() };
        let mixed = MixedInput { base: QUERY, other: QUERY, mixing: self.mixup };
        Ok(Requirements {
            queue: QueueUse::Optional,
            mixed_inputs: if self.coefficient > 0.0 { vec![mixed] } else { Vec::new() },
            ..Requirements::new(vec![Role::KEY, query])
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let mut terms = Vec::new();
        if self.coefficient < 1.0 {
            let frame = encoded.against_all_keys(&encoded.online(QUERY)?.local, KEY)?;
            let term = frame.term(self.temperature, Box::new(Choice::discriminate));
            terms.push(term.weighing(1.0 - self.coefficient));
        }
        for mixed in &encoded.mixed {
            let frame = encoded.against_all_keys(&mixed.anchors, KEY)?;
            let rule = Box::new(Choice::discriminate);
            let term = frame.mixed_term(mixed, self.temperature_mixed, rule);
            terms.push(term.weighing(self.coefficient));
        }
        Ok(terms)
    }
}
