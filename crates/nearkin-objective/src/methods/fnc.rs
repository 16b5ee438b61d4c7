//! FNC (Huynh, Kornblith, Walter, Maire, Khademi, WACV 2022, arXiv 2011.11765): find false negatives
//! through support views, then take them out of the denominator or make them positives.
//!
//! ```text
//! score_im = max (or mean) over the support views s of image i of cos(z_m, z^s_i)        for negatives m
//! F_i      = the top_k best of these, or those above the threshold, or those that are both
//! elimination (2)   L_i = -log exp(s_ij / t) / sum_{k != i, k not in F_i} exp(s_ik / t)
//! attraction  (3)   L_i = -1/(1 + |F_i|) sum_{c in {j} + F_i} log( exp(s_ic / t) / sum_{k != i} exp(s_ik / t) )
//! ```
//!
//! Candidates are views, not images; views of the own image are never selected. The last
//! `support_views` views go through the momentum encoder and serve as support only. The authors' code
//! knows attraction alone, and makes every view anchor, positive and support: that is
//! `support = "anchors_too"`, `false_negatives = "attract"`, `aggregation = "maximum"`,
//! `reduction = "sum_of_views"`, with `memory = true` (and a queue that starts with zeros) for its
//! momentum form.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::method::{Frame, Reduction, at_least};
use crate::registry::{Define, table};
use crate::selection::{Aggregation, Selection, scores};
use crate::{
    Card, Choice, Denominator, Embedding, Encoded, Entry, Labels, Method, ParameterError, QueueUse,
    Role, Rows, Term, checks, target,
};

inventory::submit! { Entry::of::<Fnc>() }

/// What happens to false negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Treatment {
    /// They leave the denominator (equation 2).
    Eliminate,
    /// They become positives, and stay in the denominator (equation 3).
    Attract,
    /// They become positives and leave the denominator (not in the paper).
    AttractAndEliminate,
    /// Nothing: NT-Xent.
    Keep,
}

/// What support views are besides support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Support {
    /// Nothing (the paper).
    Only,
    /// All views are support, anchors and positives (the authors' code).
    AnchorsToo,
}

/// What says which negatives are false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Selector {
    /// The scores.
    Scores,
    /// The labels. **Supervised**: for comparisons only.
    Labels,
}

/// Hyper-parameters of [`Fnc`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities of the loss; scores are raw cosines.
    temperature: f64,
    false_negatives: Treatment,
    selection: Selector,
    aggregation: Aggregation,
    /// Select among so many best; 0 for no such limit.
    top_k: usize,
    /// Select above this cosine; below -1 for no such limit.
    threshold: f64,
    support: Support,
    /// How many views (the last ones) are support only; with 0 the anchor itself scores.
    support_views: usize,
    /// Candidates are the momentum encoder's embeddings and a queue of past ones, instead of the
    /// online embeddings of the batch.
    memory: bool,
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            false_negatives: Treatment::Attract,
            selection: Selector::Scores,
            aggregation: Aggregation::Maximum,
            top_k: 10,
            threshold: 0.7,
            support: Support::Only,
            support_views: 2,
            memory: false,
            reduction: Reduction::Mean,
        }
    }
}

/// FNC.
#[derive(Debug)]
pub(crate) struct Fnc(Parameters);

impl Define for Fnc {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "fnc",
        title: "FNC: false negatives found through support views leave, or become positives",
        paper: "Huynh, Kornblith, Walter, Maire, Khademi: Boosting Contrastive Self-Supervised Learning with False Negative Cancellation, WACV 2022, arXiv 2011.11765",
        equation: "score_im = max (or mean) over support views s of cos(z_m, z^s_i)      F_i = top_k and above threshold\nelimination: L_i = -log exp(s_ij / t) / sum_{k != i, k not in F_i} exp(s_ik / t)\nattraction:  L_i = -1/(1 + |F_i|) sum_{c in {j} + F_i} log( exp(s_ic / t) / sum_{k != i} exp(s_ik / t) )",
        pieces: &[
            ("candidates", "the main views of the batch through the online encoder (memory = true: the momentum encoder's, then the queue)"),
            ("positives", "the other main views of the image, equal weights"),
            ("relations", "equal weights on the selected false negatives (attraction), none (elimination)"),
            ("coefficient", "positives / (positives + selected), per sample"),
            ("denominator", "all but the anchor itself, and but the selected (elimination)"),
            ("teacher", "momentum encoder on the support views (selection = \"labels\": the labels, SUPERVISED)"),
        ],
        combination: Some(
            "candidates = \"views\"\ntemperature = 0.1\nteacher = \"support\"\nsupport_views = 2\n\
             selection = { top_k = 10, threshold = 0.7 }\n\
             target = { relations = { kind = \"selected\" }, coefficient = { rule = \"count\" } }",
        ),
        official_code: &[
            "attraction only, with every view as anchor, positive and support: support = \"anchors_too\", reduction = \"sum_of_views\"",
            "candidates are past and present keys of a momentum encoder by default: memory = true with [queue] start = \"zeros\"",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        let fnc = Self(parameters);
        let Parameters { support, support_views, .. } = fnc.0;
        if fnc.selects_by_score() {
            if fnc.0.threshold.is_nan() {
                let reason = "a cosine is a number; below -1 it is no limit";
                return Err(ParameterError::new("threshold", &fnc.0.threshold, reason));
            }
            fnc.selection().check("")?;
        } else if support_views > 0 {
            let reason = "support views are of use only where scores select: set it to 0";
            return Err(ParameterError::new("support_views", &support_views, reason));
        }
        if support == Support::AnchorsToo && support_views > 0 {
            let reason = "with support = \"anchors_too\" every view is support: set it to 0";
            return Err(ParameterError::new("support_views", &support_views, reason));
        }
        Ok(fnc)
    }
}

impl Fnc {
    fn selection(&self) -> Selection {
        Selection {
            top_k: (self.0.top_k > 0).then_some(self.0.top_k),
            threshold: (self.0.threshold >= -1.0).then_some(self.0.threshold),
        }
    }

    fn selects_by_score(&self) -> bool {
        self.0.false_negatives != Treatment::Keep && self.0.selection == Selector::Scores
    }

    /// Embeddings of the anchors' images that score the candidates of the anchors of `view`.
    fn support(&self, encoded: &Encoded, view: usize, main: usize) -> Result<Vec<Tensor>, TchError> {
        let local = |embedding: &Embedding| embedding.local.f_detach();
        match (self.0.support, self.0.support_views) {
            (Support::AnchorsToo, _) if self.0.memory => {
                (0..main).map(|view| local(encoded.momentum(view)?)).collect()
            }
            (Support::AnchorsToo, _) => {
                (0..main).map(|view| local(encoded.online(view)?)).collect()
            }
            (Support::Only, 0) => Ok(vec![local(encoded.online(view)?)?]),
            (Support::Only, count) => {
                (main..main + count).map(|view| local(encoded.momentum(view)?)).collect()
            }
        }
    }
}

/// The rule: from the selected false negatives to target and denominator.
fn choose(rows: &Rows<'_>, selected: Option<Tensor>, how: Treatment) -> Result<Choice, TchError> {
    let itself = rows.itself()?;
    let positives = rows.uniform_positives()?;
    let Some(selected) = selected else {
        return Ok(Choice::new(positives, Denominator::without(rows, itself.as_ref())?));
    };
    let target = match how {
        Treatment::Attract | Treatment::AttractAndEliminate => {
            let all = selected.f_logical_or(&rows.mask(&rows.positives()?)?)?;
            target::uniform_on(&all, positives.kind())?
        }
        Treatment::Eliminate | Treatment::Keep => positives,
    };
    let denominator = match (how, itself) {
        (Treatment::Attract | Treatment::Keep, itself) => {
            Denominator::without(rows, itself.as_ref())?
        }
        (_, Some(itself)) => Denominator::Except(selected.f_logical_or(&rows.mask(&itself)?)?),
        (_, None) => Denominator::Except(selected.shallow_clone()),
    };
    Ok(Choice { selected: Some(selected), ..Choice::new(target, denominator) })
}

/// Candidates of other images that the labels say are of the anchor's class.
fn select_by_labels(rows: &Rows<'_>, labels: &Labels) -> Result<Tensor, TchError> {
    rows.same_class(labels)?.f_scatter_value_(1, &rows.own_image()?, 0)
}

impl Method for Fnc {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        let Parameters { support_views, memory, .. } = self.0;
        at_least(views, support_views + 2, " (two, and support_views)")?;
        let main = views - support_views;
        let role = |view| Role { online: view < main, momentum: view >= main || memory };
        Ok((0..views).map(role).collect())
    }

    fn queue_use(&self) -> QueueUse {
        match self.0.memory {
            true => QueueUse::Optional,
            false => QueueUse::Never,
        }
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn uses_labels(&self) -> bool {
        self.0.false_negatives != Treatment::Keep && self.0.selection == Selector::Labels
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let main = encoded.online.len() - self.0.support_views;
        let weight = self.0.reduction.weight(main);
        let (how, aggregation) = (self.0.false_negatives, self.0.aggregation);
        let frames: Vec<Frame> = if self.0.memory {
            let without_gradient = |view| {
                let Embedding { local, everywhere } = encoded.momentum(view)?;
                Ok(Embedding { local: local.f_detach()?, everywhere: everywhere.f_detach()? })
            };
            let views: Vec<Embedding> =
                (0..main).map(without_gradient).collect::<Result<_, TchError>>()?;
            let views: Vec<&Embedding> = views.iter().collect();
            let frame = |view| encoded.among(&encoded.online(view)?.local, &views, view, true);
            (0..main).map(frame).collect::<Result<_, TchError>>()?
        } else {
            encoded.among_online_views()?
        };
        let mut terms = Vec::with_capacity(main);
        for (view, frame) in frames.into_iter().enumerate() {
            let rule: crate::Rule = if how == Treatment::Keep {
                Box::new(move |rows| choose(rows, None, how))
            } else if self.0.selection == Selector::Labels {
                let labels = encoded.labels()?.shallow_clone();
                Box::new(move |rows| choose(rows, Some(select_by_labels(rows, &labels)?), how))
            } else {
                let (support, selection) = (self.support(encoded, view, main)?, self.selection());
                Box::new(move |rows| {
                    let scores = scores(rows, &support, aggregation)?;
                    choose(rows, Some(selection.select(&scores, &rows.own_image()?)?), how)
                })
            };
            terms.push(frame.term(self.0.temperature, rule).weighing(weight));
        }
        Ok(terms)
    }

    fn keys<'a>(&self, encoded: &'a Encoded) -> Vec<&'a Embedding> {
        let main = encoded.momentum.len() - self.0.support_views;
        encoded.momentum[..main].iter().flatten().collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
