//! Stochastic gradient descent with the semantics of `torch.optim.SGD`.

use nearkin_torch::{Descent, Rate};
use tch::{TchError, Tensor};

use super::{Group, Rule, at, zeros_like};

/// SGD with momentum and weight decay, of all parameters in a call for each weight decay; [`Descent`]
/// has the formula.
#[derive(Debug)]
pub(super) struct Sgd {
    velocities: Vec<Tensor>,
    /// By weight decay.
    groups: Vec<Group<f64>>,
    descent: Descent,
}

impl Sgd {
    /// `weight_decays` has one for each parameter.
    pub(super) fn new(
        parameters: &[Tensor],
        weight_decays: impl Iterator<Item = f64>,
        momentum: f64,
        nesterov: bool,
    ) -> Result<Self, TchError> {
        Ok(Self {
            velocities: zeros_like(parameters)?,
            groups: Group::all(weight_decays),
            descent: Descent { momentum, nesterov },
        })
    }
}

impl Rule for Sgd {
    fn step(
        &mut self,
        parameters: &[Tensor],
        gradients: &[Tensor],
        rate: Rate<'_>,
    ) -> Result<(), TchError> {
        for group in &self.groups {
            let places = group.reached(gradients);
            self.descent.step(
                &at(parameters, &places),
                &at(gradients, &places),
                &at(&self.velocities, &places),
                rate,
                group.alike,
            )?;
        }
        Ok(())
    }

    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)> {
        vec![("", &self.velocities[place])]
    }
}
