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

/// What an image is compared by.
#[derive(Clone, Copy, Debug)]
pub enum FeatureSource<'a> {
    /// The backbone's features in evaluation mode.
    Backbone(&'a Encoder),
    /// The pixels themselves, after the view's normalisation: what any encoder has to beat.
    Pixels,
}

impl FeatureSource<'_> {
    fn features(self, view: &ViewBatch) -> Result<Tensor, TchError> {
        match self {
            Self::Backbone(encoder) => {
                let images = images_to_tensor(&view.pixels, view.size_pixels, encoder.device())?;
                encoder.extract(&images)
            }
            Self::Pixels => {
                let values = (3 * view.size_pixels * view.size_pixels) as i64;
                Tensor::f_from_slice(&view.pixels)?.f_view([-1, values])
            }
        }
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
    let set = labelled(set);
    let plan = Sequential::new(set.len(), options.batch_size);
    let loading = LoaderOptions { workers: options.workers, prefetch_batches: 2 };
    let views = Arc::from([view.clone()]);
    for batch in Loader::start(Arc::clone(&set), views, 0, plan, loading)? {
        let batch = batch?;
        let rows = source.features(&batch.views[0])?;
        let norm = rows.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?;
        let rows = rows.f_div(&norm)?;
        let labels: Vec<i64> = batch
            .images
            .iter()
            .filter_map(|&index| set.label(index))
            .map(|label| label as i64)
            .collect();
        each(rows.shallow_clone(), Tensor::f_from_slice(&labels)?.f_to_device(rows.device())?)?;
    }
    Ok(())
}
