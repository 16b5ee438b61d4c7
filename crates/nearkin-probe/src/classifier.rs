//! What all protocols share: a linear classifier, the pass over images that trains it, and the count
//! of what it gets right.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::{Loader, LoaderOptions, Order, View};
use nearkin_data::ImageSet;
use nearkin_eval::{EvaluationError, FeatureOptions, FeatureSource, labels_of, stream_raw};
use nearkin_model::{Encoder, Parameters, images_to_tensor};
use tch::{Device, Kind, TchError, Tensor};

use crate::{ProbeError, Score, Unit};

/// What an evaluation runs on; no result depends on it, but the last bit of a sum on the device.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Where tensors live.
    pub device: Device,
    /// Threads that read images.
    pub workers: usize,
}

impl Machine {
    /// How features are computed here.
    pub fn features(self) -> FeatureOptions {
        FeatureOptions { workers: self.workers, ..FeatureOptions::default() }
    }
}

/// What a classifier begins as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Weights from a normal distribution of this standard deviation, biases 0.
    Normal(f64),
    /// All zeros.
    Zeros,
}

/// Logits from features: `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Classifier {
    pub(crate) parameters: Parameters,
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    pub(crate) fn new(
        [inputs, classes]: [i64; 2],
        start: Start,
        seed: u64,
        device: Device,
    ) -> Result<Self, TchError> {
        tch::manual_seed(seed as i64);
        let kind = (Kind::Float, Device::Cpu);
        let weight = match start {
            Start::Normal(deviation) => {
                Tensor::f_randn([classes, inputs], kind)?.f_mul_scalar(deviation)?
            }
            Start::Zeros => Tensor::f_zeros([classes, inputs], kind)?,
        };
        let mut parameters = Parameters::default();
        let mut root = parameters.root(device, Kind::Float);
        let mut scope = root.enter("classifier");
        let weight = scope.parameter("weight", &weight)?;
        let bias = scope.parameter("bias", &Tensor::f_zeros([classes], kind)?)?;
        Ok(Self { parameters, weight, bias })
    }

    /// `[batch, inputs]` to `[batch, classes]`.
    pub(crate) fn forward(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        rows.f_linear(&self.weight, Some(&self.bias))
    }
}

/// What [`labels_of`] gives an image without a label.
const NO_LABEL: i64 = -1;

/// Mean cross-entropy of logits `[batch, classes]` over the images that have a label. One loses it
/// when it cannot be read, and may be read again later.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
    let weight = None::<&Tensor>;
    logits.f_cross_entropy_loss(labels, weight, tch::Reduction::Mean, NO_LABEL, 0.0)
}

/// How long something is trained, and on which batches.
#[derive(Clone, Copy, Debug)]
pub struct Passes {
    /// Passes over all images.
    pub epochs: u64,
    /// Images of a step.
    pub batch_size: NonZeroUsize,
    /// Of the order of the images.
    pub seed: u64,
    /// Leave out the short batch at the end of an epoch; its batch statistics would be poor.
    pub drop_last: bool,
}

impl Passes {
    pub(crate) fn steps_per_epoch(self, images: usize) -> u64 {
        Order::new(images, self.batch_size, self.seed, self.drop_last).batches_per_epoch() as u64
    }

    /// Hands every batch of every epoch to `step`: its number, images `[batch, 3, side, side]` under
    /// the view, and labels `[batch]`. An image that cannot be read is replaced as in training, by the
    /// next of the epoch's order.
    pub(crate) fn over_images(
        self,
        set: &Arc<dyn ImageSet>,
        view: &View,
        machine: Machine,
        mut step: impl FnMut(u64, Tensor, Tensor) -> Result<(), ProbeError>,
    ) -> Result<(), ProbeError> {
        let mut order = Order::new(set.len(), self.batch_size, self.seed, self.drop_last);
        let per_epoch = order.batches_per_epoch();
        let plan = (0..self.epochs).flat_map(move |epoch| {
            (0..per_epoch).map(|batch| order.plan(epoch, batch)).collect::<Vec<_>>()
        });
        let loading = LoaderOptions { workers: machine.workers, prefetch_batches: 2 };
        let views = Arc::from([view.clone()]);
        let loader = Loader::start(Arc::clone(set), views, self.seed, plan, loading)?;
        for (number, batch) in loader.enumerate() {
            let batch = batch?;
            let view = &batch.views[0];
            let images = images_to_tensor(&view.pixels, view.size_pixels, machine.device)?;
            let labels = labels_of(&**set, &batch.images)?.f_to_device(machine.device)?;
            step(number as u64, images, labels)?;
        }
        Ok(())
    }

    /// The same over rows in memory.
    pub(crate) fn over_rows(
        self,
        rows: &Tensor,
        labels: &Tensor,
        mut step: impl FnMut(u64, Tensor, Tensor) -> Result<(), ProbeError>,
    ) -> Result<(), ProbeError> {
        let images = rows.size()[0] as usize;
        let mut order = Order::new(images, self.batch_size, self.seed, self.drop_last);
        let per_epoch = order.batches_per_epoch();
        for number in 0..self.epochs * per_epoch as u64 {
            let (epoch, batch) = (number / per_epoch as u64, number % per_epoch as u64);
            let plan = order.plan(epoch, batch as usize);
            let places: Vec<i64> = plan.images.into_iter().map(|image| image as i64).collect();
            let places = Tensor::f_from_slice(&places)?.f_to_device(rows.device())?;
            step(number, rows.f_index_select(0, &places)?, labels.f_index_select(0, &places)?)?;
        }
        Ok(())
    }
}

/// How the learning rate falls; there is no warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fall {
    /// Not at all.
    Constant,
    /// To 0 along half a cosine over all steps.
    Cosine,
    /// To a tenth at 60 % and again at 80 % of the epochs.
    TenthTwice,
}

impl Fall {
    /// Times what the first learning rate is, at a step counted from 0.
    pub(crate) fn factor(self, step: u64, steps_per_epoch: u64, epochs: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => {
                let share = step as f64 / (steps_per_epoch * epochs).max(1) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * share).cos())
            }
            Self::TenthTwice => {
                let epoch = step / steps_per_epoch.max(1);
                let passed = [3, 4].into_iter().filter(|fifths| 5 * epoch >= fifths * epochs);
                0.1_f64.powi(passed.count() as i32)
            }
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine to 0",
            Self::TenthTwice => "x0.1 at 60 % and 80 % of the epochs",
        }
    }
}

/// Counts what a classifier gets right.
#[derive(Debug)]
pub struct Tally {
    right: u64,
    among_five: u64,
    /// Right, and all, by class.
    by_class: Vec<(u64, u64)>,
}

/// Shares of images, within 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracies {
    /// The largest logit is that of the class.
    pub top_1: f64,
    /// It is among the five largest.
    pub top_5: f64,
    /// Top-1 of each class, mean over the classes that have images.
    pub mean_per_class: f64,
    /// Images that were counted.
    pub images: u64,
}

impl Tally {
    /// Of so many classes, empty.
    pub fn new(classes: usize) -> Self {
        Self { right: 0, among_five: 0, by_class: vec![(0, 0); classes] }
    }

    /// Adds logits `[batch, classes]` and labels `[batch]`. Of equal logits the first wins.
    pub fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let classes = logits.size()[1];
        let ranked = logits.f_argsort_stable(true, 1, true)?;
        let hits = ranked.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
        let first: Vec<bool> = Vec::try_from(hits.f_select(1, 0)?)?;
        let five = hits.f_narrow(1, 0, classes.min(5))?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
        self.among_five += five as u64;
        let labels: Vec<i64> = Vec::try_from(labels)?;
        for (hit, label) in first.into_iter().zip(labels) {
            self.right += u64::from(hit);
            if let Some((right, all)) = self.by_class.get_mut(label as usize) {
                *right += u64::from(hit);
                *all += 1;
            }
        }
        Ok(())
    }

    /// The shares.
    pub fn accuracies(&self) -> Accuracies {
        let images: u64 = self.by_class.iter().map(|(_, all)| all).sum();
        let share = |hits: u64| hits as f64 / images.max(1) as f64;
        let seen: Vec<f64> = self
            .by_class
            .iter()
            .filter(|(_, all)| *all > 0)
            .map(|&(right, all)| right as f64 / all as f64)
            .collect();
        Accuracies {
            top_1: share(self.right),
            top_5: share(self.among_five),
            mean_per_class: seen.iter().sum::<f64>() / seen.len().max(1) as f64,
            images,
        }
    }
}

impl Accuracies {
    /// Of logits `[images, classes]` at once.
    pub fn of(logits: &Tensor, labels: &Tensor) -> Result<Self, TchError> {
        let mut tally = Tally::new(logits.size()[1] as usize);
        tally.add(logits, labels)?;
        Ok(tally.accuracies())
    }

    /// Top-1 and top-5 as scores.
    pub(crate) fn scores(self, protocol: &str, definition: &str) -> Vec<Score> {
        let score = |metric, value| Score::new(protocol, metric, (value, Unit::Share), definition);
        vec![score("top-1", self.top_1), score("top-5", self.top_5)]
    }
}

/// What a classifier makes of the images of a labelled set, through the backbone in evaluation mode.
/// Images that cannot be read are not counted.
pub(crate) fn test(
    encoder: &Encoder,
    set: &Arc<dyn ImageSet>,
    view: &View,
    machine: Machine,
    classify: impl Fn(&Tensor) -> Result<Tensor, TchError>,
) -> Result<Accuracies, ProbeError> {
    let mut tally = Tally::new(set.classes().len());
    let source = FeatureSource::Backbone(encoder);
    stream_raw(source, set, view, machine.features(), |rows, images| {
        let labels = labels_of(&**set, images)?.f_to_device(rows.device())?;
        tally.add(&tch::no_grad(|| classify(&rows))?, &labels)
    })?;
    let accuracies = tally.accuracies();
    match accuracies.images {
        0 => {
            let images = set.len();
            Err(EvaluationError::NoneReadable { images, which: "test " }.into())
        }
        _ => Ok(accuracies),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rates_fall_where_the_papers_say() {
        let at = |fall: Fall, epoch: u64| fall.factor(epoch * 10, 10, 100);
        for (epoch, expected) in [(0, 1.0), (59, 1.0), (60, 0.1), (79, 0.1), (80, 0.01), (99, 0.01)]
        {
            assert!((at(Fall::TenthTwice, epoch) - expected).abs() < 1e-12, "{epoch}");
        }
        assert_eq!(at(Fall::Cosine, 0), 1.0);
        assert!((at(Fall::Cosine, 50) - 0.5).abs() < 1e-12);
        assert_eq!(at(Fall::Constant, 99), 1.0);
        // One epoch has no milestones before its end.
        assert_eq!(Fall::TenthTwice.factor(3, 10, 1), 1.0);
    }

    #[test]
    fn images_without_a_label_have_no_part_in_the_loss() {
        let logits = Tensor::from_slice2(&[[2.0, -1.0], [0.5, 0.5], [-1.0, 3.0]]);
        let loss = |logits: &Tensor, labels: &[i64]| {
            let loss = cross_entropy(logits, &Tensor::from_slice(labels)).unwrap();
            loss.double_value(&[])
        };
        let rest = logits.index_select(0, &Tensor::from_slice(&[0_i64, 2]));
        assert!((loss(&logits, &[0, -1, 1]) - loss(&rest, &[0, 1])).abs() < 1e-12);
    }

    #[test]
    fn accuracies_count_images_and_classes() {
        let logits = Tensor::from_slice2(&[
            [9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [9.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1],
            [0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]);
        let got = Accuracies::of(&logits, &Tensor::from_slice(&[0_i64, 0, 5, 1])).unwrap();
        assert_eq!((got.top_1, got.top_5, got.images), (0.75, 0.75, 4));
        assert_eq!(got.mean_per_class, 2.0 / 3.0);
        let got = Accuracies::of(&logits, &Tensor::from_slice(&[1_i64, 1, 4, 0])).unwrap();
        assert_eq!((got.top_1, got.top_5), (0.0, 1.0));
    }

    #[test]
    fn rows_come_in_the_order_of_the_seed_and_all_of_them() {
        let rows = Tensor::arange(7, (Kind::Float, Device::Cpu)).view([7, 1]);
        let labels = Tensor::arange(7, (Kind::Int64, Device::Cpu));
        let seen = |seed, drop_last| {
            let passes =
                Passes { epochs: 2, batch_size: NonZeroUsize::new(3).unwrap(), seed, drop_last };
            let mut seen = Vec::new();
            passes
                .over_rows(&rows, &labels, |_, rows, labels| {
                    assert_eq!(
                        Vec::<f32>::try_from(rows.view(-1)).unwrap().len() as i64,
                        labels.size()[0]
                    );
                    seen.extend(Vec::<i64>::try_from(labels).unwrap());
                    Ok(())
                })
                .unwrap();
            seen
        };
        let all = seen(0, false);
        assert_eq!(all.len(), 14);
        let mut first = all[..7].to_vec();
        assert_ne!(first, all[7..]);
        first.sort_unstable();
        assert_eq!(first, (0..7).collect::<Vec<i64>>());
        assert_eq!(seen(0, true).len(), 12);
        assert_ne!(seen(1, false), all);
    }
}
