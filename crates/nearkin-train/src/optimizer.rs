//! From gradients to changed parameters.
//!
//! The loop, the guard and checkpoints see one [`Optimizer`], whichever a recipe names. What is the
//! same for all of them is here: which parameters are trained, how their gradients are reached, and
//! what is saved under which name. An update rule has a file of its own below `optimizer/`; it works
//! in place, on all parameters at once or, where libtorch has no such call, on one after the other.

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
    names: Vec<String>,
    parameters: Vec<Tensor>,
    rule: Box<dyn Rule>,
}

/// How all parameters follow their gradients.
trait Rule: std::fmt::Debug {
    /// Changes `parameters` and the rule's own state. A gradient that is not defined leaves both as
    /// they are.
    fn step(
        &mut self,
        parameters: &mut [Tensor],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<(), TchError>;

    /// The tensors to save for the parameter at this place, sharing storage, with what follows its
    /// name in a file.
    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)>;
}

/// How one parameter follows its gradient.
trait SingleRule: std::fmt::Debug {
    /// Changes `parameter` and the rule's own state; `scratch` may be written to.
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &Tensor,
        scratch: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TchError>;

    /// As for [`Rule`].
    fn state(&self) -> Vec<(&'static str, &Tensor)>;
}

/// A rule for each parameter.
#[derive(Debug)]
struct OneByOne<R> {
    /// With memory of the parameter's shape and layout, which all of them share.
    rules: Vec<(R, Tensor)>,
}

impl<R: SingleRule> OneByOne<R> {
    fn new(
        parameters: &[Tensor],
        rule: impl Fn(&Tensor) -> Result<R, TchError>,
    ) -> Result<Self, TchError> {
        // A network has all of its parameters on one device and of one kind.
        let Some(largest) = parameters.iter().max_by_key(|own| own.numel()) else {
            return Ok(Self { rules: Vec::new() });
        };
        let kind = (largest.kind(), largest.device());
        let memory = Tensor::f_zeros([largest.numel() as i64], kind)?;
        let slot = |parameter: &Tensor| {
            let scratch = memory.f_as_strided(parameter.size(), parameter.stride(), 0)?;
            Ok((rule(parameter)?, scratch))
        };
        Ok(Self { rules: parameters.iter().map(slot).collect::<Result<_, TchError>>()? })
    }
}

impl<R: SingleRule> Rule for OneByOne<R> {
    fn step(
        &mut self,
        parameters: &mut [Tensor],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<(), TchError> {
        for (index, (rule, scratch)) in self.rules.iter_mut().enumerate() {
            if gradients[index].defined() {
                rule.step(&mut parameters[index], &gradients[index], scratch, learning_rate)?;
            }
        }
        Ok(())
    }

    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)> {
        self.rules[place].0.state()
    }
}

impl Optimizer {
    /// For all trained parameters; what is remembered of past gradients starts at 0.
    pub fn new(parameters: &Parameters, options: &Options) -> Result<Self, TchError> {
        let trained: Vec<&Parameter> = parameters.trainable().collect();
        let names = trained.iter().map(|entry| entry.name.clone()).collect();
        let parameters: Vec<Tensor> =
            trained.iter().map(|entry| entry.tensor.shallow_clone()).collect();
        let rule = rule(&parameters, options)?;
        Ok(Self { names, parameters, rule })
    }

    /// The gradients, in the order of the parameters; those that the loss does not reach are absent.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        let gradients = self.parameters.iter().map(Tensor::grad);
        let named = self.names.iter().map(String::as_str).zip(gradients);
        named.filter(|(_, gradient)| gradient.defined())
    }

    /// Sets all gradients to 0.
    pub fn zero_gradients(&mut self) {
        self.parameters.iter_mut().for_each(Tensor::zero_grad);
    }

    /// Changes the parameters along their gradients. A parameter that the loss does not reach stays,
    /// and so does what is remembered of it.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TchError> {
        let gradients: Vec<Tensor> = self.parameters.iter().map(Tensor::grad).collect();
        tch::no_grad(|| self.rule.step(&mut self.parameters, &gradients, learning_rate))
    }

    /// The state to save, by parameter name, sharing storage: what is copied into it is restored.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.names.iter().enumerate().flat_map(|(place, name)| {
            let tensors = self.rule.state(place).into_iter();
            tensors.map(move |(what, tensor)| (format!("{name}{what}"), tensor.shallow_clone()))
        })
    }
}

fn rule(parameters: &[Tensor], options: &Options) -> Result<Box<dyn Rule>, TchError> {
    let weight_decay = |parameter: &Tensor| {
        let spared = options.exclude_bias_and_norm && is_vector(parameter);
        if spared { 0.0 } else { options.weight_decay.get() }
    };
    Ok(match options.rule {
        UpdateRule::Sgd { momentum, nesterov } => {
            let decays = parameters.iter().map(weight_decay).collect();
            Box::new(Sgd::new(parameters, decays, momentum.get(), nesterov)?)
        }
        UpdateRule::Lars { momentum, trust_coefficient, momentum_form } => {
            Box::new(OneByOne::new(parameters, |own| {
                let trust = (!is_vector(own)).then(|| trust_coefficient.get());
                Lars::new(own, weight_decay(own), momentum.get(), trust, momentum_form)
            })?)
        }
        UpdateRule::AdamW { beta_1, beta_2, epsilon } => {
            let betas = [beta_1.get(), beta_2.get()];
            Box::new(OneByOne::new(parameters, |own| {
                AdamW::new(own, weight_decay(own), betas, epsilon.get())
            })?)
        }
    })
}

/// Biases, and scales and shifts of batch norms, are vectors; all other weights have more dimensions.
fn is_vector(parameter: &Tensor) -> bool {
    parameter.dim() <= 1
}
