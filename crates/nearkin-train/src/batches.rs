//! From the images of a set to the batches of a step, on the device of a learner.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nearkin_augment::{Batch, Loader, LoaderOptions, Order, ViewBatch};
use nearkin_data::ImageSet;
use nearkin_dist::World;
use nearkin_model::{NO_LABEL, finish_views, images_to_tensor};
use tch::{Device, Kind, TchError, Tensor};

use crate::interrupt::Unfinished;
use crate::job::{BATCH_SIZE, PROCESSES};
use crate::learner::Learner;
use crate::phases::{Phase, Phases};
use crate::placed::Placed;
use crate::{Interrupt, TrainError};

/// Batches that loader threads make beforehand.
const PREFETCHED_BATCHES: usize = 2;

/// The views of some images, on the device of a learner.
#[derive(Debug)]
pub struct TrainingBatch {
    /// `[images, 3, height, width]` each, augmented and normalized, in the order of the recipe's views.
    pub views: Vec<Tensor>,
    /// The class of each image, -1 without one. Only supervised methods train with it; for the others it
    /// serves the measures.
    pub labels: Vec<i64>,
    /// Places in the set.
    pub images: Vec<usize>,
}

impl TrainingBatch {
    /// Refuses what a step cannot be made with.
    pub(crate) fn check(&self, views: usize) -> Result<(), TrainError> {
        let given = self.views.len();
        if given != views {
            let reason = format!("a batch has {given} views, and the recipe has {views}");
            return Err(TrainError::Batches(reason));
        }
        let rows = self.labels.len();
        match self.views.iter().map(Tensor::size).find(|size| size.first() != Some(&(rows as i64)))
        {
            None => Ok(()),
            Some(size) => Err(TrainError::Batches(format!(
                "a batch has {rows} labels, and a view of shape {size:?}"
            ))),
        }
    }
}

/// The images of training, and where their views are made.
#[derive(Clone)]
pub(crate) struct Feed {
    pub(crate) train: Arc<dyn ImageSet>,
    pub(crate) placed: Placed,
}

/// Batches for a learner, from the step that it makes next to the last one: what a seed draws is the
/// same wherever they begin, and each of several processes has its own part.
///
/// As an iterator it gives the batches one by one; a step takes `training.accumulate_batches` of them.
pub struct Batches {
    loader: Loader,
    feed: Feed,
    device: Device,
    kind: Kind,
    world: Arc<dyn World>,
    pub(crate) phases: Phases,
}

impl Batches {
    /// Batches of `images`. The learner must have been made for as many images. `workers` threads read and
    /// augment them; with 0 the caller's thread does.
    pub fn new(
        learner: &Learner,
        images: Arc<dyn ImageSet>,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let steps = learner.setup.steps_per_epoch(images.len())?;
        if steps != learner.steps_per_epoch {
            return Err(TrainError::Batches(format!(
                "these {} images make {steps} steps an epoch, and it was made for {}",
                images.len(),
                learner.steps_per_epoch
            )));
        }
        let placed = Placed::new(&learner.setup, images.as_ref(), learner.device, workers)?;
        let feed = Feed { train: images, placed };
        Self::start(feed, learner, workers)
    }

    pub(crate) fn start(feed: Feed, learner: &Learner, workers: usize) -> Result<Self, TrainError> {
        let training = &learner.setup.recipe.training;
        let (seed, batches) = (learner.setup.recipe.seed, training.accumulate_batches.get());
        let (rank, size) = (learner.world.rank(), learner.world.size());
        let order = Order::new(feed.train.len(), training.batch_size, seed, true);
        let share = NonZeroUsize::new(size).and_then(|size| order.of_rank(rank, size));
        let mut order = share.ok_or(TrainError::Division {
            what: BATCH_SIZE,
            number: training.batch_size.get(),
            into: PROCESSES,
            parts: size,
        })?;
        let steps_per_epoch = learner.steps_per_epoch;
        let plan = (learner.step..learner.total_steps).flat_map(move |step| {
            let (epoch, step) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
            (0..batches).map(|batch| order.plan(epoch, step * batches + batch)).collect::<Vec<_>>()
        });
        let loading = LoaderOptions { workers, prefetch_batches: PREFETCHED_BATCHES };
        let views = Arc::clone(&feed.placed.views);
        Ok(Self {
            loader: Loader::start(Arc::clone(&feed.train), views, seed, plan, loading)?,
            feed,
            device: learner.device,
            kind: learner.setup.kind(),
            world: Arc::clone(&learner.world),
            phases: learner.phases.clone(),
        })
    }

    /// The next batch and a stop point; `None` after the last one.
    pub(crate) fn next_unless(
        &mut self,
        interrupt: &Interrupt,
    ) -> Result<Option<TrainingBatch>, Unfinished> {
        self.phases.end(Phase::Other);
        let world = self.world.as_ref();
        let batch = self.loader.next_unless(&|| interrupt.is_known(world)).transpose()?;
        interrupt.stop_point(world)?;
        self.phases.end(Phase::Load);
        Ok(batch.map(|batch| self.sent(batch)).transpose()?)
    }

    /// How long callers have waited for the loader.
    pub(crate) fn wait(&self) -> Duration {
        self.loader.wait()
    }

    /// CPU time that went into batches.
    pub(crate) fn worked(&self) -> Duration {
        self.loader.worked()
    }

    /// Brings a batch to the device.
    fn sent(&self, batch: Batch) -> Result<TrainingBatch, TchError> {
        let whole = self.feed.placed.whole_images(&batch)?;
        let view = |view: &ViewBatch| {
            let size = view.size_pixels;
            let images = match &view.unfinished {
                Some(unfinished) => finish_views(unfinished, size, whole.as_ref(), self.device)?,
                None => images_to_tensor(&view.pixels, size, self.device)?,
            };
            images.f_to_kind(self.kind)
        };
        let views = batch.views.iter().map(view).collect::<Result<_, TchError>>()?;
        let label =
            |&index: &usize| self.feed.train.label(index).map_or(NO_LABEL, |label| label as i64);
        let labels = batch.images.iter().map(label).collect();
        self.phases.end(Phase::Transfer);
        Ok(TrainingBatch { views, labels, images: batch.images })
    }
}

impl Iterator for Batches {
    type Item = Result<TrainingBatch, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.loader.next()?;
        Some(batch.map_err(TrainError::from).and_then(|batch| Ok(self.sent(batch)?)))
    }
}
