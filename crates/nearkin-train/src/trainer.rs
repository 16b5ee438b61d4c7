//! The training loop and what it holds.

mod batches;
mod bench;
mod encode;
mod initial;
mod late;
mod placed;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nearkin_augment::{Batch, Loader, LoaderOptions, Order, View};
use nearkin_data::random::Purpose;
use nearkin_data::{BadImages, ImageSet, Random, Split, skipped_lines};
use nearkin_device::{CudaSettings, ExactProducts, Graph, send};
use nearkin_dist::{DistError, Reducer, World};
use nearkin_eval::{EvaluationError, FeatureOptions, FeatureSource};
use nearkin_model::{
    Encoder, MomentumEncoder, NO_LABEL, Parameters, Queue, finish_views, images_to_tensor,
};
use nearkin_objective::{Labels, Measures, evaluate, evaluate_and_measure};
use nearkin_recipe::{Precision, QueueStart, Recipe, Source, StepForm};
use nearkin_report::{
    MetricsWriter, Progress as ProgressBar, RunFolder, Verdict, read_metrics, write_atomically,
    write_report,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, TchError, Tensor};

use crate::checkpoint::{
    Checkpoint, FORMAT, Files, MODEL, MOMENTUM_ENCODER, Newest, OPTIMIZER, Progress, QUEUE,
    differences_that_matter,
};
use crate::guard::{BadStep, Buffers, Checked, are_sound, dump, read_together, sum_of_norms};
use crate::images::ImagesDigest;
use crate::interrupt::Unfinished;
use crate::meter::{Meter, rate_of_products};
use crate::monitor::{
    BACKBONE, EpochSums, Monitor, PIXELS, Position, StepMetrics, evaluate_knn_until, has_knn,
};
use crate::phases::{Phase, Phases};
use crate::ranges::MOST_THREADS;
use crate::threads::{Threads, measure};
use crate::trainer::late::{Late, obstacle};
use crate::trainer::placed::Placed;
use crate::verdict::{Facts, verdict};
use crate::{Interrupt, LearningRate, Momentum, Optimizer, Setup, TrainError};

pub use batches::batch_file;
pub use bench::Benchmark;

/// How a run uses the machine; no result depends on it, but the last bit of a sum on `threads`.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where tensors live.
    pub device: Device,
    /// Loader threads; if absent, what goes with `threads`: measured, what the run began with, or 1.
    pub workers: Option<usize>,
    /// Threads of libtorch; if absent, what the continued run began with, and for a new one what a
    /// measurement finds best.
    pub threads: Option<usize>,
    /// Processes of the run on this host, which share its cores.
    pub processes_here: NonZeroUsize,
    /// Show no progress.
    pub quiet: bool,
    /// What to write down of the machine, as an object; `threads` and `workers` are added to it.
    pub environment: serde_json::Value,
}

/// Where a run begins.
#[derive(Clone, Debug)]
pub enum Resume {
    /// In a new folder.
    New(PathBuf),
    /// In a new folder of that name or, where there is one already, of that name with a number.
    NewNumbered(PathBuf),
    /// At the newest checkpoint of that run, or at its beginning if it has none.
    From(RunFolder),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// It was interrupted after this step; if any was made, there is a checkpoint of it.
    Interrupted {
        /// Steps done.
        step: u64,
        /// The signal that asked for it.
        signal: i32,
    },
}

/// A run: networks, optimiser and queue, and how far they are.
pub struct Trainer {
    setup: Setup,
    options: RunOptions,
    world: Arc<dyn World>,
    reducer: Box<dyn Reducer>,
    run: RunFolder,
    train: Arc<dyn ImageSet>,
    test: Option<Arc<dyn ImageSet>>,
    bad_images: Arc<BadImages>,
    placed: Placed,
    online: Encoder,
    teacher: Option<MomentumEncoder>,
    queue: Option<Queue>,
    optimizer: Optimizer,
    buffers: Buffers,
    learning_rate: LearningRate,
    momentum: Option<Momentum>,
    steps_per_epoch: u64,
    total_steps: u64,
    /// Of a run that does not wait for the device in a step.
    late: Option<Late>,
    threads: usize,
    workers: usize,
    /// Asked in a benchmark only.
    phases: Phases,
    /// Parts of the batch of all processes within which images are mixed.
    mixing_blocks: usize,
    step: u64,
    skipped_in_a_row: u64,
    /// The step at which the running statistics were last those of all processes.
    settled_at: Cell<u64>,
    /// Of training, up to the beginning of this process.
    seconds_before: f64,
    /// Processes with which the run was trained so far.
    processes_before: Option<usize>,
    /// Digests of the images, of the first process.
    images: Option<ImagesDigest>,
    /// What was found on the way to the first step, to be said with it.
    notes: Vec<String>,
    begun: Instant,
    /// Of the run or benchmark under way.
    interrupt: Interrupt,
    epoch_sums: EpochSums,
    /// No other run may write to the folder; of several processes, the first holds it.
    _lock: Option<File>,
}

/// What one step made, before anything was changed.
struct Gradients {
    made: Made,
    /// Whether the gradients are; the loss speaks for itself.
    finite: bool,
    /// Keys for the queue, with the labels of their images.
    keys: Vec<(Tensor, Tensor)>,
    wishes: Wishes,
}

/// What is told of a step.
struct Made {
    metrics: StepMetrics,
    images: Vec<usize>,
    /// Of the first batch with a non-finite loss, else of the last.
    views: Vec<Tensor>,
    waited: Duration,
}

/// What should happen after a step, in any of the processes and therefore in all.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    /// End the run.
    interrupted: bool,
    /// Write a checkpoint, because the last one is old.
    by_time: bool,
}

impl Trainer {
    /// Opens the data, builds the networks and makes or opens the run folder. Of several processes
    /// the first reads and writes the run folder; the others get everything from it.
    pub fn new(
        setup: Setup,
        resume: &Resume,
        options: RunOptions,
        world: Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let named = Arc::clone(&world);
        Self::begin(setup, resume, options, world).map_err(|error| blame(named.as_ref(), error))
    }

    fn begin(
        setup: Setup,
        resume: &Resume,
        options: RunOptions,
        world: Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let train = recipe.open_training_images()?;
        let test = match nearkin_data::has_split(&recipe.data, Split::Test)? {
            true if recipe.evaluation.every_epochs > 0 && train.has_labels() => {
                Some(nearkin_data::open(&recipe.data, Split::Test)?).filter(ImageSet::has_labels)
            }
            _ => None,
        };
        if setup.requirements.labels && !train.has_labels() {
            return Err(TrainError::NeedsLabels { method: setup.method_name().to_owned() });
        }
        let images_per_step = recipe.images_per_step();
        let steps_per_epoch = (train.len() / images_per_step) as u64;
        if steps_per_epoch == 0 {
            return Err(TrainError::TooFewImages { needed: images_per_step, images: train.len() });
        }
        let total_steps = steps_per_epoch * recipe.training.epochs.get();
        let mixing_blocks = divide(recipe, world.size())?;
        let images = ImagesDigest::of_names(recipe.data.path(), train.as_ref(), test.as_deref());
        same_job(world.as_ref(), recipe, train.len(), &images)?;

        let first = world.rank() == 0;
        let (held, mut notes) = match resume {
            Resume::From(run) if first => {
                let lock = run.lock()?;
                (Some(lock), run.mend()?)
            }
            _ => (None, Vec::new()),
        };
        let images = first.then(|| images.with_pixels(train.as_ref(), recipe.seed));
        let newest = match resume {
            Resume::From(run) if first => Checkpoint::newest_whole(run, &files_of(&setup))?,
            _ => Newest::default(),
        };
        notes.extend(newest.notes);
        let checkpoint = newest.checkpoint;
        if let (Some(checkpoint), Resume::From(run), Some(images)) = (&checkpoint, resume, &images)
        {
            checkpoint.check_recipe(run, recipe)?;
            notes.extend(checkpoint.check_images(run, images, train.as_ref())?);
            notes.extend(mend_records(run, checkpoint.progress.step)?);
        }
        let begun_with = match (&checkpoint, resume) {
            (Some(checkpoint), _) => Some(checkpoint.progress.threads),
            (None, Resume::From(run)) => recorded(run, THREADS).filter(|&threads| threads > 0),
            (None, Resume::New(_) | Resume::NewNumbered(_)) => None,
        };
        let workers_before = match resume {
            Resume::From(run) => recorded(run, WORKERS),
            Resume::New(_) | Resume::NewNumbered(_) => None,
        };
        let Threads { workers, threads } = match options.threads.or(begun_with) {
            Some(threads) => {
                Threads { workers: options.workers.or(workers_before).unwrap_or(1), threads }
            }
            None => measure(&setup, &train, &options, world.size()),
        };
        let (mut run, lock) = match resume {
            Resume::From(run) => (run.clone(), held),
            Resume::New(path) if first => begin_run(RunFolder::create(path)?, &setup)?,
            Resume::NewNumbered(path) if first => {
                begin_run(RunFolder::create_numbered(path)?, &setup)?
            }
            Resume::New(path) | Resume::NewNumbered(path) => (RunFolder::of_others(path), None),
        };
        if first && matches!(resume, Resume::From(_)) {
            remember_place(&run, &setup.recipe)?;
        }
        if first && !run.environment().exists() {
            let mut environment = options.environment.clone();
            environment[THREADS] = threads.into();
            environment[WORKERS] = workers.into();
            environment["processes"] = world.size().into();
            run.write_environment(&environment)?;
        }
        let start = Start {
            threads,
            folder: run.name(),
            progress: checkpoint.as_ref().map(|own| own.progress.clone()),
        };
        let start = Start::of_first(world.as_ref(), &start)?;
        if let Resume::NewNumbered(path) = resume
            && !first
        {
            run = RunFolder::of_others(path.with_file_name(&start.folder));
        }
        let threads = options.threads.unwrap_or(start.threads);
        tch::set_num_threads(threads as i32);

        let torch_seed =
            |part| Random::new(Purpose::Initialisation, recipe.seed, part, 0).bits() >> 1;
        let kind = match recipe.training.precision {
            Precision::Single | Precision::Bfloat16 => Kind::Float,
            Precision::Double => Kind::Double,
        };
        let device = options.device;
        let late = Late::of(recipe, world.size(), device)?;
        CudaSettings { tf32: recipe.training.tf32, timed_convolutions: true }.apply()?;
        let mut online = Encoder::new(&recipe.model, torch_seed(0), device, kind)?;
        let mut teacher = setup
            .momentum_encoder
            .map(|options| MomentumEncoder::copy_of(&online, &recipe.model, options, device, kind))
            .transpose()?;
        let together = recipe.training.synchronize_batch_norm;
        if together {
            online.synchronize(Arc::clone(&world));
        }
        if let Some(teacher) = &mut teacher {
            teacher.spread(Arc::clone(&world), together)?;
        }
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
        let warmup = recipe.schedule.warmup_epochs * steps_per_epoch;
        let peak = recipe.optimizer.scaled_learning_rate(images_per_step);
        let trained: Vec<Tensor> = online
            .parameters()
            .trainable()
            .map(|parameter| parameter.tensor.shallow_clone())
            .collect();
        let bad_images = Arc::new(BadImages::of_run(run.path(), world.rank())?);
        let train = recipe.tolerate(train, Split::Train, &bad_images);
        let test = test.map(|test| recipe.tolerate(test, Split::Test, &bad_images));
        let placed = Placed::new(recipe, train.as_ref(), device, workers)?;
        let mut trainer = Self {
            optimizer: Optimizer::new(online.parameters(), &recipe.optimizer)?,
            buffers: Buffers::of(networks.into_iter().flatten()),
            late,
            learning_rate: LearningRate::new(peak, warmup, total_steps, recipe.schedule),
            momentum: setup.momentum_encoder.map(|options| {
                Momentum::new(options.momentum.get(), total_steps, options.schedule)
            }),
            reducer: world.reducer(&trained)?,
            run,
            setup,
            options,
            world,
            train,
            test,
            bad_images,
            placed,
            online,
            teacher,
            queue,
            steps_per_epoch,
            total_steps,
            threads,
            workers,
            phases: Phases::default(),
            mixing_blocks,
            step: 0,
            settled_at: Cell::new(0),
            skipped_in_a_row: 0,
            seconds_before: 0.0,
            processes_before: None,
            images,
            notes,
            begun: Instant::now(),
            interrupt: Interrupt::default(),
            epoch_sums: EpochSums::default(),
            _lock: lock,
        };
        match checkpoint {
            Some(checkpoint) => checkpoint.restore(trainer.files())?,
            None if first => trainer.start_as_begun()?,
            None => {}
        }
        for (_, mut tensor) in trainer.files().into_iter().flat_map(|(_, tensors)| tensors) {
            trainer.world.broadcast(&mut tensor)?;
        }
        if let Some(progress) = start.progress {
            let Progress { step, seconds, skipped_in_a_row, queue_next, epoch_sums, .. } = progress;
            (trainer.step, trainer.seconds_before) = (step, seconds);
            trainer.settled_at.set(step);
            trainer.skipped_in_a_row = skipped_in_a_row;
            trainer.epoch_sums = epoch_sums;
            trainer.processes_before = Some(progress.world_size);
            if let (Some(queue), Some(next)) = (&mut trainer.queue, queue_next) {
                queue.continue_at(next);
            }
        }
        Ok(trainer)
    }

    /// The run's folder.
    pub fn run_folder(&self) -> &RunFolder {
        &self.run
    }

    /// Trains to the end, or until some process is interrupted.
    pub fn run(&mut self, interrupt: &Interrupt) -> Result<Outcome, TrainError> {
        self.interrupt = interrupt.clone();
        let result = self.train();
        if matches!(result, Err(TrainError::NotFinite { .. } | TrainError::Diverged { .. })) {
            // It shows what led there; the error itself matters more than one of the report.
            let _ = self.report();
        }
        result.map_err(|error| blame(self.world.as_ref(), error))
    }

    fn train(&mut self) -> Result<Outcome, TrainError> {
        let evaluation_is_missing = self.evaluation_is_missing()?;
        if self.step == self.total_steps && !evaluation_is_missing {
            let progress = ProgressBar::hidden();
            self.notes.drain(..).for_each(|note| progress.warning(&format!("warning: {note}")));
            self.report()?;
            return Ok(Outcome::Finished);
        }
        let mut monitor = self.monitor()?;
        self.begun = Instant::now();
        let mut checkpointed = Instant::now();
        if self.step == 0 {
            self.describe(&mut monitor)?;
        } else {
            let message = format!(
                "continued after step {} on {:?} with {} thread(s)",
                self.step, self.options.device, self.threads
            );
            monitor.event(self.position(), &message)?;
            self.describe_processes(&mut monitor)?;
        }
        for note in std::mem::take(&mut self.notes) {
            monitor.warn(self.position(), &note)?;
        }
        if (self.step == 0 || evaluation_is_missing) && !self.evaluate(&mut monitor)? {
            return self.end_interrupted(monitor);
        }
        self.describe_waiting(&mut monitor)?;
        monitor.restart_clocks(true);
        let mut loader = self.loader()?;
        while self.step < self.total_steps {
            self.world.report(&format!("step {}", self.step + 1));
            let saving = self.setup.recipe.checkpoint;
            let by_time = checkpointed.elapsed().as_secs_f64() > 60.0 * saving.every_minutes.get();
            let Some(wishes) = self.one_step(&mut loader, &mut monitor, by_time)? else {
                self.settle(&mut monitor)?;
                if self.step > 0 {
                    self.save(&mut monitor)?;
                }
                return self.end_interrupted(monitor);
            };
            let Wishes { interrupted, by_time } = wishes;
            let epoch_ends = self.step.is_multiple_of(self.steps_per_epoch);
            let epochs_done = self.step / self.steps_per_epoch;
            let last = self.step == self.total_steps;
            if epoch_ends || last || interrupted || by_time {
                self.settle(&mut monitor)?;
            }
            if epoch_ends {
                monitor.epoch(self.position())?;
            }
            let by_epoch = epoch_ends && epochs_done.is_multiple_of(saving.every_epochs.get());
            // Before the evaluation, which may take longer than whoever ends this process will wait.
            if last || interrupted || by_epoch || by_time {
                self.save(&mut monitor)?;
                checkpointed = Instant::now();
            } else if epoch_ends {
                self.refuse_divergence(&mut monitor)?;
            }
            if self.evaluation_is_due() && (interrupted || !self.evaluate(&mut monitor)?) {
                self.save(&mut monitor)?;
                return self.end_interrupted(monitor);
            }
            if epoch_ends && let Some(news) = self.bad_images.news() {
                monitor.event(self.position(), &news)?;
            }
            if epoch_ends || by_time {
                monitor.restart_clocks(epoch_ends);
            }
            if interrupted && !last {
                return self.end_interrupted(monitor);
            }
        }
        monitor.finish();
        self.report()?;
        Ok(Outcome::Finished)
    }

    /// The end of all processes of a run that continues after this step.
    fn end_interrupted(&self, monitor: Monitor) -> Result<Outcome, TrainError> {
        monitor.finish();
        self.report()?;
        // Processes that were not asked themselves learn by which signal the others were.
        self.interrupt.is_agreed(self.world.as_ref())?;
        // Launchers end all processes once the first has gone.
        let _ = self.world.share("end of an interrupted run", b"")?;
        let signal = self.interrupt.signal().unwrap_or_default();
        Ok(Outcome::Interrupted { step: self.step, signal })
    }

    fn report(&self) -> Result<(), TrainError> {
        if self.world.rank() > 0 {
            return Ok(());
        }
        Ok(write_report(&self.run, self.verdict()?.as_ref())?)
    }

    /// What to say of a finished run whose encoder does not beat its baselines.
    pub fn verdict(&self) -> Result<Option<Verdict>, TrainError> {
        if self.step < self.total_steps || !self.run.metrics().exists() {
            return Ok(None);
        }
        Ok(verdict(&Facts {
            recipe: &self.setup.recipe,
            records: &read_metrics(&self.run.metrics())?,
            training_images: self.train.len(),
            features: self.online.features(),
        }))
    }

    /// A step, and what all processes want after it; `None` if it was abandoned.
    fn one_step(
        &mut self,
        loader: &mut Loader,
        monitor: &mut Monitor,
        by_time: bool,
    ) -> Result<Option<Wishes>, TrainError> {
        let made = match self.reads_next_late() {
            true => {
                self.step_late(loader, monitor).map(|()| Wishes { interrupted: false, by_time })
            }
            false => self.step_waited_for(loader, monitor, by_time),
        };
        match made {
            Ok(mut wishes) => {
                if self.world.size() == 1 {
                    wishes.interrupted = self.interrupt.signal().is_some();
                }
                Ok(Some(wishes))
            }
            Err(Unfinished::Stopped) => Ok(None),
            Err(Unfinished::Failed(error)) => Err(error),
        }
    }

    fn step_waited_for(
        &mut self,
        loader: &mut Loader,
        monitor: &mut Monitor,
        by_time: bool,
    ) -> Result<Wishes, Unfinished> {
        self.settle(monitor)?;
        let gradients = self.gradients(loader, by_time);
        if matches!(gradients, Err(Unfinished::Stopped)) {
            self.buffers.restore()?;
        }
        let gradients = gradients?;
        let wishes = gradients.wishes;
        self.apply(gradients, monitor)?;
        Ok(wishes)
    }

    /// The next batch of the loader, and a stop point.
    fn next_batch(&self, loader: &mut Loader) -> Result<Batch, Unfinished> {
        let world = self.world.as_ref();
        let batch = loader.next_unless(&|| self.interrupt.is_known(world)).transpose()?;
        self.interrupt.stop_point(world)?;
        Ok(batch.ok_or(TrainError::NoBatch { step: self.step })?)
    }

    /// A stop point at every call.
    fn stop_points(&self) -> impl Fn() -> Result<(), Unfinished> + use<> {
        let (interrupt, world) = (self.interrupt.clone(), Arc::clone(&self.world));
        move || interrupt.stop_point(world.as_ref())
    }

    /// What is known of the next step beforehand.
    fn metrics_of_next(&self) -> StepMetrics {
        StepMetrics {
            loss: f64::NAN,
            reference_loss: None,
            measures: Vec::new(),
            learning_rate: self.learning_rate.at(self.step),
            momentum: self.momentum.map(|momentum| momentum.at(self.step)),
            skipped: false,
        }
    }

    /// Gradients of one step, averaged over its batches; nothing but running statistics changes.
    fn gradients(&mut self, loader: &mut Loader, by_time: bool) -> Result<Gradients, Unfinished> {
        let stop_point = self.stop_points();
        self.buffers.save()?;
        self.optimizer.zero_gradients();
        let batches = self.setup.recipe.training.accumulate_batches.get();
        let share = 1.0 / batches as f64;
        let waited_before = loader.wait();
        let (mut keys, mut images, mut views) = (Vec::new(), Vec::new(), Vec::new());
        let (mut loss, mut measured) = (0.0, None::<Measures>);
        let mut unread = None::<Tensor>;
        let every = self.setup.recipe.training.record_every_steps.get();
        let recorded = (self.step + 1).is_multiple_of(every);
        for number in 0..batches {
            // A loss is read as late as it can be: reading waits for the device.
            if let Some(before) = unread.take() {
                loss += share * before.f_double_value(&[])?;
            }
            self.phases.end(Phase::Other);
            let batch = self.next_batch(loader)?;
            self.phases.end(Phase::Load);
            let prepared = self.prepare(&batch, number)?;
            images.extend(batch.images);
            self.phases.end(Phase::Other);
            let encoded = self.encode(&prepared, &stop_point)?;
            let labels = prepared.labels;
            if f64::is_finite(loss) {
                views = prepared.views;
            }
            // Similarities are divided by small temperatures: they keep all digits.
            let exact = ExactProducts::begin()?;
            let terms = self.setup.method.terms(&encoded.encoded)?;
            let evaluated = if recorded {
                let (evaluated, measures) = evaluate_and_measure(&terms, Some(&labels))?;
                measured.get_or_insert_default().absorb(&measures, share);
                evaluated
            } else {
                evaluate(&terms)?
            };
            drop((terms, exact));
            self.phases.end(Phase::Loss);
            let last = number + 1 == batches;
            let share_of_loss = evaluated.loss.f_mul_scalar(share)?;
            self.backward(&share_of_loss, &encoded, last, &stop_point)?;
            self.phases.end(Phase::Backward);
            unread = Some(evaluated.loss.f_detach()?);
            if self.queue.is_some() {
                let new = self.setup.requirements.new_keys(&encoded.encoded);
                keys.extend(
                    new.map(|keys| (keys.gathered.shallow_clone(), labels.batch.shallow_clone())),
                );
            }
        }
        let norms = sum_of_norms(&self.optimizer)?;
        let [last_loss, norms] = read_together([unread, norms])?;
        loss += share * last_loss;
        let wishes = self.exchange(&mut loss, measured.as_mut(), by_time)?;
        let metrics = StepMetrics {
            loss,
            reference_loss: measured.as_ref().map(Measures::reference_loss),
            measures: measured.iter().flat_map(Measures::means).collect(),
            ..self.metrics_of_next()
        };
        let waited = loader.wait().saturating_sub(waited_before);
        Ok(Gradients {
            made: Made { metrics, images, views, waited },
            finite: norms.is_finite(),
            keys,
            wishes,
        })
    }

    /// Makes loss, measures and wishes those of all processes, in one exchange.
    fn exchange(
        &self,
        loss: &mut f64,
        measures: Option<&mut Measures>,
        by_time: bool,
    ) -> Result<Wishes, TchError> {
        let interrupted = self.interrupt.signal().is_some();
        if self.world.size() == 1 {
            return Ok(Wishes { interrupted, by_time });
        }
        let processes = self.world.size() as f64;
        let flag = |wish| f64::from(u8::from(wish));
        let mut numbers = vec![*loss / processes, flag(interrupted), flag(by_time)];
        numbers.extend(measures.iter().flat_map(|measures| measures.numbers()));
        let mut sums = Tensor::f_from_slice(&numbers)?.f_to_device(self.options.device)?;
        self.world.sum(&mut sums)?;
        let mut numbers = Vec::<f64>::try_from(sums.f_to_device(Device::Cpu)?)?;
        if let Some(measures) = measures {
            numbers[3] /= processes;
            measures.set_numbers(&numbers[3..]);
        }
        *loss = numbers[0];
        Ok(Wishes { interrupted: numbers[1] > 0.0, by_time: numbers[2] > 0.0 })
    }

    /// The step itself: optimiser, then momentum encoder, then queue. A step that is not finite
    /// changes nothing.
    fn apply(&mut self, gradients: Gradients, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.step += 1;
        let Gradients { made, finite, keys, .. } = gradients;
        let metrics = &made.metrics;
        let finite = metrics.loss.is_finite() && finite;
        if finite {
            self.phases.end(Phase::Other);
            self.optimizer.step(metrics.learning_rate)?;
            self.phases.end(Phase::Step);
            if let (Some(teacher), Some(momentum)) = (&mut self.teacher, metrics.momentum) {
                teacher.follow(&self.online, momentum)?;
                self.phases.end(Phase::Average);
            }
            if let Some(queue) = &mut self.queue {
                for (keys, labels) in &keys {
                    queue.enqueue(keys, labels)?;
                }
                self.phases.end(Phase::Queue);
            }
        } else {
            self.buffers.restore()?;
        }
        self.tell(self.position(), made, finite, true, monitor)
    }

    /// Writes down what a step made. `gradients_left` says that no others have come after its own.
    fn tell(
        &mut self,
        at: Position,
        mut made: Made,
        finite: bool,
        gradients_left: bool,
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        if finite {
            self.skipped_in_a_row = 0;
        } else {
            made.metrics.skipped = true;
            self.skip(at, &made, gradients_left, monitor)?;
        }
        let Made { metrics, images, waited, .. } = made;
        let images = images.len() * self.world.size();
        Ok(monitor.step(at, &metrics, images, waited.as_secs_f64())?)
    }

    /// Keeps what made a step not finite.
    fn skip(
        &mut self,
        at: Position,
        made: &Made,
        gradients_left: bool,
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        self.skipped_in_a_row += 1;
        let bad = BadStep {
            optimizer: gradients_left.then_some(&self.optimizer),
            step: at.step,
            epoch: at.epoch,
            loss: made.metrics.loss,
            learning_rate: made.metrics.learning_rate,
            images: made.images.iter().map(|&index| self.train.name(index)).collect(),
            views: &made.views,
        };
        // Every process shows its own images.
        let folder = match self.world.rank() {
            0 => "non_finite".to_owned(),
            rank => format!("non_finite-process-{rank}"),
        };
        let dump = dump(&self.run.path().join(folder), &bad)?;
        monitor.event(
            at,
            &format!(
                "step {} was skipped: its loss or a gradient is not finite (see {})",
                at.step,
                dump.display()
            ),
        )?;
        if self.skipped_in_a_row >= self.setup.recipe.training.maximum_skipped_steps.get() {
            let (in_a_row, step) = (self.skipped_in_a_row, at.step);
            let last_good = Checkpoint::newest_path(&self.run);
            return Err(TrainError::NotFinite { in_a_row, step, dump, last_good });
        }
        // The step may be bad because the weights are.
        self.refuse_divergence(monitor)
    }

    /// Labels of a batch's images, and of the keys in the queue.
    fn labels(&self, batch: &Batch) -> Result<Labels, TchError> {
        let label = |&index: &usize| self.train.label(index).map_or(NO_LABEL, |label| label as i64);
        let local: Vec<i64> = batch.images.iter().map(label).collect();
        let local = send(&local, &[local.len() as i64], self.options.device)?;
        Ok(Labels {
            offset: self.world.rank() as i64 * local.size()[0],
            batch: self.world.gather(&local)?,
            queue: self.queue.as_ref().map(Queue::labels),
        })
    }

    fn to_device(&self, batch: &Batch) -> Result<Vec<Tensor>, TchError> {
        let whole = self.placed.whole_images(batch)?;
        let view = |view: &nearkin_augment::ViewBatch| {
            let (size, device) = (view.size_pixels, self.options.device);
            let images = match &view.unfinished {
                Some(unfinished) => finish_views(unfinished, size, whole.as_ref(), device)?,
                None => images_to_tensor(&view.pixels, size, device)?,
            };
            match self.setup.recipe.training.precision {
                Precision::Single | Precision::Bfloat16 => Ok(images),
                Precision::Double => images.f_to_kind(Kind::Double),
            }
        };
        batch.views.iter().map(view).collect()
    }

    /// Batches from the step under way to the end.
    fn loader(&self) -> Result<Loader, TrainError> {
        let recipe = &self.setup.recipe;
        let (seed, batches) = (recipe.seed, recipe.training.accumulate_batches.get());
        let (rank, size) =
            (self.world.rank(), NonZeroUsize::MIN.saturating_add(self.world.size() - 1));
        let order = Order::new(self.train.len(), recipe.training.batch_size, seed, true);
        let mut order = order.of_rank(rank, size).ok_or(TrainError::Division {
            what: BATCH_SIZE,
            number: recipe.training.batch_size.get(),
            into: PROCESSES,
            parts: size.get(),
        })?;
        let steps_per_epoch = self.steps_per_epoch;
        let plan = (self.step..self.total_steps).flat_map(move |step| {
            let (epoch, step) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
            (0..batches).map(|batch| order.plan(epoch, step * batches + batch)).collect::<Vec<_>>()
        });
        let loading = LoaderOptions { workers: self.workers, prefetch_batches: 2 };
        let views = Arc::clone(&self.placed.views);
        Ok(Loader::start(Arc::clone(&self.train), views, seed, plan, loading)?)
    }

    fn monitor(&self) -> Result<Monitor, TrainError> {
        let epochs = self.setup.recipe.training.epochs.get();
        let progress = match self.options.quiet || self.world.rank() > 0 {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(self.total_steps, epochs, self.step),
        };
        let every = self.setup.recipe.training.record_every_steps.get();
        let run = (self.world.rank() == 0).then_some(&self.run);
        let meter = self.meter()?;
        Ok(Monitor::new(run, self.step, every, progress, self.epoch_sums.clone(), meter)?)
    }

    /// Measures the device; all processes do it at once, as they train.
    fn meter(&self) -> Result<Meter, TchError> {
        let device = self.options.device;
        let training = &self.setup.recipe.training;
        let (of_one, matmul_precision) =
            rate_of_products(training.precision, training.tf32, device)?;
        Ok(Meter {
            flop_per_image: self.setup.flop_per_image,
            matmul_flop_per_second: of_one * self.world.size() as f64,
            matmul_precision,
        })
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
                 {} thread(s) and {} loader worker(s){}, seed {}",
                recipe.training.epochs,
                self.steps_per_epoch,
                recipe.images_per_step(),
                recipe.data.kind(),
                self.options.device,
                self.threads,
                self.workers,
                match self.world.size() {
                    1 => String::new(),
                    size => format!(" in each of {size} processes"),
                },
                recipe.seed,
            ),
        )?;
        let sets = [Some(&self.train), self.test.as_ref()].into_iter().flatten();
        for line in skipped_lines(sets.map(ImageSet::skipped)) {
            monitor.event(at, &line)?;
        }
        if self.placed.holds_images() {
            let message = format!("the training images are held by {:?}", self.options.device);
            monitor.event(at, &message)?;
        }
        if self.setup.requirements.labels {
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

    /// Says where steps are waited for, or not recorded, although the recipe asks for it.
    fn describe_waiting(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let (recipe, device) = (&self.setup.recipe, self.options.device);
        let form = recipe.training.step;
        let message = match obstacle(recipe, self.world.size()) {
            _ if form == StepForm::WaitedFor => return Ok(()),
            Some(obstacle) => format!("every step is waited for, since {obstacle}"),
            None if form == StepForm::CudaGraph && !Graph::is_possible(device) => format!(
                "no CUDA graphs on {device:?}{}: the step is started kernel by kernel",
                if device.is_cuda() { " in a build without CUDA" } else { "" }
            ),
            None => return Ok(()),
        };
        Ok(monitor.event(self.position(), &format!("warning: {message}"))?)
    }

    /// Says what a run does otherwise with another number of processes.
    fn describe_processes(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let (before, now) = (self.processes_before, self.world.size());
        let Some(before) = before.filter(|&before| before != now) else { return Ok(()) };
        let training = &self.setup.recipe.training;
        let mut changes = vec!["sums are added in another order (the last digits differ)"];
        if !training.synchronize_batch_norm {
            changes.push("batch norms take their statistics from batches of another size");
        }
        if training.micro_batch_size.is_some() {
            changes.push("batch norms see other micro-batches");
        }
        if training.mixing_blocks.is_none() && !self.setup.requirements.mixed_inputs.is_empty() {
            changes.push("other pairs of images are mixed (training.mixing_blocks keeps them)");
        }
        let message = format!(
            "trained by {now} process(es), before by {before}: order, views and batches stay the same; \
             {}",
            changes.join("; ")
        );
        Ok(monitor.event(self.position(), &message)?)
    }

    /// Running statistics that each process keeps for its own images become those of all. They follow
    /// the batches linearly, so averages now are what averages after every step would have been. Only the
    /// first call after a step changes anything: an average of equal numbers can differ in its last digit.
    fn settle_statistics(&self) -> Result<(), TchError> {
        let alone = self.world.size() == 1;
        let synchronized = self.setup.recipe.training.synchronize_batch_norm;
        let groups = self.setup.momentum_encoder.map_or(1, |own| own.batch_norm_splits.get());
        let settled = self.settled_at.replace(self.step) == self.step;
        if alone || (synchronized && groups == 1) || settled {
            return Ok(());
        }
        let statistics = self.buffers.live();
        if statistics.is_empty() {
            return Ok(());
        }
        let flat: Vec<Tensor> =
            statistics.iter().map(|tensor| tensor.f_reshape([-1])).collect::<Result<_, _>>()?;
        let mut all = Tensor::f_cat(&flat, 0)?;
        self.world.sum(&mut all)?;
        let all = all.f_div_scalar(self.world.size() as f64)?;
        let lengths: Vec<i64> = flat.iter().map(|tensor| tensor.size()[0]).collect();
        for (mut own, mean) in statistics.into_iter().zip(all.f_split_with_sizes(&lengths, 0)?) {
            own.f_copy_(&mean.f_view_as(&own)?)?;
        }
        Ok(())
    }

    /// Whether an evaluation follows this step.
    fn evaluation_is_due(&self) -> bool {
        let every = self.setup.recipe.evaluation.every_epochs;
        let last = self.step == self.total_steps;
        self.test.is_some()
            && every > 0
            && self.step > 0
            && self.step.is_multiple_of(self.steps_per_epoch)
            && (last || (self.step / self.steps_per_epoch).is_multiple_of(every))
    }

    /// Whether the evaluation after this step, which follows its checkpoint, did not come to its end.
    fn evaluation_is_missing(&self) -> Result<bool, TrainError> {
        if !self.evaluation_is_due() {
            return Ok(false);
        }
        let missing = self.world.rank() == 0 && !has_knn(&self.run, self.step)?;
        Ok(self.world.maximum(i64::from(missing))? > 0)
    }

    /// k-NN accuracy where the data allows it; at step 0 of the pixels too. False if it was interrupted.
    fn evaluate(&self, monitor: &mut Monitor) -> Result<bool, TrainError> {
        self.settle_statistics()?;
        let Some(test) = &self.test else { return Ok(true) };
        self.world.report("the k-NN evaluation");
        let batch_size = NonZeroUsize::MIN.saturating_add(255);
        let options = FeatureOptions { batch_size, workers: self.workers };
        let world = self.world.as_ref();
        let knn = |source: FeatureSource<'_>, view: &View| {
            let neighbours = &self.setup.recipe.evaluation.neighbours;
            let stop = || self.interrupt.is_known(world);
            match evaluate_knn_until(
                source,
                [&self.train, test],
                view,
                neighbours,
                options,
                world,
                &stop,
            ) {
                Err(EvaluationError::Interrupted) => Ok(None),
                Err(EvaluationError::NotFinite) => Err(TrainError::FeaturesNotFinite {
                    run: self.run.path().to_owned(),
                    step: self.step,
                }),
                result => Ok(result.map(Some)?),
            }
        };
        let classes = self.train.classes().len();
        if self.step == 0 {
            let Some(pixels) = knn(FeatureSource::Pixels, &self.setup.recipe.pixel_view()?)? else {
                return Ok(false);
            };
            monitor.knn(self.position(), PIXELS, &pixels, classes)?;
        }
        let backbone = FeatureSource::Backbone(&self.online);
        let Some(backbone) = knn(backbone, &self.setup.evaluation_view)? else { return Ok(false) };
        monitor.knn(self.position(), BACKBONE, &backbone, classes)?;
        Ok(true)
    }

    /// All tensors of the state, by file of a checkpoint.
    fn files(&self) -> Files {
        let mut files = vec![
            (MODEL, self.online.parameters().named()),
            (OPTIMIZER, self.optimizer.state().collect()),
        ];
        if let Some(teacher) = &self.teacher {
            files.push((MOMENTUM_ENCODER, teacher.parameters().named()));
        }
        if let Some(queue) = &self.queue {
            let tensors =
                vec![("queue".to_owned(), queue.rows()), ("labels".to_owned(), queue.labels())];
            files.push((QUEUE, tensors));
        }
        files
    }

    /// Ends the run if something that a checkpoint holds shows in some process that it has diverged.
    fn refuse_divergence(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let networks = [
            Some(self.online.parameters()),
            self.teacher.as_ref().map(MomentumEncoder::parameters),
        ];
        let networks = networks.into_iter().flatten().flat_map(Parameters::iter);
        let weights = networks.map(|entry| Checked::Weights(entry.tensor.shallow_clone()));
        let other = self.optimizer.state().map(|(_, tensor)| tensor);
        let other = other.chain(self.queue.as_ref().map(Queue::rows)).map(Checked::Other);
        let sound = are_sound(weights.chain(other), self.options.device)?;
        if self.world.maximum(i64::from(!sound))? == 0 {
            return Ok(());
        }
        let message = format!(
            "the run has diverged: weights or optimizer state are infinite, NaN or too large after step {}",
            self.step
        );
        monitor.event(self.position(), &message)?;
        let last_good = Checkpoint::newest_path(&self.run);
        Err(TrainError::Diverged { step: self.step, last_good })
    }

    fn save(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.settle_statistics()?;
        // It would push out the last good checkpoint.
        self.refuse_divergence(monitor)?;
        let epoch_sums = monitor.epoch_sums();
        if self.world.rank() > 0 {
            return Ok(());
        }
        // A run that continues from the checkpoint keeps the records up to it.
        monitor.sync()?;
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
            images: self.images.clone(),
            files: BTreeMap::new(),
        };
        Checkpoint::write(&self.run, progress, self.files(), recipe.checkpoint.keep.get())
    }
}

const THREADS: &str = "threads";
const WORKERS: &str = "workers";

/// The number of that name that a run was begun with.
fn recorded(run: &RunFolder, name: &str) -> Option<usize> {
    let environment = std::fs::read(run.environment()).ok()?;
    let environment: serde_json::Value = serde_json::from_slice(&environment).ok()?;
    let number = environment[name].as_u64().map(|number| number as usize);
    number.filter(|number| *number <= MOST_THREADS)
}

/// Removes what is no record from `metrics.jsonl`, before anything reads it; returns what was wrong.
fn mend_records(run: &RunFolder, step: u64) -> Result<Option<String>, TrainError> {
    let path = run.metrics();
    let shown = path.display();
    if !path.exists() {
        return Ok(Some(format!("{shown} was missing: it has no earlier steps")));
    }
    let (_, damaged) = MetricsWriter::resume(&path, step)?;
    Ok((damaged > 0)
        .then(|| format!("{shown} had {damaged} line(s) that are not records; they were removed")))
}

/// The files of a checkpoint, as [`Trainer::files`] fills them.
fn files_of(setup: &Setup) -> Vec<&'static str> {
    let momentum_encoder = setup.momentum_encoder.map(|_| MOMENTUM_ENCODER);
    let queue = setup.queue.map(|_| QUEUE);
    [Some(MODEL), Some(OPTIMIZER), momentum_encoder, queue].into_iter().flatten().collect()
}

const BATCH_SIZE: &str = "training.batch_size";
const PROCESSES: &str = "the number of processes";

/// Whether batches divide among so many processes; the blocks within which images are mixed.
fn divide(recipe: &Recipe, processes: usize) -> Result<usize, TrainError> {
    let training = &recipe.training;
    let batch = training.batch_size.get();
    let divides = |what, number: usize, into, parts: usize| match number.is_multiple_of(parts) {
        true => Ok(number / parts),
        false => Err(TrainError::Division { what, number, into, parts }),
    };
    let here = divides(BATCH_SIZE, batch, PROCESSES, processes)?;
    if here < 2 && !training.synchronize_batch_norm {
        return Err(TrainError::Division {
            what: "half of training.batch_size",
            number: batch / 2,
            into: PROCESSES,
            parts: processes,
        });
    }
    let splits = recipe.momentum_encoder.map_or(1, |own| own.batch_norm_splits.get());
    if splits > 1 {
        divides("momentum_encoder.batch_norm_splits", splits, PROCESSES, processes)?;
    }
    if let Some(micro) = training.micro_batch_size {
        let what = "the share of training.batch_size of one process";
        divides(what, here, "training.micro_batch_size", micro.get())?;
    }
    let blocks = training.mixing_blocks.map_or(processes, NonZeroUsize::get);
    divides("training.mixing_blocks", blocks, PROCESSES, processes)?;
    Ok(blocks)
}

/// What all processes must have in common.
#[derive(Serialize, Deserialize)]
struct Job {
    program: String,
    recipe: String,
    images: String,
}

/// Refuses processes that were started with another program, recipe or data set.
fn same_job(
    world: &dyn World,
    recipe: &Recipe,
    training_images: usize,
    images: &ImagesDigest,
) -> Result<(), TrainError> {
    if world.size() == 1 {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let job = Job {
        program: format!("{} ({})", env!("CARGO_PKG_VERSION"), short(Sha256::digest(&program))),
        recipe: recipe.to_text(),
        images: format!("{training_images} images ({})", short(Sha256::digest(images.of_all()))),
    };
    let message = serde_json::to_vec(&job).unwrap_or_default();
    let jobs: Vec<Job> = world
        .share("job", &message)?
        .iter()
        .map(|text| serde_json::from_slice(text).map_err(|error| nonsense(&error)))
        .collect::<Result<_, _>>()?;
    let Some((first, others)) = jobs.split_first() else { return Ok(()) };
    for (rank, other) in (1..).zip(others) {
        let theirs = Source::parse("recipe", other.recipe.clone())?.recipe()?;
        let mine = Source::parse("recipe", first.recipe.clone())?.recipe()?;
        if let Some(differences) = differences_that_matter(&mine, &theirs) {
            return Err(TrainError::OtherRecipe { rank, differences });
        }
        let parts = [
            ("program", &first.program, &other.program),
            ("data set", &first.images, &other.images),
        ];
        for (what, first, theirs) in parts {
            if first != theirs {
                return Err(TrainError::Dist(DistError::Mismatch {
                    rank,
                    what: what.to_owned(),
                    theirs: theirs.clone(),
                    first: first.clone(),
                }));
            }
        }
    }
    Ok(())
}

/// Digits of a digest that a message shows.
const SHOWN_DIGITS: usize = 12;

fn short(digest: impl IntoIterator<Item = u8>) -> String {
    let digits = digest.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.take(SHOWN_DIGITS).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn nonsense(error: &serde_json::Error) -> TrainError {
    TrainError::Dist(DistError::Engine(format!("another process sent nonsense: {error}")))
}

/// Where a run begins, as the first process knows it.
#[derive(Serialize, Deserialize)]
struct Start {
    threads: usize,
    /// The name of the run's folder, which the first process may have numbered.
    folder: String,
    progress: Option<Progress>,
}

impl Start {
    fn of_first(world: &dyn World, own: &Self) -> Result<Self, TrainError> {
        let message = serde_json::to_vec(own).map_err(|error| nonsense(&error))?;
        let said = world.share("start", if world.rank() == 0 { &message } else { b"" })?;
        serde_json::from_slice(&said[0]).map_err(|error| nonsense(&error))
    }
}

/// What to say of an error of one of several processes: another one's, if that is where it comes
/// from; else the others are told of it.
fn blame(world: &dyn World, error: TrainError) -> TrainError {
    // What may have failed because another process did not take part.
    let exchange = match &error {
        _ if world.size() == 1 => return error,
        TrainError::Lost { .. } | TrainError::Dist(DistError::Elsewhere { .. }) => return error,
        TrainError::Tensor(inner) | TrainError::Evaluation(EvaluationError::Tensor(inner)) => {
            Some(inner.to_string())
        }
        TrainError::Dist(DistError::Engine(reason)) => Some(reason.clone()),
        _ => None,
    };
    match exchange.map(|reason| world.explain(&reason)) {
        Some(Some(message)) => TrainError::Lost { message },
        Some(None) => error,
        None => {
            world.fail(&error.to_string());
            error
        }
    }
}

/// Keeps the place of the images in the recipe of a continued run: they may have moved, and every
/// later command looks for them there.
fn remember_place(run: &RunFolder, recipe: &Recipe) -> Result<(), TrainError> {
    let path = run.recipe();
    // Whoever continues a run has read its recipe.
    let Ok(mut stored) = Source::read(&path) else { return Ok(()) };
    if recipe.data.path() == stored.data_path().map(Path::new) {
        return Ok(());
    }
    stored.set_data(&recipe.data);
    let text = stored.to_text();
    write_atomically(&path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(())
}

/// Puts the recipe into the locked folder of a new run.
fn begin_run(
    (run, lock): (RunFolder, File),
    setup: &Setup,
) -> Result<(RunFolder, Option<File>), TrainError> {
    let text = setup.recipe.to_text();
    write_atomically(&run.recipe(), |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok((run, Some(lock)))
}

#[cfg(test)]
mod tests {
    use nearkin_dist::Alone;

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

    fn new_trainer(recipe: &str, run: &Path) -> Trainer {
        let recipe = Source::parse("test", recipe.to_owned()).unwrap().recipe().unwrap();
        let options = RunOptions {
            device: Device::Cpu,
            workers: Some(0),
            threads: Some(1),
            processes_here: NonZeroUsize::MIN,
            quiet: true,
            environment: serde_json::json!({}),
        };
        let setup = Setup::new(recipe).unwrap();
        Trainer::new(setup, &Resume::New(run.to_owned()), options, Arc::new(Alone)).unwrap()
    }

    #[test]
    fn what_the_loss_and_the_optimiser_see_of_bfloat16_has_32_bits() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = RECIPE.replace("batch_size", "precision = \"bfloat16\"\nbatch_size");
        let mut trainer = new_trainer(&recipe, &folder.path().join("run"));
        let mut loader = trainer.loader().unwrap();
        let batch = loader.next().unwrap().unwrap();
        let encoded =
            trainer.encode(&trainer.prepare(&batch, 0).unwrap(), || Ok::<_, TchError>(()));
        let encoded = encoded.unwrap().encoded;
        let embeddings = encoded.online.iter().chain(&encoded.keys).flatten();
        let kinds: Vec<Kind> = embeddings.map(|embedding| embedding.local.kind()).collect();
        assert_eq!(kinds, [Kind::Float; 2]);
        drop(encoded);
        trainer.gradients(&mut loader, false).unwrap();
        assert!(trainer.optimizer.gradients().all(|(_, gradient)| gradient.kind() == Kind::Float));
    }

    /// As it is where libtorch refuses: the memory that stays is used, and the run goes on.
    #[test]
    fn a_step_that_cannot_be_recorded_is_made_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = RECIPE
            .replace("batch_size", "precision = \"double\"\nstep = \"read_late\"\nbatch_size");
        let recipe = recipe.replace("epochs = 1", "epochs = 3");
        let train = |name: &str, records: bool| {
            let run = folder.path().join(name);
            let mut trainer = new_trainer(&recipe, &run);
            if records {
                trainer.late.as_mut().unwrap().begin_recording();
            }
            trainer.run(&Interrupt::default()).unwrap();
            let said = std::fs::read_to_string(trainer.run_folder().metrics()).unwrap();
            (state(&trainer), said.matches("cannot be recorded as a CUDA graph").count())
        };
        let (plain, recording) = (train("plain", false), train("recording", true));
        assert_eq!((plain.1, recording.1), (0, 1));
        for ((name, expected), (_, got)) in plain.0.iter().zip(&recording.0) {
            assert!(got.allclose(expected, 1e-12, 1e-12, false), "{name}");
        }
    }

    #[test]
    fn a_step_that_is_not_finite_changes_nothing_and_the_next_one_trains() {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = new_trainer(RECIPE, &folder.path().join("run"));
        let (mut monitor, mut loader) = (trainer.monitor().unwrap(), trainer.loader().unwrap());
        let next_key = |trainer: &Trainer| trainer.queue.as_ref().map(Queue::next);

        let before = state(&trainer);
        let mut gradients = trainer.gradients(&mut loader, false).unwrap();
        assert!(state(&trainer) != before, "the forward pass moves the running statistics");
        gradients.made.metrics.loss = f64::NAN;
        trainer.apply(gradients, &mut monitor).unwrap();
        assert!(state(&trainer) == before);
        assert_eq!((trainer.step, trainer.skipped_in_a_row, next_key(&trainer)), (1, 1, Some(0)));

        let gradients = trainer.gradients(&mut loader, false).unwrap();
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
