//! Named tensors in the order in which a network makes them.
//!
//! Optimiser state, moving averages and checkpoints all walk this list, so that its order, not that
//! of a hash map, decides the order of every sum and of every file.

use tch::{Device, Kind, TchError, Tensor};

/// One named tensor of a network.
#[derive(Debug)]
pub struct Parameter {
    /// Path with dots, as in torchvision.
    pub name: String,
    /// Shares its storage with the layer that uses it.
    pub tensor: Tensor,
    /// Whether gradients are wanted; false for running statistics.
    pub trainable: bool,
}

/// Every named tensor of a network.
#[derive(Debug, Default)]
pub struct Parameters {
    entries: Vec<Parameter>,
}

impl Parameters {
    /// All of them, in the order of creation.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.entries.iter()
    }

    /// Those that are trained.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.entries.iter().filter(|entry| entry.trainable)
    }

    /// Names and tensors, sharing storage.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.iter().map(|entry| (entry.name.clone(), entry.tensor.shallow_clone())).collect()
    }

    /// The scope from which a network is built.
    pub fn root(&mut self, device: Device, kind: Kind) -> Scope<'_> {
        Scope { parameters: self, prefix: String::new(), device, kind }
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A place in the tree of names where a layer puts its tensors.
#[derive(Debug)]
pub struct Scope<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
    device: Device,
    kind: Kind,
}

impl Scope<'_> {
    /// The scope below this one.
    pub fn enter(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Scope { parameters: self.parameters, prefix, device: self.device, kind: self.kind }
    }

    /// Registers a trained tensor. Values are drawn on the CPU and moved, so that every device
    /// starts from the same weights.
    pub fn parameter(&mut self, name: &str, value: &Tensor) -> Result<Tensor, TchError> {
        self.register(name, value, true)
    }

    /// Registers a tensor that is not trained.
    pub fn buffer(&mut self, name: &str, value: &Tensor) -> Result<Tensor, TchError> {
        self.register(name, value, false)
    }

    fn register(
        &mut self,
        name: &str,
        value: &Tensor,
        trainable: bool,
    ) -> Result<Tensor, TchError> {
        let tensor = value
            .f_detach()?
            .f_to_device_(self.device, self.kind, false, true)?
            .f_set_requires_grad(trainable)?;
        self.parameters.entries.push(Parameter {
            name: format!("{}{name}", self.prefix),
            tensor: tensor.shallow_clone(),
            trainable,
        });
        Ok(tensor)
    }
}
