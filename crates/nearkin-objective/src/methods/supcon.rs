#![doc = include_str!("supcon.md")]

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    AnchorBlock, AnchorView, Choice, Define, Denominator, Entry, ParameterError, Reduction,
    ViewMethod, checks, target,
};

inventory::submit! { Entry::views::<SupCon>() }

/// Hyper-parameters of SupCon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupCon {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// Where the positives are averaged.
    pub positives: PositivesAverage,
    /// The mean over all anchors, or the sum of the views' means.
    pub reduction: Reduction,
    /// Multiply the loss by temperature / base_temperature, or not if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_temperature: Option<f64>,
}

/// Where the positives are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositivesAverage {
    /// Outside the logarithm (the paper's choice).
    Outside,
    /// Inside, as a mean.
    InsideMean,
    /// Inside, as a sum.
    InsideSum,
}

impl Default for SupCon {
    fn default() -> Self {
        let positives = PositivesAverage::Outside;
        let reduction = Reduction::Mean;
        Self { temperature: 0.1, positives, reduction, base_temperature: None }
    }
}

impl Define for SupCon {
    type Settings = Self;
    const NAME: &'static str = "supcon";
    const CARD: &'static str = include_str!("supcon.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        if let Some(base) = settings.base_temperature {
            checks::temperature("base_temperature", base)?;
        }
        Ok(settings)
    }
}

impl ViewMethod for SupCon {
    fn temperature(&self) -> f64 {
        self.temperature
    }

    fn reduction(&self) -> Reduction {
        self.reduction
    }

    fn scale(&self) -> f64 {
        self.base_temperature.map_or(1.0, |base| self.temperature / base)
    }

    fn needs_labels(&self) -> bool {
        true
    }

    fn choose(&self, block: &AnchorBlock<'_>, view: &AnchorView<'_>) -> Result<Choice, TchError> {
        let labels = view.labels.ok_or_else(|| TchError::Shape("there are no labels".into()))?;
        let of_class = labels.same_class_of_others(block)?;
        let positives = of_class.f_logical_or(&block.mask(&block.positives()?)?)?;
        let denominator = Denominator::without_anchor(block)?;
        let choice = match self.positives {
            PositivesAverage::Outside => {
                Choice::new(target::uniform_on(&positives, block.kind())?, denominator)
            }
            PositivesAverage::InsideMean | PositivesAverage::InsideSum => {
                self.inside(block, view.anchors, &positives, denominator)?
            }
        };
        Ok(Choice { selected: Some(of_class), ..choice })
    }
}

impl SupCon {
    /// The target softmax over the positives, and the value of the loss from its two sums.
    fn inside(
        &self,
        block: &AnchorBlock<'_>,
        anchors: &Tensor,
        positives: &Tensor,
        denominator: Denominator,
    ) -> Result<Choice, TchError> {
        let last = [1].as_slice();
        let logits = block.similarities(anchors)?.f_div_scalar(self.temperature)?;
        let logarithm_of_sum = |left_out: &Tensor| {
            logits.f_masked_fill(left_out, f64::NEG_INFINITY)?.f_logsumexp(last, false)
        };
        let no_positives = positives.f_logical_not()?;
        let own_image = block.mask(&block.own_image()?)?;
        let of_negatives = logarithm_of_sum(&positives.f_logical_or(&own_image)?)?;
        let ratio = of_negatives.f_sub(&logarithm_of_sum(&no_positives)?)?;
        // log((positives + negatives) / positives), exact where the negatives hardly count.
        let sum_inside = ratio.f_logaddexp(&ratio.f_zeros_like()?)?;
        let count = positives.f_sum_dim_intlist(last, false, logits.kind())?.f_log()?;
        let all = (block.candidates() - i64::from(block.itself()?.is_some())) as f64;
        let chance = count.f_neg()?.f_add_scalar(all.ln())?;
        let (value, chance) = if self.positives == PositivesAverage::InsideMean {
            (sum_inside.f_add(&count)?, chance.f_add(&count)?)
        } else {
            (sum_inside, chance)
        };
        let logits = logits.f_masked_fill(&no_positives, f64::NEG_INFINITY)?;
        let choice = Choice::new(logits.f_softmax(1, None::<Kind>)?, denominator);
        Ok(Choice { value: Some(value), chance: Some(chance), ..choice })
    }
}
