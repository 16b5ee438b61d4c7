//! i-Mix (Lee et al., ICLR 2021, arXiv 2010.08887) and MixCo (Kim et al., 2020, arXiv 2010.06300):
//! queries that are mixtures of two images, with the mixed one-hot label.
//!
//! ```text
//! x'_i = share_i x_i + (1 - share_i) x_partner(i)      y'_i = share_i 1hot_i + (1 - share_i) 1hot_partner(i)
//! L = (1 - coefficient) InfoNCE(x, 1hot) + coefficient InfoNCE(x', y')
//! ```
//!
//! The candidates are the keys of the batch, then the queue if there is one. i-Mix is coefficient 1;
//! MixCo is coefficient 0.5 (up to a factor of 2 in the loss) with a temperature of its own.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{
    Card, Encoded, Entry, Method, MixedInput, Mixing, ParameterError, Per, QueueUse, Role,
    Term, checks,
};

inventory::submit! { Entry::of::<IMix>() }

/// Hyper-parameters of [`IMix`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the similarities of queries that are not mixed.
    temperature: f64,
    /// Divides the similarities of mixed queries.
    temperature_mixed: f64,
    /// Weight of the mixed queries.
    coefficient: f64,
    mixup: Mixing,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            temperature_mixed: 0.2,
            coefficient: 1.0,
            mixup: Mixing { concentration: 1.0, per: Per::Sample, larger_share: true },
        }
    }
}

/// i-Mix.
#[derive(Debug)]
pub(crate) struct IMix(Parameters);

impl Define for IMix {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "imix",
        title: "i-Mix / MixCo: mixed queries with mixed one-hot labels",
        paper: "Lee et al.: i-Mix, ICLR 2021, arXiv 2010.08887; Kim et al.: MixCo, 2020, arXiv 2010.06300",
        equation: "x'_i = share_i x_i + (1 - share_i) x_partner(i)      y'_i = share_i 1hot_i + (1 - share_i) 1hot_partner(i)\nL = (1 - coefficient) InfoNCE(x, 1hot) + coefficient InfoNCE(x', y')",
        pieces: &[
            ("anchors", "queries, and mixtures of two queries' images"),
            ("candidates", "the keys of the batch, then the queue"),
            ("positives", "the own key, one-hot, mixed as the images are"),
            ("relations", "none"),
            ("denominator", "all candidates"),
            ("mixup", "vanilla, share ~ Beta(concentration, concentration)"),
            ("teacher", "momentum encoder, for the keys"),
        ],
        combination: Some(
            "candidates = \"keys_and_queue\"\ntemperature = 0.2\ntarget = { coefficient = 1.0 }\n\
             mixup = { kind = \"vanilla\", weight = 1.0, concentration = 1.0, larger_share = true }",
        ),
        official_code: &[
            "the N-pair form (no momentum encoder, keys from the other view) is not offered",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("temperature_mixed", parameters.temperature_mixed)?;
        checks::fraction("coefficient", parameters.coefficient)?;
        parameters.mixup.check("mixup.concentration")?;
        Ok(Self(parameters))
    }
}

impl Method for IMix {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        checks::two_views(views)?;
        let unmixed = self.0.coefficient < 1.0;
        let role = |view| Role { online: view == 1 && unmixed, momentum: view == 0 };
        Ok((0..views).map(role).collect())
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Optional
    }

    fn mixed_inputs(&self, _views: usize) -> Vec<MixedInput> {
        match self.0.coefficient {
            0.0 => Vec::new(),
            _ => vec![MixedInput { base: 1, other: 1, mixing: self.0.mixup }],
        }
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, temperature_mixed, coefficient, .. } = self.0;
        let mut terms = Vec::new();
        if coefficient < 1.0 {
            let term = encoded.against_keys(1, 0, true)?.term(temperature, Box::new(discriminate));
            terms.push(term.weighing(1.0 - coefficient));
        }
        for mixed in &encoded.mixed {
            let frame = encoded.keys_frame(0, true, &mixed.anchors)?;
            let term = frame.mixed_term(mixed, temperature_mixed, Box::new(discriminate));
            terms.push(term.weighing(coefficient));
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
