//! Updates of many tensors in one call.

use tch::{TchError, Tensor};

use crate::bridge::ffi;
use crate::{failed, pointer};

/// Moves each of `averages` towards the tensor of `values` at its place, by `weight` of the way:
/// `average <- average + weight * (value - average)`. Without gradient.
///
/// Fails if the lists have different lengths, or tensors of one place different shapes or kinds.
pub fn move_towards(averages: &[&Tensor], values: &[&Tensor], weight: f64) -> Result<(), TchError> {
    // SAFETY: the tensors live through the call, which checks lengths and shapes.
    unsafe { ffi::move_towards(&pointers(averages), &pointers(values), weight) }.map_err(failed)
}

/// Stochastic gradient descent with the semantics of `torch.optim.SGD` and no dampening.
///
/// ```text
/// g <- gradient + weight_decay * p        v <- momentum * v + g
/// p <- p - learning_rate * v              (Nesterov: g + momentum * v instead of v)
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    /// Share of the last step's velocity that stays.
    pub momentum: f64,
    /// Whether a step looks ahead.
    pub nesterov: bool,
}

impl Descent {
    /// Changes `parameters` in place, and `velocities` unless `momentum` is 0; without gradient.
    ///
    /// Fails if the lists have different lengths, or tensors of one place different shapes or kinds, or
    /// if a velocity lies in memory otherwise than its parameter.
    pub fn step(
        self,
        parameters: &[&Tensor],
        gradients: &[&Tensor],
        velocities: &[&Tensor],
        learning_rate: f64,
        weight_decay: f64,
    ) -> Result<(), TchError> {
        if [gradients.len(), velocities.len()] != [parameters.len(); 2] {
            return Err(TchError::Shape(format!(
                "{} parameters, {} gradients and {} velocities",
                parameters.len(),
                gradients.len(),
                velocities.len()
            )));
        }
        // SAFETY: the tensors live through the call, which checks their shapes.
        unsafe {
            ffi::descend(
                &pointers(parameters),
                &pointers(gradients),
                &pointers(velocities),
                learning_rate,
                weight_decay,
                self.momentum,
                self.nesterov,
            )
        }
        .map_err(failed)
    }
}

fn pointers(tensors: &[&Tensor]) -> Vec<usize> {
    tensors.iter().map(|tensor| pointer(tensor) as usize).collect()
}
