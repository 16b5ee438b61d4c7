//! The recipe's tables and their defaults.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;

use nearkin_augment::{
    CenterCrop, Interpolation, Resize, Transform, View, ViewError, ViewOptions, Whole,
};
use nearkin_data::{BadImages, DataError, ImageSet, Split, Subset, Tolerant, tolerant};
use serde::{Deserialize, Serialize};

use crate::{Backbone, Fraction, Model, NonNegative, Positive, RecipeError};

/// A checked recipe. Fields are the tables of the TOML file; see each for its keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Recipe {
    /// From which every random number of the run follows.
    #[serde(default)]
    pub seed: u64,
    /// Use only this many training images, drawn with the seed; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_images: Option<NonZeroUsize>,
    /// The share of the images of a split that may be damaged; they are skipped and listed in the run
    /// folder. More of them end the run, except that five are always allowed unless the share is 0.
    /// 0.01 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_image_limit: Option<Fraction>,
    /// `[data]`: which images.
    pub data: nearkin_data::Source,
    /// `[method]`: its `name` and hyper-parameters (checked by the crate of the objectives).
    pub method: toml::Table,
    /// `[model]`.
    pub model: Model,
    /// `[momentum_encoder]`, for methods that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum_encoder: Option<MomentumEncoder>,
    /// `[queue]`, for methods that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// `[training]`.
    pub training: Training,
    /// `[optimizer]`.
    pub optimizer: Optimizer,
    /// `[schedule]` of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// `[checkpoint]`.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// `[evaluation]` during training, where the data has labels.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// `[augment]`: where views are made.
    #[serde(default, skip_serializing_if = "Augment::is_default")]
    pub augment: Augment,
    /// `[[views]]`: one list of transforms per view of an image.
    pub views: Vec<ViewOptions>,
}

/// `[augment]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Where the transforms of training run.
    #[serde(default)]
    pub place: Place,
}

impl Augment {
    /// The same views for a device: what is to run there is left to it, all of it where images are
    /// `whole`. Fails where everything has to run on the device and a view cannot.
    pub fn place(
        &self,
        views: &[View],
        is_cuda: bool,
        whole: Option<Whole>,
    ) -> Result<Vec<View>, ViewError> {
        let place = |view: View| match self.place {
            Place::Device => view.for_device(whole),
            Place::Auto if is_cuda => Ok(view.clone().for_device(whole).unwrap_or(view)),
            Place::Auto | Place::Host => Ok(view),
        };
        views.iter().cloned().map(place).collect()
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where transforms run. Random numbers are the same in either place, and pixels are to two levels of
/// 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the loader's threads.
    Host,
    /// On the device that trains, for a batch at once. Every transform behind the last change of size
    /// has to have such a form; those up to it run there too if all images have one size.
    Device,
    /// The same on a CUDA device, for views that allow it; the others on the host.
    #[default]
    Auto,
}

/// One fully connected layer with what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Outputs.
    pub width: NonZeroU64,
    /// Whether the linear map has a bias.
    #[serde(default)]
    pub bias: bool,
    /// Batch norm behind the linear map.
    #[serde(default)]
    pub batch_norm: BatchNorm,
    /// ReLU at the end.
    #[serde(default)]
    pub relu: bool,
}

/// Batch norm behind a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    /// None.
    #[default]
    None,
    /// With scale and shift.
    Affine,
    /// With scale only.
    Scale,
    /// Normalisation only.
    Plain,
}

/// `[momentum_encoder]`: the moving average of the online encoder.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentumEncoder {
    /// Share of the old weights that an update keeps.
    pub momentum: Fraction,
    /// How the momentum changes over the run.
    #[serde(default)]
    pub schedule: MomentumSchedule,
    /// Split every batch of the momentum encoder's backbone into this many strided groups with
    /// batch statistics of their own, as if they were on as many devices.
    #[serde(default = "one_group")]
    pub batch_norm_splits: NonZeroUsize,
    /// Split the projector's batch norms too.
    #[serde(default)]
    pub split_projector: bool,
    /// Shuffle the batch before the momentum encoder, so that groups do not match between encoders.
    #[serde(default)]
    pub shuffle: bool,
}

fn yes() -> bool {
    true
}

fn one_group() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// How the momentum of the momentum encoder changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumSchedule {
    /// Not at all.
    #[default]
    Constant,
    /// To 1 along half a cosine over all steps.
    Cosine,
}

/// `[queue]` of past keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Keys kept.
    pub size: NonZeroUsize,
    /// What stands there before the first keys.
    #[serde(default)]
    pub start: QueueStart,
}

/// What a queue holds before the first keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueStart {
    /// Random unit rows (MoCo).
    #[default]
    Random,
    /// Zeros, which are similar to nothing (FNC).
    Zeros,
}

/// `[training]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Passes over the images.
    pub epochs: NonZeroU64,
    /// Images in a batch, of all processes together; images that do not fill a last batch sit out
    /// the epoch.
    pub batch_size: NonZeroUsize,
    /// Batches whose gradients are averaged before a step.
    #[serde(default = "one_group")]
    pub accumulate_batches: NonZeroUsize,
    /// Encode so many images of a process at a time, and again for the gradient, so that a batch
    /// whose activations do not fit into memory still has one loss (gradient caching). Batch norms
    /// see these micro-batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<NonZeroUsize>,
    /// With several processes, batch norms take their statistics from all of them (default true), as
    /// if one process had the whole batch.
    #[serde(default = "yes")]
    pub synchronize_batch_norm: bool,
    /// Methods that mix images mix within so many equal parts of a batch (default: one for each
    /// process); with the same number, a run on fewer or more processes mixes the same images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixing_blocks: Option<NonZeroUsize>,
    /// Of the weights and all that is computed with them.
    #[serde(default)]
    pub precision: Precision,
    /// Let CUDA's matrix products and convolutions round single precision to the 10 bits of TF32
    /// (default true); recipes older than this key do not state it. Means nothing on a CPU.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub tf32: bool,
    /// Whether the host waits for every step (default), reads it late, or has CUDA repeat it.
    #[serde(default, skip_serializing_if = "StepForm::is_waited_for")]
    pub step: StepForm,
    /// Stop after this many steps in a row were skipped because of a non-finite loss or gradient.
    #[serde(default = "ten")]
    pub maximum_skipped_steps: NonZeroU64,
    /// Write a record of the metrics every so many steps.
    #[serde(default = "ten")]
    pub record_every_steps: NonZeroU64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(flag: &bool) -> bool {
    *flag
}

/// How host and device share a step. The last two are for one process that neither accumulates batches
/// nor divides them, and train what the first trains; steps whose measures are written down are waited
/// for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepForm {
    /// The host reads the loss, and then lets the device change the weights.
    #[default]
    WaitedFor,
    /// The device decides whether a step changes anything, and the host reads its loss while the next
    /// one is under way: a GPU does not wait for the host.
    ReadLate,
    /// As before, and CUDA repeats the step as one graph; activations are held twice then, for steps
    /// that are repeated and for those that are not.
    CudaGraph,
}

impl StepForm {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_waited_for(&self) -> bool {
        *self == Self::WaitedFor
    }
}

/// Of floating-point numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    Single,
    /// 64 bits: slow, for telling rounding from errors.
    Double,
    /// Encoders compute in 16 bits where that is safe (autocast); weights, gradients, running
    /// statistics, embeddings and the loss have 32.
    Bfloat16,
}

fn ten() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(9)
}

/// `[optimizer]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "OptimizerTable", into = "OptimizerTable")]
pub struct Optimizer {
    /// Which one, with the keys that only it has.
    pub rule: UpdateRule,
    /// The learning rate after warm-up, before scaling.
    pub learning_rate: Positive,
    /// How it grows with the images of a step.
    pub learning_rate_scaling: LearningRateScaling,
    /// L2 penalty: times the weights, it is added to the gradient (`adamw`: times the learning rate
    /// too, and taken off the weights directly).
    pub weight_decay: NonNegative,
    /// Spare biases and batch norms the weight decay (default: `lars` does, the others do not).
    pub exclude_bias_and_norm: bool,
}

/// An optimiser (`name` in the recipe) with the keys that only it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// `sgd`: stochastic gradient descent with momentum, as in torch.
    Sgd {
        /// Momentum of the gradient (default 0.9).
        momentum: Fraction,
        /// Nesterov's momentum.
        nesterov: bool,
    },
    /// `lars`: SGD whose step for a layer is in proportion to the layer's weights.
    Lars {
        /// Momentum of the gradient (default 0.9).
        momentum: Fraction,
        /// The norm of a layer's step as a share of the norm of its weights, before the learning
        /// rate (default 0.001).
        trust_coefficient: Positive,
        /// What the momentum is an average of.
        momentum_form: MomentumForm,
    },
    /// `adamw`: Adam with decoupled weight decay, as in torch.
    AdamW {
        /// Share of the old mean of gradients that a step keeps, below 1 (default 0.9).
        beta_1: Fraction,
        /// The same for the mean of squared gradients (default 0.999).
        beta_2: Fraction,
        /// Added to the root of the mean of squares (default 1e-8).
        epsilon: Positive,
    },
}

/// Where the learning rate of `lars` enters; the two differ while it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumForm {
    /// Momentum gathers gradients, and the rate of today scales them all, as in torch (SCE).
    #[default]
    LearningRateOutside,
    /// Momentum gathers steps, each with the rate of its own day (SimCLR, FNC).
    LearningRateInside,
}

/// `[optimizer]` as it is written: the keys of every optimiser.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerTable {
    name: OptimizerName,
    learning_rate: Positive,
    #[serde(default)]
    learning_rate_scaling: LearningRateScaling,
    #[serde(skip_serializing_if = "Option::is_none")]
    momentum: Option<Fraction>,
    #[serde(default)]
    weight_decay: NonNegative,
    #[serde(skip_serializing_if = "Option::is_none")]
    nesterov: Option<bool>,
    exclude_bias_and_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_coefficient: Option<Positive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    momentum_form: Option<MomentumForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beta_1: Option<Fraction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beta_2: Option<Fraction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epsilon: Option<Positive>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerName {
    Sgd,
    Lars,
    AdamW,
}

impl OptimizerName {
    fn text(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Lars => "lars",
            Self::AdamW => "adamw",
        }
    }
}

impl OptimizerTable {
    /// Refuses the first key that belongs to other optimisers.
    fn check_keys(&self) -> Result<(), String> {
        use OptimizerName::{AdamW, Lars, Sgd};
        let keys: [(&str, bool, &[OptimizerName]); 7] = [
            ("momentum", self.momentum.is_some(), &[Sgd, Lars]),
            ("nesterov", self.nesterov.is_some(), &[Sgd]),
            ("trust_coefficient", self.trust_coefficient.is_some(), &[Lars]),
            ("momentum_form", self.momentum_form.is_some(), &[Lars]),
            ("beta_1", self.beta_1.is_some(), &[AdamW]),
            ("beta_2", self.beta_2.is_some(), &[AdamW]),
            ("epsilon", self.epsilon.is_some(), &[AdamW]),
        ];
        for (key, given, owners) in keys {
            if given && !owners.contains(&self.name) {
                let owners: Vec<&str> = owners.iter().map(|name| name.text()).collect();
                let (name, owners) = (self.name.text(), owners.join(" and "));
                return Err(format!("`{key}` is a key of {owners}, not of {name}: remove it"));
            }
        }
        Ok(())
    }

    fn rule(&self) -> Result<UpdateRule, String> {
        let momentum = self.momentum.unwrap_or(Fraction::literal(0.9));
        let beta = |key: &str, given: Option<Fraction>, default: f64| match given {
            Some(beta) if beta.get() >= 1.0 => {
                Err(format!("{key} = {} is not allowed: it must be below 1", beta.get()))
            }
            beta => Ok(beta.unwrap_or(Fraction::literal(default))),
        };
        Ok(match self.name {
            OptimizerName::Sgd => {
                UpdateRule::Sgd { momentum, nesterov: self.nesterov.unwrap_or_default() }
            }
            OptimizerName::Lars => UpdateRule::Lars {
                momentum,
                trust_coefficient: self.trust_coefficient.unwrap_or(Positive::literal(0.001)),
                momentum_form: self.momentum_form.unwrap_or_default(),
            },
            OptimizerName::AdamW => UpdateRule::AdamW {
                beta_1: beta("beta_1", self.beta_1, 0.9)?,
                beta_2: beta("beta_2", self.beta_2, 0.999)?,
                epsilon: self.epsilon.unwrap_or(Positive::literal(1e-8)),
            },
        })
    }
}

impl TryFrom<OptimizerTable> for Optimizer {
    type Error = String;

    fn try_from(table: OptimizerTable) -> Result<Self, String> {
        table.check_keys()?;
        Ok(Self {
            rule: table.rule()?,
            learning_rate: table.learning_rate,
            learning_rate_scaling: table.learning_rate_scaling,
            weight_decay: table.weight_decay,
            exclude_bias_and_norm: table
                .exclude_bias_and_norm
                .unwrap_or(table.name == OptimizerName::Lars),
        })
    }
}

impl From<Optimizer> for OptimizerTable {
    fn from(optimizer: Optimizer) -> Self {
        let mut table = Self {
            name: OptimizerName::Sgd,
            learning_rate: optimizer.learning_rate,
            learning_rate_scaling: optimizer.learning_rate_scaling,
            momentum: None,
            weight_decay: optimizer.weight_decay,
            nesterov: None,
            exclude_bias_and_norm: Some(optimizer.exclude_bias_and_norm),
            trust_coefficient: None,
            momentum_form: None,
            beta_1: None,
            beta_2: None,
            epsilon: None,
        };
        match optimizer.rule {
            UpdateRule::Sgd { momentum, nesterov } => {
                (table.momentum, table.nesterov) = (Some(momentum), Some(nesterov));
            }
            UpdateRule::Lars { momentum, trust_coefficient, momentum_form } => {
                table.name = OptimizerName::Lars;
                table.momentum = Some(momentum);
                table.trust_coefficient = Some(trust_coefficient);
                table.momentum_form = Some(momentum_form);
            }
            UpdateRule::AdamW { beta_1, beta_2, epsilon } => {
                table.name = OptimizerName::AdamW;
                (table.beta_1, table.beta_2) = (Some(beta_1), Some(beta_2));
                table.epsilon = Some(epsilon);
            }
        }
        table
    }
}

impl Default for NonNegative {
    fn default() -> Self {
        Self::literal(0.0)
    }
}

/// How the learning rate grows with the images of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateScaling {
    /// Used as it stands.
    #[default]
    None,
    /// Times images / 256.
    Linear,
    /// Times the square root of the images.
    SquareRoot,
}

impl Optimizer {
    /// The learning rate after warm-up for steps of so many images.
    pub fn scaled_learning_rate(&self, images_per_step: usize) -> f64 {
        let images = images_per_step as f64;
        let factor = match self.learning_rate_scaling {
            LearningRateScaling::None => 1.0,
            LearningRateScaling::Linear => images / 256.0,
            LearningRateScaling::SquareRoot => images.sqrt(),
        };
        self.learning_rate.get() * factor
    }
}

/// `[schedule]` of the learning rate, changed every step.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Epochs of linear warm-up from 0.
    pub warmup_epochs: u64,
    /// Where the warm-up reaches the peak; recipes older than this key do not state it.
    #[serde(skip_serializing_if = "WarmUp::is_default")]
    pub warmup: WarmUp,
    /// What follows.
    pub decay: Decay,
}

/// Where the warm-up, of W steps counted from 0, reaches the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// At its last step: step t has the share t / (W - 1) (SCE).
    #[default]
    PeakAtLastStep,
    /// At the step after it: step t has the share t / W (SimCLR, FNC).
    PeakAfterLastStep,
}

impl WarmUp {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// To 0 along half a cosine.
    #[default]
    Cosine,
    /// It stays.
    Constant,
}

/// `[checkpoint]`: when the state of a run is saved.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// After every so many epochs (and after the last).
    pub every_epochs: NonZeroU64,
    /// And whenever so many minutes have passed.
    pub every_minutes: Positive,
    /// Older checkpoints than this many are deleted.
    pub keep: NonZeroUsize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            every_epochs: NonZeroU64::MIN.saturating_add(9),
            every_minutes: Positive::literal(15.0),
            keep: const { NonZeroUsize::new(2).unwrap() },
        }
    }
}

/// `[evaluation]`: k-NN while training, when the data has labels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Every so many epochs (and after the last); 0 for never.
    pub every_epochs: u64,
    /// The votes that are reported.
    pub neighbours: Vec<Neighbours>,
    /// What is done to images instead of augmentation; if absent, resized and centre-cropped to the
    /// size of the first view and normalised as in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transforms: Option<Vec<Transform>>,
}

/// A weighted vote of nearest neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbours {
    /// How many vote.
    pub k: NonZeroUsize,
    /// A neighbour's vote weighs exp(cosine / temperature).
    pub temperature: Positive,
}

impl Default for Evaluation {
    fn default() -> Self {
        let vote = |k: NonZeroUsize, temperature: f64| Neighbours {
            k,
            temperature: Positive::literal(temperature),
        };
        Self {
            every_epochs: 10,
            neighbours: vec![
                vote(const { NonZeroUsize::new(200).unwrap() }, 0.1),
                vote(const { NonZeroUsize::new(20).unwrap() }, 0.07),
            ],
            transforms: None,
        }
    }
}

impl Recipe {
    /// Checks what concerns more than one key. `origin` is what messages call the recipe.
    pub(crate) fn check(self, origin: &str) -> Result<Self, RecipeError> {
        let conflict =
            |message: String| RecipeError::Conflict { origin: origin.to_owned(), message };
        if self.views.is_empty() {
            return Err(conflict("there are no [[views]]; a method needs two".to_owned()));
        }
        self.training_views()
            .and_then(|views| self.augment.place(&views, false, None))
            .map_err(|source| RecipeError::View { origin: origin.to_owned(), source })?;
        self.evaluation_view()
            .map_err(|source| RecipeError::View { origin: origin.to_owned(), source })?;
        if self.model.projector.is_empty() {
            return Err(conflict("model.projector needs at least one layer".to_owned()));
        }
        self.check_patches().map_err(conflict)?;
        let batch = self.training.batch_size;
        if batch.get() < 2 {
            return Err(conflict(
                "training.batch_size = 1: batch norm needs at least 2".to_owned(),
            ));
        }
        let images = batch.checked_mul(self.training.accumulate_batches);
        if images.is_none_or(|images| images.get() > u32::MAX as usize) {
            return Err(conflict(format!(
                "training.batch_size = {batch} x training.accumulate_batches = {} is too large",
                self.training.accumulate_batches
            )));
        }
        if self.training.epochs.get() > u64::from(u32::MAX) {
            let epochs = self.training.epochs;
            return Err(conflict(format!("training.epochs = {epochs} is too large")));
        }
        if self.training.micro_batch_size.is_some_and(|images| images.get() < 2) {
            return Err(conflict(
                "training.micro_batch_size = 1: batch norm needs at least 2".to_owned(),
            ));
        }
        if let Some(blocks) = self.training.mixing_blocks
            && !batch.get().is_multiple_of(blocks.get())
        {
            return Err(conflict(format!(
                "training.batch_size = {batch} does not divide into training.mixing_blocks = {blocks}"
            )));
        }
        if let (Some(predictor), Some(projector)) =
            (self.model.predictor.last(), self.model.projector.last())
            && predictor.width != projector.width
        {
            return Err(conflict(format!(
                "the last model.predictor layer has width {}, but predictions are compared with \
                 projections of width {}",
                predictor.width, projector.width
            )));
        }
        if let Some(momentum) = self.momentum_encoder {
            let (batch, splits) = (self.training.batch_size, momentum.batch_norm_splits);
            if !batch.get().is_multiple_of(splits.get()) || batch.get() / splits.get() < 2 {
                return Err(conflict(format!(
                    "training.batch_size = {batch} does not divide into \
                     momentum_encoder.batch_norm_splits = {splits} groups of at least 2 images"
                )));
            }
            if self.training.micro_batch_size.is_some() && (splits.get() > 1 || momentum.shuffle) {
                return Err(conflict(
                    "with training.micro_batch_size the micro-batches are the groups of batch norm: \
                     leave out momentum_encoder.batch_norm_splits and momentum_encoder.shuffle"
                        .to_owned(),
                ));
            }
        }
        if self.schedule.warmup_epochs > self.training.epochs.get() {
            return Err(conflict(format!(
                "schedule.warmup_epochs = {} is more than training.epochs = {}",
                self.schedule.warmup_epochs, self.training.epochs
            )));
        }
        if let UpdateRule::Sgd { momentum, nesterov: true } = self.optimizer.rule
            && momentum.get() == 0.0
        {
            return Err(conflict("optimizer.nesterov needs optimizer.momentum above 0".to_owned()));
        }
        if self.evaluation.every_epochs > 0 && self.evaluation.neighbours.is_empty() {
            return Err(conflict(
                "evaluation.neighbours is empty; to evaluate never, set evaluation.every_epochs = 0"
                    .to_owned(),
            ));
        }
        Ok(self)
    }

    /// A vision transformer cuts images into whole patches, and has position embeddings for those of
    /// the first view.
    fn check_patches(&self) -> Result<(), String> {
        let Backbone::VisionTransformer(options) = self.model.backbone else { return Ok(()) };
        let views = self.training_views().into_iter().flatten().chain(self.evaluation_view());
        let (image, patch) = (options.image_size.get(), options.patch_size.get());
        for (index, view) in views.enumerate() {
            let (name, size) = (view.name(), view.size_pixels() as u64);
            if index == 0 && size != image {
                return Err(format!(
                    "model.vision_transformer.image_size = {image}, but view `{name}` has images of \
                     {size} pixels: give both one size"
                ));
            }
            if !size.is_multiple_of(patch) {
                return Err(format!(
                    "view `{name}` has images of {size} pixels, which do not divide into \
                     model.vision_transformer.patch_size = {patch}"
                ));
            }
        }
        Ok(())
    }

    /// The views of training, ready to use.
    pub fn training_views(&self) -> Result<Vec<View>, ViewError> {
        self.views.iter().cloned().map(View::new).collect()
    }

    /// Opens the images of training: all of them, or as many as `limit_images` says.
    pub fn open_training_images(&self) -> Result<Arc<dyn ImageSet>, DataError> {
        let all = nearkin_data::open(&self.data, Split::Train)?;
        Ok(match self.limit_images {
            Some(limit) if limit.get() < all.len() => {
                Arc::new(Subset::random(all, limit.get(), self.seed))
            }
            _ => all,
        })
    }

    /// A set of this recipe that skips damaged images, up to `bad_image_limit`.
    pub fn tolerate(
        &self,
        set: Arc<dyn ImageSet>,
        split: Split,
        list: &Arc<BadImages>,
    ) -> Arc<dyn ImageSet> {
        let limit = self.bad_image_limit.map_or(tolerant::DEFAULT_LIMIT, Fraction::get);
        Arc::new(Tolerant::new(set, split, limit, Arc::clone(list)))
    }

    /// The one view of evaluation: no augmentation.
    pub fn evaluation_view(&self) -> Result<View, ViewError> {
        let transforms = self.evaluation_transforms()?;
        View::new(ViewOptions { name: "evaluation".to_owned(), transforms })
    }

    /// The transforms of that view.
    pub fn evaluation_transforms(&self) -> Result<Vec<Transform>, ViewError> {
        if let Some(transforms) = &self.evaluation.transforms {
            return Ok(transforms.clone());
        }
        Ok(self.plain_transforms(View::new(self.views[0].clone())?.size_pixels()))
    }

    /// The view in which pixels themselves are compared: that of evaluation, but of at most 32
    /// pixels a side, which bounds the memory and loses little.
    pub fn pixel_view(&self) -> Result<View, ViewError> {
        let view = self.evaluation_view()?;
        if view.size_pixels() <= 32 {
            return Ok(view);
        }
        let transforms = self.plain_transforms(32);
        View::new(ViewOptions { name: "pixels".to_owned(), transforms })
    }

    /// Resized, centre-cropped, and normalised as in the first view.
    fn plain_transforms(&self, size: usize) -> Vec<Transform> {
        let mut transforms = vec![
            Transform::Resize(Resize { size, interpolation: Interpolation::default() }),
            Transform::CenterCrop(CenterCrop { size }),
        ];
        let last = self.views[0].transforms.last();
        transforms.extend(last.filter(|last| matches!(last, Transform::Normalize(_))).cloned());
        transforms
    }

    /// The same recipe with the method's defaults filled in.
    #[must_use]
    pub fn with_method(mut self, method: toml::Table) -> Self {
        self.method = method;
        self
    }

    /// Images whose gradients make one step.
    pub fn images_per_step(&self) -> usize {
        self.training.batch_size.get() * self.training.accumulate_batches.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{TEXT, parse, with};

    #[test]
    fn views_go_to_the_device_where_the_recipe_or_the_device_says_so() {
        let on_device = |place: &str, is_cuda: bool| {
            let recipe = with("[queue]", &format!("{place}\n[queue]")).expect("a recipe");
            let views = recipe.training_views().expect("views");
            let placed = recipe.augment.place(&views, is_cuda, None).expect("views");
            placed.iter().map(View::is_for_device).collect::<Vec<_>>()
        };
        for (place, on_cpu, on_cuda) in [
            ("", false, true),
            ("[augment]\nplace = \"auto\"", false, true),
            ("[augment]\nplace = \"host\"", false, false),
            ("[augment]\nplace = \"device\"", true, true),
        ] {
            assert_eq!(on_device(place, false), [on_cpu; 2], "{place}");
            assert_eq!(on_device(place, true), [on_cuda; 2], "{place}");
        }
        let recipe = parse(TEXT).expect("a recipe");
        assert!(!recipe.to_text().contains("[augment]"), "a default is not written");
    }

    #[test]
    fn a_transform_without_a_form_on_the_device_is_refused_there_and_stays_on_the_host() {
        let flip = "{ horizontal_flip = { probability = 0.5 } }";
        let text = TEXT.replace(flip, "{ rand_augment = {} }");
        let message = parse(&text.replace("[queue]", "[augment]\nplace = \"device\"\n[queue]"))
            .expect_err("RandAugment");
        let expected = "view `strong`: rand_augment has no form on the device";
        assert!(message.contains(expected), "{message}");
        let recipe = parse(&text).expect("a recipe");
        let views = recipe.training_views().expect("views");
        let placed = recipe.augment.place(&views, true, None).expect("views");
        assert_eq!(placed.iter().map(View::is_for_device).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_line_and_rule() {
        let positive = "it must be a finite number above 0";
        for (passage, wrong, rule) in [
            ("learning_rate = 0.05", "learning_rate = nan", positive),
            ("learning_rate = 0.05", "learning_rate = -0.1", positive),
            ("learning_rate = 0.05", "learning_rate = 0", positive),
            ("learning_rate = 0.05", "learning_rate = inf", positive),
            ("temperature = 0.07", "temperature = 0.0", positive),
            ("weight_decay = 5e-4", "weight_decay = -1e-4", "a finite number of at least 0"),
            ("momentum = 0.9", "momentum = 1.01", "it must be within 0 and 1"),
            ("epochs = 2", "epochs = 0", "expected a whole number above 0"),
            ("epochs = 2", "epochs = 2.5", "expected a whole number above 0"),
            ("batch_size = 16", "batch_size = -1", "expected a whole number above 0"),
            ("learning_rate = 0.05", "learning_rate = \"0.05\"", "expected a number"),
            ("k = 20", "k = 0", "expected a whole number above 0"),
            ("seed = 3", "seed = -3", "expected a whole number of at least 0"),
            ("seed = 3", "seed = 18446744073709551615", "too large"),
        ] {
            let message = with(passage, wrong).expect_err(wrong);
            let number = TEXT.lines().position(|line| line.contains(passage)).expect("a line") + 1;
            assert!(message.starts_with("example.toml: "), "{message}");
            assert!(message.contains(&format!("line {number}, ")), "{message}");
            assert!(message.contains(wrong), "{message}");
            assert!(message.contains(rule), "{message}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_the_nearest_known_one() {
        for (passage, wrong, unknown, nearest) in [
            ("seed = 3", "sede = 3", "sede", "seed"),
            ("[queue]", "[queu]", "queu", "queue"),
            ("batch_size = 16", "batchsize = 16", "batchsize", "batch_size"),
            ("train_images = 64", "training_images = 64", "training_images", "train_images"),
            ("relu = true", "rellu = true", "rellu", "relu"),
            ("k = 20,", "kk = 20,", "kk", "k"),
            ("scale = [", "scales = [", "scales", "scale"),
            ("horizontal_flip", "horizontal_flipp", "horizontal_flipp", "horizontal_flip"),
            ("probability = 0.5", "probabilty = 0.5", "probabilty", "probability"),
            ("name = \"strong\"", "nam = \"strong\"", "nam", "name"),
            ("\"resnet18\"", "\"resnet19\"", "resnet19", "resnet18"),
            ("\"shapes\"", "\"shape\"", "shape", "shapes"),
        ] {
            let message = with(passage, wrong).expect_err(wrong);
            assert!(message.contains(&format!("`{unknown}`, expected")), "{message}");
            let end = format!("; did you mean `{nearest}`?");
            assert!(message.ends_with(&end), "{message}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        for (passage, key) in [
            ("epochs = 2", "epochs"),
            ("learning_rate = 0.05", "learning_rate"),
            ("name = \"strong\"", "name"),
            ("dataset = \"shapes\"", "dataset"),
            ("momentum = 0.9", "momentum"),
        ] {
            let message = with(passage, "").expect_err(key);
            assert!(message.contains(&format!("missing field `{key}`")), "{message}");
        }
    }

    #[test]
    fn keys_that_contradict_each_other_are_named() {
        for (passage, wrong, expected) in [
            (
                "batch_norm_splits = 2",
                "batch_norm_splits = 3",
                "training.batch_size = 16 does not divide into momentum_encoder.batch_norm_splits = 3",
            ),
            ("batch_norm_splits = 2", "batch_norm_splits = 16", "groups of at least 2 images"),
            (
                "[training]",
                "[schedule]\nwarmup_epochs = 3\n[training]",
                "schedule.warmup_epochs = 3 is more than training.epochs = 2",
            ),
            (
                "learning_rate = 0.05",
                "learning_rate = 0.05\nmomentum = 0\nnesterov = true",
                "optimizer.nesterov needs optimizer.momentum above 0",
            ),
            (
                "base_width = 4",
                "base_width = 4\npredictor = [{ width = 9 }]",
                "the last model.predictor layer has width 9",
            ),
            (
                "[{ k = 20, temperature = 0.07 }]",
                "[]",
                "evaluation.neighbours is empty; to evaluate never, set evaluation.every_epochs = 0",
            ),
            (
                "{ random_resized_crop = { size = 16, scale = [0.2, 1.0] } },",
                "",
                "view `strong`: the size of its images is not fixed",
            ),
            (
                "scale = [0.2, 1.0]",
                "scale = [0.2, 2.0]",
                "view `strong`, transform 1 (random_resized_crop): scale = [0.2, 2]",
            ),
        ] {
            let message = with(passage, wrong).expect_err(wrong);
            assert!(message.starts_with("example.toml: "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        let projector = TEXT.split("projector = ").nth(1).and_then(|rest| rest.split("\n]").next());
        let message = with(&format!("{}\n]", projector.expect("a projector")), "[]");
        assert!(message.expect_err("no layers").contains("at least one layer"));
        let no_views =
            TEXT.split("[[views]]").next().expect("text").replace("[data]", "views = []\n[data]");
        assert!(parse(&no_views).expect_err("no views").contains("there are no [[views]]"));
    }

    #[test]
    fn the_predictor_may_match_the_projector_and_evaluation_may_be_off() {
        with("base_width = 4", "base_width = 4\npredictor = [{ width = 8 }]").expect("fits");
        with("[{ k = 20, temperature = 0.07 }]", "[]\nevery_epochs = 0").expect("nothing to vote");
        with("batch_norm_splits = 2", "batch_norm_splits = 8").expect("8 groups of 2 images");
    }

    #[test]
    fn evaluation_sees_images_of_the_size_and_normalisation_of_the_first_view() {
        let normalize = "{ normalize = { mean_rgb = [0.5, 0.5, 0.5], std_rgb = [0.2, 0.2, 0.2] } }";
        let crop = "{ random_resized_crop = { size = 16 } }";
        let recipe = with(crop, &format!("{}, {normalize}", crop.replace("16", "24")));
        let recipe = recipe.expect("a recipe");
        let sizes: Vec<usize> =
            recipe.training_views().expect("views").iter().map(View::size_pixels).collect();
        assert_eq!(sizes, [24, 16]);
        assert_eq!(recipe.evaluation_view().expect("a view").size_pixels(), 24);

        let image = nearkin_data::Image::new(24, 24, vec![255; 24 * 24 * 3]).expect("an image");
        let view = recipe.evaluation_view().expect("a view");
        let mut values = vec![0.0; view.values()];
        let mut random = nearkin_data::Random::for_view(0, 0, 0, 0);
        view.apply(&image, &mut random, &mut nearkin_augment::Scratch::default(), &mut values);
        assert!(values.iter().all(|value| (value - 2.5).abs() < 1e-6), "{:?}", &values[..3]);
    }

    #[test]
    fn the_learning_rate_grows_with_the_images_of_a_step() {
        for (scaling, expected) in [("none", 0.05), ("linear", 0.0125), ("square_root", 0.4)] {
            let text = format!("learning_rate = 0.05\nlearning_rate_scaling = \"{scaling}\"");
            let recipe = with("learning_rate = 0.05", &text).expect("a recipe");
            let rate = recipe.optimizer.scaled_learning_rate(64);
            assert!((rate - expected).abs() < 1e-12, "{scaling}: {rate}");
        }
        let recipe = with("epochs = 2", "epochs = 2\naccumulate_batches = 4").expect("a recipe");
        assert_eq!(recipe.images_per_step(), 64);
    }

    #[test]
    fn scaled_learning_rates_are_those_of_the_papers() {
        for (rate, scaling, images, expected) in [
            (0.3, "linear", 4096, 4.8),
            (0.6, "linear", 4096, 9.6),
            (0.06, "linear", 256, 0.06),
            (0.1, "square_root", 4096, 6.4),
            (0.005, "square_root", 1024, 0.16),
            (0.1, "linear", 1024, 0.4),
        ] {
            let text = format!("learning_rate = {rate}\nlearning_rate_scaling = \"{scaling}\"");
            let recipe = with("learning_rate = 0.05", &text).expect("a recipe");
            let got = recipe.optimizer.scaled_learning_rate(images);
            assert!((got - expected).abs() < 1e-12, "{rate} {scaling}: {got}");
        }
    }

    /// The tables `[optimizer]` and `[schedule]` of the resolved example.
    fn resolved(name: &str, more: &str) -> String {
        let recipe = with("name = \"sgd\"", &format!("name = \"{name}\"\n{more}"));
        let text = recipe.expect("a recipe").to_text();
        let again = parse(&text).expect("the resolved recipe is a recipe");
        assert_eq!(again.to_text(), text);
        let start = text.find("[optimizer]").expect("an optimiser");
        text[start..text.find("[checkpoint]").expect("what follows")].to_owned()
    }

    #[test]
    fn keys_that_came_later_leave_the_text_of_older_recipes_as_it_was() {
        let expected = "[optimizer]\n\
            name = \"sgd\"\n\
            learning_rate = 0.05\n\
            learning_rate_scaling = \"none\"\n\
            momentum = 0.9\n\
            weight_decay = 0.0005\n\
            nesterov = false\n\
            exclude_bias_and_norm = false\n\n\
            [schedule]\n\
            warmup_epochs = 0\n\
            decay = \"cosine\"\n\n";
        assert_eq!(resolved("sgd", ""), expected);
    }

    #[test]
    fn every_optimiser_states_its_own_keys_and_defaults() {
        let lines = |name: &str, more: &str| -> Vec<String> {
            let text = resolved(name, more);
            let table = text.split("\n\n").next().expect("a table");
            table.lines().skip(4).map(str::to_owned).collect()
        };
        assert_eq!(
            lines("lars", ""),
            [
                "momentum = 0.9",
                "weight_decay = 0.0005",
                "exclude_bias_and_norm = true",
                "trust_coefficient = 0.001",
                "momentum_form = \"learning_rate_outside\"",
            ]
        );
        let given = "momentum = 0.8\nexclude_bias_and_norm = false\ntrust_coefficient = 0.02\n\
                     momentum_form = \"learning_rate_inside\"";
        assert_eq!(
            lines("lars", given),
            [
                "momentum = 0.8",
                "weight_decay = 0.0005",
                "exclude_bias_and_norm = false",
                "trust_coefficient = 0.02",
                "momentum_form = \"learning_rate_inside\"",
            ]
        );
        assert_eq!(
            lines("adamw", ""),
            [
                "weight_decay = 0.0005",
                "exclude_bias_and_norm = false",
                "beta_1 = 0.9",
                "beta_2 = 0.999",
                "epsilon = 0.00000001",
            ]
        );
        let given = "beta_1 = 0\nbeta_2 = 0.95\nepsilon = 0.5\nexclude_bias_and_norm = true";
        assert_eq!(
            lines("adamw", given),
            [
                "weight_decay = 0.0005",
                "exclude_bias_and_norm = true",
                "beta_1 = 0.0",
                "beta_2 = 0.95",
                "epsilon = 0.5",
            ]
        );
    }

    #[test]
    fn a_key_of_another_optimiser_is_named() {
        for (name, line, owners) in [
            ("adamw", "momentum = 0.9", "sgd and lars"),
            ("adamw", "nesterov = false", "sgd"),
            ("lars", "nesterov = true", "sgd"),
            ("sgd", "trust_coefficient = 0.001", "lars"),
            ("adamw", "trust_coefficient = 0.001", "lars"),
            ("sgd", "momentum_form = \"learning_rate_inside\"", "lars"),
            ("sgd", "beta_1 = 0.9", "adamw"),
            ("lars", "beta_2 = 0.9", "adamw"),
            ("sgd", "epsilon = 1e-8", "adamw"),
        ] {
            let message = with("name = \"sgd\"", &format!("name = \"{name}\"\n{line}"));
            let message = message.expect_err(line);
            let key = line.split(' ').next().expect("a key");
            let expected = format!("`{key}` is a key of {owners}, not of {name}: remove it");
            assert!(message.starts_with("example.toml: "), "{message}");
            assert!(message.ends_with(&expected), "{message}");
        }
        let message = crate::example::set(&["optimizer.beta_1=0.5"]).expect_err("a key of adamw");
        let expected = "example.toml: optimizer: `beta_1` is a key of adamw, not of sgd: remove it";
        assert_eq!(message, expected);
    }

    #[test]
    fn values_that_no_optimiser_can_use_are_refused() {
        for (name, line, expected) in [
            ("adamw", "beta_1 = 1", "beta_1 = 1 is not allowed: it must be below 1"),
            ("adamw", "beta_2 = 1.0", "beta_2 = 1 is not allowed: it must be below 1"),
            ("adamw", "epsilon = 0", "it must be a finite number above 0"),
            ("lars", "trust_coefficient = 0", "it must be a finite number above 0"),
            ("lars", "momentum_form = \"inside\"", "unknown variant `inside`"),
            ("adam", "", "did you mean `adamw`?"),
        ] {
            let message = with("name = \"sgd\"", &format!("name = \"{name}\"\n{line}"));
            let message = message.expect_err(line);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_other_warm_up_is_stated_and_read() {
        let recipe = |warmup: &str| {
            with("seed = 3", &format!("seed = 3\nschedule = {{ warmup = \"{warmup}\" }}"))
        };
        let after = recipe("peak_after_last_step").expect("a recipe");
        assert_eq!(after.schedule.warmup, WarmUp::PeakAfterLastStep);
        assert!(after.to_text().contains("\nwarmup = \"peak_after_last_step\"\n"));
        let at = recipe("peak_at_last_step").expect("a recipe");
        assert_eq!(at.digest(), parse(TEXT).expect("a recipe").digest());
        assert!(recipe("peak").expect_err("unknown").contains("unknown variant `peak`"));
    }
}
