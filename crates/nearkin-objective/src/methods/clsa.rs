#![doc = include_str!("clsa.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::at_least;
use crate::{
    AnchorBlock, Choice, Define, Encoded, Entry, Method, ParameterError, QueueUse, Requirements,
    Role, Term, checks, target,
};

inventory::submit! { Entry::new::<Clsa>() }

/// Hyper-parameters of CLSA.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clsa {
    /// Divides the similarities of queries.
    pub temperature: f64,
    /// Divides the weak query's similarities where they are the target.
    pub temperature_target: f64,
    /// Weight of each strong view, beside an InfoNCE of weight 1.
    pub weight: f64,
    /// Which temperature divides the similarities of the strong queries.
    pub strong_temperature: StrongTemperature,
}

/// Which temperature divides the similarities of the strong queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrongTemperature {
    /// `temperature`, as for the weak queries.
    Query,
    /// `temperature_target` (the authors' code).
    Target,
}

impl Default for Clsa {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            temperature_target: 0.2,
            weight: 1.0,
            strong_temperature: StrongTemperature::Query,
        }
    }
}

impl Define for Clsa {
    type Settings = Self;
    const NAME: &'static str = "clsa";
    const CARD: &'static str = include_str!("clsa.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("temperature_target", settings.temperature_target)?;
        checks::weight("weight", settings.weight)?;
        Ok(settings)
    }
}

/// The view of the keys, and the view of the weak queries. All other views are strong.
const KEY: usize = 0;
const WEAK: usize = 1;

impl Method for Clsa {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        at_least(views, 3, " (key, weak query, strong queries)")?;
        // What has no weight is not encoded.
        let queries = if self.weight > 0.0 { views - 1 } else { 1 };
        let role = |view| Role::new((1..=queries).contains(&view), view == KEY);
        let roles = (0..views).map(role).collect();
        Ok(Requirements { queue: QueueUse::Optional, ..Requirements::new(roles) })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let strong_temperature = match self.strong_temperature {
            StrongTemperature::Query => self.temperature,
            StrongTemperature::Target => self.temperature_target,
        };
        let weak = &encoded.online(WEAK)?.local;
        let discrimination = encoded
            .against_all_keys(weak, KEY)?
            .term(self.temperature, Box::new(Choice::discriminate));
        let mut terms = vec![Term { measured: false, ..discrimination }];
        let views = if self.weight > 0.0 { encoded.online.len() } else { 2 };
        for strong in WEAK + 1..views {
            let rule = |block: &AnchorBlock<'_>| {
                let relations =
                    target::softmax(&block.similarities(weak)?, self.temperature_target)?;
                Ok(Choice::against_all(relations))
            };
            let frame = encoded.against_all_keys(&encoded.online(strong)?.local, KEY)?;
            terms.push(frame.term(strong_temperature, Box::new(rule)).weighing(self.weight));
        }
        Ok(terms)
    }
}
