//! From gradients to changed parameters.
//!
//! The loop, the guard and checkpoints see one [`Optimizer`], whichever a recipe names. What is the
//! same for all of them is here: which parameters are trained, how their gradients are reached, and
//! what is saved under which name. An update rule has a file of its own below `optimizer/`; it
//! knows one parameter, and works in place.

mod adamw;
mod lars;
mod sgd;

use nearkin_model::{Parameter, Parameters};
use nearkin_recipe::{Optimizer as Options, UpdateRule};
use tch::{TchError, Tensor};

use self::adamw::AdamW;
use self::lars::Lars;
use self::sgd::Sgd;

/// The optimiser of a recipe over all trained parameters.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
}

/// A trained parameter and what changes it.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// Of the parameter's shape and layout; the memory is that of all slots.
    scratch: Tensor,
    rule: Box<dyn Rule>,
}

/// How one parameter follows its gradient.
trait Rule: std::fmt::Debug {
    /// Changes `parameter` and the rule's own state; `scratch` may be written to.
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: Tensor,
        scratch: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TchError>;

    /// The tensors to save, sharing storage, with what follows the parameter's name in a file.
    fn state(&self) -> Vec<(&'static str, &Tensor)>;
}

impl Optimizer {
    /// For all trained parameters; what is remembered of past gradients starts at 0.
    pub fn new(parameters: &Parameters, options: &Options) -> Result<Self, TchError> {
        let trained: Vec<&Parameter> = parameters.trainable().collect();
        // One slot is worked on at a time, so all may write to the same memory. A network has all of
        // its parameters on one device and of one kind.
        let Some(largest) = trained.iter().map(|entry| &entry.tensor).max_by_key(|own| own.numel())
        else {
            return Ok(Self { slots: Vec::new() });
        };
        let kind = (largest.kind(), largest.device());
        let memory = Tensor::f_zeros([largest.numel() as i64], kind)?;
        let slot = |entry: &&Parameter| {
            let parameter = entry.tensor.shallow_clone();
            Ok(Slot {
                name: entry.name.clone(),
                scratch: memory.f_as_strided(parameter.size(), parameter.stride(), 0)?,
                rule: rule(&parameter, options)?,
                parameter,
            })
        };
        Ok(Self { slots: trained.iter().map(slot).collect::<Result<_, TchError>>()? })
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

    /// Changes the parameters along their gradients. A parameter that the loss does not reach stays,
    /// and so does what is remembered of it.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TchError> {
        tch::no_grad(|| {
            for Slot { parameter, scratch, rule, .. } in &mut self.slots {
                let gradient = parameter.grad();
                if gradient.defined() {
                    rule.step(parameter, gradient, scratch, learning_rate)?;
                }
            }
            Ok(())
        })
    }

    /// The state to save, by parameter name, sharing storage: what is copied into it is restored.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.slots.iter().flat_map(|slot| {
            let tensors = slot.rule.state().into_iter();
            tensors.map(|(what, tensor)| (format!("{}{what}", slot.name), tensor.shallow_clone()))
        })
    }
}

fn rule(parameter: &Tensor, options: &Options) -> Result<Box<dyn Rule>, TchError> {
    let spared = options.exclude_bias_and_norm && is_vector(parameter);
    let weight_decay = if spared { 0.0 } else { options.weight_decay.get() };
    Ok(match options.rule {
        UpdateRule::Sgd { momentum, nesterov } => {
            Box::new(Sgd::new(parameter, weight_decay, momentum.get(), nesterov)?)
        }
        UpdateRule::Lars { momentum, trust_coefficient, momentum_form } => {
            let trust = (!is_vector(parameter)).then(|| trust_coefficient.get());
            Box::new(Lars::new(parameter, weight_decay, momentum.get(), trust, momentum_form)?)
        }
        UpdateRule::AdamW { beta_1, beta_2, epsilon } => {
            let betas = [beta_1.get(), beta_2.get()];
            Box::new(AdamW::new(parameter, weight_decay, betas, epsilon.get())?)
        }
    })
}

/// Biases, and scales and shifts of batch norms, are vectors; all other weights have more dimensions.
fn is_vector(parameter: &Tensor) -> bool {
    parameter.dim() <= 1
}

/// `gradient + weight_decay * parameter`, in `scratch` unless there is no decay.
fn with_penalty(
    gradient: Tensor,
    parameter: &Tensor,
    weight_decay: f64,
    scratch: &Tensor,
) -> Result<Tensor, TchError> {
    match weight_decay {
        0.0 => Ok(gradient),
        decay => parameter.f_mul_scalar_out(scratch, decay)?.f_add_(&gradient),
    }
}
