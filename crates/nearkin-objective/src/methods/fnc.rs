#![doc = include_str!("fnc.md")]

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::method::at_least;
use crate::selection::{Aggregation, Selection, scores};
use crate::{
    AnchorBlock, Choice, Define, Denominator, Encoded, Entry, Method, ParameterError, QueueUse,
    Reduction, Requirements, Role, Rule, Term, checks, target,
};

inventory::submit! { Entry::new::<Fnc>() }

/// Hyper-parameters of FNC.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fnc {
    /// Divides the cosine similarities of the loss; scores are raw cosines.
    pub temperature: f64,
    /// What happens to false negatives.
    pub false_negatives: Treatment,
    /// What says which negatives are false.
    pub selection: Selector,
    /// How the scores of the support views become one.
    pub aggregation: Aggregation,
    /// Select among this many best; 0 for no such limit.
    pub top_k: usize,
    /// Select above this cosine; below -1 for no such limit.
    pub threshold: f64,
    /// What support views are besides support.
    pub support: Support,
    /// How many views (the last ones) are support only; with 0 the anchor itself scores.
    pub support_views: usize,
    /// Candidates are keys of the momentum encoder and a queue of past ones, instead of the online
    /// embeddings of the batch.
    pub memory: bool,
    /// The mean over all anchors, or the sum of the views' means.
    pub reduction: Reduction,
}

/// What happens to false negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
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
pub enum Support {
    /// Nothing (the paper).
    Only,
    /// All views are support, anchors and positives (the authors' code).
    AnchorsToo,
}

/// What says which negatives are false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The scores.
    Scores,
    /// The labels. **Supervised**: for comparisons only.
    Labels,
}

impl Default for Fnc {
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

impl Define for Fnc {
    type Settings = Self;
    const NAME: &'static str = "fnc";
    const CARD: &'static str = include_str!("fnc.md");

    fn new(fnc: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", fnc.temperature)?;
        let refuse_support_views = |reason: &str| {
            if fnc.support_views == 0 {
                return Ok(());
            }
            Err(ParameterError::new("support_views", &fnc.support_views, reason))
        };
        if fnc.selects_by(Selector::Scores) {
            if fnc.threshold.is_nan() {
                let reason = "a cosine is a number; below -1 it is no limit";
                return Err(ParameterError::new("threshold", &fnc.threshold, reason));
            }
            fnc.score_selection().check("")?;
        } else {
            refuse_support_views("support views are of use only where scores select: set it to 0")?;
        }
        if fnc.support == Support::AnchorsToo {
            refuse_support_views(
                "with support = \"anchors_too\" every view is support: set it to 0",
            )?;
        }
        Ok(fnc)
    }
}

impl Method for Fnc {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        at_least(views, self.support_views + 2, " (two, and support_views)")?;
        let main = views - self.support_views;
        let role = |view| Role::new(view < main, view >= main || self.memory);
        Ok(Requirements {
            queue: if self.memory { QueueUse::Optional } else { QueueUse::Never },
            enqueued: if self.memory { (0..main).collect() } else { Vec::new() },
            views_share_batch_norm: true,
            labels: self.selects_by(Selector::Labels),
            ..Requirements::new((0..views).map(role).collect())
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let main = encoded.online.len() - self.support_views;
        let frames = if self.memory {
            encoded.among_key_views(main)?
        } else {
            encoded.among_online_views()?
        };
        let weight = self.reduction.weight(main);
        let numbered = frames.into_iter().enumerate();
        numbered
            .map(|(view, frame)| {
                let rule = self.rule(encoded, view, main)?;
                Ok(frame.term(self.temperature, rule).weighing(weight))
            })
            .collect()
    }
}

impl Fnc {
    fn score_selection(&self) -> Selection {
        Selection {
            top_k: (self.top_k > 0).then_some(self.top_k),
            threshold: (self.threshold >= -1.0).then_some(self.threshold),
        }
    }

    fn selects_by(&self, selector: Selector) -> bool {
        self.false_negatives != Treatment::Keep && self.selection == selector
    }

    /// The rule for the anchors of `view`, one of the `main` views.
    fn rule<'a>(
        &'a self,
        encoded: &'a Encoded,
        view: usize,
        main: usize,
    ) -> Result<Rule<'a>, TchError> {
        if self.selects_by(Selector::Labels) {
            let labels = encoded.labels()?;
            return Ok(Box::new(move |block| {
                self.choose(block, labels.same_class_of_others(block)?)
            }));
        }
        if self.selects_by(Selector::Scores) {
            let support = self.support(encoded, view, main)?;
            return Ok(Box::new(move |block| {
                let scores = scores(block, &support, self.aggregation)?;
                let selected = self.score_selection().select(&scores, &block.own_image()?)?;
                self.choose(block, selected)
            }));
        }
        Ok(Box::new(|block| {
            Ok(Choice::new(block.uniform_positives()?, Denominator::without_anchor(block)?))
        }))
    }

    /// Embeddings of the anchors' images that score the candidates of the anchors of `view`.
    fn support(
        &self,
        encoded: &Encoded,
        view: usize,
        main: usize,
    ) -> Result<Vec<Tensor>, TchError> {
        let key = |view| encoded.key(view)?.local.f_detach();
        let online = |view| encoded.online(view)?.local.f_detach();
        match self.support {
            Support::AnchorsToo if self.memory => (0..main).map(key).collect(),
            Support::AnchorsToo => (0..main).map(online).collect(),
            Support::Only if self.support_views == 0 => Ok(vec![online(view)?]),
            Support::Only => (main..main + self.support_views).map(key).collect(),
        }
    }

    /// From the selected false negatives to target and denominator.
    fn choose(&self, block: &AnchorBlock<'_>, selected: Tensor) -> Result<Choice, TchError> {
        let attracts =
            matches!(self.false_negatives, Treatment::Attract | Treatment::AttractAndEliminate);
        let eliminates =
            matches!(self.false_negatives, Treatment::Eliminate | Treatment::AttractAndEliminate);
        let target = if attracts {
            let positives = selected.f_logical_or(&block.mask(&block.positives()?)?)?;
            target::uniform_on(&positives, block.kind())?
        } else {
            block.uniform_positives()?
        };
        let denominator = if eliminates {
            Denominator::without_anchor_and(block, &selected)?
        } else {
            Denominator::without_anchor(block)?
        };
        Ok(Choice { selected: Some(selected), ..Choice::new(target, denominator) })
    }
}
