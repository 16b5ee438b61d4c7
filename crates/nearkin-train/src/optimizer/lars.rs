//! Layer-wise adaptive rate scaling, for the batches of thousands of images with which SGD's one
//! learning rate is too large for some layers.

use nearkin_recipe::MomentumForm;
use nearkin_torch::{LayerwiseDescent, Rate};
use tch::{TchError, Tensor};

use super::{Group, Rule, at, is_vector, zeros_like};

/// LARS of all parameters, in a call for those that are treated alike; [`LayerwiseDescent`] has the
/// formula. Vectors keep their gradient's norm.
#[derive(Debug)]
pub(super) struct Lars {
    velocities: Vec<Tensor>,
    /// By weight decay, and whether they are vectors.
    groups: Vec<Group<(f64, bool)>>,
    descent: LayerwiseDescent,
}

impl Lars {
    /// `weight_decays` has one for each parameter.
    pub(super) fn new(
        parameters: &[Tensor],
        weight_decays: impl Iterator<Item = f64>,
        momentum: f64,
        trust_coefficient: f64,
        form: MomentumForm,
    ) -> Result<Self, TchError> {
        let alike = weight_decays.zip(parameters.iter().map(is_vector));
        Ok(Self {
            velocities: zeros_like(parameters)?,
            groups: Group::all(alike),
            descent: LayerwiseDescent {
                momentum,
                trust_coefficient: Some(trust_coefficient),
                rate_inside: form == MomentumForm::LearningRateInside,
            },
        })
    }
}

impl Rule for Lars {
    fn step(
        &mut self,
        parameters: &[Tensor],
        gradients: &[Tensor],
        rate: Rate<'_>,
    ) -> Result<(), TchError> {
        for group in &self.groups {
            let (weight_decay, vectors) = group.alike;
            let descent = if vectors {
                LayerwiseDescent { trust_coefficient: None, ..self.descent }
            } else {
                self.descent
            };
            let places = group.reached(gradients);
            descent.step(
                &at(parameters, &places),
                &at(gradients, &places),
                &at(&self.velocities, &places),
                rate,
                weight_decay,
            )?;
        }
        Ok(())
    }

    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)> {
        vec![("", &self.velocities[place])]
    }
}
