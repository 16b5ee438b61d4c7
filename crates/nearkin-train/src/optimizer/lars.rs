//! Layer-wise adaptive rate scaling (You, Gitman, Ginsburg, arXiv 1708.03888), for the batches of
//! thousands of images with which SGD's one learning rate is too large for some layers.
//!
//! Published code has it in two forms, which differ in where the learning rate enters.

use nearkin_recipe::MomentumForm;
use tch::{TchError, Tensor};

use super::SingleRule;

/// LARS of one parameter.
///
/// ```text
/// g <- gradient + weight_decay * p
/// g <- g * trust_coefficient * |p| / |g|          (as it is where |p| or |g| is 0)
/// rate outside:  v <- momentum * v + g                    p <- p - learning_rate * v
/// rate inside:   v <- momentum * v + learning_rate * g    p <- p - v
/// ```
#[derive(Debug)]
pub(super) struct Lars {
    velocity: Tensor,
    weight_decay: f64,
    momentum: f64,
    /// None for a vector, whose gradient keeps its norm.
    trust_coefficient: Option<f64>,
    form: MomentumForm,
}

impl Lars {
    pub(super) fn new(
        parameter: &Tensor,
        weight_decay: f64,
        momentum: f64,
        trust_coefficient: Option<f64>,
        form: MomentumForm,
    ) -> Result<Self, TchError> {
        Ok(Self {
            velocity: parameter.f_zeros_like()?,
            weight_decay,
            momentum,
            trust_coefficient,
            form,
        })
    }
}

impl SingleRule for Lars {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &Tensor,
        scratch: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TchError> {
        let gradient = with_penalty(gradient, parameter, self.weight_decay, scratch)?;
        let inside = match self.form {
            MomentumForm::LearningRateOutside => 1.0,
            MomentumForm::LearningRateInside => learning_rate,
        };
        let mut velocity = self.velocity.f_mul_scalar_(self.momentum)?;
        let velocity = match self.trust_coefficient {
            Some(trust) => {
                let mut ratio = trust_ratio(trust, parameter, &gradient)?;
                velocity.f_addcmul_(&gradient, &ratio.f_mul_scalar_(inside)?)?
            }
            None => velocity.f_add_(&gradient.f_mul_scalar_out(scratch, inside)?)?,
        };
        let _ = match self.form {
            MomentumForm::LearningRateOutside => {
                parameter.f_sub_(&velocity.f_mul_scalar_out(scratch, learning_rate)?)?
            }
            MomentumForm::LearningRateInside => parameter.f_sub_(&velocity)?,
        };
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("", &self.velocity)]
    }
}

/// `trust * |parameter| / |gradient|`, a tensor without dimensions; 1 where a norm is 0.
///
/// It stays a tensor, so that the host does not wait for the device once per layer.
fn trust_ratio(trust: f64, parameter: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    let (of_parameter, of_gradient) = (parameter.f_norm()?, gradient.f_norm()?);
    let undefined = of_parameter.f_eq(0.0)?.f_logical_or_(&of_gradient.f_eq(0.0)?)?;
    let mut ratio = of_parameter;
    ratio.f_div_(&of_gradient)?.f_mul_scalar_(trust)?.f_masked_fill_(&undefined, 1.0)
}

/// `gradient + weight_decay * parameter`, in `scratch` unless there is no decay.
fn with_penalty(
    gradient: &Tensor,
    parameter: &Tensor,
    weight_decay: f64,
    scratch: &Tensor,
) -> Result<Tensor, TchError> {
    match weight_decay {
        0.0 => Ok(gradient.shallow_clone()),
        decay => parameter.f_mul_scalar_out(scratch, decay)?.f_add_(gradient),
    }
}
