//! From the images of a set to the batches of a step, on the device of the run.

use std::sync::Arc;

use nearkin_augment::{Batch, Loader, ViewBatch};
use nearkin_data::ImageSet;
use nearkin_model::{NO_LABEL, finish_views, images_to_tensor};
use nearkin_recipe::Precision;
use tch::{Kind, TchError, Tensor};

use crate::interrupt::Unfinished;
use crate::learner::Learner;
use crate::learner::encode::Prepared;
use crate::phases::Phase;
use crate::placed::Placed;
use crate::{Interrupt, TrainError};

/// The images of a run, and where their views are made.
pub(crate) struct Feed {
    pub(crate) train: Arc<dyn ImageSet>,
    pub(crate) placed: Placed,
}

impl Feed {
    /// The next batch of the loader, and a stop point; with the places of its images.
    pub(crate) fn next(
        &self,
        loader: &mut Loader,
        learner: &Learner,
        interrupt: &Interrupt,
        batch_of_step: usize,
    ) -> Result<(Prepared, Vec<usize>), Unfinished> {
        learner.phases.end(Phase::Other);
        let world = learner.world.as_ref();
        let batch = loader.next_unless(&|| interrupt.is_known(world)).transpose()?;
        interrupt.stop_point(world)?;
        let batch = batch.ok_or(TrainError::NoBatch { step: learner.step })?;
        learner.phases.end(Phase::Load);
        let prepared = self.prepare(&batch, learner, batch_of_step)?;
        learner.phases.end(Phase::Other);
        Ok((prepared, batch.images))
    }

    /// Brings a batch to the device and draws what its step needs.
    pub(crate) fn prepare(
        &self,
        batch: &Batch,
        learner: &Learner,
        batch_of_step: usize,
    ) -> Result<Prepared, TchError> {
        let views = self.to_device(batch, learner)?;
        learner.phases.end(Phase::Transfer);
        let label = |&index: &usize| self.train.label(index).map_or(NO_LABEL, |label| label as i64);
        let labels: Vec<i64> = batch.images.iter().map(label).collect();
        learner.prepare(views, &labels, batch_of_step)
    }

    fn to_device(&self, batch: &Batch, learner: &Learner) -> Result<Vec<Tensor>, TchError> {
        let whole = self.placed.whole_images(batch)?;
        let device = learner.device;
        let view = |view: &ViewBatch| {
            let size = view.size_pixels;
            let images = match &view.unfinished {
                Some(unfinished) => finish_views(unfinished, size, whole.as_ref(), device)?,
                None => images_to_tensor(&view.pixels, size, device)?,
            };
            match learner.setup.recipe.training.precision {
                Precision::Single | Precision::Bfloat16 => Ok(images),
                Precision::Double => images.f_to_kind(Kind::Double),
            }
        };
        batch.views.iter().map(view).collect()
    }
}
