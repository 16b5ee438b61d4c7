//! SupCon (Khosla et al., NeurIPS 2020, arXiv 2004.11362): every candidate of the same class is a
//! positive. **Supervised**: labels enter the loss. It is an upper bound for methods without labels.
//!
//! ```text
//! P_i = other views of the image, and all views of images of its class
//! L_out_i = -1/|P_i| sum_{p in P_i} log( exp(z_i.z_p / temperature) / sum_{k != i} exp(z_i.z_k / temperature) )
//! L_in_i  = -log( 1/|P_i| sum_{p in P_i} exp(z_i.z_p / temperature) / sum_{k != i} exp(z_i.z_k / temperature) )
//! ```
//!
//! `L_in` has the gradient of the common formula with the target softmax over P_i. Its value is
//! computed from the two sums themselves, without that target.
//!
//! The authors' code multiplies the loss by temperature / 0.07, which `base_temperature` does here.

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
    /// Multiply the loss by temperature / base_temperature; as it is if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_temperature: Option<f64>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            positives: Positives::Outside,
            reduction: Reduction::Mean,
            base_temperature: None,
        }
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
        official_code: &[
            "its loss is multiplied by temperature / 0.07: base_temperature = 0.07 (PyTorch), or by temperature: base_temperature = 1.0 (TensorFlow)",
        ],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        if let Some(base) = parameters.base_temperature {
            checks::temperature("base_temperature", base)?;
        }
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
            let last = [1].as_slice();
            let logarithm_of_sum = |left_out: &Tensor| {
                logits.f_masked_fill(left_out, f64::NEG_INFINITY)?.f_logsumexp(last, false)
            };
            let not_same = same.f_logical_not()?;
            let of_negatives = logarithm_of_sum(&same.f_logical_or(&own_image)?)?;
            let ratio = of_negatives.f_sub(&logarithm_of_sum(&not_same)?)?;
            // log((positives + negatives) / positives), exact where the negatives hardly count.
            let sum_inside = ratio.f_logaddexp(&ratio.f_zeros_like()?)?;
            let count = same.f_sum_dim_intlist(last, false, logits.kind())?.f_log()?;
            let all = (rows.candidates() - i64::from(itself.is_some())) as f64;
            let chance = count.f_neg()?.f_add_scalar(all.ln())?;
            let (value, chance) = match parameters.positives {
                Positives::InsideMean => (sum_inside.f_add(&count)?, chance.f_add(&count)?),
                _ => (sum_inside, chance),
            };
            let logits = logits.f_masked_fill(&not_same, f64::NEG_INFINITY)?;
            let target = logits.f_softmax(1, None::<Kind>)?;
            let choice = Choice::new(target, Denominator::All);
            Choice { value: Some(value), chance: Some(chance), ..choice }
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
        let scale = self.0.base_temperature.map_or(1.0, |base| self.0.temperature / base);
        let weight = scale * self.0.reduction.weight(frames.len());
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
