//! What the tests of the protocols share: a tiny recipe, and the weights of a network that fits it.

use std::path::PathBuf;

use nearkin_model::Encoder;
use nearkin_probe::{Machine, Subject};
use nearkin_recipe::{Recipe, Source};
use nearkin_train::save_tensors;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

pub(crate) const MACHINE: Machine = Machine { device: Device::Cpu, workers: 0 };

pub(crate) fn recipe() -> Recipe {
    let text = r#"
        [data]
        dataset = "shapes"
        train_images = 60
        test_images = 40
        size_pixels = 16
        [method]
        name = "simclr"
        [model]
        backbone = "resnet18"
        stem = "cifar"
        base_width = 4
        projector = [{ width = 8, batch_norm = "affine", relu = true }, { width = 6 }]
        [training]
        epochs = 1
        batch_size = 16
        [optimizer]
        name = "sgd"
        learning_rate = 0.1
        [[views]]
        name = "first"
        transforms = [{ random_resized_crop = { size = 16 } }]
        [[views]]
        name = "second"
        transforms = [{ random_resized_crop = { size = 16 } }]"#;
    Source::parse("test", text.to_owned()).unwrap().recipe().unwrap()
}

/// A folder with files of weights.
pub(crate) struct Weights {
    folder: TempDir,
    pub(crate) tensors: Vec<(String, Tensor)>,
}

impl Weights {
    pub(crate) fn new() -> Self {
        let encoder = Encoder::new(&recipe().model, 5, Device::Cpu, Kind::Float).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), tensors: encoder.parameters().named() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The subject of a file of these tensors.
    pub(crate) fn subject(&self, tensors: &[(String, Tensor)]) -> Subject {
        let path = self.path("weights.safetensors");
        let copies = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        save_tensors(&path, copies).unwrap();
        Subject::from_weights(&path, recipe()).unwrap()
    }

    pub(crate) fn whole(&self) -> Subject {
        self.subject(&self.tensors)
    }
}
