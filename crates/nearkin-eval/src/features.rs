//! Features of a whole image set: one unit row per image, in the order of the set.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::{LoadError, Loader, LoaderOptions, Sequential, View, ViewBatch};
use nearkin_data::{ImageSet, labelled};
use nearkin_model::{Encoder, images_to_tensor};
use tch::{TchError, Tensor};

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// An image could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// libtorch refused an operation.
    #[error("evaluation failed in libtorch: {0}")]
    Tensor(#[from] TchError),
    /// The encoder's features are NaN or infinite, or so large that their norm is.
    #[error("the encoder's features are not finite: it has diverged")]
    NotFinite,
    /// The set has no labels to compare with.
    #[error(
        "{0} has no labels, and this evaluation needs them: give a folder with one sub-folder per class"
    )]
    NoLabels(&'static str),
    /// The set says of every class whether an image shows it, and the evaluation compares one class.
    #[error(
        "{0} has several labels per image, and this evaluation compares one: nearkin eval transfer --to \
         PATH gives the mean average precision of such a set, nearkin eval quality needs no labels"
    )]
    SeveralLabels(&'static str),
    /// Nothing is left to evaluate.
    #[error("none of the {images} {which}images can be read: nearkin data inspect says why")]
    NoneReadable {
        /// Images that were asked for.
        images: usize,
        /// Of which set, with a space behind it; nothing if there is but one.
        which: &'static str,
    },
    /// The evaluation was asked to stop before it had a result.
    #[error("the evaluation was interrupted")]
    Interrupted,
    /// A process would have nothing to evaluate.
    #[error(
        "{test} test images are too few for {processes} processes: each needs a labelled one; use fewer \
         processes or set evaluation.every_epochs = 0"
    )]
    TooFew {
        /// Test images.
        test: usize,
        /// Processes.
        processes: usize,
    },
    /// The two sets do not speak of the same classes.
    #[error("the training images have {train}, the test images {test}: both need the same classes")]
    Classes {
        /// How many classes the training set has, and their first names.
        train: String,
        /// The same of the test set.
        test: String,
    },
}

/// Refuses sets that cannot be evaluated against each other: both need labels, of the same classes.
pub fn check_labels(train: &dyn ImageSet, test: &dyn ImageSet) -> Result<(), EvaluationError> {
    for (set, name) in [(train, "the training set"), (test, "the test set")] {
        if set.has_labels() {
            continue;
        }
        return Err(if set.has_several_labels() {
            EvaluationError::SeveralLabels(name)
        } else {
            EvaluationError::NoLabels(name)
        });
    }
    check_classes(train, test)
}

/// Refuses sets whose classes differ.
pub fn check_classes(train: &dyn ImageSet, test: &dyn ImageSet) -> Result<(), EvaluationError> {
    if train.classes() == test.classes() {
        return Ok(());
    }
    let describe = |set: &dyn ImageSet| {
        let classes = set.classes();
        let first: Vec<&str> = classes.iter().take(5).map(String::as_str).collect();
        let more = if classes.len() > 5 { ", ..." } else { "" };
        format!("{} classes ({}{more})", classes.len(), first.join(", "))
    };
    Err(EvaluationError::Classes { train: describe(train), test: describe(test) })
}

/// Says whether an evaluation should stop before it has a result; it is asked before every batch.
pub type Stop<'a> = &'a dyn Fn() -> bool;

/// How features are computed; none of it changes them.
#[derive(Clone, Copy, Debug)]
pub struct FeatureOptions {
    /// Images per batch.
    pub batch_size: NonZeroUsize,
    /// Loader threads.
    pub workers: usize,
}

impl FeatureOptions {
    /// Images that an encoder sees at once if nothing else is asked for.
    pub const BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(256).unwrap();
}

impl Default for FeatureOptions {
    fn default() -> Self {
        Self { batch_size: Self::BATCH_SIZE, workers: 1 }
    }
}

/// What an image is compared by.
#[derive(Clone, Copy, Debug)]
pub enum FeatureSource<'a> {
    /// The backbone's features in evaluation mode.
    Backbone(&'a Encoder),
    /// The pixels themselves, after the view's normalisation: what any encoder has to beat.
    Pixels,
}

impl FeatureSource<'_> {
    pub(crate) fn features(self, view: &ViewBatch) -> Result<Tensor, EvaluationError> {
        match self {
            Self::Backbone(encoder) => {
                let images = images_to_tensor(&view.pixels, view.size_pixels, encoder.device())?;
                extract(encoder, &images)
            }
            Self::Pixels => {
                let values = (3 * view.size_pixels * view.size_pixels) as i64;
                Ok(Tensor::f_from_slice(&view.pixels)?.f_view([-1, values])?)
            }
        }
    }
}

/// The backbone's features of images `[batch, 3, height, width]` in evaluation mode,
/// `[batch, features]`, without gradient.
///
/// Every evaluation gets its features here.
///
/// # Errors
///
/// [`EvaluationError::NotFinite`] from an encoder that has diverged.
pub fn extract(encoder: &Encoder, images: &Tensor) -> Result<Tensor, EvaluationError> {
    let rows = encoder.extract(images)?;
    check_finite(&rows)?;
    Ok(rows)
}

/// Refuses features that are NaN or infinite, or so large that their norm is: nothing can be compared
/// with them.
pub fn check_finite(rows: &Tensor) -> Result<(), EvaluationError> {
    if rows.f_norm()?.f_double_value(&[])?.is_finite() {
        Ok(())
    } else {
        Err(EvaluationError::NotFinite)
    }
}

/// Hands the L2-normalised features of every batch of a set's labelled images, `[batch, length]`, and
/// their labels, `[batch]`, to `each`, in the order of the set; only one batch is in memory.
pub fn stream(
    source: FeatureSource<'_>,
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
    mut each: impl FnMut(Tensor, Tensor) -> Result<(), TchError>,
) -> Result<(), EvaluationError> {
    stream_until(source, set, view, options, &|| false, |rows, labels| Ok(each(rows, labels)?))
}

/// [`stream`], which ends with [`EvaluationError::Interrupted`] before the batch at which `stop` says
/// so.
pub(crate) fn stream_until(
    source: FeatureSource<'_>,
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
    stop: Stop<'_>,
    mut each: impl FnMut(Tensor, Tensor) -> Result<(), EvaluationError>,
) -> Result<(), EvaluationError> {
    let set = labelled(set);
    stream_raw_until(source, &set, view, options, stop, |rows, images| {
        let labels = labels_of(&*set, images)?.f_to_device(rows.device())?;
        each(unit_rows(&rows)?, labels)
    })
}

/// Hands the features of every batch of a set, `[batch, length]` and not normalised, and the indices
/// of its images to `each`, in the order of the set; labels play no part.
pub fn stream_raw(
    source: FeatureSource<'_>,
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
    mut each: impl FnMut(Tensor, &[usize]) -> Result<(), TchError>,
) -> Result<(), EvaluationError> {
    let each = |rows, images: &[usize]| Ok(each(rows, images)?);
    stream_raw_until(source, set, view, options, &|| false, each)
}

fn stream_raw_until(
    source: FeatureSource<'_>,
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
    stop: Stop<'_>,
    mut each: impl FnMut(Tensor, &[usize]) -> Result<(), EvaluationError>,
) -> Result<(), EvaluationError> {
    let plan = Sequential::new(set.len(), options.batch_size);
    let loading = LoaderOptions { workers: options.workers, prefetch_batches: 2 };
    let views = Arc::from([view.clone()]);
    let mut loader = Loader::start(Arc::clone(set), views, 0, plan, loading)?;
    while let Some(batch) = loader.next_unless(stop).transpose()? {
        each(source.features(&batch.views[0])?, &batch.images)?;
    }
    if stop() { Err(EvaluationError::Interrupted) } else { Ok(()) }
}

/// Rows divided by their Euclidean length; rows of zeros stay.
pub fn unit_rows(rows: &Tensor) -> Result<Tensor, TchError> {
    let norm = rows.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?;
    rows.f_div(&norm)
}

/// The labels of some images, `[images]`, on the CPU; -1 stands for none.
pub fn labels_of(set: &dyn ImageSet, images: &[usize]) -> Result<Tensor, TchError> {
    let label = |&index: &usize| set.label(index).map_or(-1, |label| label as i64);
    Tensor::f_from_slice(&images.iter().map(label).collect::<Vec<i64>>())
}

/// The features of a set in memory.
#[derive(Debug)]
pub struct Features {
    /// `[images, length]`, not normalised.
    pub rows: Tensor,
    /// `[images]`, on the device of the rows; -1 where an image has no label.
    pub labels: Tensor,
    /// Where each image stands in the set.
    pub images: Vec<usize>,
}

impl Features {
    /// Of all images of a set that can be read, in its order.
    pub fn of(
        source: FeatureSource<'_>,
        set: &Arc<dyn ImageSet>,
        view: &View,
        options: FeatureOptions,
    ) -> Result<Self, EvaluationError> {
        let (mut rows, mut labels, mut places) = (Vec::new(), Vec::new(), Vec::new());
        stream_raw(source, set, view, options, |batch, images| {
            labels.push(labels_of(&**set, images)?.f_to_device(batch.device())?);
            rows.push(batch);
            places.extend_from_slice(images);
            Ok(())
        })?;
        if rows.is_empty() {
            return Err(EvaluationError::NoneReadable { images: set.len(), which: "" });
        }
        let (rows, labels) = (Tensor::f_cat(&rows, 0)?, Tensor::f_cat(&labels, 0)?);
        Ok(Self { rows, labels, images: places })
    }
}
