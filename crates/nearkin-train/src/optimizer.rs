//! Stochastic gradient descent with the semantics of `torch.optim.SGD`.

use nearkin_model::{Parameter, Parameters};
use nearkin_recipe::Optimizer;
use tch::{TchError, Tensor};

/// SGD with momentum and weight decay.
///
/// ```text
/// g <- gradient + weight_decay * p        v <- momentum * v + g
/// p <- p - learning_rate * v              (Nesterov: g + momentum * v instead of v)
/// ```
#[derive(Debug)]
pub struct Sgd {
    slots: Vec<Slot>,
    momentum: f64,
    nesterov: bool,
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    velocity: Tensor,
    weight_decay: f64,
}

impl Sgd {
    /// For all trained parameters; velocities start at 0.
    pub fn new(parameters: &Parameters, options: &Optimizer) -> Result<Self, TchError> {
        let slot = |entry: &Parameter| {
            // Biases, and scales and shifts of batch norms, are vectors.
            let spared = options.exclude_bias_and_norm && entry.tensor.dim() <= 1;
            Ok(Slot {
                name: entry.name.clone(),
                parameter: entry.tensor.shallow_clone(),
                velocity: entry.tensor.f_zeros_like()?,
                weight_decay: if spared { 0.0 } else { options.weight_decay.get() },
            })
        };
        let slots = parameters.trainable().map(slot).collect::<Result<_, TchError>>()?;
        Ok(Self { slots, momentum: options.momentum.get(), nesterov: options.nesterov })
    }

    /// The gradients, in the order of the parameters; those that the loss does not reach are absent.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.slots
            .iter()
            .map(|slot| (slot.name.as_str(), slot.parameter.grad()))
            .filter(|(_, gradient)| gradient.defined())
    }

    /// Sets all gradients to 0.
    pub fn zero_gradients(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.parameter.zero_grad());
    }

    /// Changes the parameters along their gradients.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TchError> {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let gradient = match slot.weight_decay {
                    0.0 => gradient,
                    decay => gradient.f_add(&slot.parameter.f_mul_scalar(decay)?)?,
                };
                let velocity = slot.velocity.f_mul_scalar_(self.momentum)?.f_add_(&gradient)?;
                let direction = match self.nesterov {
                    true => gradient.f_add(&velocity.f_mul_scalar(self.momentum)?)?,
                    false => velocity,
                };
                let _ = slot.parameter.f_sub_(&direction.f_mul_scalar(learning_rate)?)?;
            }
            Ok(())
        })
    }

    /// The state to save, by parameter name.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.slots.iter().map(|slot| (slot.name.clone(), slot.velocity.shallow_clone()))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn options(text: &str) -> Optimizer {
        let text = format!("name = \"sgd\"\nlearning_rate = 0.1\n{text}");
        toml::from_str(&text).unwrap()
    }

    /// Two steps on a matrix and a vector with gradients that are given.
    fn after_two_steps(text: &str) -> Vec<f64> {
        let mut parameters = Parameters::default();
        let mut root = parameters.root(Device::Cpu, Kind::Double);
        let matrix = root.parameter("w", &Tensor::from_slice2(&[[0.5_f64, -1.0]])).unwrap();
        let vector = root.parameter("b", &Tensor::from_slice(&[0.3_f64])).unwrap();
        let mut sgd = Sgd::new(&parameters, &options(text)).unwrap();
        for (on_matrix, on_vector) in [([0.1, -0.3], 0.2), ([0.05, 0.2], -0.1)] {
            sgd.zero_gradients();
            let on_matrix = Tensor::from_slice2(&[on_matrix]);
            ((&matrix * on_matrix).sum(Kind::Double) + (&vector * on_vector).sum(Kind::Double))
                .backward();
            sgd.step(0.1).unwrap();
        }
        let flat = Tensor::cat(&[matrix.reshape([-1]), vector], 0);
        Vec::<f64>::try_from(flat.detach()).unwrap()
    }

    #[test]
    fn plain_momentum_and_decay_are_those_of_torch() {
        // By hand: g1 = 0.1 + 0.01 * 0.5, v1 = g1, p1 = 0.5 - 0.1 v1, and so on.
        let by_hand = |start: f64, gradients: [f64; 2], decay: f64, nesterov: bool| {
            let (mut p, mut v) = (start, 0.0);
            for gradient in gradients {
                let g = gradient + decay * p;
                v = 0.9 * v + g;
                p -= 0.1 * if nesterov { g + 0.9 * v } else { v };
            }
            p
        };
        for (text, decay_vector, nesterov) in [
            ("weight_decay = 0.01", 0.01, false),
            ("weight_decay = 0.01\nexclude_bias_and_norm = true", 0.0, false),
            ("weight_decay = 0.01\nnesterov = true", 0.01, true),
        ] {
            let expected = [
                by_hand(0.5, [0.1, 0.05], 0.01, nesterov),
                by_hand(-1.0, [-0.3, 0.2], 0.01, nesterov),
                by_hand(0.3, [0.2, -0.1], decay_vector, nesterov),
            ];
            for (got, expected) in after_two_steps(text).iter().zip(expected) {
                assert!((got - expected).abs() < 1e-14, "{text}: {got} is not {expected}");
            }
        }
    }
}
