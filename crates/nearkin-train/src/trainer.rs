//! The training loop and what it holds.

mod initial;

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nearkin_augment::{Batch, Loader, LoaderOptions, Order, Plan, View};
use nearkin_data::random::Purpose;
use nearkin_data::{ImageSet, Random, Split};
use nearkin_dist::World;
use nearkin_eval::{FeatureOptions, FeatureSource};
use nearkin_model::{Encoder, MomentumEncoder, NO_LABEL, Queue, images_to_tensor};
use nearkin_objective::{
    Embedding, Encoded, Labels, Measures, Mixed, MixedInput, Per, evaluate, evaluate_and_measure,
    mix, unit_rows,
};
use nearkin_recipe::QueueStart;
use nearkin_report::{Progress as ProgressBar, RunFolder, write_atomically, write_report};
use tch::{Device, Kind, TchError, Tensor};

use crate::checkpoint::{Checkpoint, FORMAT, Files, MODEL, Progress};
use crate::guard::{BadStep, Buffers, dump, is_finite, weights_are_finite};
use crate::monitor::{BACKBONE, EpochSums, Monitor, PIXELS, Position, StepMetrics, evaluate_knn};
use crate::{LearningRate, Momentum, Optimizer, Setup, TrainError};

/// How a run uses the machine; no result depends on it, but the last bit of a sum on `threads`.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where tensors live.
    pub device: Device,
    /// Loader threads.
    pub workers: usize,
    /// Threads of libtorch; a continued run takes those it began with unless this is given.
    pub threads: Option<usize>,
    /// Show no progress.
    pub quiet: bool,
    /// What to write down of the machine, as an object; `threads` is added to it.
    pub environment: serde_json::Value,
}

/// Where a run begins.
#[derive(Clone, Debug)]
pub enum Resume {
    /// In a new folder.
    New(PathBuf),
    /// At the newest checkpoint of that run, or at its beginning if it has none.
    From(RunFolder),
}

/// A flag that ends a run after the step under way.
pub type Interrupt = Arc<AtomicBool>;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// It was interrupted after this step; a checkpoint was written.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// A run: networks, optimiser and queue, and how far they are.
pub struct Trainer {
    setup: Setup,
    options: RunOptions,
    world: Box<dyn World>,
    run: RunFolder,
    train: Arc<dyn ImageSet>,
    test: Option<Arc<dyn ImageSet>>,
    online: Encoder,
    teacher: Option<MomentumEncoder>,
    queue: Option<Queue>,
    optimizer: Optimizer,
    buffers: Buffers,
    learning_rate: LearningRate,
    momentum: Option<Momentum>,
    steps_per_epoch: u64,
    total_steps: u64,
    threads: usize,
    step: u64,
    skipped_in_a_row: u64,
    /// Of training, up to the beginning of this process.
    seconds_before: f64,
    begun: Instant,
    epoch_sums: EpochSums,
    /// No other process may train the run.
    _lock: File,
}

/// What one step made, before anything was changed.
struct Gradients {
    metrics: StepMetrics,
    /// Keys for the queue, with the labels of their images.
    keys: Vec<(Tensor, Tensor)>,
    /// Of the first batch with a non-finite loss, else of the last.
    views: Vec<Tensor>,
    images: Vec<usize>,
    waited: Duration,
}

impl Trainer {
    /// Opens the data, builds the networks and makes or opens the run folder.
    pub fn new(
        setup: Setup,
        resume: &Resume,
        options: RunOptions,
        world: Box<dyn World>,
    ) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let train = recipe.open_training_images()?;
        let test = match nearkin_data::has_split(&recipe.data, Split::Test)? {
            true if recipe.evaluation.every_epochs > 0 && train.has_labels() => {
                Some(nearkin_data::open(&recipe.data, Split::Test)?).filter(ImageSet::has_labels)
            }
            _ => None,
        };
        if setup.method.uses_labels() && !train.has_labels() {
            return Err(TrainError::NeedsLabels { method: setup.method_name().to_owned() });
        }
        let images_per_step = recipe.images_per_step();
        let steps_per_epoch = (train.len() / images_per_step) as u64;
        if steps_per_epoch == 0 {
            return Err(TrainError::TooFewImages { needed: images_per_step, images: train.len() });
        }
        let total_steps = steps_per_epoch * recipe.training.epochs.get();

        let checkpoint = match resume {
            Resume::New(_) => None,
            Resume::From(run) => Checkpoint::latest(run)?,
        };
        if let (Some(checkpoint), Resume::From(run)) = (&checkpoint, resume) {
            checkpoint.check_recipe(run, recipe)?;
            let (before, now) = (checkpoint.progress.training_images, train.len());
            if before != now {
                return Err(TrainError::ChangedData { before, now });
            }
        }
        let begun_with = match (&checkpoint, resume) {
            (Some(checkpoint), _) => Some(checkpoint.progress.threads),
            (None, Resume::From(run)) => threads_of(run),
            (None, Resume::New(_)) => None,
        };
        let threads = options.threads.or(begun_with).unwrap_or_else(available_cores);
        tch::set_num_threads(threads as i32);

        let torch_seed =
            |part| Random::new(Purpose::Initialisation, recipe.seed, part, 0).bits() >> 1;
        let (device, kind) = (options.device, Kind::Float);
        let online = Encoder::new(&recipe.model, torch_seed(0), device, kind)?;
        let teacher = setup
            .momentum_encoder
            .map(|options| MomentumEncoder::copy_of(&online, &recipe.model, options, device, kind))
            .transpose()?;
        let dimensions = online.dimensions();
        let queue = setup
            .queue
            .map(|queue| match queue.start {
                QueueStart::Random => {
                    Queue::random(queue.size.get(), dimensions, torch_seed(1), device, kind)
                }
                QueueStart::Zeros => Queue::zeros(queue.size.get(), dimensions, device, kind),
            })
            .transpose()?;
        let networks =
            [Some(online.parameters()), teacher.as_ref().map(MomentumEncoder::parameters)];
        let images_of_world = images_per_step * world.size();
        let warmup = recipe.schedule.warmup_epochs * steps_per_epoch;
        let peak = recipe.optimizer.scaled_learning_rate(images_of_world);
        let run = match resume {
            Resume::New(path) => begin_run(path, &setup)?,
            Resume::From(run) => run.clone(),
        };
        let lock = run.lock()?;
        if !run.environment().exists() {
            let mut environment = options.environment.clone();
            environment["threads"] = threads.into();
            run.write_environment(&environment)?;
        }
        let mut trainer = Self {
            optimizer: Optimizer::new(online.parameters(), &recipe.optimizer)?,
            buffers: Buffers::of(networks.into_iter().flatten()),
            learning_rate: LearningRate::new(peak, warmup, total_steps, recipe.schedule),
            momentum: setup.momentum_encoder.map(|options| {
                Momentum::new(options.momentum.get(), total_steps, options.schedule)
            }),
            run,
            setup,
            options,
            world,
            train,
            test,
            online,
            teacher,
            queue,
            steps_per_epoch,
            total_steps,
            threads,
            step: 0,
            skipped_in_a_row: 0,
            seconds_before: 0.0,
            begun: Instant::now(),
            epoch_sums: EpochSums::default(),
            _lock: lock,
        };
        if let Some(checkpoint) = checkpoint {
            checkpoint.restore(trainer.files())?;
            let Progress { step, seconds, skipped_in_a_row, queue_next, epoch_sums, .. } =
                checkpoint.progress;
            (trainer.step, trainer.seconds_before) = (step, seconds);
            trainer.skipped_in_a_row = skipped_in_a_row;
            trainer.epoch_sums = epoch_sums;
            if let (Some(queue), Some(next)) = (&mut trainer.queue, queue_next) {
                queue.continue_at(next);
            }
        } else {
            trainer.start_as_begun()?;
        }
        Ok(trainer)
    }

    /// The run's folder.
    pub fn run_folder(&self) -> &RunFolder {
        &self.run
    }

    /// Trains to the end, or until interrupted.
    pub fn run(&mut self, interrupt: &Interrupt) -> Result<Outcome, TrainError> {
        if self.step == self.total_steps {
            write_report(&self.run)?;
            return Ok(Outcome::Finished);
        }
        let mut monitor = self.monitor()?;
        self.begun = Instant::now();
        let mut checkpointed = Instant::now();
        if self.step == 0 {
            self.describe(&mut monitor)?;
            self.evaluate(&mut monitor)?;
        } else {
            let message = format!(
                "continued after step {} on {:?} with {} thread(s)",
                self.step, self.options.device, self.threads
            );
            monitor.event(self.position(), &message)?;
        }
        monitor.restart_clocks(true);
        let mut loader = self.loader()?;
        while self.step < self.total_steps {
            if self.step == 0 && interrupt.load(Ordering::Relaxed) {
                // Nothing was trained yet, and a resumed run begins at the beginning.
                monitor.finish();
                return Ok(Outcome::Interrupted { step: 0 });
            }
            let gradients = self.gradients(&mut loader)?;
            self.apply(gradients, &mut monitor)?;

            let epoch_ends = self.step.is_multiple_of(self.steps_per_epoch);
            let epochs_done = self.step / self.steps_per_epoch;
            let last = self.step == self.total_steps;
            if epoch_ends {
                monitor.epoch(self.position())?;
            }
            let every = self.setup.recipe.evaluation.every_epochs;
            if epoch_ends && every > 0 && (last || epochs_done.is_multiple_of(every)) {
                self.evaluate(&mut monitor)?;
            }
            let interrupted = interrupt.load(Ordering::Relaxed);
            let saving = &self.setup.recipe.checkpoint;
            let by_epoch = epoch_ends && epochs_done.is_multiple_of(saving.every_epochs.get());
            let by_time = checkpointed.elapsed().as_secs_f64() > 60.0 * saving.every_minutes.get();
            if last || interrupted || by_epoch || by_time {
                // Weights that are not finite must not push out the last good ones.
                if weights_are_finite(self.online.parameters())? {
                    self.save(monitor.epoch_sums())?;
                } else if last || interrupted {
                    return Err(TrainError::Diverged { step: self.step });
                }
                checkpointed = Instant::now();
            }
            if epoch_ends || by_time {
                monitor.restart_clocks(epoch_ends);
            }
            if interrupted && !last {
                monitor.finish();
                write_report(&self.run)?;
                return Ok(Outcome::Interrupted { step: self.step });
            }
        }
        monitor.finish();
        write_report(&self.run)?;
        Ok(Outcome::Finished)
    }

    /// Gradients of one step, averaged over its batches; nothing but running statistics changes.
    fn gradients(&mut self, loader: &mut Loader) -> Result<Gradients, TrainError> {
        self.buffers.save()?;
        self.optimizer.zero_gradients();
        let batches = self.setup.recipe.training.accumulate_batches.get();
        let share = 1.0 / batches as f64;
        let waited_before = loader.wait();
        let (mut keys, mut images, mut views) = (Vec::new(), Vec::new(), Vec::new());
        let (mut loss, mut measured) = (0.0, None::<Measures>);
        let every = self.setup.recipe.training.record_every_steps.get();
        let recorded = (self.step + 1).is_multiple_of(every);
        for number in 0..batches {
            let batch =
                loader.next().transpose()?.ok_or(TrainError::NoBatch { step: self.step })?;
            let inputs = self.to_device(&batch)?;
            let labels = self.labels(&batch)?;
            images.extend(batch.images);
            let encoded = self.encode(&inputs, number, &labels)?;
            if f64::is_finite(loss) {
                views = inputs;
            }
            let terms = self.setup.method.terms(&encoded)?;
            let evaluated = if recorded {
                let (evaluated, measures) = evaluate_and_measure(&terms, Some(&labels))?;
                measured.get_or_insert_default().absorb(&measures, share);
                evaluated
            } else {
                evaluate(&terms)?
            };
            evaluated.loss.f_mul_scalar(share)?.f_backward()?;
            loss += share * evaluated.loss.f_double_value(&[])?;
            if self.queue.is_some() {
                let new = self.setup.method.keys(&encoded).into_iter();
                keys.extend(
                    new.map(|keys| (keys.everywhere.shallow_clone(), labels.batch.shallow_clone())),
                );
            }
        }
        let metrics = StepMetrics {
            loss,
            reference_loss: measured.as_ref().map(Measures::reference_loss),
            measures: measured.iter().flat_map(Measures::means).collect(),
            learning_rate: self.learning_rate.at(self.step),
            momentum: self.momentum.map(|momentum| momentum.at(self.step)),
            skipped: false,
        };
        for (_, mut gradient) in self.optimizer.gradients() {
            self.world.sum(&mut gradient)?;
            if self.world.size() > 1 {
                let _ = gradient.f_div_scalar_(self.world.size() as f64)?;
            }
        }
        Ok(Gradients {
            metrics,
            keys,
            views,
            images,
            waited: loader.wait().saturating_sub(waited_before),
        })
    }

    /// The step itself: optimiser, then momentum encoder, then queue. A step that is not finite
    /// changes nothing.
    fn apply(&mut self, mut gradients: Gradients, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.step += 1;
        let metrics = &mut gradients.metrics;
        if is_finite(metrics.loss, &self.optimizer)? {
            self.optimizer.step(metrics.learning_rate)?;
            if let (Some(teacher), Some(momentum)) = (&mut self.teacher, metrics.momentum) {
                teacher.follow(&self.online, momentum)?;
            }
            if let Some(queue) = &mut self.queue {
                for (keys, labels) in &gradients.keys {
                    queue.enqueue(keys, labels)?;
                }
            }
            self.skipped_in_a_row = 0;
        } else {
            metrics.skipped = true;
            self.buffers.restore()?;
            self.skip(&gradients, monitor)?;
        }
        let waited = gradients.waited.as_secs_f64();
        let images = gradients.images.len();
        Ok(monitor.step(self.position(), &gradients.metrics, images, waited)?)
    }

    fn skip(&mut self, gradients: &Gradients, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.skipped_in_a_row += 1;
        let bad = BadStep {
            step: self.step,
            epoch: self.position().epoch,
            loss: gradients.metrics.loss,
            learning_rate: gradients.metrics.learning_rate,
            images: gradients.images.iter().map(|&index| self.train.name(index)).collect(),
            views: &gradients.views,
        };
        let dump = dump(&self.run.path().join("non_finite"), &bad, &self.optimizer)?;
        monitor.event(
            self.position(),
            &format!(
                "step {} was skipped: its loss or a gradient is not finite (see {})",
                self.step,
                dump.display()
            ),
        )?;
        if self.skipped_in_a_row >= self.setup.recipe.training.maximum_skipped_steps.get() {
            let (in_a_row, step) = (self.skipped_in_a_row, self.step);
            return Err(TrainError::NotFinite { in_a_row, step, dump });
        }
        Ok(())
    }

    /// Labels of a batch's images, and of the keys in the queue.
    fn labels(&self, batch: &Batch) -> Result<Labels, TchError> {
        let label = |&index: &usize| self.train.label(index).map_or(NO_LABEL, |label| label as i64);
        let local: Vec<i64> = batch.images.iter().map(label).collect();
        let local = Tensor::f_from_slice(&local)?.f_to_device(self.options.device)?;
        Ok(Labels {
            offset: self.world.rank() as i64 * local.size()[0],
            batch: self.world.gather(&local)?,
            queue: self.queue.as_ref().map(Queue::labels),
        })
    }

    /// Every view through the encoders that its role names, and mixtures of views.
    fn encode(
        &self,
        views: &[Tensor],
        batch_of_step: usize,
        labels: &Labels,
    ) -> Result<Encoded, TchError> {
        let roles = &self.setup.roles;
        let method = &self.setup.method;
        let spread = |local: Tensor| -> Result<Embedding, TchError> {
            Ok(Embedding { everywhere: self.world.gather(&local)?, local })
        };
        let spread_units =
            |local: Option<Tensor>| local.map(|local| spread(unit_rows(&local)?)).transpose();
        let [projected, online] = match method.encodes_views_together() {
            true => self.encode_together(views)?,
            false => self.encode_apart(views)?,
        };
        let projected = match method.needs_projections() {
            true => tch::no_grad(|| {
                let projected = projected.into_iter();
                let detached = projected.map(|local| local.map(|local| local.detach()));
                detached.map(spread_units).collect::<Result<_, TchError>>()
            })?,
            false => Vec::new(),
        };
        let mixed_inputs = self.setup.mixed_inputs.iter().enumerate();
        let mixed = mixed_inputs
            .map(|(number, input)| {
                let place = batch_of_step * self.setup.mixed_inputs.len() + number;
                self.encode_mixed(views, input, place as u64)
            })
            .collect::<Result<_, TchError>>()?;
        let mut momentum = Vec::with_capacity(views.len());
        for (index, (view, role)) in views.iter().zip(roles).enumerate() {
            momentum.push(match &self.teacher {
                Some(teacher) if role.momentum => {
                    let place = (batch_of_step * views.len() + index) as u64;
                    let seed = self.setup.recipe.seed;
                    let permutation = Random::new(Purpose::Shuffle, seed, self.step, place)
                        .permutation(view.size()[0] as usize);
                    Some(spread(unit_rows(&teacher.embed(view, &permutation)?)?)?)
                }
                _ => None,
            });
        }
        Ok(Encoded {
            online: online.into_iter().map(spread_units).collect::<Result<_, TchError>>()?,
            momentum,
            projected,
            mixed,
            queue: self.queue.as_ref().map(Queue::rows),
            labels: method.uses_labels().then(|| labels.shallow_clone()),
            offset: labels.offset,
            progress: nearkin_objective::Progress {
                step: self.step,
                total_steps: self.total_steps,
                steps_per_epoch: self.steps_per_epoch,
            },
        })
    }

    /// Projections and embeddings of the online views.
    fn encode_apart(&self, views: &[Tensor]) -> Result<[Vec<Option<Tensor>>; 2], TchError> {
        let (mut projected, mut embedded) = (Vec::new(), Vec::new());
        for (view, role) in views.iter().zip(&self.setup.roles) {
            let both = role.online.then(|| self.online.project_and_embed(view)).transpose()?;
            let (projection, embedding) = both.unzip();
            projected.push(projection);
            embedded.push(embedding);
        }
        Ok([projected, embedded])
    }

    /// The same with all online views as one batch.
    fn encode_together(&self, views: &[Tensor]) -> Result<[Vec<Option<Tensor>>; 2], TchError> {
        let roles = &self.setup.roles;
        let online =
            || views.iter().zip(roles).filter(|(_, role)| role.online).map(|(view, _)| view);
        let images = Tensor::f_cat(&online().collect::<Vec<_>>(), 0)?;
        let (projected, embedded) = self.online.project_and_embed(&images)?;
        let rows: Vec<i64> = online().map(|view| view.size()[0]).collect();
        let apart = |all: Tensor| -> Result<Vec<Option<Tensor>>, TchError> {
            let mut parts = all.f_split_with_sizes(&rows, 0)?.into_iter();
            Ok(roles.iter().map(|role| role.online.then(|| parts.next()).flatten()).collect())
        };
        Ok([apart(projected)?, apart(embedded)?])
    }

    /// Mixtures of two views' images through the online encoder.
    fn encode_mixed(
        &self,
        views: &[Tensor],
        input: &MixedInput,
        place: u64,
    ) -> Result<Mixed, TchError> {
        let (base, other) = (&views[input.base], &views[input.other]);
        let batch = base.size()[0] as usize;
        // Every process mixes its own images in its own way.
        let place = place | ((self.world.rank() as u64) << 32);
        let mut random = Random::new(Purpose::Mixup, self.setup.recipe.seed, self.step, place);
        let partner: Vec<i64> =
            random.permutation(batch).into_iter().map(|index| index as i64).collect();
        let mut draw = || {
            let share = random.symmetric_beta(input.mixing.concentration);
            if input.mixing.larger_share { share.max(1.0 - share) } else { share }
        };
        let shares: Vec<f64> = match input.mixing.per {
            Per::Sample => (0..batch).map(|_| draw()).collect(),
            Per::Batch => vec![draw(); batch],
        };
        let device = self.options.device;
        let partner = Tensor::f_from_slice(&partner)?.f_to_device(device)?;
        let share = Tensor::f_from_slice(&shares)?.f_to_kind(base.kind())?.f_to_device(device)?;
        let images = mix(base, other, &partner, &share)?;
        Ok(Mixed { anchors: unit_rows(&self.online.embed(&images)?)?, partner, share })
    }

    fn to_device(&self, batch: &Batch) -> Result<Vec<Tensor>, TchError> {
        let view = |view: &nearkin_augment::ViewBatch| {
            images_to_tensor(&view.pixels, view.size_pixels, self.options.device)
        };
        batch.views.iter().map(view).collect()
    }

    /// Batches from the step under way to the end.
    fn loader(&self) -> Result<Loader, TrainError> {
        let recipe = &self.setup.recipe;
        let (seed, batches) = (recipe.seed, recipe.training.accumulate_batches.get());
        let mut order = Order::new(self.train.len(), recipe.training.batch_size, seed, true);
        let steps_per_epoch = self.steps_per_epoch;
        let plan = (self.step..self.total_steps).flat_map(move |step| {
            let (epoch, step) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
            (0..batches)
                .map(|batch| Plan { epoch, images: order.batch(epoch, step * batches + batch) })
                .collect::<Vec<_>>()
        });
        let loading = LoaderOptions { workers: self.options.workers, prefetch_batches: 2 };
        let views = Arc::clone(&self.setup.views);
        Ok(Loader::start(Arc::clone(&self.train), views, seed, plan, loading)?)
    }

    fn monitor(&self) -> Result<Monitor, TrainError> {
        let epochs = self.setup.recipe.training.epochs.get();
        let progress = match self.options.quiet || self.world.rank() > 0 {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(self.total_steps, epochs, self.step),
        };
        let every = self.setup.recipe.training.record_every_steps.get();
        Ok(Monitor::new(&self.run, self.step, every, progress, self.epoch_sums.clone())?)
    }

    fn position(&self) -> Position {
        Position {
            step: self.step,
            epoch: self.step.div_ceil(self.steps_per_epoch),
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }

    /// Says what is trained on what, and what looks wrong about it.
    fn describe(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let recipe = &self.setup.recipe;
        let (images, at) = (self.train.len(), self.position());
        monitor.event(
            at,
            &format!(
                "{} epoch(s) of {} steps, {} of {images} training images ({}) per step, on {:?} with \
                 {} thread(s) and {} loader worker(s), seed {}",
                recipe.training.epochs,
                self.steps_per_epoch,
                recipe.images_per_step(),
                recipe.data.kind(),
                self.options.device,
                self.threads,
                self.options.workers,
                recipe.seed,
            ),
        )?;
        if self.setup.method.uses_labels() {
            let method = self.setup.method_name();
            let message = format!(
                "warning: method {method} is supervised: class labels enter the loss; compare with \
                 it, do not report it as learned without labels"
            );
            monitor.event(at, &message)?;
        }
        if let Some(queue) = self.setup.queue.filter(|queue| queue.size.get() >= images) {
            monitor.event(
                at,
                &format!(
                    "warning: queue.size = {} is not smaller than the {images} training images, so \
                     an image meets its own old keys as negatives; a queue of {} or less avoids that",
                    queue.size,
                    (images / 8).max(1)
                ),
            )?;
        }
        if let Some(limit) = recipe.limit_images.filter(|limit| limit.get() > images) {
            monitor.event(
                at,
                &format!(
                    "limit_images = {limit}, but there are {images} training images: all are used"
                ),
            )?;
        }
        if self.test.is_none() && recipe.evaluation.every_epochs > 0 {
            let why = if self.train.has_labels() { "no labelled test split" } else { "no labels" };
            monitor.event(at, &format!("no k-NN evaluation: the data has {why}"))?;
        }
        Ok(())
    }

    /// k-NN accuracy where the data allows it; at step 0 of the pixels too.
    fn evaluate(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let Some(test) = &self.test else { return Ok(()) };
        let batch_size = NonZeroUsize::MIN.saturating_add(255);
        let options = FeatureOptions { batch_size, workers: self.options.workers };
        let knn = |source: FeatureSource<'_>, view: &View| {
            let neighbours = &self.setup.recipe.evaluation.neighbours;
            evaluate_knn(source, [&self.train, test], view, neighbours, options)
        };
        let classes = self.train.classes().len();
        if self.step == 0 {
            let pixels = knn(FeatureSource::Pixels, &self.setup.recipe.pixel_view()?)?;
            monitor.knn(self.position(), PIXELS, &pixels, classes)?;
        }
        let backbone = FeatureSource::Backbone(&self.online);
        let backbone = knn(backbone, &self.setup.evaluation_view)?;
        Ok(monitor.knn(self.position(), BACKBONE, &backbone, classes)?)
    }

    /// All tensors of the state, by file of a checkpoint.
    fn files(&self) -> Files {
        let mut files = vec![
            (MODEL, self.online.parameters().named()),
            ("optimizer.safetensors", self.optimizer.state().collect()),
        ];
        if let Some(teacher) = &self.teacher {
            files.push(("momentum_encoder.safetensors", teacher.parameters().named()));
        }
        if let Some(queue) = &self.queue {
            let tensors =
                vec![("queue".to_owned(), queue.rows()), ("labels".to_owned(), queue.labels())];
            files.push(("queue.safetensors", tensors));
        }
        files
    }

    fn save(&self, epoch_sums: EpochSums) -> Result<(), TrainError> {
        let recipe = &self.setup.recipe;
        let progress = Progress {
            format: FORMAT,
            step: self.step,
            epoch: self.step / self.steps_per_epoch,
            step_in_epoch: self.step % self.steps_per_epoch,
            steps_per_epoch: self.steps_per_epoch,
            seconds: self.seconds(),
            skipped_in_a_row: self.skipped_in_a_row,
            epoch_sums,
            queue_next: self.queue.as_ref().map(Queue::next),
            seed: recipe.seed,
            training_images: self.train.len(),
            threads: self.threads,
            world_size: self.world.size(),
            next_learning_rate: self.learning_rate.at(self.step),
            recipe_digest: recipe.digest(),
            recipe: recipe.to_text(),
        };
        Checkpoint::write(&self.run, &progress, self.files(), recipe.checkpoint.keep.get())
    }
}

/// The threads that a run without a checkpoint was begun with.
fn threads_of(run: &RunFolder) -> Option<usize> {
    let environment = std::fs::read(run.environment()).ok()?;
    let environment: serde_json::Value = serde_json::from_slice(&environment).ok()?;
    environment["threads"].as_u64().map(|threads| threads as usize)
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Makes the folder of a new run with its recipe in it.
fn begin_run(path: &Path, setup: &Setup) -> Result<RunFolder, TrainError> {
    let run = RunFolder::create(path)?;
    let text = setup.recipe.to_text();
    write_atomically(&run.recipe(), |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(run)
}

#[cfg(test)]
mod tests {
    use nearkin_dist::Alone;
    use nearkin_recipe::Source;

    use super::*;

    const RECIPE: &str = "
        [data]
        dataset = \"shapes\"
        train_images = 64
        size_pixels = 16
        [method]
        name = \"sce\"
        [model]
        backbone = \"resnet18\"
        stem = \"cifar\"
        base_width = 4
        projector = [{ width = 8, batch_norm = \"affine\", relu = true }, { width = 8 }]
        [momentum_encoder]
        momentum = 0.9
        batch_norm_splits = 2
        [queue]
        size = 40
        [training]
        epochs = 1
        batch_size = 16
        [optimizer]
        name = \"sgd\"
        learning_rate = 0.1
        [evaluation]
        every_epochs = 0
        [[views]]
        name = \"first\"
        transforms = [{ random_resized_crop = { size = 16 } }]
        [[views]]
        name = \"second\"
        transforms = [{ random_resized_crop = { size = 16 } }]";

    /// Every tensor of the state, copied.
    fn state(trainer: &Trainer) -> Vec<(String, Tensor)> {
        let files = trainer.files().into_iter();
        files.flat_map(|(_, all)| all).map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    #[test]
    fn a_step_that_is_not_finite_changes_nothing_and_the_next_one_trains() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Source::parse("test", RECIPE.to_owned()).unwrap().recipe().unwrap();
        let options = RunOptions {
            device: Device::Cpu,
            workers: 0,
            threads: Some(1),
            quiet: true,
            environment: serde_json::json!({}),
        };
        let resume = Resume::New(folder.path().join("run"));
        let setup = Setup::new(recipe).unwrap();
        let mut trainer = Trainer::new(setup, &resume, options, Box::new(Alone)).unwrap();
        let (mut monitor, mut loader) = (trainer.monitor().unwrap(), trainer.loader().unwrap());
        let next_key = |trainer: &Trainer| trainer.queue.as_ref().map(Queue::next);

        let before = state(&trainer);
        let mut gradients = trainer.gradients(&mut loader).unwrap();
        assert!(state(&trainer) != before, "the forward pass moves the running statistics");
        gradients.metrics.loss = f64::NAN;
        trainer.apply(gradients, &mut monitor).unwrap();
        assert!(state(&trainer) == before);
        assert_eq!((trainer.step, trainer.skipped_in_a_row, next_key(&trainer)), (1, 1, Some(0)));

        let gradients = trainer.gradients(&mut loader).unwrap();
        trainer.apply(gradients, &mut monitor).unwrap();
        let after = state(&trainer);
        let changed = |name: &str| {
            let find = |all: &[(String, Tensor)]| {
                all.iter().filter(|entry| entry.0 == name).map(|entry| entry.1.copy()).collect()
            };
            let (before, after): (Vec<Tensor>, Vec<Tensor>) = (find(&before), find(&after));
            before != after
        };
        for name in ["backbone.conv1.weight", "backbone.bn1.running_mean", "queue"] {
            assert!(changed(name), "{name}");
        }
        assert_eq!((trainer.step, trainer.skipped_in_a_row, next_key(&trainer)), (2, 0, Some(16)));
    }
}
