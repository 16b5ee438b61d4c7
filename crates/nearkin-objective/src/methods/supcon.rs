//! SupCon (Khosla et al., NeurIPS 2020, arXiv 2004.11362): every candidate of the same class is a
//! positive. **Supervised**: labels enter the loss. It bounds what a method without labels can find.
//!
//! ```text
//! P_i = other views of the image, and all views of images of its class
//! L_out_i = -1/|P_i| sum_{p in P_i} log( exp(z_i.z_p / temperature) / sum_{k != i} exp(z_i.z_k / temperature) )
//! L_in_i  = -log( 1/|P_i| sum_{p in P_i} exp(z_i.z_p / temperature) / sum_{k != i} exp(z_i.z_k / temperature) )
//! ```
//!
//! `L_in` is the same formula: its gradient is that of the target softmax over P_i, whose entropy is
//! the constant between the two values.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::method::{Reduction, all_online};
use crate::registry::{Define, table};
use crate::{
    Card, Choice, Denominator, Encoded, Entry, Labels, Method, ParameterError, Role, Rows, Term,
    checks, target,
};

inventory::submit! { Entry::of::<SupCon>() }

/// Where the positives are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Positives {
    /// Outside the logarithm (the paper's choice).
    Outside,
    /// Inside, as a mean.
    InsideMean,
    /// Inside, as a sum.
    InsideSum,
}

/// Hyper-parameters of [`SupCon`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    positives: Positives,
    reduction: Reduction,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.1, positives: Positives::Outside, reduction: Reduction::Mean }
    }
}

/// SupCon.
#[derive(Debug)]
pub(crate) struct SupCon(Parameters);

impl Define for SupCon {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "supcon",
        title: "SupCon: all candidates of the same class are positives (SUPERVISED, for comparison)",
        paper: "Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020, arXiv 2004.11362",
        equation: "L_i = -1/|P_i| sum_{p in P_i} log( exp(z_i.z_p / temperature) / sum_{k != i} exp(z_i.z_k / temperature) )",
        pieces: &[
            ("candidates", "all views of the batch through the online encoder, all with gradient"),
            ("positives", "the other views of the image and every view of the same class, equal weights"),
            ("relations", "none"),
            ("denominator", "all but the anchor itself"),
            ("teacher", "the labels"),
        ],
        combination: Some(
            "candidates = \"views\"\ntemperature = 0.1\n\
             target = { relations = { kind = \"labels\" }, coefficient = { rule = \"count\" } }",
        ),
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

/// What a block's labels choose; `anchors` are the term's.
fn choose(
    rows: &Rows<'_>,
    labels: &Labels,
    anchors: &Tensor,
    parameters: &Parameters,
) -> Result<Choice, TchError> {
    let itself = rows.itself()?;
    let own_image = rows.mask(&rows.own_image()?)?;
    let mut same = rows.same_class(labels)?.f_logical_or(&rows.mask(&rows.positives()?)?)?;
    if let Some(itself) = &itself {
        same = same.f_scatter_value_(1, itself, 0)?;
    }
    let selected = same.f_logical_and(&own_image.f_logical_not()?)?;
    let mut choice = match parameters.positives {
        Positives::Outside => {
            let kind = rows.uniform_positives()?.kind();
            Choice::new(target::uniform_on(&same, kind)?, Denominator::All)
        }
        Positives::InsideMean | Positives::InsideSum => {
            let logits = rows.similarities(anchors)?.f_div_scalar(parameters.temperature)?;
            let logits = logits.f_masked_fill(&same.f_logical_not()?, f64::NEG_INFINITY)?;
            let target = logits.f_softmax(1, None::<Kind>)?;
            let last = [1].as_slice();
            let entropy = target.f_special_entr()?.f_sum_dim_intlist(last, false, None::<Kind>)?;
            let count = same.f_sum_dim_intlist(last, false, entropy.kind())?;
            let constant = match parameters.positives {
                Positives::InsideMean => count.f_log()?.f_sub(&entropy)?,
                _ => entropy.f_neg()?,
            };
            let chance = match parameters.positives {
                Positives::InsideMean => count.f_zeros_like()?,
                _ => count.f_log()?.f_neg()?,
            };
            let all = (rows.candidates() - i64::from(itself.is_some())) as f64;
            let chance = Some(chance.f_add_scalar(all.ln())?);
            Choice { constant: Some(constant), chance, ..Choice::new(target, Denominator::All) }
        }
    };
    choice.denominator = Denominator::without(rows, itself.as_ref())?;
    choice.selected = Some(selected);
    Ok(choice)
}

impl Method for SupCon {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        all_online(views)
    }

    fn encodes_views_together(&self) -> bool {
        true
    }

    fn uses_labels(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let frames = encoded.among_online_views()?;
        let weight = self.0.reduction.weight(frames.len());
        frames
            .into_iter()
            .map(|frame| {
                let (labels, parameters) = (encoded.labels()?.shallow_clone(), self.0.clone());
                let anchors = frame.anchors.f_detach()?;
                let rule = move |rows: &Rows<'_>| choose(rows, &labels, &anchors, &parameters);
                Ok(frame.term(self.0.temperature, Box::new(rule)).weighing(weight))
            })
            .collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
