//! Adam with decoupled weight decay, with the semantics of `torch.optim.AdamW`.

use nearkin_torch::{Adaptation, Rate, Remembered};
use tch::{Kind, TchError, Tensor};

use super::{Group, Rule, at, zeros_like};

/// AdamW of all parameters, in a call for each weight decay; [`Adaptation`] has the formula.
#[derive(Debug)]
pub(super) struct AdamW {
    means: Vec<Tensor>,
    mean_squares: Vec<Tensor>,
    /// Steps done, by parameter.
    counts: Vec<Tensor>,
    /// By weight decay.
    groups: Vec<Group<f64>>,
    adaptation: Adaptation,
}

impl AdamW {
    /// `weight_decays` has one for each parameter.
    pub(super) fn new(
        parameters: &[Tensor],
        weight_decays: impl Iterator<Item = f64>,
        betas: [f64; 2],
        epsilon: f64,
    ) -> Result<Self, TchError> {
        let count = |own: &Tensor| Tensor::f_zeros([0; 0], (Kind::Float, own.device()));
        Ok(Self {
            means: zeros_like(parameters)?,
            mean_squares: zeros_like(parameters)?,
            counts: parameters.iter().map(count).collect::<Result<_, _>>()?,
            groups: Group::all(weight_decays),
            adaptation: Adaptation { betas, epsilon },
        })
    }
}

impl Rule for AdamW {
    fn step(
        &mut self,
        parameters: &[Tensor],
        gradients: &[Tensor],
        rate: Rate<'_>,
    ) -> Result<(), TchError> {
        for group in &self.groups {
            let places = group.reached(gradients);
            let remembered = Remembered {
                means: &at(&self.means, &places),
                mean_squares: &at(&self.mean_squares, &places),
                counts: &at(&self.counts, &places),
            };
            let (parameters, gradients) = (at(parameters, &places), at(gradients, &places));
            self.adaptation.step(&parameters, &gradients, remembered, rate, group.alike)?;
        }
        Ok(())
    }

    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)> {
        vec![
            (".mean", &self.means[place]),
            (".mean_square", &self.mean_squares[place]),
            (".steps", &self.counts[place]),
        ]
    }
}
