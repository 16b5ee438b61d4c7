//! Stochastic gradient descent with the semantics of `torch.optim.SGD`.

use nearkin_kernel::Descent;
use tch::{TchError, Tensor};

use super::Rule;

/// SGD with momentum and weight decay, of all parameters in a call for each weight decay; [`Descent`]
/// has the formula.
#[derive(Debug)]
pub(super) struct Sgd {
    velocities: Vec<Tensor>,
    /// Each with the places of its parameters.
    weight_decays: Vec<(f64, Vec<usize>)>,
    descent: Descent,
}

impl Sgd {
    /// `weight_decays` has one for each parameter.
    pub(super) fn new(
        parameters: &[Tensor],
        weight_decays: Vec<f64>,
        momentum: f64,
        nesterov: bool,
    ) -> Result<Self, TchError> {
        let mut places: Vec<(f64, Vec<usize>)> = Vec::new();
        for (place, decay) in weight_decays.into_iter().enumerate() {
            match places.iter_mut().find(|(other, _)| *other == decay) {
                Some((_, all)) => all.push(place),
                None => places.push((decay, vec![place])),
            }
        }
        let velocities = parameters.iter().map(Tensor::f_zeros_like).collect::<Result<_, _>>()?;
        Ok(Self { velocities, weight_decays: places, descent: Descent { momentum, nesterov } })
    }
}

impl Rule for Sgd {
    fn step(
        &mut self,
        parameters: &mut [Tensor],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<(), TchError> {
        for (decay, places) in &self.weight_decays {
            let places: Vec<usize> =
                places.iter().copied().filter(|&place| gradients[place].defined()).collect();
            self.descent.step(
                &at(parameters, &places),
                &at(gradients, &places),
                &at(&self.velocities, &places),
                learning_rate,
                *decay,
            )?;
        }
        Ok(())
    }

    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)> {
        vec![("", &self.velocities[place])]
    }
}

fn at<'a>(tensors: &'a [Tensor], places: &[usize]) -> Vec<&'a Tensor> {
    places.iter().map(|&place| &tensors[place]).collect()
}
