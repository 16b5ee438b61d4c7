//! Stochastic gradient descent with the semantics of `torch.optim.SGD`.

use tch::{TchError, Tensor};

use super::{Rule, with_penalty};

/// SGD with momentum and weight decay, of one parameter.
///
/// ```text
/// g <- gradient + weight_decay * p        v <- momentum * v + g
/// p <- p - learning_rate * v              (Nesterov: g + momentum * v instead of v)
/// ```
#[derive(Debug)]
pub(super) struct Sgd {
    velocity: Tensor,
    weight_decay: f64,
    momentum: f64,
    nesterov: bool,
}

impl Sgd {
    pub(super) fn new(
        parameter: &Tensor,
        weight_decay: f64,
        momentum: f64,
        nesterov: bool,
    ) -> Result<Self, TchError> {
        Ok(Self { velocity: parameter.f_zeros_like()?, weight_decay, momentum, nesterov })
    }
}

impl Rule for Sgd {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: Tensor,
        scratch: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TchError> {
        let gradient = with_penalty(gradient, parameter, self.weight_decay, scratch)?;
        let velocity = self.velocity.f_mul_scalar_(self.momentum)?.f_add_(&gradient)?;
        let step = match self.nesterov {
            // The gradient may be in `scratch`.
            true => velocity
                .f_mul_scalar(self.momentum)?
                .f_add_(&gradient)?
                .f_mul_scalar_(learning_rate)?,
            false => velocity.f_mul_scalar_out(scratch, learning_rate)?,
        };
        let _ = parameter.f_sub_(&step)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("", &self.velocity)]
    }
}
