//! Features of a whole image set: one unit row per image, in the order of the set.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::{LoadError, Loader, LoaderOptions, Sequential, View, ViewBatch};
use nearkin_data::ImageSet;
use nearkin_model::{Encoder, images_to_tensor};
use tch::{Kind, TchError, Tensor};

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
    /// The set has no labels to compare with.
    #[error("{0} has no labels, and k-NN needs them: give a folder with one sub-folder per class")]
    NoLabels(&'static str),
}

/// How features are computed; none of it changes them.
#[derive(Clone, Copy, Debug)]
pub struct FeatureOptions {
    /// Images per batch.
    pub batch_size: NonZeroUsize,
    /// Loader threads.
    pub workers: usize,
}

/// Unit features with their labels.
#[derive(Debug)]
pub struct Features {
    /// `[images, length]`, unit rows.
    pub rows: Tensor,
    /// `[images]`, class indices; empty if the set has no labels.
    pub labels: Tensor,
    /// Number of classes, 0 without labels.
    pub classes: i64,
}

/// Backbone features of un-augmented images in evaluation mode, L2-normalised.
pub fn encoder_features(
    encoder: &Encoder,
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
) -> Result<Features, EvaluationError> {
    collect(set, view, options, |view| {
        let images = images_to_tensor(&view.pixels, view.size_pixels, encoder.device())?;
        encoder.extract(&images)
    })
}

/// The pixels themselves as features (after the view's normalisation), L2-normalised: what any
/// encoder has to beat.
pub fn pixel_features(
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
) -> Result<Features, EvaluationError> {
    collect(set, view, options, |view| {
        let values = (3 * view.size_pixels * view.size_pixels) as i64;
        Tensor::f_from_slice(&view.pixels)?.f_view([-1, values])
    })
}

fn collect(
    set: &Arc<dyn ImageSet>,
    view: &View,
    options: FeatureOptions,
    features: impl Fn(&ViewBatch) -> Result<Tensor, TchError>,
) -> Result<Features, EvaluationError> {
    let plan = Sequential::new(set.len(), options.batch_size);
    let loading = LoaderOptions { workers: options.workers, prefetch_batches: 2 };
    let views = Arc::from([view.clone()]);
    let mut rows = Vec::new();
    for batch in Loader::start(Arc::clone(set), views, 0, plan, loading)? {
        let batch = features(&batch?.views[0])?;
        let norm = batch.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?;
        rows.push(batch.f_div(&norm)?);
    }
    let labels: Vec<i64> =
        (0..set.len()).filter_map(|index| set.label(index)).map(|label| label as i64).collect();
    let rows = Tensor::f_cat(&rows, 0)?;
    Ok(Features {
        labels: Tensor::f_from_slice(&labels)?.f_to_device_(
            rows.device(),
            Kind::Int64,
            false,
            false,
        )?,
        rows,
        classes: set.classes().len() as i64,
    })
}
