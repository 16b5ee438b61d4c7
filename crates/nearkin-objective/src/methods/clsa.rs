//! CLSA (Wang, Qi, CVPR Workshops 2021 / TPAMI 2022, arXiv 2104.07713): a strongly augmented query
//! repeats the similarities of the weakly augmented one.
//!
//! ```text
//! L = mean_i -log p(k_i | q_i)  +  weight sum over strong views of mean_i -sum_c P_ic log p(c | s_i)
//! P_i = softmax of q_i.c / temperature_target      p(c | q) = softmax of q.c / temperature
//! ```
//!
//! View 0 makes the keys, view 1 the weak queries `q`, all further views strong queries `s`. The
//! candidates are the keys of the batch and the queue. The teacher is the *online* encoder on the
//! weak view; no gradient flows through it.
//!
//! The paper has one temperature. In the authors' code a second one (`clsa_t`) divides the
//! similarities of the strong queries as well as the target's; that is
//! `strong_temperature = "target"`.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::at_least;
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{
    Card, Choice, Encoded, Entry, Method, ParameterError, QueueUse, Role, Rows, Term, checks,
    target,
};

inventory::submit! { Entry::of::<Clsa>() }

/// Hyper-parameters of [`Clsa`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the similarities of queries.
    temperature: f64,
    /// Divides the weak query's similarities where they are the target.
    temperature_target: f64,
    /// Of each strong view, beside an InfoNCE of weight 1.
    weight: f64,
    strong_temperature: StrongTemperature,
}

/// Which temperature divides the similarities of the strong queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StrongTemperature {
    /// `temperature`, as for the weak queries.
    Query,
    /// `temperature_target` (the authors' code).
    Target,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            temperature_target: 0.2,
            weight: 1.0,
            strong_temperature: StrongTemperature::Query,
        }
    }
}

/// CLSA.
#[derive(Debug)]
pub(crate) struct Clsa(Parameters);

impl Define for Clsa {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "clsa",
        title: "CLSA: a strongly augmented query repeats the weak one's similarities",
        paper: "Wang, Qi: Contrastive Learning with Stronger Augmentations, 2021, arXiv 2104.07713",
        equation: "P_i = softmax of q_i.c / temperature_target\nL = mean_i -log p(k_i | q_i)  +  weight sum over strong views of mean_i -sum_c P_ic log p(c | s_i)",
        pieces: &[
            ("candidates", "the keys of the batch, then the queue"),
            ("positives", "the own key, one-hot, for the weak query"),
            ("relations", "softmax of the weak query's similarities over all candidates, for the strong queries"),
            ("coefficient", "1 for the weak query, 0 for the strong ones"),
            ("denominator", "all candidates"),
            ("teacher", "momentum encoder for the keys, online encoder on the weak view for the relations"),
        ],
        combination: None,
        official_code: &[
            "its --clsa_t divides the strong queries' similarities as well as the target's: strong_temperature = \"target\" (no difference while both temperatures are equal, as in the paper)",
            "its symmetric form (--sym 1, which its authors call not verified) is not offered",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_target", parameters.temperature_target)?;
        checks::weight("weight", parameters.weight)?;
        Ok(Self(parameters))
    }
}

impl Method for Clsa {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        at_least(views, 3, " (key, weak query, strong queries)")?;
        // What has no weight is not encoded.
        let last_online = if self.0.weight > 0.0 { views } else { 1 };
        let role = |view| Role { online: (1..=last_online).contains(&view), momentum: view == 0 };
        Ok((0..views).map(role).collect())
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Optional
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, temperature_target, weight, strong_temperature } = self.0;
        let temperature_of_strong = match strong_temperature {
            StrongTemperature::Query => temperature,
            StrongTemperature::Target => temperature_target,
        };
        let weak = encoded.against_keys(1, 0, true)?;
        let teacher = weak.anchors.f_detach()?;
        let mut terms =
            vec![Term { measured: false, ..weak.term(temperature, Box::new(discriminate)) }];
        let views = if weight > 0.0 { encoded.online.len() } else { 2 };
        for strong in 2..views {
            let teacher = teacher.shallow_clone();
            let rule = move |rows: &Rows<'_>| {
                let nothing = rows.positives()?.f_narrow(1, 0, 0)?;
                let similarities = rows.similarities(&teacher)?;
                target::relations(&similarities, &nothing, temperature_target)
                    .map(Choice::against_all)
            };
            let frame = encoded.against_keys(strong, 0, true)?;
            terms.push(frame.term(temperature_of_strong, Box::new(rule)).weighing(weight));
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
