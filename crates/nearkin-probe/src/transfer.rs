//! Transfer: what the encoder is worth on images it was not trained on.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use nearkin_augment::View;
use nearkin_data::inspect::detect;
use nearkin_data::{ImageSet, Source, Split, VocPart, labelled};
use nearkin_eval::{EvaluationError, FeatureSource, Features, check_classes, check_labels};
use nearkin_model::Encoder;
use tch::{Kind, TchError, Tensor};

use crate::fine_tune::FineTune;
use crate::sets::{hold_out, labels_in};
use crate::views::{Augmentation, TestView};
use crate::{
    Accuracies, AveragePrecision, Frozen, Logistic, Machine, Precision, ProbeError, Regression,
    Score, Subject, Unit, l2_grid,
};

/// Data sets whose papers report the mean over classes, by a word of their folder's name.
const MEAN_PER_CLASS: [&str; 4] = ["aircraft", "caltech", "flower", "pet"];

/// A data set to transfer to.
pub struct Target {
    name: String,
    sets: Sets,
}

enum Sets {
    /// Each image has one class.
    One { train: Arc<dyn ImageSet>, test: Arc<dyn ImageSet>, mean_per_class: bool },
    /// An image can show several. `held` is what the penalty is chosen on; without it a part of
    /// `train` is.
    Several { train: Arc<dyn ImageSet>, held: Option<Arc<dyn ImageSet>>, test: Arc<dyn ImageSet> },
}

impl Target {
    /// The data set at a path, of whatever kind is found there; it needs both splits and labels.
    pub fn open(path: &Path) -> Result<Self, ProbeError> {
        let source = detect(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let test = nearkin_data::open(&source, Split::Test)?;
        if let Source::Voc { path, .. } = source {
            let part = |part| {
                let source = Source::Voc { path: path.clone(), part };
                nearkin_data::open(&source, Split::Train)
            };
            let (train, held) = (part(VocPart::Train)?, part(VocPart::Val)?);
            check_several(&*train, &*held)?;
            check_several(&*train, &*test)?;
            return Ok(Self { name, sets: Sets::Several { train, held: Some(held), test } });
        }
        let train = nearkin_data::open(&source, Split::Train)?;
        Self::new(name, [&train, &test])
    }

    /// Of images that are open already.
    pub fn new(name: String, [train, test]: [&Arc<dyn ImageSet>; 2]) -> Result<Self, ProbeError> {
        let is_several = train.has_several_labels();
        if is_several {
            check_several(&**train, &**test)?;
        } else {
            check_labels(&**train, &**test)?;
        }
        let [train, test] = [train, test].map(Arc::clone);
        let lower = name.to_lowercase();
        let mean_per_class = MEAN_PER_CLASS.iter().any(|word| lower.contains(word));
        let sets = if is_several {
            Sets::Several { train, held: None, test }
        } else {
            Sets::One { train, test, mean_per_class }
        };
        Ok(Self { name, sets })
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its sets, those of training first.
    pub(crate) fn sets(&self) -> Vec<&Arc<dyn ImageSet>> {
        match &self.sets {
            Sets::One { train, test, .. } => vec![train, test],
            Sets::Several { train, held, test } => {
                [Some(train), held.as_ref(), Some(test)].into_iter().flatten().collect()
            }
        }
    }
}

fn check_several(train: &dyn ImageSet, test: &dyn ImageSet) -> Result<(), EvaluationError> {
    for (set, name) in [(train, "the training set"), (test, "the test set")] {
        if !set.has_several_labels() || set.classes().is_empty() {
            return Err(EvaluationError::NoLabels(name));
        }
    }
    check_classes(train, test)
}

/// What is done on every data set.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// Also fine-tune the whole network.
    pub fine_tune: bool,
    /// Passes of fine-tuning, if not as many as make 5000 steps.
    pub epochs: Option<u64>,
    /// Images of a step of fine-tuning, if not 64.
    pub batch_size: Option<NonZeroUsize>,
    /// From which the held-out part and the order follow.
    pub seed: u64,
    /// What is measured, and the penalty chosen by, where images can show several classes.
    pub average_precision: AveragePrecision,
}

/// Steps of fine-tuning in the published protocol.
const STEPS: usize = 5000;

/// Logistic regression on frozen features, and fine-tuning if it is asked for.
pub fn transfer(
    subject: &Subject,
    target: &Target,
    options: TransferOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    train_and_test(subject, target, options, machine).map_err(|error| subject.blame(error))
}

fn train_and_test(
    subject: &Subject,
    target: &Target,
    options: TransferOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    let name = &target.name;
    let readable =
        |set: &Arc<dyn ImageSet>, split| labelled(&subject.tolerate(Arc::clone(set), split));
    let (train, test, mean_per_class) = match &target.sets {
        Sets::Several { .. } if options.fine_tune => {
            return Err(ProbeError::Request(format!(
                "{name} has several labels per image, and fine-tuning compares one: leave out \
                 --fine-tune, and get the mean average precision of logistic regression"
            )));
        }
        Sets::Several { train, held, test } => {
            let train = readable(train, Split::Train);
            let held = held.as_ref().map(|held| readable(held, Split::Train));
            let test = readable(test, Split::Test);
            let sets = Several { train, held, test };
            return Ok(vec![sets.regression(subject, name, options, machine)?]);
        }
        Sets::One { train, test, mean_per_class } => {
            (readable(train, Split::Train), readable(test, Split::Test), *mean_per_class)
        }
    };
    let (accuracies, how) =
        regression(subject, [&train, &test], mean_per_class, options.seed, machine)?;
    let mut scores = both(&format!("transfer linear {name}"), accuracies, &how, mean_per_class);
    if options.fine_tune {
        // Those that the regression could not read are known by now.
        let [train, test] = [labelled(&train), labelled(&test)];
        let published_batch_size = const { NonZeroUsize::new(64).unwrap() };
        let batch_size = options.batch_size.unwrap_or(published_batch_size);
        let published_epochs = (STEPS * 64).div_ceil(train.len()) as u64;
        let tuning = FineTune {
            optimizer: FineTune::sgd()?,
            through_projector: false,
            augmentation: Augmentation::ResizedCropAndFlip(0.08),
            test: TestView::Recipe,
            epochs: options.epochs.unwrap_or(published_epochs),
            published_epochs,
            batch_size,
            published_batch_size,
            seed: options.seed,
        };
        let (accuracies, how) = tuning.run(subject, [&train, &test], machine)?;
        let protocol = format!("transfer fine-tuned {name}");
        scores.extend(both(&protocol, accuracies, &how, mean_per_class));
    }
    Ok(scores)
}

/// The proof of a frozen backbone for features that are computed once.
fn frozen(subject: &Subject, encoder: &Encoder, machine: Machine) -> Result<Frozen, ProbeError> {
    let side = subject.evaluation_view.size_pixels() as i64;
    Frozen::new(encoder, Tensor::f_zeros([1, 3, side, side], (Kind::Float, machine.device))?)
}

/// Some rows of tensors.
fn part<const N: usize>(of: [&Tensor; N], places: &[usize]) -> Result<[Tensor; N], TchError> {
    let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    let places = Tensor::f_from_slice(&places)?;
    let mut parts = of.map(Tensor::shallow_clone);
    for part in &mut parts {
        *part = part.f_index_select(0, &places.f_to_device(part.device())?)?;
    }
    Ok(parts)
}

/// The penalty that reaches most, and how much that is.
///
/// From the strongest penalty down: each optimum is a good start for the next, and of equal ones the
/// stronger penalty is kept.
fn chosen(
    mut fits: Logistic,
    mut reached: impl FnMut(&Regression) -> Result<f64, ProbeError>,
) -> Result<(f64, f64), ProbeError> {
    let mut best: Option<(f64, f64)> = None;
    for l2 in l2_grid().into_iter().rev() {
        let reached = reached(&fits.fit(l2)?)?;
        if best.is_none_or(|(_, most)| reached > most) {
            best = Some((l2, reached));
        }
    }
    Ok(best.unwrap_or((1.0, 0.0)))
}

fn regression(
    subject: &Subject,
    sets: [&Arc<dyn ImageSet>; 2],
    mean_per_class: bool,
    seed: u64,
    machine: Machine,
) -> Result<(Accuracies, String), ProbeError> {
    let encoder = subject.encoder(machine.device)?;
    let source = FeatureSource::Backbone(&encoder);
    let [train, test] =
        sets.map(|set| Features::of(source, set, &subject.evaluation_view, machine.features()));
    let (train, test) = (train?, test?);
    let frozen = frozen(subject, &encoder, machine)?;
    let classes = sets[0].classes().len() as i64;
    let [learn, held] = hold_out(&labels_in(&train)?, seed)?;
    let all = [&train.rows, &train.labels];
    let ([rows, of], [held_rows, held_of]) = (part(all, &learn)?, part(all, &held)?);
    let (l2, reached) = chosen(Logistic::new(&rows, &of, classes)?, |fit| {
        let accuracies = Accuracies::of(&fit.logits(&held_rows)?, &held_of)?;
        Ok(if mean_per_class { accuracies.mean_per_class } else { accuracies.top_1 })
    })?;
    let regression = Logistic::new(&train.rows, &train.labels, classes)?.fit(l2)?;
    let accuracies = Accuracies::of(&regression.logits(&test.rows)?, &test.labels)?;
    frozen.check(&encoder)?;
    let how = format!(
        "multinomial logistic regression (L-BFGS) on frozen backbone features in evaluation mode of \
         un-augmented images ({} pixels), l2 {l2:.3e} chosen among {} on {} held-out training images \
         ({:.2} % there), then fitted to all, seed {seed}, {} training and {} test images",
        subject.evaluation_view.size_pixels(),
        l2_grid().len(),
        held.len(),
        100.0 * reached,
        train.images.len(),
        test.images.len()
    );
    Ok((accuracies, how))
}

/// Features, and what is known of the classes of their images: above 0 if an image shows the class,
/// below if it does not, 0 if it counts neither way.
struct Known {
    rows: Tensor,
    truth: Tensor,
}

impl Known {
    fn of(
        source: FeatureSource<'_>,
        set: &Arc<dyn ImageSet>,
        view: &View,
        machine: Machine,
    ) -> Result<Self, ProbeError> {
        let features = Features::of(source, set, view, machine.features())?;
        let classes = set.classes().len();
        let mut truth = vec![-1.0; features.images.len() * classes];
        for (&image, truth) in features.images.iter().zip(truth.chunks_exact_mut(classes)) {
            let Some(labels) = set.labels(image) else { continue };
            labels.present.iter().for_each(|&class| truth[class as usize] = 1.0);
            labels.unclear.iter().for_each(|&class| truth[class as usize] = 0.0);
        }
        let truth = Tensor::f_from_slice::<f64>(&truth)?.f_view([-1, classes as i64])?;
        Ok(Self { truth: truth.f_to_device(features.rows.device())?, rows: features.rows })
    }

    fn images(&self) -> i64 {
        self.rows.size()[0]
    }

    fn part(&self, places: &[usize]) -> Result<Self, TchError> {
        let [rows, truth] = part([&self.rows, &self.truth], places)?;
        Ok(Self { rows, truth })
    }

    fn with(&self, other: &Self) -> Result<Self, TchError> {
        let both = |own: &Tensor, other: &Tensor| Tensor::f_cat(&[own, other], 0);
        let (rows, truth) = (both(&self.rows, &other.rows)?, both(&self.truth, &other.truth)?);
        Ok(Self { rows, truth })
    }
}

/// The sets of a [`Target`] whose images can show several classes.
struct Several {
    train: Arc<dyn ImageSet>,
    held: Option<Arc<dyn ImageSet>>,
    test: Arc<dyn ImageSet>,
}

impl Several {
    fn regression(
        &self,
        subject: &Subject,
        name: &str,
        options: TransferOptions,
        machine: Machine,
    ) -> Result<Score, ProbeError> {
        let encoder = subject.encoder(machine.device)?;
        let source = FeatureSource::Backbone(&encoder);
        let known =
            |set: &Arc<dyn ImageSet>| Known::of(source, set, &subject.evaluation_view, machine);
        let (train, test) = (known(&self.train)?, known(&self.test)?);
        let frozen = frozen(subject, &encoder, machine)?;
        let (learn, held, of) = if let Some(held) = &self.held {
            (train, known(held)?, "images of the validation part")
        } else {
            // No class is more than one among several here, so the tenth is drawn from all.
            let [learn, held] = hold_out(&vec![0; train.images() as usize], options.seed)?;
            (train.part(&learn)?, train.part(&held)?, "held-out training images")
        };
        let way = options.average_precision;
        let precision = |fit: &Regression, on: &Known| -> Result<Precision, ProbeError> {
            way.mean(&fit.logits(&on.rows)?, &on.truth)?.ok_or_else(|| {
                ProbeError::Request(format!(
                    "{name}: none of the {} images to measure on shows any class",
                    on.images()
                ))
            })
        };
        let fits = Logistic::one_against_rest(&learn.rows, &learn.truth)?;
        let (l2, reached) = chosen(fits, |fit| Ok(precision(fit, &held)?.mean))?;
        let all = learn.with(&held)?;
        let regression = Logistic::one_against_rest(&all.rows, &all.truth)?.fit(l2)?;
        let result = precision(&regression, &test)?;
        frozen.check(&encoder)?;
        let definition = format!(
            "logistic regression of each class against the rest (L-BFGS) on frozen backbone features in \
             evaluation mode of un-augmented images ({} pixels), {way} average precision, mean over {} \
             classes, images that are difficult for a class left out of it, l2 {l2:.3e} for all classes \
             chosen among {} on {} {of} ({:.2} % there), then fitted to all, seed {}, {} \
             training and {} test images",
            subject.evaluation_view.size_pixels(),
            result.classes,
            l2_grid().len(),
            held.images(),
            100.0 * reached,
            options.seed,
            all.images(),
            test.images()
        );
        let metric = match way {
            AveragePrecision::ElevenPoint => "mAP, 11-point",
            AveragePrecision::Area => "mAP, area",
        };
        let protocol = format!("transfer linear {name}");
        Ok(Score::new(&protocol, metric, (result.mean, Unit::Share), &definition))
    }
}

/// Top-1 and mean per class; first the one that papers report of the data set.
fn both(protocol: &str, accuracies: Accuracies, how: &str, mean_per_class: bool) -> Vec<Score> {
    let mut scores = accuracies.scores(protocol, how);
    scores.truncate(1);
    let mean = (accuracies.mean_per_class, Unit::Share);
    let mean = Score::new(protocol, "mean per class", mean, how);
    if mean_per_class {
        scores.insert(0, mean);
    } else {
        scores.push(mean);
    }
    scores
}
