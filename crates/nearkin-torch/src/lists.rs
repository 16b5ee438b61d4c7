//! Updates of many tensors in one call.

use tch::{TchError, Tensor};

use crate::kernels::ffi;
use crate::{failed, pointer};

/// How far a step goes, and whether it is made.
#[derive(Clone, Copy, Debug)]
pub enum Rate<'a> {
    /// The learning rate.
    Number(f64),
    /// What the device holds and the host need not know; each without dimensions.
    Held {
        /// The learning rate.
        learning_rate: &'a Tensor,
        /// Nothing changes if it is 1, whatever the gradients are; 0 as a rule. Single precision.
        unless: &'a Tensor,
    },
}

impl From<f64> for Rate<'_> {
    fn from(learning_rate: f64) -> Self {
        Self::Number(learning_rate)
    }
}

impl Rate<'_> {
    /// As the bridge takes it: the number, or the two tensors.
    fn parts(self) -> (f64, *const ffi::Tensor, *const ffi::Tensor) {
        match self {
            Self::Number(learning_rate) => (learning_rate, std::ptr::null(), std::ptr::null()),
            Self::Held { learning_rate, unless } => (0.0, pointer(learning_rate), pointer(unless)),
        }
    }
}

/// Moves each of `averages` towards the tensor of `values` at its place, by `weight` of the way:
/// `average <- average + weight * (value - average)`. Without gradient.
///
/// Fails if the lists have different lengths, or tensors of one place different shapes or kinds.
pub fn move_towards(averages: &[&Tensor], values: &[&Tensor], weight: f64) -> Result<(), TchError> {
    // SAFETY: the tensors live through the call, which checks lengths and shapes.
    unsafe { ffi::move_towards(&pointers(averages), &pointers(values), weight) }.map_err(failed)
}

/// The same with a `weight` that the device holds, a tensor without dimensions.
pub fn move_towards_by(
    averages: &[&Tensor],
    values: &[&Tensor],
    weight: &Tensor,
) -> Result<(), TchError> {
    let (averages, values) = (pointers(averages), pointers(values));
    // SAFETY: the tensors live through the call, which checks lengths and shapes.
    unsafe { ffi::move_towards_by(&averages, &values, pointer(weight)) }.map_err(failed)
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
        rate: Rate<'_>,
        weight_decay: f64,
    ) -> Result<(), TchError> {
        same_lengths(parameters, &[gradients, velocities])?;
        let (learning_rate, held, unless) = rate.parts();
        // SAFETY: the tensors live through the call, which checks their shapes.
        unsafe {
            ffi::descend(
                &pointers(parameters),
                &pointers(gradients),
                &pointers(velocities),
                learning_rate,
                held,
                unless,
                weight_decay,
                self.momentum,
                self.nesterov,
            )
        }
        .map_err(failed)
    }
}

/// Adam with decoupled weight decay (Loshchilov, Hutter, arXiv 1711.05101), with the semantics of
/// `torch.optim.AdamW`; t counts the steps of a parameter from 1.
///
/// ```text
/// p <- p - learning_rate * weight_decay * p
/// m <- beta_1 * m + (1 - beta_1) * gradient      v <- beta_2 * v + (1 - beta_2) * gradient^2
/// p <- p - learning_rate * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Adaptation {
    /// `beta_1` and `beta_2`.
    pub betas: [f64; 2],
    /// Keeps the divisor from 0.
    pub epsilon: f64,
}

/// What [`Adaptation`] remembers of each parameter; the lists have one entry for each.
#[derive(Clone, Copy, Debug)]
pub struct Remembered<'a> {
    /// m, of the parameter's shape.
    pub means: &'a [&'a Tensor],
    /// v, of the parameter's shape.
    pub mean_squares: &'a [&'a Tensor],
    /// Steps done: single precision, without dimensions, on the parameter's device.
    pub counts: &'a [&'a Tensor],
}

impl Adaptation {
    /// Changes `parameters` and what is remembered in place; without gradient. Fails as
    /// [`Descent::step`] does.
    pub fn step(
        self,
        parameters: &[&Tensor],
        gradients: &[&Tensor],
        remembered: Remembered<'_>,
        rate: Rate<'_>,
        weight_decay: f64,
    ) -> Result<(), TchError> {
        let Remembered { means, mean_squares, counts } = remembered;
        same_lengths(parameters, &[gradients, means, mean_squares, counts])?;
        let (learning_rate, held, unless) = rate.parts();
        // SAFETY: the tensors live through the call, which checks their shapes.
        unsafe {
            ffi::adapt(
                &pointers(parameters),
                &pointers(gradients),
                &pointers(means),
                &pointers(mean_squares),
                &pointers(counts),
                learning_rate,
                held,
                unless,
                weight_decay,
                self.betas[0],
                self.betas[1],
                self.epsilon,
            )
        }
        .map_err(failed)
    }
}

/// Layer-wise adaptive rate scaling (You, Gitman, Ginsburg, arXiv 1708.03888). Published code has it
/// in two forms, which differ in where the learning rate enters.
///
/// ```text
/// g <- gradient + weight_decay * p
/// g <- g * trust_coefficient * |p| / |g|          (as it is where |p| or |g| is 0)
/// rate outside:  v <- momentum * v + g                    p <- p - learning_rate * v
/// rate inside:   v <- momentum * v + learning_rate * g    p <- p - v
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LayerwiseDescent {
    /// Share of the last step's velocity that stays.
    pub momentum: f64,
    /// Absent, or 0, where gradients keep their norm.
    pub trust_coefficient: Option<f64>,
    /// Whether the learning rate is inside the velocity.
    pub rate_inside: bool,
}

impl LayerwiseDescent {
    /// Changes `parameters` and `velocities` in place; without gradient. Fails as [`Descent::step`]
    /// does, but memory may lie as it likes.
    pub fn step(
        self,
        parameters: &[&Tensor],
        gradients: &[&Tensor],
        velocities: &[&Tensor],
        rate: Rate<'_>,
        weight_decay: f64,
    ) -> Result<(), TchError> {
        same_lengths(parameters, &[gradients, velocities])?;
        let (learning_rate, held, unless) = rate.parts();
        // SAFETY: the tensors live through the call, which checks their shapes.
        unsafe {
            ffi::descend_by_layer(
                &pointers(parameters),
                &pointers(gradients),
                &pointers(velocities),
                learning_rate,
                held,
                unless,
                weight_decay,
                self.momentum,
                self.trust_coefficient.unwrap_or_default(),
                self.rate_inside,
            )
        }
        .map_err(failed)
    }
}

fn same_lengths(parameters: &[&Tensor], others: &[&[&Tensor]]) -> Result<(), TchError> {
    match others.iter().find(|list| list.len() != parameters.len()) {
        None => Ok(()),
        Some(list) => Err(TchError::Shape(format!(
            "{} parameters, but {} of what belongs to them",
            parameters.len(),
            list.len()
        ))),
    }
}

fn pointers(tensors: &[&Tensor]) -> Vec<usize> {
    tensors.iter().map(|tensor| pointer(tensor) as usize).collect()
}
