//! A run: everything around the steps of training.
//!
//! The [`Learner`] makes the steps; here are the folder, the loader, the records, the checkpoints, the
//! evaluations and the requests to stop.

mod batches;
mod bench;
mod initial;

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nearkin_augment::{Loader, LoaderOptions, Order, View};
use nearkin_data::{BadImages, ImageSet, Split, skipped_lines};
use nearkin_device::{CudaSettings, Graph};
use nearkin_dist::World;
use nearkin_eval::{EvaluationError, FeatureOptions, FeatureSource};
use nearkin_model::Queue;
use nearkin_objective::Measures;
use nearkin_recipe::StepForm;
use nearkin_report::{Progress as ProgressBar, RunFolder, Verdict, read_metrics, write_report};
use tch::{Device, TchError, Tensor};

use crate::begun::{THREADS, WORKERS, begin_run, mend_records, recorded, remember_place};
use crate::checkpoint::{Checkpoint, FORMAT, Newest, Progress};
use crate::feed::Feed;
use crate::guard::{BadStep, dump};
use crate::images::ImagesDigest;
use crate::interrupt::Unfinished;
use crate::job::{BATCH_SIZE, PROCESSES, Start, blame, divide, same_job};
use crate::learner::late::{Started, obstacle};
use crate::learner::{Learner, Wishes, files_of};
use crate::meter::{Meter, rate_of_products};
use crate::monitor::{
    BACKBONE, EpochSums, Monitor, PIXELS, Position, StepMetrics, evaluate_knn_until, has_knn,
};
use crate::phases::Phase;
use crate::placed::Placed;
use crate::threads::{Threads, measure};
use crate::verdict::{Facts, verdict};
use crate::{Interrupt, Setup, TrainError};

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

/// A run: its learner, and everything around the steps.
pub struct Trainer {
    learner: Learner,
    options: RunOptions,
    run: RunFolder,
    feed: Feed,
    test: Option<Arc<dyn ImageSet>>,
    bad_images: Arc<BadImages>,
    threads: Threads,
    /// A step that was started and is not read yet.
    unread: Option<Unread>,
    skipped_in_a_row: u64,
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

/// A step that is read later, and what is known of it already.
struct Unread {
    started: Started,
    position: Position,
    /// But for the loss.
    made: Made,
}

/// The images of a run.
struct Images {
    train: Arc<dyn ImageSet>,
    /// To evaluate on.
    test: Option<Arc<dyn ImageSet>>,
    digest: ImagesDigest,
    steps_per_epoch: u64,
}

impl Images {
    /// Opens the sets that a recipe names, if there are enough images and the labels that it needs.
    fn open(setup: &Setup) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let train = recipe.open_training_images()?;
        let has_test = nearkin_data::has_split(&recipe.data, Split::Test)?;
        let is_evaluated = recipe.evaluation.every_epochs > 0 && train.has_labels();
        let test = if has_test && is_evaluated {
            Some(nearkin_data::open(&recipe.data, Split::Test)?).filter(ImageSet::has_labels)
        } else {
            None
        };
        if setup.requirements.labels && !train.has_labels() {
            return Err(TrainError::NeedsLabels { method: setup.method_name().to_owned() });
        }
        let needed = recipe.images_per_step();
        let steps_per_epoch = (train.len() / needed) as u64;
        if steps_per_epoch == 0 {
            return Err(TrainError::TooFewImages { needed, images: train.len() });
        }
        let digest = ImagesDigest::of_names(recipe.data.path(), train.as_ref(), test.as_deref());
        Ok(Self { train, test, digest, steps_per_epoch })
    }
}

/// What the first process found in the folder of a run that is continued.
#[derive(Default)]
struct Found {
    lock: Option<File>,
    checkpoint: Option<Checkpoint>,
    /// Digests of the images, with those of pixels.
    images: Option<ImagesDigest>,
    notes: Vec<String>,
}

impl Found {
    fn look(setup: &Setup, resume: &Resume, images: &Images) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let mut found = Self::default();
        if let Resume::From(run) = resume {
            found.lock = Some(run.lock()?);
            found.notes = run.mend()?;
        }
        let digest = images.digest.clone().with_pixels(images.train.as_ref(), recipe.seed);
        if let Resume::From(run) = resume {
            let Newest { checkpoint, notes } = Checkpoint::newest_whole(run, &files_of(setup))?;
            found.notes.extend(notes);
            if let Some(checkpoint) = &checkpoint {
                checkpoint.check_recipe(run, recipe)?;
                let changes = checkpoint.check_images(run, &digest, images.train.as_ref())?;
                found.notes.extend(changes);
                found.notes.extend(mend_records(run, checkpoint.progress.step)?);
            }
            found.checkpoint = checkpoint;
        }
        found.images = Some(digest);
        Ok(found)
    }
}

/// The threads that were asked for, that the run began with, or that a measurement finds best.
fn choose_threads(
    setup: &Setup,
    resume: &Resume,
    found: &Found,
    train: &Arc<dyn ImageSet>,
    options: &RunOptions,
    processes: usize,
) -> Threads {
    let before = match resume {
        Resume::From(run) => Some(run),
        Resume::New(_) | Resume::NewNumbered(_) => None,
    };
    let begun_with = match &found.checkpoint {
        Some(checkpoint) => Some(checkpoint.progress.threads),
        None => before.and_then(|run| recorded(run, THREADS)).filter(|&threads| threads > 0),
    };
    let workers_before = before.and_then(|run| recorded(run, WORKERS));
    match options.threads.or(begun_with) {
        Some(threads) => {
            Threads { workers: options.workers.or(workers_before).unwrap_or(1), threads }
        }
        None => measure(setup, train, options, processes),
    }
}

/// Makes or takes the folder of a run, and writes down what is not there; for other processes than the
/// first, which only know its name, nothing is written.
fn folder_of(
    setup: &Setup,
    resume: &Resume,
    threads: Threads,
    options: &RunOptions,
    world: &dyn World,
    held: Option<File>,
) -> Result<(RunFolder, Option<File>), TrainError> {
    let first = world.rank() == 0;
    let (run, lock) = match resume {
        Resume::From(run) => (run.clone(), held),
        Resume::New(path) if first => begin_run(RunFolder::create(path)?, setup)?,
        Resume::NewNumbered(path) if first => begin_run(RunFolder::create_numbered(path)?, setup)?,
        Resume::New(path) | Resume::NewNumbered(path) => (RunFolder::of_others(path), None),
    };
    if first && matches!(resume, Resume::From(_)) {
        remember_place(&run, &setup.recipe)?;
    }
    if first && !run.environment().exists() {
        let mut environment = options.environment.clone();
        environment[THREADS] = threads.threads.into();
        environment[WORKERS] = threads.workers.into();
        environment["processes"] = world.size().into();
        run.write_environment(&environment)?;
    }
    Ok((run, lock))
}

/// What is told of a step.
struct Made {
    metrics: StepMetrics,
    images: Vec<usize>,
    /// Of the first batch with a non-finite loss, else of the last.
    views: Vec<Tensor>,
    waited: Duration,
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
        let images = Images::open(&setup)?;
        let mixing_blocks = divide(&setup.recipe, world.size())?;
        same_job(world.as_ref(), &setup.recipe, images.train.len(), &images.digest)?;
        let first = world.rank() == 0;
        let mut found =
            if first { Found::look(&setup, resume, &images)? } else { Found::default() };
        let threads = choose_threads(&setup, resume, &found, &images.train, &options, world.size());
        let held = found.lock.take();
        let (mut run, lock) = folder_of(&setup, resume, threads, &options, world.as_ref(), held)?;
        let start = Start {
            threads: threads.threads,
            folder: run.name(),
            progress: found.checkpoint.as_ref().map(|own| own.progress.clone()),
        };
        let start = Start::of_first(world.as_ref(), &start)?;
        if let Resume::NewNumbered(path) = resume
            && !first
        {
            run = RunFolder::of_others(path.with_file_name(&start.folder));
        }
        let threads = Threads { threads: options.threads.unwrap_or(start.threads), ..threads };
        tch::set_num_threads(threads.threads as i32);
        let Images { train, test, steps_per_epoch, .. } = images;
        let bad_images = Arc::new(BadImages::of_run(run.path(), world.rank())?);
        let train = setup.recipe.tolerate(train, Split::Train, &bad_images);
        let test = test.map(|test| setup.recipe.tolerate(test, Split::Test, &bad_images));
        let tf32 = setup.recipe.training.tf32;
        CudaSettings { tf32, timed_convolutions: true }.apply()?;
        let learner = Learner::new(setup, options.device, world, steps_per_epoch, mixing_blocks)?;
        let recipe = &learner.setup.recipe;
        let placed = Placed::new(recipe, train.as_ref(), options.device, threads.workers)?;
        let mut trainer = Self {
            learner,
            options,
            run,
            feed: Feed { train, placed },
            test,
            bad_images,
            threads,
            unread: None,
            skipped_in_a_row: 0,
            seconds_before: 0.0,
            processes_before: None,
            images: found.images,
            notes: found.notes,
            begun: Instant::now(),
            interrupt: Interrupt::default(),
            epoch_sums: EpochSums::default(),
            _lock: lock,
        };
        match found.checkpoint {
            Some(checkpoint) => checkpoint.restore(trainer.learner.files())?,
            None if first => trainer.start_as_begun()?,
            None => {}
        }
        for (_, mut tensor) in trainer.learner.files().into_iter().flat_map(|(_, tensors)| tensors)
        {
            trainer.learner.world.broadcast(&mut tensor)?;
        }
        if let Some(progress) = start.progress {
            trainer.learner.continue_at(progress.step, progress.queue_next);
            trainer.seconds_before = progress.seconds;
            trainer.skipped_in_a_row = progress.skipped_in_a_row;
            trainer.epoch_sums = progress.epoch_sums;
            trainer.processes_before = Some(progress.world_size);
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
        result.map_err(|error| blame(self.learner.world.as_ref(), error))
    }

    fn train(&mut self) -> Result<Outcome, TrainError> {
        let evaluation_is_missing = self.evaluation_is_missing()?;
        if self.learner.step == self.learner.total_steps && !evaluation_is_missing {
            let progress = ProgressBar::hidden();
            self.notes.drain(..).for_each(|note| progress.warning(&format!("warning: {note}")));
            self.report()?;
            return Ok(Outcome::Finished);
        }
        let mut monitor = self.monitor()?;
        self.begun = Instant::now();
        let mut checkpointed = Instant::now();
        if self.learner.step == 0 {
            self.describe(&mut monitor)?;
        } else {
            let message = format!(
                "continued after step {} on {:?} with {} thread(s)",
                self.learner.step, self.options.device, self.threads.threads
            );
            monitor.event(self.position(), &message)?;
            self.describe_processes(&mut monitor)?;
        }
        for note in std::mem::take(&mut self.notes) {
            monitor.warn(self.position(), &note)?;
        }
        if (self.learner.step == 0 || evaluation_is_missing) && !self.evaluate(&mut monitor)? {
            return self.end_interrupted(monitor);
        }
        self.describe_waiting(&mut monitor)?;
        monitor.restart_clocks(true);
        let mut loader = self.loader()?;
        while self.learner.step < self.learner.total_steps {
            self.learner.world.report(&format!("step {}", self.learner.step + 1));
            let saving = self.learner.setup.recipe.checkpoint;
            let by_time = checkpointed.elapsed().as_secs_f64() > 60.0 * saving.every_minutes.get();
            let Some(wishes) = self.one_step(&mut loader, &mut monitor, by_time)? else {
                self.settle(&mut monitor)?;
                if self.learner.step > 0 {
                    self.save(&mut monitor)?;
                }
                return self.end_interrupted(monitor);
            };
            let Wishes { interrupted, by_time } = wishes;
            let epoch_ends = self.learner.step.is_multiple_of(self.learner.steps_per_epoch);
            let epochs_done = self.learner.step / self.learner.steps_per_epoch;
            let last = self.learner.step == self.learner.total_steps;
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
        self.interrupt.is_agreed(self.learner.world.as_ref())?;
        // Launchers end all processes once the first has gone.
        let _ = self.learner.world.share("end of an interrupted run", b"")?;
        let signal = self.interrupt.signal().unwrap_or_default();
        Ok(Outcome::Interrupted { step: self.learner.step, signal })
    }

    fn report(&self) -> Result<(), TrainError> {
        if self.learner.world.rank() > 0 {
            return Ok(());
        }
        Ok(write_report(&self.run, self.verdict()?.as_ref())?)
    }

    /// What to say of a finished run whose encoder does not beat its baselines.
    pub fn verdict(&self) -> Result<Option<Verdict>, TrainError> {
        if self.learner.step < self.learner.total_steps || !self.run.metrics().exists() {
            return Ok(None);
        }
        Ok(verdict(&Facts {
            recipe: &self.learner.setup.recipe,
            records: &read_metrics(&self.run.metrics())?,
            training_images: self.feed.train.len(),
            features: self.learner.online.features(),
        }))
    }

    /// A step, and what all processes want after it; `None` if it was abandoned.
    fn one_step(
        &mut self,
        loader: &mut Loader,
        monitor: &mut Monitor,
        by_time: bool,
    ) -> Result<Option<Wishes>, TrainError> {
        let made = if self.learner.reads_next_late() {
            self.step_late(loader, monitor).map(|()| Wishes { interrupted: false, by_time })
        } else {
            self.step_waited_for(loader, monitor, by_time)
        };
        match made {
            Ok(mut wishes) => {
                if self.learner.world.size() == 1 {
                    wishes.interrupted = self.interrupt.signal().is_some();
                }
                Ok(Some(wishes))
            }
            Err(Unfinished::Stopped) => Ok(None),
            Err(Unfinished::Failed(error)) => Err(error),
        }
    }

    /// A step whose loss the host reads before anything changes.
    fn step_waited_for(
        &mut self,
        loader: &mut Loader,
        monitor: &mut Monitor,
        by_time: bool,
    ) -> Result<Wishes, Unfinished> {
        self.settle(monitor)?;
        let waited_before = loader.wait();
        let metrics = self.metrics_of_next();
        let stop_point = self.stop_points();
        let mut images = Vec::new();
        let (feed, interrupt) = (&self.feed, &self.interrupt);
        let mut next = |learner: &Learner, number| {
            let (prepared, places) = feed.next(loader, learner, interrupt, number)?;
            images.extend(places);
            Ok(prepared)
        };
        let wishes = || Wishes { interrupted: interrupt.signal().is_some(), by_time };
        let gradients = self.learner.gradients(&mut next, &wishes, &stop_point)?;
        let waited = loader.wait().saturating_sub(waited_before);
        let measures = gradients.measures.as_ref();
        let metrics = StepMetrics {
            loss: gradients.loss,
            reference_loss: measures.map(Measures::reference_loss),
            measures: measures.into_iter().flat_map(Measures::means).collect(),
            ..metrics
        };
        let finite = self.learner.update(&gradients)?;
        let made = Made { metrics, images, views: gradients.views, waited };
        self.tell(self.position(), made, finite, true, monitor)?;
        Ok(gradients.wishes)
    }

    /// Starts a step and reads the one before.
    fn step_late(&mut self, loader: &mut Loader, monitor: &mut Monitor) -> Result<(), Unfinished> {
        let waited_before = loader.wait();
        let (prepared, images) = self.feed.next(loader, &self.learner, &self.interrupt, 0)?;
        let (metrics, at) = (self.metrics_of_next(), self.position());
        let started = self.learner.start(&prepared, &self.stop_points())?;
        if let Some(warning) = &started.warning {
            monitor.event(at, warning).map_err(TrainError::from)?;
        }
        let waited = loader.wait().saturating_sub(waited_before);
        let made = Made { metrics, images, views: prepared.views, waited };
        let unread = Unread { started, position: self.position(), made };
        self.learner.phases.end(Phase::Other);
        match self.unread.replace(unread) {
            Some(before) => Ok(self.read(before, monitor)?),
            None => Ok(()),
        }
    }

    /// Reads the last step that was started, if it was not read yet: from here on the host knows
    /// everything.
    fn settle(&mut self, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.learner.settle_cursor()?;
        match self.unread.take() {
            Some(unread) => self.read(unread, monitor),
            None => Ok(()),
        }
    }

    fn read(&mut self, unread: Unread, monitor: &mut Monitor) -> Result<(), TrainError> {
        let Unread { started, position, mut made } = unread;
        let (loss, finite) = started.read()?;
        self.learner.phases.end(Phase::Late);
        made.metrics.loss = loss;
        self.tell(position, made, finite, false, monitor)
    }

    /// A stop point at every call.
    fn stop_points(&self) -> impl Fn() -> Result<(), Unfinished> + use<> {
        let (interrupt, world) = (self.interrupt.clone(), Arc::clone(&self.learner.world));
        move || interrupt.stop_point(world.as_ref())
    }

    /// What is known of the next step beforehand.
    fn metrics_of_next(&self) -> StepMetrics {
        StepMetrics {
            loss: f64::NAN,
            reference_loss: None,
            measures: Vec::new(),
            learning_rate: self.learner.next_learning_rate(),
            momentum: self.learner.next_momentum(),
            skipped: false,
        }
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
        let images = images.len() * self.learner.world.size();
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
            optimizer: gradients_left.then_some(&self.learner.optimizer),
            step: at.step,
            epoch: at.epoch,
            loss: made.metrics.loss,
            learning_rate: made.metrics.learning_rate,
            images: made.images.iter().map(|&index| self.feed.train.name(index)).collect(),
            views: &made.views,
        };
        // Every process shows its own images.
        let folder = match self.learner.world.rank() {
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
        if self.skipped_in_a_row >= self.learner.setup.recipe.training.maximum_skipped_steps.get() {
            let (in_a_row, step) = (self.skipped_in_a_row, at.step);
            let last_good = Checkpoint::newest_path(&self.run);
            return Err(TrainError::NotFinite { in_a_row, step, dump, last_good });
        }
        // The step may be bad because the weights are.
        self.refuse_divergence(monitor)
    }

    /// Batches from the step under way to the end.
    fn loader(&self) -> Result<Loader, TrainError> {
        let recipe = &self.learner.setup.recipe;
        let (seed, batches) = (recipe.seed, recipe.training.accumulate_batches.get());
        let (rank, size) = (
            self.learner.world.rank(),
            NonZeroUsize::MIN.saturating_add(self.learner.world.size() - 1),
        );
        let order = Order::new(self.feed.train.len(), recipe.training.batch_size, seed, true);
        let mut order = order.of_rank(rank, size).ok_or(TrainError::Division {
            what: BATCH_SIZE,
            number: recipe.training.batch_size.get(),
            into: PROCESSES,
            parts: size.get(),
        })?;
        let steps_per_epoch = self.learner.steps_per_epoch;
        let plan = (self.learner.step..self.learner.total_steps).flat_map(move |step| {
            let (epoch, step) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
            (0..batches).map(|batch| order.plan(epoch, step * batches + batch)).collect::<Vec<_>>()
        });
        let loading = LoaderOptions { workers: self.threads.workers, prefetch_batches: 2 };
        let views = Arc::clone(&self.feed.placed.views);
        Ok(Loader::start(Arc::clone(&self.feed.train), views, seed, plan, loading)?)
    }

    fn monitor(&self) -> Result<Monitor, TrainError> {
        let epochs = self.learner.setup.recipe.training.epochs.get();
        let progress = match self.options.quiet || self.learner.world.rank() > 0 {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(self.learner.total_steps, epochs, self.learner.step),
        };
        let every = self.learner.setup.recipe.training.record_every_steps.get();
        let run = (self.learner.world.rank() == 0).then_some(&self.run);
        let meter = self.meter()?;
        Ok(Monitor::new(run, self.learner.step, every, progress, self.epoch_sums.clone(), meter)?)
    }

    /// Measures the device; all processes do it at once, as they train.
    fn meter(&self) -> Result<Meter, TchError> {
        let device = self.options.device;
        let training = &self.learner.setup.recipe.training;
        let (of_one, matmul_precision) =
            rate_of_products(training.precision, training.tf32, device)?;
        Ok(Meter {
            flop_per_image: self.learner.setup.flop_per_image,
            matmul_flop_per_second: of_one * self.learner.world.size() as f64,
            matmul_precision,
        })
    }

    fn position(&self) -> Position {
        Position {
            step: self.learner.step,
            epoch: self.learner.step.div_ceil(self.learner.steps_per_epoch),
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }

    /// Says what is trained on what, and what looks wrong about it.
    fn describe(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let recipe = &self.learner.setup.recipe;
        let (images, at) = (self.feed.train.len(), self.position());
        monitor.event(
            at,
            &format!(
                "{} epoch(s) of {} steps, {} of {images} training images ({}) per step, on {:?} with \
                 {} thread(s) and {} loader worker(s){}, seed {}",
                recipe.training.epochs,
                self.learner.steps_per_epoch,
                recipe.images_per_step(),
                recipe.data.kind(),
                self.options.device,
                self.threads.threads,
                self.threads.workers,
                match self.learner.world.size() {
                    1 => String::new(),
                    size => format!(" in each of {size} processes"),
                },
                recipe.seed,
            ),
        )?;
        let sets = [Some(&self.feed.train), self.test.as_ref()].into_iter().flatten();
        for line in skipped_lines(sets.map(ImageSet::skipped)) {
            monitor.event(at, &line)?;
        }
        if self.feed.placed.holds_images() {
            let message = format!("the training images are held by {:?}", self.options.device);
            monitor.event(at, &message)?;
        }
        if self.learner.setup.requirements.labels {
            let method = self.learner.setup.method_name();
            let message = format!(
                "warning: method {method} is supervised: class labels enter the loss; compare with \
                 it, do not report it as learned without labels"
            );
            monitor.event(at, &message)?;
        }
        if let Some(queue) = self.learner.setup.queue.filter(|queue| queue.size.get() >= images) {
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
            let why =
                if self.feed.train.has_labels() { "no labelled test split" } else { "no labels" };
            monitor.event(at, &format!("no k-NN evaluation: the data has {why}"))?;
        }
        Ok(())
    }

    /// Says where steps are waited for, or not recorded, although the recipe asks for it.
    fn describe_waiting(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let (recipe, device) = (&self.learner.setup.recipe, self.options.device);
        let form = recipe.training.step;
        let message = match obstacle(recipe, self.learner.world.size()) {
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
        let (before, now) = (self.processes_before, self.learner.world.size());
        let Some(before) = before.filter(|&before| before != now) else { return Ok(()) };
        let training = &self.learner.setup.recipe.training;
        let mut changes = vec!["sums are added in another order (the last digits differ)"];
        if !training.synchronize_batch_norm {
            changes.push("batch norms take their statistics from batches of another size");
        }
        if training.micro_batch_size.is_some() {
            changes.push("batch norms see other micro-batches");
        }
        if training.mixing_blocks.is_none()
            && !self.learner.setup.requirements.mixed_inputs.is_empty()
        {
            changes.push("other pairs of images are mixed (training.mixing_blocks keeps them)");
        }
        let message = format!(
            "trained by {now} process(es), before by {before}: order, views and batches stay the same; \
             {}",
            changes.join("; ")
        );
        Ok(monitor.event(self.position(), &message)?)
    }

    /// Whether an evaluation follows this step.
    fn evaluation_is_due(&self) -> bool {
        let every = self.learner.setup.recipe.evaluation.every_epochs;
        let last = self.learner.step == self.learner.total_steps;
        self.test.is_some()
            && every > 0
            && self.learner.step > 0
            && self.learner.step.is_multiple_of(self.learner.steps_per_epoch)
            && (last || (self.learner.step / self.learner.steps_per_epoch).is_multiple_of(every))
    }

    /// Whether the evaluation after this step, which follows its checkpoint, did not come to its end.
    fn evaluation_is_missing(&self) -> Result<bool, TrainError> {
        if !self.evaluation_is_due() {
            return Ok(false);
        }
        let missing = self.learner.world.rank() == 0 && !has_knn(&self.run, self.learner.step)?;
        Ok(self.learner.world.maximum(i64::from(missing))? > 0)
    }

    /// k-NN accuracy where the data allows it; at step 0 of the pixels too. False if it was interrupted.
    fn evaluate(&self, monitor: &mut Monitor) -> Result<bool, TrainError> {
        self.learner.settle_statistics()?;
        let Some(test) = &self.test else { return Ok(true) };
        self.learner.world.report("the k-NN evaluation");
        let batch_size = NonZeroUsize::MIN.saturating_add(255);
        let options = FeatureOptions { batch_size, workers: self.threads.workers };
        let world = self.learner.world.as_ref();
        let knn = |source: FeatureSource<'_>, view: &View| {
            let neighbours = &self.learner.setup.recipe.evaluation.neighbours;
            let stop = || self.interrupt.is_known(world);
            match evaluate_knn_until(
                source,
                [&self.feed.train, test],
                view,
                neighbours,
                options,
                world,
                &stop,
            ) {
                Err(EvaluationError::Interrupted) => Ok(None),
                Err(EvaluationError::NotFinite) => Err(TrainError::FeaturesNotFinite {
                    run: self.run.path().to_owned(),
                    step: self.learner.step,
                }),
                result => Ok(result.map(Some)?),
            }
        };
        let classes = self.feed.train.classes().len();
        if self.learner.step == 0 {
            let Some(pixels) =
                knn(FeatureSource::Pixels, &self.learner.setup.recipe.pixel_view()?)?
            else {
                return Ok(false);
            };
            monitor.knn(self.position(), PIXELS, &pixels, classes)?;
        }
        let backbone = FeatureSource::Backbone(&self.learner.online);
        let Some(backbone) = knn(backbone, &self.learner.setup.evaluation_view)? else {
            return Ok(false);
        };
        monitor.knn(self.position(), BACKBONE, &backbone, classes)?;
        Ok(true)
    }

    /// Ends the run if something that a checkpoint holds shows in some process that it has diverged.
    fn refuse_divergence(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        if self.learner.is_sound()? {
            return Ok(());
        }
        let step = self.learner.step;
        let message = format!(
            "the run has diverged: weights or optimizer state are infinite, NaN or too large after step {step}"
        );
        monitor.event(self.position(), &message)?;
        Err(TrainError::Diverged { step, last_good: Checkpoint::newest_path(&self.run) })
    }

    fn save(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.learner.settle_statistics()?;
        // It would push out the last good checkpoint.
        self.refuse_divergence(monitor)?;
        let epoch_sums = monitor.epoch_sums();
        if self.learner.world.rank() > 0 {
            return Ok(());
        }
        // A run that continues from the checkpoint keeps the records up to it.
        monitor.sync()?;
        let recipe = &self.learner.setup.recipe;
        let progress = Progress {
            format: FORMAT,
            step: self.learner.step,
            epoch: self.learner.step / self.learner.steps_per_epoch,
            step_in_epoch: self.learner.step % self.learner.steps_per_epoch,
            steps_per_epoch: self.learner.steps_per_epoch,
            seconds: self.seconds(),
            skipped_in_a_row: self.skipped_in_a_row,
            epoch_sums,
            queue_next: self.learner.queue.as_ref().map(Queue::next),
            seed: recipe.seed,
            training_images: self.feed.train.len(),
            threads: self.threads.threads,
            world_size: self.learner.world.size(),
            next_learning_rate: self.learner.next_learning_rate(),
            recipe_digest: recipe.digest(),
            recipe: recipe.to_text(),
            images: self.images.clone(),
            files: BTreeMap::new(),
        };
        Checkpoint::write(&self.run, progress, self.learner.files(), recipe.checkpoint.keep.get())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nearkin_dist::Alone;
    use nearkin_recipe::Source;
    use tch::Kind;

    use super::*;
    use crate::learner::Gradients;

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
        let files = trainer.learner.files().into_iter();
        files.flat_map(|(_, all)| all).map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    /// Of the next step.
    fn gradients(trainer: &mut Trainer, loader: &mut Loader) -> Gradients {
        let (feed, interrupt) = (&trainer.feed, &trainer.interrupt);
        let mut next =
            |learner: &Learner, number: usize| Ok(feed.next(loader, learner, interrupt, number)?.0);
        let wishes = || Wishes { interrupted: false, by_time: false };
        trainer.learner.gradients(&mut next, &wishes, &|| Ok(())).unwrap()
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
        let prepared = trainer.feed.prepare(&batch, &trainer.learner, 0).unwrap();
        let encoded = trainer.learner.encode(&prepared, || Ok::<_, TchError>(()));
        let encoded = encoded.unwrap().encoded;
        let embeddings = encoded.online.iter().chain(&encoded.keys).flatten();
        let kinds: Vec<Kind> = embeddings.map(|embedding| embedding.local.kind()).collect();
        assert_eq!(kinds, [Kind::Float; 2]);
        drop(encoded);
        gradients(&mut trainer, &mut loader);
        assert!(
            trainer
                .learner
                .optimizer
                .gradients()
                .all(|(_, gradient)| gradient.kind() == Kind::Float)
        );
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
                trainer.learner.late.as_mut().unwrap().begin_recording();
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
        let mut loader = trainer.loader().unwrap();
        let next_key = |trainer: &Trainer| trainer.learner.queue.as_ref().map(Queue::next);

        let before = state(&trainer);
        let mut bad = gradients(&mut trainer, &mut loader);
        assert!(state(&trainer) != before, "the forward pass moves the running statistics");
        bad.loss = f64::NAN;
        assert!(!trainer.learner.update(&bad).unwrap());
        assert!(state(&trainer) == before);
        assert_eq!((trainer.learner.step, next_key(&trainer)), (1, Some(0)));

        let good = gradients(&mut trainer, &mut loader);
        assert!(trainer.learner.update(&good).unwrap());
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
        assert_eq!((trainer.learner.step, next_key(&trainer)), (2, Some(16)));
    }
}
