//! Transfer: what the encoder is worth on images it was not trained on.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use nearkin_data::inspect::detect;
use nearkin_data::{ImageSet, Split, labelled};
use nearkin_eval::{FeatureSource, Features, check_labels};
use tch::Tensor;

use crate::fine_tune::FineTune;
use crate::sets::{hold_out, labels};
use crate::views::{Augmentation, TestView};
use crate::{Accuracies, Frozen, Logistic, Machine, ProbeError, Score, Subject, Unit, l2_grid};

/// Data sets whose papers report the mean over classes, by a word of their folder's name.
const MEAN_PER_CLASS: [&str; 4] = ["aircraft", "caltech", "flower", "pet"];

/// A data set to transfer to.
pub struct Target {
    name: String,
    train: Arc<dyn ImageSet>,
    test: Arc<dyn ImageSet>,
    mean_per_class: bool,
}

impl Target {
    /// The data set at a path, of whatever kind is found there; it needs both splits and labels.
    pub fn open(path: &Path) -> Result<Self, ProbeError> {
        let source = detect(path)?;
        let train = nearkin_data::open(&source, Split::Train)?;
        let test = nearkin_data::open(&source, Split::Test)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::new(name, [&train, &test])
    }

    /// Of images that are open already.
    pub fn new(name: String, [train, test]: [&Arc<dyn ImageSet>; 2]) -> Result<Self, ProbeError> {
        check_labels(&**train, &**test)?;
        let lower = name.to_lowercase();
        let mean_per_class = MEAN_PER_CLASS.iter().any(|word| lower.contains(word));
        Ok(Self { name, train: labelled(train), test: labelled(test), mean_per_class })
    }
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
    let (accuracies, how) = regression(subject, target, options.seed, machine)?;
    let mut scores = target.scores("transfer linear", accuracies, &how);
    if options.fine_tune {
        let published_batch_size = NonZeroUsize::MIN.saturating_add(63);
        let batch_size = options.batch_size.unwrap_or(published_batch_size);
        let published_epochs = (STEPS * 64).div_ceil(target.train.len()) as u64;
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
        let (accuracies, how) = tuning.run(subject, [&target.train, &target.test], machine)?;
        scores.extend(target.scores("transfer fine-tuned", accuracies, &how));
    }
    Ok(scores)
}

fn regression(
    subject: &Subject,
    target: &Target,
    seed: u64,
    machine: Machine,
) -> Result<(Accuracies, String), ProbeError> {
    let encoder = subject.encoder(machine.device)?;
    let view = subject.recipe.evaluation_view()?;
    let source = FeatureSource::Backbone(&encoder);
    let [train, test] = [&target.train, &target.test]
        .map(|set| Features::of(source, set, &view, machine.features()));
    let (train, test) = (train?, test?);
    let frozen = Frozen::new(
        &encoder,
        Tensor::f_zeros(
            [1, 3, view.size_pixels() as i64, view.size_pixels() as i64],
            (tch::Kind::Float, machine.device),
        )?,
    )?;
    let classes = target.train.classes().len() as i64;
    let [learn, held] = hold_out(&labels(&*target.train), seed)?;
    let part = |places: &[usize]| -> Result<[Tensor; 2], ProbeError> {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let places = Tensor::f_from_slice(&places)?.f_to_device(train.rows.device())?;
        Ok([train.rows.f_index_select(0, &places)?, train.labels.f_index_select(0, &places)?])
    };
    let ([rows, of], [held_rows, held_of]) = (part(&learn)?, part(&held)?);
    let mut fits = Logistic::new(&rows, &of, classes)?;
    // From the strongest penalty down: each optimum is a good start for the next, and of equal
    // accuracies the stronger penalty is kept.
    let mut best: Option<(f64, f64)> = None;
    for l2 in l2_grid().into_iter().rev() {
        let accuracies = Accuracies::of(&fits.fit(l2)?.logits(&held_rows)?, &held_of)?;
        let reached = match target.mean_per_class {
            true => accuracies.mean_per_class,
            false => accuracies.top_1,
        };
        if best.is_none_or(|(_, most)| reached > most) {
            best = Some((l2, reached));
        }
    }
    let (l2, reached) = best.unwrap_or((1.0, 0.0));
    let regression = Logistic::new(&train.rows, &train.labels, classes)?.fit(l2)?;
    let accuracies = Accuracies::of(&regression.logits(&test.rows)?, &test.labels)?;
    frozen.check(&encoder)?;
    let how = format!(
        "multinomial logistic regression (L-BFGS) on frozen backbone features in evaluation mode of \
         un-augmented images ({} pixels), l2 {l2:.3e} chosen among {} on {} held-out training images \
         ({:.2} % there), then fitted to all, seed {seed}, {} training and {} test images",
        view.size_pixels(),
        l2_grid().len(),
        held.len(),
        100.0 * reached,
        target.train.len(),
        target.test.len()
    );
    Ok((accuracies, how))
}

impl Target {
    /// The metric that papers report of this data set first.
    fn scores(&self, what: &str, accuracies: Accuracies, how: &str) -> Vec<Score> {
        let protocol = format!("{what} {}", self.name);
        let mut scores = accuracies.scores(&protocol, how);
        scores.truncate(1);
        let mean = Score {
            metric: "mean per class",
            value: accuracies.mean_per_class,
            unit: Unit::Share,
            ..scores[0].clone()
        };
        match self.mean_per_class {
            true => scores.insert(0, mean),
            false => scores.push(mean),
        }
        scores
    }
}
