#![doc = include_str!("sane.md")]

use serde::{Deserialize, Serialize};
use tch::TchError;

use crate::method::at_least;
use crate::refinery::{Predictions, refine};
use crate::{
    AnchorBlock, Choice, Define, Encoded, Entry, Method, MixedInput, Mixing, ParameterError, Per,
    QueueUse, Requirements, Role, Scheduled, Shape, Term, Varying, checks,
};

inventory::submit! { Entry::new::<Sane>() }

/// Hyper-parameters of SANE.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sane {
    /// Divides the online encoder's similarities.
    pub temperature: f64,
    /// The momentum encoder's similarities are divided by temperature times this (tau').
    pub sharpening: f64,
    /// How far labels are refined (mu).
    pub strength: Scheduled,
    /// Which predictions refine them.
    pub predictions: Predictions,
    /// Weight of the mixed term (lambda).
    pub coefficient: f64,
    /// What mixed anchors are made of.
    pub mixup: MixupPartner,
    /// How they are mixed.
    pub mixing: Mixing,
}

/// What mixed anchors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixupPartner {
    /// A query's image and the image behind another one's key.
    Momentum,
    /// Two queries' images.
    Vanilla,
    /// Nothing: the refined label is that of the query itself.
    None,
}

impl Default for Sane {
    fn default() -> Self {
        let strength = Varying { from: 0.0, to: 1.0, epochs: None, shape: Shape::Cosine };
        Self {
            temperature: 0.2,
            sharpening: 0.8,
            strength: Scheduled::Varying(strength),
            predictions: Predictions::Both,
            coefficient: 0.5,
            mixup: MixupPartner::Momentum,
            mixing: Mixing { concentration: 2.0, per: Per::Sample, larger_share: false },
        }
    }
}

impl Define for Sane {
    type Settings = Self;
    const NAME: &'static str = "sane";
    const CARD: &'static str = include_str!("sane.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        checks::temperature("sharpening", settings.sharpening)?;
        checks::weight("strength", settings.strength)?;
        checks::fraction("coefficient", settings.coefficient)?;
        settings.mixing.check("mixing.concentration")?;
        Ok(settings)
    }
}

/// The view of the keys, and the view of the queries.
const KEY: usize = 0;
const QUERY: usize = 1;

impl Sane {
    fn mixed_inputs(&self, views: usize) -> Vec<MixedInput> {
        let ingredients: Vec<(usize, usize)> = match views {
            _ if self.coefficient == 0.0 => Vec::new(),
            2 => vec![(QUERY, KEY)],
            3 => vec![(QUERY, 2)],
            _ => (2..views).step_by(2).map(|view| (view, view + 1)).collect(),
        };
        let input = |(base, other)| match self.mixup {
            MixupPartner::Momentum => Some(MixedInput { base, other, mixing: self.mixing }),
            MixupPartner::Vanilla => Some(MixedInput { base, other: base, mixing: self.mixing }),
            MixupPartner::None => None,
        };
        ingredients.into_iter().filter_map(input).collect()
    }
}

impl Method for Sane {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        at_least(views, 2, "")?;
        if self.mixup != MixupPartner::Momentum {
            checks::two_views(views)?;
        } else if views > 3 && views % 2 == 1 {
            let reason = "two are needed, or three (the third is mixed in), or pairs of them";
            return Err(ParameterError::views(views, reason));
        }
        // What has no weight is not encoded.
        let has_queries = self.coefficient < 1.0 || self.mixup == MixupPartner::None;
        let role = |view| Role::new(view == QUERY && has_queries, view == KEY);
        Ok(Requirements {
            queue: QueueUse::Optional,
            mixed_inputs: self.mixed_inputs(views),
            ..Requirements::new((0..views).map(role).collect())
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let keys = &encoded.key(KEY)?.local;
        let strength = self.strength.at(&encoded.progress);
        let refined = move |block: &AnchorBlock<'_>| {
            let (similarities, own) = (block.similarities(keys)?, block.positives()?);
            let temperature = self.temperature * self.sharpening;
            let refined = refine(&similarities, &own, temperature, strength, self.predictions)?;
            Ok(Choice::against_all(refined.labels))
        };
        let queries = || encoded.against_all_keys(&encoded.online(QUERY)?.local, KEY);
        let mut terms = Vec::new();
        if self.coefficient < 1.0 {
            let vanilla = queries()?.term(self.temperature, Box::new(Choice::discriminate));
            terms.push(Term { measured: false, ..vanilla.weighing(1.0 - self.coefficient) });
        }
        if self.mixup == MixupPartner::None && self.coefficient > 0.0 {
            let term = queries()?.term(self.temperature, Box::new(refined));
            terms.push(term.weighing(self.coefficient));
        }
        let weight = self.coefficient / encoded.mixed.len().max(1) as f64;
        for mixed in &encoded.mixed {
            let frame = encoded.against_all_keys(&mixed.anchors, KEY)?;
            let term = frame.mixed_term(mixed, self.temperature, Box::new(refined));
            terms.push(term.weighing(weight));
        }
        Ok(terms)
    }
}
