//! SANE (Zhou, Xiong, Yuan, Hoi, NeurIPS 2021, arXiv 2106.14749): labels refined by the momentum
//! encoder's own predictions, and momentum mixup.
//!
//! ```text
//! Lc({x_i, y_i}) = -1/s sum_ik y_ik log( exp(f(x_i).b_k / temperature) / sum_l exp(f(x_i).b_l / temperature) )
//! y_i  = the refined label (see [`crate::refinery`]), from g(x~_i), temperature temperature * sharpening
//! x'_i = share_i x_i + (1 - share_i) x~_partner(i)         y'_i = share_i y_i + (1 - share_i) y_partner(i)
//! L = (1 - coefficient) Lc({x_i, 1hot_i}) + coefficient Lc({x'_i, y'_i})
//! ```
//!
//! The candidates `b` are the keys g(x~) of the batch, then the queue. View 0 is x~, view 1 is x; a
//! third view takes the place of x~ as the second ingredient (SANE's strong form), and pairs of views
//! beyond the second are the ingredients of further mixtures, whose losses are averaged (its
//! multi-crop form). Labels always come from view 0.

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::at_least;
use crate::refinery::{Predictions, refine};
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{
    Card, Choice, Encoded, Entry, Method, MixedInput, Mixing, ParameterError, Per, QueueUse, Role,
    Rows, Scheduled, Shape, Term, Varying, checks,
};

inventory::submit! { Entry::of::<Sane>() }

/// What mixed anchors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mixup {
    /// A query's image and the image behind another one's key.
    Momentum,
    /// Two queries' images.
    Vanilla,
    /// Nothing: the refined label is that of the query itself.
    None,
}

/// Hyper-parameters of [`Sane`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the online encoder's similarities.
    temperature: f64,
    /// The momentum encoder's similarities are divided by temperature times this (tau').
    sharpening: f64,
    /// How far labels are refined (mu).
    strength: Scheduled,
    /// Which predictions refine them.
    predictions: Predictions,
    /// Weight of the mixed term (lambda).
    coefficient: f64,
    mixup: Mixup,
    mixing: Mixing,
}

impl Default for Parameters {
    fn default() -> Self {
        let strength = Varying { from: 0.0, to: 1.0, epochs: None, shape: Shape::Cosine };
        Self {
            temperature: 0.2,
            sharpening: 0.8,
            strength: Scheduled::Varying(strength),
            predictions: Predictions::Both,
            coefficient: 0.5,
            mixup: Mixup::Momentum,
            mixing: Mixing { concentration: 2.0, per: Per::Sample, larger_share: false },
        }
    }
}

/// SANE.
#[derive(Debug)]
pub(crate) struct Sane(Parameters);

impl Define for Sane {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "sane",
        title: "SANE: self-labeling refinery and momentum mixup",
        paper: "Zhou, Xiong, Yuan, Hoi: A Theory-Driven Self-Labeling Refinement Method for Contrastive Representation Learning, NeurIPS 2021, arXiv 2106.14749",
        equation: "y_i  = (1 - alpha_i - beta_i) 1hot_i + alpha_i p_i + beta_i q_i\nx'_i = share_i x_i + (1 - share_i) x~_partner(i)      y'_i = share_i y_i + (1 - share_i) y_partner(i)\nL = (1 - coefficient) Lc({x_i, 1hot_i}) + coefficient Lc({x'_i, y'_i})",
        pieces: &[
            ("anchors", "queries, and mixtures of a query's image with that of another one's key"),
            ("candidates", "the keys of the batch, then the queue"),
            ("positives", "the own key, one-hot"),
            ("relations", "softmax of the teacher's similarities over all others, temperature * sharpening"),
            ("coefficient", "per sample: 1 - beta_i - alpha_i (1 - p_ii), with strength mu"),
            ("denominator", "all candidates"),
            ("mixup", "momentum, share ~ Beta(concentration, concentration); with more than two views, of those"),
            ("teacher", "momentum encoder"),
        ],
        combination: Some(
            "candidates = \"keys_and_queue\"\ntemperature = 0.2\n\
             target = { relations = { kind = \"softmax\", temperature = 0.16 }, coefficient = { rule = \"refinery\", strength = { from = 0.0, to = 1.0 } } }\n\
             mixup = { kind = \"momentum\", weight = 0.5, concentration = 2.0 }",
        ),
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        checks::temperature("sharpening", parameters.sharpening)?;
        checks::weight("strength", parameters.strength)?;
        checks::fraction("coefficient", parameters.coefficient)?;
        parameters.mixing.check("mixing.concentration")?;
        Ok(Self(parameters))
    }
}

impl Method for Sane {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        at_least(views, 2, "")?;
        if self.0.mixup != Mixup::Momentum {
            checks::two_views(views)?;
        } else if views > 3 && views % 2 == 1 {
            let reason = "two are needed, or three (the third is mixed in), or pairs of them";
            return Err(ParameterError::views(views, reason));
        }
        // What has no weight is not encoded.
        let unmixed = self.0.coefficient < 1.0 || self.0.mixup == Mixup::None;
        let role = |view| Role { online: view == 1 && unmixed, momentum: view == 0 };
        Ok((0..views).map(role).collect())
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Optional
    }

    fn mixed_inputs(&self, views: usize) -> Vec<MixedInput> {
        let ingredients: Vec<(usize, usize)> = match views {
            _ if self.0.coefficient == 0.0 => Vec::new(),
            2 => vec![(1, 0)],
            3 => vec![(1, 2)],
            _ => (2..views).step_by(2).map(|view| (view, view + 1)).collect(),
        };
        let input = |(base, other)| match self.0.mixup {
            Mixup::Momentum => Some(MixedInput { base, other, mixing: self.0.mixing }),
            Mixup::Vanilla => Some(MixedInput { base, other: base, mixing: self.0.mixing }),
            Mixup::None => None,
        };
        ingredients.into_iter().filter_map(input).collect()
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let Parameters { temperature, sharpening, predictions, coefficient, .. } = self.0;
        let strength = self.0.strength.at(&encoded.progress);
        let refined = || -> Result<_, TchError> {
            let keys = encoded.momentum(0)?.local.shallow_clone();
            Ok(Box::new(move |rows: &Rows<'_>| {
                let (similarities, own) = (rows.similarities(&keys)?, rows.positives()?);
                let sharpened = temperature * sharpening;
                let refined = refine(&similarities, &own, sharpened, strength, predictions)?;
                Ok(Choice::against_all(refined.labels))
            }))
        };
        let mut terms = Vec::new();
        if coefficient < 1.0 {
            let vanilla = encoded.against_keys(1, 0, true)?.term(temperature, Box::new(discriminate));
            terms.push(Term { measured: false, ..vanilla.weighing(1.0 - coefficient) });
        }
        if self.0.mixup == Mixup::None && coefficient > 0.0 {
            let term = encoded.against_keys(1, 0, true)?.term(temperature, refined()?);
            terms.push(term.weighing(coefficient));
        }
        let weight = coefficient / encoded.mixed.len().max(1) as f64;
        for mixed in &encoded.mixed {
            let frame = encoded.keys_frame(0, true, &mixed.anchors)?;
            terms.push(frame.mixed_term(mixed, temperature, refined()?).weighing(weight));
        }
        Ok(terms)
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
