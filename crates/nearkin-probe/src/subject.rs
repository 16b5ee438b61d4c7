//! What is evaluated: the encoder of a run, or weights from a file with a recipe that describes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nearkin_data::{BadImages, DataError, ImageSet, Split};
use nearkin_model::Encoder;
use nearkin_recipe::Recipe;
use nearkin_report::RunFolder;
use nearkin_train::{Checkpoint, load_tensors};
use tch::{Device, Kind, Tensor};

use crate::ProbeError;

/// An encoder on disk and the recipe that says what it is.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    /// Model, images, view of evaluation and seed.
    pub recipe: Recipe,
    weights: PathBuf,
    step: Option<u64>,
    bad_images: Arc<BadImages>,
}

impl Subject {
    /// The newest checkpoint of a run.
    pub fn of_run(run: &RunFolder, recipe: Recipe) -> Result<Self, ProbeError> {
        let checkpoint = Checkpoint::latest(run)?
            .ok_or_else(|| ProbeError::NoCheckpoint(run.path().to_owned()))?;
        Ok(Self {
            name: run.path().display().to_string(),
            recipe,
            weights: checkpoint.model()?,
            step: Some(checkpoint.progress.step),
            bad_images: Arc::new(BadImages::of_run(run.path(), 0)?),
        })
    }

    /// A safetensors file; see [`Subject::encoder`] for the names of its tensors.
    pub fn of_weights(path: &Path, recipe: Recipe) -> Self {
        let name = path.display().to_string();
        let bad_images = Arc::new(BadImages::unwritten());
        Self { name, recipe, weights: path.to_owned(), step: None, bad_images }
    }

    /// Run folder or file, and how far it was trained if that is known.
    pub fn title(&self) -> String {
        match self.step {
            Some(step) => format!("{}, step {step}", self.name),
            None => self.name.clone(),
        }
    }

    /// Run folder or file, as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Steps of training, if known.
    pub fn step(&self) -> Option<u64> {
        self.step
    }

    /// The images of a split of its data. Damaged ones are skipped as in training, and without a label
    /// once they were met.
    pub fn images(&self, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
        let set = match split {
            Split::Train => self.recipe.open_training_images()?,
            Split::Test => nearkin_data::open(&self.recipe.data, split)?,
        };
        Ok(self.tolerate(set, split))
    }

    /// Any set, with damaged images skipped in the same way.
    pub(crate) fn tolerate(&self, set: Arc<dyn ImageSet>, split: Split) -> Arc<dyn ImageSet> {
        self.recipe.tolerate(set, split, &self.bad_images)
    }

    /// The images that its evaluations could not read: listed in the run's folder; those of a file of
    /// weights are only counted.
    pub fn bad_images(&self) -> &BadImages {
        &self.bad_images
    }

    /// A new encoder with these weights.
    ///
    /// Tensors carry nearkin's names (`backbone.conv1.weight`, with or without a projector), or
    /// torchvision's (`conv1.weight`, whose `fc` is left out). Counters of batches
    /// (`num_batches_tracked`) have no part in evaluation. The error names every tensor of the
    /// backbone that is missing, has another shape or is not expected.
    pub fn encoder(&self, device: Device) -> Result<Encoder, ProbeError> {
        Ok(self.load(device)?.0)
    }

    /// The same with the weights of the first projector layer; refuses a file that has no projector.
    pub(crate) fn encoder_with_projector(&self, device: Device) -> Result<Encoder, ProbeError> {
        match self.load(device)? {
            (encoder, true) => Ok(encoder),
            (_, false) => Err(ProbeError::Request(format!(
                "{} has no projector, and this protocol starts from its first layer: take the \
                 preset plain, which starts from the backbone",
                self.name
            ))),
        }
    }

    fn load(&self, device: Device) -> Result<(Encoder, bool), ProbeError> {
        let encoder = Encoder::new(&self.recipe.model, 0, device, Kind::Float)?;
        let mut saved = nearkin_names(load_tensors(&self.weights)?);
        let has_projector = saved.keys().any(|name| name.starts_with("projector."));
        let mut problems = Vec::new();
        for (name, mut target) in encoder.parameters().named() {
            let needed =
                name.starts_with("backbone.") || (name.starts_with("projector.") && has_projector);
            match saved.remove(&name) {
                None if needed => problems.push(format!("{name} is missing")),
                None => {}
                Some(value) if value.size() != target.size() => problems.push(format!(
                    "{name} has shape {:?} where {:?} is expected",
                    value.size(),
                    target.size()
                )),
                Some(value) => tch::no_grad(|| target.f_copy_(&value))?,
            }
        }
        problems.extend(saved.keys().map(|name| format!("{name} is not expected")));
        if problems.is_empty() {
            return Ok((encoder, has_projector));
        }
        let more = problems.len().saturating_sub(NAMED);
        problems.truncate(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let problems = problems.join("; ") + &more;
        Err(ProbeError::Weights { path: self.weights.clone(), problems })
    }
}

/// Tensors that a message names; a file of another network would fill pages.
const NAMED: usize = 12;

/// The tensors of a file under nearkin's names, without what evaluation has no use for.
fn nearkin_names(saved: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let ours = saved.keys().any(|name| name.starts_with("backbone."));
    let used = saved.into_iter().filter(|(name, _)| {
        !name.ends_with(".num_batches_tracked") && (ours || !name.starts_with("fc."))
    });
    match ours {
        true => used.collect(),
        false => used.map(|(name, tensor)| (format!("backbone.{name}"), tensor)).collect(),
    }
}
