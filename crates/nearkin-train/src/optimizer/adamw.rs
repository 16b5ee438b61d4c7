//! Adam with decoupled weight decay (Loshchilov, Hutter, arXiv 1711.05101), with the semantics of
//! `torch.optim.AdamW`.

use tch::{Device, Kind, TchError, Tensor};

use super::SingleRule;

/// AdamW of one parameter; t counts its steps from 1.
///
/// ```text
/// p <- p - learning_rate * weight_decay * p
/// m <- beta_1 * m + (1 - beta_1) * gradient      v <- beta_2 * v + (1 - beta_2) * gradient^2
/// p <- p - learning_rate * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
/// ```
#[derive(Debug)]
pub(super) struct AdamW {
    mean: Tensor,
    mean_square: Tensor,
    /// Steps done: one number, on the CPU; a tensor because that is what checkpoints hold.
    steps: Tensor,
    weight_decay: f64,
    betas: [f64; 2],
    epsilon: f64,
}

impl AdamW {
    pub(super) fn new(
        parameter: &Tensor,
        weight_decay: f64,
        betas: [f64; 2],
        epsilon: f64,
    ) -> Result<Self, TchError> {
        Ok(Self {
            mean: parameter.f_zeros_like()?,
            mean_square: parameter.f_zeros_like()?,
            steps: Tensor::f_zeros([0; 0], (Kind::Double, Device::Cpu))?,
            weight_decay,
            betas,
            epsilon,
        })
    }
}

impl SingleRule for AdamW {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &Tensor,
        scratch: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TchError> {
        let steps = self.steps.f_add_scalar_(1.0)?.f_double_value(&[])?;
        let [correction_1, correction_2] = self.betas.map(|beta| 1.0 - beta.powf(steps));
        let [rest_1, rest_2] = self.betas.map(|beta| 1.0 - beta);
        if self.weight_decay > 0.0 {
            let _ = parameter.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
        }
        let mean = self.mean.f_lerp_(gradient, rest_1)?;
        let mean_square = self.mean_square.f_lerp_(&gradient.f_square_out(scratch)?, rest_2)?;
        let root = mean_square
            .f_sqrt_out(scratch)?
            .f_div_scalar_(correction_2.sqrt())?
            .f_add_scalar_(self.epsilon)?;
        // Scaled after the division, not before: the learning rate may be 0.
        let step = mean.f_div_out(scratch, &root)?.f_mul_scalar_(learning_rate / correction_1)?;
        let _ = parameter.f_sub_(&step)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(".mean", &self.mean), (".mean_square", &self.mean_square), (".steps", &self.steps)]
    }
}
