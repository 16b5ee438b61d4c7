//! Linear probes: the protocols of the papers, and one on cached features that tries many settings
//! at once.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use nearkin_augment::{Loader, LoaderOptions, Order};
use nearkin_data::{ImageSet, labelled};
use nearkin_eval::{EvaluationError, FeatureSource, Features, check_labels, extract};
use nearkin_model::images_to_tensor;
use nearkin_recipe::{
    Fraction, LearningRateScaling, NonNegative, Optimizer as OptimizerOptions, Positive, UpdateRule,
};
use nearkin_train::Optimizer;
use tch::{Kind, Tensor};

use crate::classifier::{Classifier, Fall, Passes, Start, cross_entropy, test};
use crate::sets::{hold_out, labels_in};
use crate::side_by_side::{SideBySide, grid};
use crate::views::{Augmentation, TestView};
use crate::{Accuracies, Frozen, Machine, ProbeError, Score, Subject};

/// A protocol of linear evaluation by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearPreset {
    /// SCE on CIFAR, after MoCo: SGD of rate 30, x0.1 at epochs 60 and 80 of 100, crops and flips.
    MocoCifar,
    /// SCE on ImageNet, after MoCo v3: SGD of rate 0.1 x batch / 256, cosine, 90 epochs.
    SceImagenet,
    /// FNC on ImageNet: SGD with Nesterov's momentum, rate 0.005 x sqrt(batch), cosine, 90 epochs.
    Fnc,
    /// SANE on CIFAR: Adam of rate 0.01, 200 epochs on features that are computed once.
    SaneCifar,
    /// 40 settings side by side on features that are computed once, chosen on a held-out tenth.
    Cached,
}

impl LinearPreset {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MocoCifar, Self::SceImagenet, Self::Fnc, Self::SaneCifar, Self::Cached];

    fn name(self) -> &'static str {
        match self {
            Self::MocoCifar => "moco-cifar",
            Self::SceImagenet => "sce-imagenet",
            Self::Fnc => "fnc",
            Self::SaneCifar => "sane-cifar",
            Self::Cached => "cached",
        }
    }
}

impl fmt::Display for LinearPreset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for LinearPreset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|preset| preset.name() == text);
        found.ok_or_else(|| format!("{text:?} is no preset: write one of {names}"))
    }
}

/// Which protocol, and what of it is not as published.
#[derive(Clone, Copy, Debug)]
pub struct LinearOptions {
    /// The protocol.
    pub preset: LinearPreset,
    /// Passes over the images, if not those of the protocol.
    pub epochs: Option<u64>,
    /// Images of a step, if not those of the protocol.
    pub batch_size: Option<NonZeroUsize>,
    /// From which first weights, order, crops and the held-out part follow.
    pub seed: u64,
}

/// A protocol in numbers.
struct Protocol {
    optimizer: OptimizerOptions,
    fall: Fall,
    epochs: u64,
    batch_size: NonZeroUsize,
    start: Start,
    /// None: the features of un-augmented images are computed once.
    augmentation: Option<Augmentation>,
    test: TestView,
}

/// Of SGD with momentum 0.9, or Adam.
pub(crate) fn optimizer(
    rule: UpdateRule,
    learning_rate: f64,
    scaling: LearningRateScaling,
    weight_decay: f64,
) -> Result<OptimizerOptions, ProbeError> {
    Ok(OptimizerOptions {
        rule,
        learning_rate: Positive::try_from(learning_rate).map_err(ProbeError::Request)?,
        learning_rate_scaling: scaling,
        weight_decay: NonNegative::try_from(weight_decay).map_err(ProbeError::Request)?,
        exclude_bias_and_norm: matches!(rule, UpdateRule::Lars { .. }),
    })
}

/// SGD with the momentum of all these protocols.
pub(crate) fn sgd(nesterov: bool) -> Result<UpdateRule, ProbeError> {
    let momentum = Fraction::try_from(0.9).map_err(ProbeError::Request)?;
    Ok(UpdateRule::Sgd { momentum, nesterov })
}

impl Protocol {
    /// The published values; `None` for the protocol that has a grid of its own.
    fn of(preset: LinearPreset) -> Result<Option<Self>, ProbeError> {
        use LearningRateScaling as Scaling;
        Ok(Some(match preset {
            LinearPreset::MocoCifar => Self {
                optimizer: optimizer(sgd(false)?, 30.0, Scaling::None, 0.0)?,
                fall: Fall::TenthTwice,
                epochs: 100,
                batch_size: const { NonZeroUsize::new(256).unwrap() },
                start: Start::Normal(0.01),
                augmentation: Some(Augmentation::CropAndFlip),
                test: TestView::Recipe,
            },
            LinearPreset::SceImagenet => Self {
                optimizer: optimizer(sgd(false)?, 0.1, Scaling::Linear, 0.0)?,
                fall: Fall::Cosine,
                epochs: 90,
                batch_size: const { NonZeroUsize::new(1024).unwrap() },
                start: Start::Normal(0.01),
                augmentation: Some(Augmentation::ResizedCropAndFlip(0.08)),
                test: TestView::ResizeAndCrop,
            },
            LinearPreset::Fnc => Self {
                optimizer: optimizer(sgd(true)?, 0.005, Scaling::SquareRoot, 0.0)?,
                fall: Fall::Cosine,
                epochs: 90,
                batch_size: const { NonZeroUsize::new(1024).unwrap() },
                start: Start::Zeros,
                augmentation: Some(Augmentation::ResizedCropAndFlip(0.2)),
                test: TestView::ResizeAndCrop,
            },
            LinearPreset::SaneCifar => {
                let fraction = |value| Fraction::try_from(value).map_err(ProbeError::Request);
                let adam = UpdateRule::AdamW {
                    beta_1: fraction(0.9)?,
                    beta_2: fraction(0.999)?,
                    epsilon: Positive::try_from(1e-8).map_err(ProbeError::Request)?,
                };
                Self {
                    optimizer: optimizer(adam, 0.01, Scaling::None, 0.0)?,
                    fall: Fall::Constant,
                    epochs: 200,
                    batch_size: const { NonZeroUsize::new(256).unwrap() },
                    start: Start::Normal(0.01),
                    augmentation: None,
                    test: TestView::Recipe,
                }
            }
            LinearPreset::Cached => return Ok(None),
        }))
    }
}

/// Epochs and batch of the cached protocol: our own choice, the same for all settings.
const CACHED_EPOCHS: u64 = 30;
const CACHED_BATCH: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A value with a remark where it is not that of the protocol.
pub(crate) fn stated<T: Copy + PartialEq + fmt::Display>(value: T, published: T) -> String {
    if value == published {
        value.to_string()
    } else {
        format!("{value} (the protocol has {published})")
    }
}

/// The optimiser in words.
pub(crate) fn describe(options: &OptimizerOptions, rate: f64) -> String {
    let rule = match options.rule {
        UpdateRule::Sgd { momentum, nesterov } => {
            let kind = if nesterov { "Nesterov's momentum" } else { "momentum" };
            format!("SGD with {kind} {}", momentum.get())
        }
        UpdateRule::Lars { momentum, .. } => format!("LARS with momentum {}", momentum.get()),
        UpdateRule::AdamW { .. } if options.weight_decay.get() == 0.0 => "Adam".to_owned(),
        UpdateRule::AdamW { .. } => "AdamW".to_owned(),
    };
    format!("{rule}, learning rate {rate}, weight decay {}", options.weight_decay.get())
}

/// Trains a linear classifier on the frozen backbone with the labelled images of `train` and tests it
/// once on those of `test`, after the last epoch.
pub fn linear(
    subject: &Subject,
    sets: [&Arc<dyn ImageSet>; 2],
    options: LinearOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    train_and_test(subject, sets, options, machine).map_err(|error| subject.blame(error))
}

fn train_and_test(
    subject: &Subject,
    [train, test_set]: [&Arc<dyn ImageSet>; 2],
    options: LinearOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    check_labels(&**train, &**test_set)?;
    let [train, test_set] = [labelled(train), labelled(test_set)];
    let encoder = subject.encoder(machine.device)?;
    let frozen = Frozen::new(&encoder, fixed_batch(subject, &train, machine)?)?;
    let (accuracies, how) = match Protocol::of(options.preset)? {
        Some(protocol) => {
            online(subject, &encoder, [&train, &test_set], &protocol, options, machine)?
        }
        None => cached(subject, &encoder, [&train, &test_set], options, machine)?,
    };
    frozen.check(&encoder)?;
    let definition = format!(
        "linear {}, backbone features in evaluation mode (parameters and running statistics proven \
         unchanged), {how}, seed {}, {} training and {} test images, last epoch",
        options.preset,
        options.seed,
        labelled(&train).len(),
        accuracies.images
    );
    Ok(accuracies.scores(&format!("linear {}", options.preset), &definition))
}

/// A few images, un-augmented.
pub(crate) fn fixed_batch(
    subject: &Subject,
    train: &Arc<dyn ImageSet>,
    machine: Machine,
) -> Result<Tensor, ProbeError> {
    let few = const { NonZeroUsize::new(8).unwrap() };
    let plan = Order::new(train.len(), few, 0, false).plan(0, 0);
    let views = Arc::from([subject.evaluation_view.clone()]);
    let loading = LoaderOptions { workers: 0, prefetch_batches: 0 };
    let mut loader = Loader::start(Arc::clone(train), views, 0, std::iter::once(plan), loading)?;
    let batch = loader.next().transpose()?;
    let view = batch.as_ref().and_then(|batch| batch.views.first());
    let view =
        view.ok_or(EvaluationError::NoneReadable { images: train.len(), which: "training " })?;
    Ok(images_to_tensor(&view.pixels, view.size_pixels, machine.device)?)
}

/// One optimiser, step by step.
fn online(
    subject: &Subject,
    encoder: &nearkin_model::Encoder,
    [train, test_set]: [&Arc<dyn ImageSet>; 2],
    protocol: &Protocol,
    options: LinearOptions,
    machine: Machine,
) -> Result<(Accuracies, String), ProbeError> {
    let epochs = options.epochs.unwrap_or(protocol.epochs);
    let batch_size = options.batch_size.unwrap_or(protocol.batch_size);
    let passes = Passes { epochs, batch_size, seed: options.seed, drop_last: false };
    let rate = protocol.optimizer.scaled_learning_rate(batch_size.get());
    let sizes = [encoder.features(), train.classes().len() as i64];
    let classifier = Classifier::new(sizes, protocol.start, options.seed, machine.device)?;
    let mut optimizer = Optimizer::new(&classifier.parameters, &protocol.optimizer)?;
    let per_epoch = passes.steps_per_epoch(train.len());
    let mut step = |number: u64, rows: Tensor, labels: Tensor| {
        optimizer.zero_gradients();
        let loss = cross_entropy(&classifier.forward(&rows)?, &labels)?;
        if !loss.f_double_value(&[])?.is_finite() {
            return Err(ProbeError::Diverged { step: number });
        }
        loss.f_backward()?;
        Ok(optimizer.step(rate * protocol.fall.factor(number, per_epoch, epochs))?)
    };
    let images = if let Some(augmentation) = protocol.augmentation {
        let view = augmentation.view(&subject.recipe)?;
        passes.over_images(train, &view, machine, |number, images, labels| {
            step(number, extract(encoder, &images)?, labels)
        })?;
        augmentation.text()
    } else {
        let source = FeatureSource::Backbone(encoder);
        let features = Features::of(source, train, &subject.evaluation_view, machine.features())?;
        passes.over_rows(&features.rows, &features.labels, step)?;
        "features computed once".to_owned()
    };
    let view = protocol.test.view(&subject.recipe)?;
    let accuracies = test(encoder, test_set, &view, machine, |rows| classifier.forward(rows))?;
    let how = format!(
        "{}, {}, {} epochs, batch {}, trained on {images}, tested on {}",
        describe(&protocol.optimizer, rate),
        protocol.fall.text(),
        stated(epochs, protocol.epochs),
        stated(batch_size, protocol.batch_size),
        protocol.test.text(&view)
    );
    Ok((accuracies, how))
}

/// Many settings side by side.
fn cached(
    subject: &Subject,
    encoder: &nearkin_model::Encoder,
    [train, test_set]: [&Arc<dyn ImageSet>; 2],
    options: LinearOptions,
    machine: Machine,
) -> Result<(Accuracies, String), ProbeError> {
    let epochs = options.epochs.unwrap_or(CACHED_EPOCHS);
    let batch_size = options.batch_size.unwrap_or(CACHED_BATCH);
    let source = FeatureSource::Backbone(encoder);
    let features = Features::of(source, train, &subject.evaluation_view, machine.features())?;
    let standard = Standard::of(&features.rows)?;
    let rows = standard.apply(&features.rows)?;

    let settings = grid();
    let [learn, held] = hold_out(&labels_in(&features)?, options.seed)?;
    let part = |places: &[usize]| -> Result<(Tensor, Tensor), ProbeError> {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let places = Tensor::f_from_slice(&places)?.f_to_device(rows.device())?;
        Ok((rows.f_index_select(0, &places)?, features.labels.f_index_select(0, &places)?))
    };
    let classes = train.classes().len() as i64;
    let passes = Passes { epochs, batch_size, seed: options.seed, drop_last: false };
    let chosen = {
        let (learn, held) = (part(&learn)?, part(&held)?);
        let probes = SideBySide::train(&learn.0, &learn.1, classes, &settings, passes)?;
        probes.best(&held.0, &held.1)?
    };
    let setting = settings[chosen.place];
    let probe = SideBySide::train(&rows, &features.labels, classes, &[setting], passes)?;
    let accuracies = test(encoder, test_set, &subject.evaluation_view, machine, |rows| {
        probe.logits(&standard.apply(rows)?)?.f_select(0, 0)
    })?;
    let how = format!(
        "standardised features computed once, SGD with momentum 0.9, cosine to 0, {} epochs, batch \
         {}, learning rate {} and weight decay {} chosen among {} settings on {} held-out training \
         images (accuracy there {:.2} %), then trained on all",
        stated(epochs, CACHED_EPOCHS),
        stated(batch_size, CACHED_BATCH),
        setting.learning_rate,
        setting.weight_decay,
        settings.len(),
        held.len(),
        100.0 * chosen.accuracy
    );
    Ok((accuracies, how))
}

/// Mean 0 and deviation 1 in every dimension, so that one learning rate means the same for features of
/// any scale; a linear map takes nothing from a linear classifier.
struct Standard {
    mean: Tensor,
    deviation: Tensor,
}

impl Standard {
    fn of(rows: &Tensor) -> Result<Self, ProbeError> {
        let dimension = [0].as_slice();
        Ok(Self {
            mean: rows.f_mean_dim(dimension, true, None::<Kind>)?,
            // A dead dimension stays at 0.
            deviation: rows.f_std_dim(dimension, false, true)?.f_clamp_min(1e-6)?,
        })
    }

    fn apply(&self, rows: &Tensor) -> Result<Tensor, tch::TchError> {
        rows.f_sub(&self.mean)?.f_div(&self.deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_go_by_their_names() {
        for preset in LinearPreset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        let message = "moco".parse::<LinearPreset>().unwrap_err();
        assert!(message.contains("moco-cifar, sce-imagenet, fnc, sane-cifar, cached"), "{message}");
    }

    /// The learning rates that the papers' code comes to.
    #[test]
    fn presets_have_the_papers_learning_rates() {
        for (preset, expected) in [
            (LinearPreset::MocoCifar, 30.0),
            (LinearPreset::SceImagenet, 0.4),
            (LinearPreset::Fnc, 0.16),
            (LinearPreset::SaneCifar, 0.01),
        ] {
            let protocol = Protocol::of(preset).unwrap().unwrap();
            let rate = protocol.optimizer.scaled_learning_rate(protocol.batch_size.get());
            assert!((rate - expected).abs() < 1e-12, "{preset}: {rate}");
        }
    }

    #[test]
    fn what_is_not_as_published_is_stated() {
        assert_eq!(stated(90, 90), "90");
        assert_eq!(stated(2, 90), "2 (the protocol has 90)");
    }
}
