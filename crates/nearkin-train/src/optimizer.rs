//! From gradients to changed parameters.
//!
//! The loop, the guard and checkpoints see one [`Optimizer`], whichever a recipe names. What is the
//! same for all of them is here: which parameters are trained, how their gradients are reached, and
//! what is saved under which name. An update rule has a file of its own below `optimizer/`; it works
//! in place, on all parameters that it treats alike at once.

mod adamw;
mod lars;
mod sgd;

use nearkin_model::{Parameter, Parameters};
use nearkin_recipe::{Optimizer as Options, UpdateRule};
use nearkin_torch::Rate;
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
        parameters: &[Tensor],
        gradients: &[Tensor],
        rate: Rate<'_>,
    ) -> Result<(), TchError>;

    /// The tensors to save for the parameter at this place, sharing storage, with what follows its
    /// name in a file.
    fn state(&self, place: usize) -> Vec<(&'static str, &Tensor)>;
}

/// Parameters that a rule treats alike, by their places.
#[derive(Debug)]
struct Group<T> {
    alike: T,
    places: Vec<usize>,
}

impl<T: PartialEq> Group<T> {
    /// All parameters, of which each is said how it is treated.
    fn all(treatments: impl Iterator<Item = T>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for (place, alike) in treatments.enumerate() {
            match groups.iter_mut().find(|group| group.alike == alike) {
                Some(group) => group.places.push(place),
                None => groups.push(Self { alike, places: vec![place] }),
            }
        }
        groups
    }

    /// Those that the loss reaches.
    fn reached(&self, gradients: &[Tensor]) -> Vec<usize> {
        self.places.iter().copied().filter(|&place| gradients[place].defined()).collect()
    }
}

fn at<'a>(tensors: &'a [Tensor], places: &[usize]) -> Vec<&'a Tensor> {
    places.iter().map(|&place| &tensors[place]).collect()
}

fn zeros_like(tensors: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    tensors.iter().map(Tensor::f_zeros_like).collect()
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
    pub fn step<'a>(&mut self, rate: impl Into<Rate<'a>>) -> Result<(), TchError> {
        let gradients: Vec<Tensor> = self.parameters.iter().map(Tensor::grad).collect();
        self.rule.step(&self.parameters, &gradients, rate.into())
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
    let weight_decays = parameters.iter().map(weight_decay);
    Ok(match options.rule {
        UpdateRule::Sgd { momentum, nesterov } => {
            Box::new(Sgd::new(parameters, weight_decays, momentum.get(), nesterov)?)
        }
        UpdateRule::Lars { momentum, trust_coefficient, momentum_form } => {
            let (momentum, trust) = (momentum.get(), trust_coefficient.get());
            Box::new(Lars::new(parameters, weight_decays, momentum, trust, momentum_form)?)
        }
        UpdateRule::AdamW { beta_1, beta_2, epsilon } => {
            let betas = [beta_1.get(), beta_2.get()];
            Box::new(AdamW::new(parameters, weight_decays, betas, epsilon.get())?)
        }
    })
}

/// Biases, and scales and shifts of batch norms, are vectors; all other weights have more dimensions.
fn is_vector(parameter: &Tensor) -> bool {
    parameter.dim() <= 1
}
