//! What is evaluated: the encoder of a run, or weights from a file with a recipe that describes them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nearkin_augment::View;
use nearkin_data::{BadImages, DataError, ImageSet, Skipped, Split, skipped_lines};
use nearkin_eval::EvaluationError;
use nearkin_model::{Encoder, ProjectorFound, Report, WeightsError, load_backbone, load_encoder};
use nearkin_recipe::Recipe;
use nearkin_report::RunFolder;
use nearkin_train::Checkpoint;
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

use crate::{Evaluation, ProbeError};

/// An encoder on disk and the recipe that says what it is.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    /// Model, images, view of evaluation and seed.
    pub recipe: Recipe,
    /// How its images are evaluated: without augmentation.
    pub evaluation_view: View,
    weights: PathBuf,
    step: Option<u64>,
    training_images: Option<usize>,
    /// What the weights were found to be, once they were read.
    report: Arc<OnceLock<Report>>,
    bad_images: Arc<BadImages>,
    /// What each of the sets left out that were opened so far.
    skipped: Arc<Mutex<Vec<Skipped>>>,
}

impl Subject {
    /// The newest checkpoint of a run.
    pub fn from_run(run: &RunFolder, recipe: Recipe) -> Result<Self, ProbeError> {
        let checkpoint = Checkpoint::latest(run)?
            .ok_or_else(|| ProbeError::NoCheckpoint(run.path().to_owned()))?;
        Ok(Self {
            name: run.path().display().to_string(),
            evaluation_view: recipe.evaluation_view()?,
            recipe,
            weights: checkpoint.model()?,
            step: Some(checkpoint.progress.step),
            training_images: Some(checkpoint.progress.training_images),
            report: Arc::default(),
            bad_images: Arc::new(BadImages::of_run(run.path(), 0)?),
            skipped: Arc::default(),
        })
    }

    /// A safetensors file; see [`load_encoder`] for the names of its tensors.
    pub fn from_weights(path: &Path, recipe: Recipe) -> Result<Self, ProbeError> {
        Ok(Self {
            name: path.display().to_string(),
            evaluation_view: recipe.evaluation_view()?,
            recipe,
            weights: path.to_owned(),
            step: None,
            training_images: None,
            report: Arc::default(),
            bad_images: Arc::new(BadImages::unwritten()),
            skipped: Arc::default(),
        })
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

    /// An evaluation of it without scores, with everything by which results are told apart.
    ///
    /// # Errors
    ///
    /// [`DataError::Read`] if the file of weights cannot be read.
    pub fn evaluation(&self) -> Result<Evaluation, ProbeError> {
        let bytes = digest_of(&self.weights)
            .map_err(|source| DataError::Read { path: self.weights.clone(), source })?;
        // A recipe that only describes a file of weights is not how they were trained.
        let recipe = self.step.map(|_| self.recipe.keys_of_training()).unwrap_or_default();
        Ok(Evaluation {
            subject: self.name.clone(),
            step: self.step,
            weights: bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")),
            training_seed: self.recipe.seed,
            training_images: self.training_images,
            images_left_out: self.bad_images.met(),
            scores: Vec::new(),
            recipe: recipe.into_iter().map(|(key, value)| (key, value.into())).collect(),
        })
    }

    /// Names the subject in an error about its features.
    pub(crate) fn blame(&self, error: ProbeError) -> ProbeError {
        match error {
            ProbeError::Evaluation(EvaluationError::NotFinite) => {
                ProbeError::NotFinite { subject: self.title() }
            }
            error => error,
        }
    }

    /// The images of a split of its data. Damaged ones are skipped as in training, and have no label
    /// once they were met.
    pub fn images(&self, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
        Ok(self.tolerate(self.open(split)?, split))
    }

    /// The images of a split of its data; a damaged one is an error.
    pub(crate) fn open(&self, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
        match split {
            Split::Train => self.recipe.open_training_images(),
            Split::Test => nearkin_data::open(&self.recipe.data, split),
        }
    }

    /// Any set, with damaged images skipped in the same way.
    pub(crate) fn tolerate(&self, set: Arc<dyn ImageSet>, split: Split) -> Arc<dyn ImageSet> {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        // A set is opened by several protocols.
        if !skipped.contains(set.skipped()) {
            skipped.push(set.skipped().clone());
        }
        self.recipe.tolerate(set, split, &self.bad_images)
    }

    /// What its images left out, and how they were read: a line each, of all sets opened so far.
    pub fn skipped_lines(&self) -> Vec<String> {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped_lines(&*skipped)
    }

    /// The images that its evaluations could not read: listed in the run's folder; those of a file of
    /// weights are only counted.
    pub fn bad_images(&self) -> &BadImages {
        &self.bad_images
    }

    /// A new encoder with these weights, read as [`load_encoder`] does.
    pub fn encoder(&self, device: Device) -> Result<Encoder, ProbeError> {
        Ok(self.load(device, load_backbone)?.0)
    }

    /// The same with the weights of the projector; refuses a file that does not have the projector of
    /// the recipe.
    pub fn encoder_with_projector(&self, device: Device) -> Result<Encoder, ProbeError> {
        match self.load(device, load_encoder)? {
            (encoder, ProjectorFound::Loaded) => Ok(encoder),
            (_, found) => {
                let problem = match found {
                    ProjectorFound::Other(problem) => format!(" ({problem})"),
                    _ => String::new(),
                };
                Err(ProbeError::NoProjector { path: self.weights.clone(), problem })
            }
        }
    }

    /// What was changed about the weights when they were read, one line each; nothing before they are.
    pub fn changes(&self) -> Vec<String> {
        self.report.get().map(Report::changes).unwrap_or_default()
    }

    /// `read` copies what is needed of a file into an encoder.
    fn load(
        &self,
        device: Device,
        read: impl Fn(&Path, &Encoder) -> Result<Report, WeightsError>,
    ) -> Result<(Encoder, ProjectorFound), ProbeError> {
        let encoder = Encoder::new(&self.recipe.model, 0, device, Kind::Float)?;
        let report = read(&self.weights, &encoder)?;
        let projector = report.projector.clone();
        // The same for every reading.
        let _ = self.report.set(report);
        Ok((encoder, projector))
    }
}

/// SHA-256 of a file, of any length.
fn digest_of(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut digest = Sha256::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(digest.finalize().into());
        }
        digest.update(bytes);
        let read = bytes.len();
        reader.consume(read);
    }
}
