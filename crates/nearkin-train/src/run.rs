//! A run: everything around the steps of training.
//!
//! The [`Learner`] makes the steps; here are the folder, the loader, the records, the checkpoints, the
//! evaluations and the requests to stop.

mod describe;
mod dump;
mod evaluation;
mod initial;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nearkin_data::{BadImages, ImageSet, Split};
use nearkin_dist::World;
use nearkin_model::Queue;
use nearkin_objective::Measures;
use nearkin_report::{Progress as ProgressBar, RunFolder, Verdict, read_metrics, write_report};

use crate::batches::{Batches, Feed};
use crate::begun::{THREADS, WORKERS, begin_run, mend_records, recorded, remember_place};
use crate::checkpoint::{Checkpoint, FORMAT, Newest, Progress};
use crate::guard::{BadStep, dump};
use crate::images::{Images, ImagesDigest};
use crate::job::{Start, attribute_error, divide, same_job};
use crate::learner::{Learner, Requests, Step, StepReport, files_of};
use crate::meter::Meter;
use crate::monitor::{EpochSums, Monitor, Position, StepMetrics};
use crate::placed::Placed;
use crate::threads::{Threads, measure};
use crate::verdict::{Facts, verdict};
use crate::{Interrupt, Machine, Setup, TrainError};

pub use dump::batch_file;

/// How a run is made; no result depends on it, but for what [`Machine`] says.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// What it uses.
    pub machine: Machine,
    /// Show no progress.
    pub quiet: bool,
    /// What to write down of the machine, as an object; `threads` and `workers` are added to it.
    pub environment: serde_json::Map<String, serde_json::Value>,
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
pub struct Run {
    learner: Learner,
    options: RunOptions,
    folder: RunFolder,
    feed: Feed,
    test: Option<Arc<dyn ImageSet>>,
    bad_images: Arc<BadImages>,
    threads: Threads,
    /// A step that the device may still be making.
    under_way: Option<PendingStep>,
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
    /// When the last checkpoint was written, or training began.
    checkpointed: Instant,
    /// Of the run or benchmark under way.
    interrupt: Interrupt,
    epoch_sums: EpochSums,
    /// No other run may write to the folder; of several processes, the first holds it.
    _lock: Option<File>,
}

/// A step whose record has not been written yet.
struct PendingStep {
    step: Step,
    position: Position,
    /// How long the step waited for data.
    waited: Duration,
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
    let machine = &options.machine;
    match machine.threads.or(begun_with) {
        Some(threads) => {
            Threads { workers: machine.workers.or(workers_before).unwrap_or(1), threads }
        }
        None => measure(setup, train, machine, processes),
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
        environment.insert(THREADS.to_owned(), threads.threads.into());
        environment.insert(WORKERS.to_owned(), threads.workers.into());
        environment.insert("processes".to_owned(), world.size().into());
        run.write_environment(&environment.into())?;
    }
    Ok((run, lock))
}

impl Run {
    /// Opens the data, builds the networks and makes or opens the run folder. Of several processes
    /// the first reads and writes the run folder; the others get everything from it.
    pub fn new(
        setup: Setup,
        resume: &Resume,
        options: RunOptions,
        world: Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let named = Arc::clone(&world);
        Self::begin(setup, resume, options, world)
            .map_err(|error| attribute_error(named.as_ref(), error))
    }

    fn begin(
        setup: Setup,
        resume: &Resume,
        options: RunOptions,
        world: Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let images = Images::open(&setup)?;
        divide(&setup.recipe, world.size())?;
        same_job(world.as_ref(), &setup.recipe, images.train.len(), &images.digest)?;
        let first = world.rank() == 0;
        let mut found =
            if first { Found::look(&setup, resume, &images)? } else { Found::default() };
        let threads = choose_threads(&setup, resume, &found, &images.train, &options, world.size());
        let held = found.lock.take();
        let (mut folder, lock) =
            folder_of(&setup, resume, threads, &options, world.as_ref(), held)?;
        let start = Start {
            threads: threads.threads,
            folder: folder.name(),
            progress: found.checkpoint.as_ref().map(|own| own.progress.clone()),
        };
        let start = Start::of_first(world.as_ref(), &start)?;
        if let Resume::NewNumbered(path) = resume
            && !first
        {
            folder = RunFolder::of_others(path.with_file_name(&start.folder));
        }
        let threads =
            Threads { threads: options.machine.threads.unwrap_or(start.threads), ..threads };
        tch::set_num_threads(threads.threads as i32);
        let Images { train, test, .. } = images;
        let bad_images = Arc::new(BadImages::of_run(folder.path(), world.rank())?);
        let train = setup.recipe.tolerate(train, Split::Train, &bad_images);
        let test = test.map(|test| setup.recipe.tolerate(test, Split::Test, &bad_images));
        let device = options.machine.device;
        let learner = Learner::new(setup, train.len(), device, world)?;
        let placed = Placed::new(&learner.setup, train.as_ref(), device, threads.workers)?;
        let mut run = Self {
            learner,
            options,
            folder,
            feed: Feed { train, placed },
            test,
            bad_images,
            threads,
            under_way: None,
            skipped_in_a_row: 0,
            seconds_before: 0.0,
            processes_before: None,
            images: found.images,
            notes: found.notes,
            begun: Instant::now(),
            checkpointed: Instant::now(),
            interrupt: Interrupt::default(),
            epoch_sums: EpochSums::default(),
            _lock: lock,
        };
        run.go_on_from(found.checkpoint, start.progress)?;
        Ok(run)
    }

    /// Takes over the `checkpoint`, which the first process has read, and how far it is.
    fn go_on_from(
        &mut self,
        checkpoint: Option<Checkpoint>,
        progress: Option<Progress>,
    ) -> Result<(), TrainError> {
        match checkpoint {
            Some(checkpoint) => checkpoint.restore(self.learner.files())?,
            None if self.learner.world.rank() == 0 => self.start_as_begun()?,
            None => {}
        }
        for (_, mut tensor) in self.learner.files().into_iter().flat_map(|(_, tensors)| tensors) {
            self.learner.world.broadcast(&mut tensor)?;
        }
        if let Some(progress) = progress {
            self.learner.continue_at(progress.step, progress.queue_next);
            self.seconds_before = progress.seconds;
            self.skipped_in_a_row = progress.skipped_in_a_row;
            self.epoch_sums = progress.epoch_sums;
            self.processes_before = Some(progress.world_size);
        }
        Ok(())
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Trains to the end, or until some process is interrupted.
    pub fn train(&mut self, interrupt: &Interrupt) -> Result<Outcome, TrainError> {
        self.interrupt = interrupt.clone();
        let result = self.train_to_the_end();
        if matches!(result, Err(TrainError::NotFinite { .. } | TrainError::Diverged { .. })) {
            // It shows what led there; the error itself matters more than one of the report.
            let _ = self.report();
        }
        result.map_err(|error| attribute_error(self.learner.world.as_ref(), error))
    }

    fn train_to_the_end(&mut self) -> Result<Outcome, TrainError> {
        let evaluation_is_missing = self.evaluation_is_missing()?;
        if self.learner.step == self.learner.total_steps && !evaluation_is_missing {
            let progress = ProgressBar::hidden();
            self.notes.drain(..).for_each(|note| progress.warning(&format!("warning: {note}")));
            self.report()?;
            return Ok(Outcome::Finished);
        }
        let mut monitor = self.monitor()?;
        (self.begun, self.checkpointed) = (Instant::now(), Instant::now());
        self.introduce(&mut monitor)?;
        if (self.learner.step == 0 || evaluation_is_missing) && !self.evaluate(&mut monitor)? {
            return self.end_interrupted(monitor);
        }
        self.describe_waiting(&mut monitor)?;
        monitor.restart_clocks(true);
        let mut batches = self.batches()?;
        while self.learner.step < self.learner.total_steps {
            self.learner.world.report(&format!("step {}", self.learner.step + 1));
            let minutes = self.learner.setup.recipe.checkpoint.every_minutes.get();
            let by_time = self.checkpointed.elapsed().as_secs_f64() > 60.0 * minutes;
            let Some(requests) = self.one_step(&mut batches, &mut monitor, by_time)? else {
                self.settle(&mut monitor)?;
                if self.learner.step > 0 {
                    self.save(&mut monitor)?;
                }
                return self.end_interrupted(monitor);
            };
            if self.after_step(requests, &mut monitor)?.is_break() {
                return self.end_interrupted(monitor);
            }
        }
        monitor.finish();
        self.report()?;
        Ok(Outcome::Finished)
    }

    /// What is due after a step: records of the epoch, a checkpoint, an evaluation. Breaks off if the run
    /// is interrupted before its end.
    fn after_step(
        &mut self,
        Requests { interrupted, by_time }: Requests,
        monitor: &mut Monitor,
    ) -> Result<ControlFlow<()>, TrainError> {
        let (step, every) = (self.learner.step, self.learner.setup.recipe.checkpoint.every_epochs);
        let epoch_ends = step.is_multiple_of(self.learner.steps_per_epoch);
        let last = step == self.learner.total_steps;
        if epoch_ends || last || interrupted || by_time {
            self.settle(monitor)?;
        }
        if epoch_ends {
            monitor.epoch(self.position())?;
        }
        let by_epoch =
            epoch_ends && (step / self.learner.steps_per_epoch).is_multiple_of(every.get());
        // Before the evaluation, which may take longer than whoever ends this process will wait.
        if last || interrupted || by_epoch || by_time {
            self.save(monitor)?;
            self.checkpointed = Instant::now();
        } else if epoch_ends {
            self.refuse_divergence(monitor)?;
        }
        if self.evaluation_is_due() && (interrupted || !self.evaluate(monitor)?) {
            self.save(monitor)?;
            return Ok(ControlFlow::Break(()));
        }
        if epoch_ends && let Some(news) = self.bad_images.news() {
            monitor.event(self.position(), &news)?;
        }
        if epoch_ends || by_time {
            monitor.restart_clocks(epoch_ends);
        }
        Ok(if interrupted && !last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
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
        Ok(write_report(&self.folder, self.verdict()?.as_ref())?)
    }

    /// What to say of a finished run whose encoder does not beat its baselines.
    pub fn verdict(&self) -> Result<Option<Verdict>, TrainError> {
        if self.learner.step < self.learner.total_steps || !self.folder.metrics().exists() {
            return Ok(None);
        }
        Ok(verdict(&Facts {
            recipe: &self.learner.setup.recipe,
            records: &read_metrics(&self.folder.metrics())?,
            training_images: self.feed.train.len(),
            features: self.learner.online.features(),
        }))
    }

    /// A step, and what all processes want after it; `None` if it was abandoned.
    fn one_step(
        &mut self,
        batches: &mut Batches,
        monitor: &mut Monitor,
        by_time: bool,
    ) -> Result<Option<Requests>, TrainError> {
        if !self.learner.reads_next_late() {
            self.settle(monitor)?;
        }
        let (before, waited_before) = (self.position(), batches.wait());
        let Some(step) = self.learner.step_until(batches, &self.interrupt, by_time)? else {
            return Ok(None);
        };
        if let Some(warning) = &step.warning {
            monitor.event(before, warning)?;
        }
        let requests = step.requests;
        let waited = batches.wait().saturating_sub(waited_before);
        let made = PendingStep { step, position: self.position(), waited };
        let readable =
            if made.step.is_under_way() { self.under_way.replace(made) } else { Some(made) };
        if let Some(made) = readable {
            self.record_step(made, monitor)?;
        }
        Ok(Some(requests))
    }

    /// Reads the last step that was started, if it was not read yet: from here on the host knows
    /// everything.
    fn settle(&mut self, monitor: &mut Monitor) -> Result<(), TrainError> {
        self.learner.settle_cursor()?;
        match self.under_way.take() {
            Some(started) => self.record_step(started, monitor),
            None => Ok(()),
        }
    }

    /// Writes down what a step made.
    fn record_step(&mut self, made: PendingStep, monitor: &mut Monitor) -> Result<(), TrainError> {
        let PendingStep { step, position, waited } = made;
        // Other steps may have come after one that was read late.
        let gradients_left = !step.is_under_way();
        let report = step.read()?;
        if report.finite {
            self.skipped_in_a_row = 0;
        } else {
            self.skip(position, &report, gradients_left, monitor)?;
        }
        let measures = report.measures.as_ref();
        let metrics = StepMetrics {
            loss: report.loss,
            reference_loss: measures.map(Measures::reference_loss),
            measures: measures.into_iter().flat_map(Measures::means).collect(),
            learning_rate: report.learning_rate,
            momentum: report.momentum,
            skipped: !report.finite,
        };
        let images = report.images.len() * self.learner.world.size();
        Ok(monitor.step(position, &metrics, images, waited.as_secs_f64())?)
    }

    /// Keeps what made a step not finite, with the gradients if no other step has replaced them.
    fn skip(
        &mut self,
        at: Position,
        report: &StepReport,
        gradients_left: bool,
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        self.skipped_in_a_row += 1;
        let bad = BadStep {
            optimizer: gradients_left.then_some(&self.learner.optimizer),
            step: at.step,
            epoch: at.epoch,
            loss: report.loss,
            learning_rate: report.learning_rate,
            images: report.images.iter().map(|&index| self.feed.train.name(index)).collect(),
            views: &report.views,
        };
        // Every process shows its own images.
        let folder = match self.learner.world.rank() {
            0 => "non_finite".to_owned(),
            rank => format!("non_finite-process-{rank}"),
        };
        let dump = dump(&self.folder.path().join(folder), &bad)?;
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
            let last_good = Checkpoint::newest_path(&self.folder);
            return Err(TrainError::NotFinite { in_a_row, step, dump, last_good });
        }
        // The step may be bad because the weights are.
        self.refuse_divergence(monitor)
    }

    /// Batches from the step under way to the end.
    fn batches(&self) -> Result<Batches, TrainError> {
        Batches::start(self.feed.clone(), &self.learner, self.threads.workers)
    }

    fn monitor(&self) -> Result<Monitor, TrainError> {
        let epochs = self.learner.setup.recipe.training.epochs.get();
        let progress = if self.options.quiet || self.learner.world.rank() > 0 {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(self.learner.total_steps, epochs, self.learner.step)
        };
        let every = self.learner.setup.recipe.training.record_every_steps.get();
        let run = (self.learner.world.rank() == 0).then_some(&self.folder);
        let (setup, device) = (&self.learner.setup, self.options.machine.device);
        let meter = Meter::measure(setup, device, self.learner.world.size())?;
        Ok(Monitor::new(run, self.learner.step, every, progress, self.epoch_sums.clone(), meter)?)
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
        Err(TrainError::Diverged { step, last_good: Checkpoint::newest_path(&self.folder) })
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
        Checkpoint::write(
            &self.folder,
            progress,
            self.learner.files(),
            recipe.checkpoint.keep.get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nearkin_dist::SingleProcess;
    use nearkin_recipe::Source;
    use tch::{Kind, TchError, Tensor};

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
    fn state(training: &Run) -> Vec<(String, Tensor)> {
        let files = training.learner.files().into_iter();
        files.flat_map(|(_, all)| all).map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    /// Of the next step.
    fn gradients(training: &mut Run, batches: &mut Batches) -> Gradients {
        let requests = || Requests { interrupted: false, by_time: false };
        let mut next = || batches.next().transpose();
        let stop_point = || Ok::<_, TrainError>(());
        training.learner.gradients(&mut next, &requests, &stop_point).unwrap()
    }

    fn new_run(recipe: &str, run: &Path) -> Run {
        let recipe = Source::parse("test", recipe.to_owned()).unwrap().recipe().unwrap();
        let machine = Machine { workers: Some(0), threads: Some(1), ..Machine::default() };
        let options = RunOptions { machine, quiet: true, ..RunOptions::default() };
        let setup = Setup::new(recipe).unwrap();
        Run::new(setup, &Resume::New(run.to_owned()), options, SingleProcess::shared()).unwrap()
    }

    #[test]
    fn what_the_loss_and_the_optimiser_see_of_bfloat16_has_32_bits() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = RECIPE.replace("batch_size", "precision = \"bfloat16\"\nbatch_size");
        let mut training = new_run(&recipe, &folder.path().join("run"));
        let mut batches = training.batches().unwrap();
        let batch = batches.next().unwrap().unwrap();
        let prepared = training.learner.prepare(batch.views, &batch.labels, 0).unwrap();
        let encoded = training.learner.encode(&prepared, || Ok::<_, TchError>(()));
        let encoded = encoded.unwrap().encoded;
        let embeddings = encoded.online.iter().chain(&encoded.keys).flatten();
        let kinds: Vec<Kind> = embeddings.map(|embedding| embedding.local.kind()).collect();
        assert_eq!(kinds, [Kind::Float; 2]);
        drop(encoded);
        gradients(&mut training, &mut batches);
        assert!(
            training
                .learner
                .optimizer
                .gradients()
                .all(|(_, gradient)| gradient.kind() == Kind::Float)
        );
    }

    /// As where libtorch refuses to record: the run goes on with the memory that was set aside.
    #[test]
    fn a_step_that_cannot_be_recorded_is_made_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = RECIPE
            .replace("batch_size", "precision = \"double\"\nstep = \"read_late\"\nbatch_size");
        let recipe = recipe.replace("epochs = 1", "epochs = 3");
        let train = |name: &str, records: bool| {
            let run = folder.path().join(name);
            let mut training = new_run(&recipe, &run);
            if records {
                training.learner.late.as_mut().unwrap().begin_recording();
            }
            training.train(&Interrupt::default()).unwrap();
            let said = std::fs::read_to_string(training.folder().metrics()).unwrap();
            (state(&training), said.matches("cannot be recorded as a CUDA graph").count())
        };
        let (plain, recording) = (train("plain", false), train("recording", true));
        assert_eq!((plain.1, recording.1), (0, 1));
        for ((name, expected), (_, got)) in plain.0.iter().zip(&recording.0) {
            assert!(got.allclose(expected, 1e-12, 1e-12, false), "{name}");
        }
    }

    #[test]
    fn batches_that_do_not_fit_are_refused_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut training = new_run(RECIPE, &folder.path().join("run"));
        let before = state(&training);
        let whole = || training.batches().unwrap().next().unwrap().unwrap();
        let (mut few_views, mut few_labels) = (whole(), whole());
        few_views.views.pop();
        few_labels.labels.pop();
        for (batch, expected) in [
            (Some(Ok(few_views)), "a batch has 1 views, and the recipe has 2"),
            (Some(Ok(few_labels)), "a batch has 15 labels, and a view of shape [16, 3, 16, 16]"),
            (None, "the loader ended before step 1"),
        ] {
            let message = training.learner.step(batch).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(state(&training) == before);
        let half = Arc::new(nearkin_data::Subset::random(Arc::clone(&training.feed.train), 32, 0));
        let message = Batches::new(&training.learner, half, 0).err().unwrap().to_string();
        assert!(
            message.contains("32 images make 2 steps an epoch, and it was made for 4"),
            "{message}"
        );
    }

    #[test]
    fn a_step_that_is_not_finite_changes_nothing_and_the_next_one_trains() {
        let folder = tempfile::tempdir().unwrap();
        let mut training = new_run(RECIPE, &folder.path().join("run"));
        let mut batches = training.batches().unwrap();
        let next_key = |training: &Run| training.learner.queue.as_ref().map(Queue::next);

        let before = state(&training);
        let mut bad = gradients(&mut training, &mut batches);
        assert!(state(&training) != before, "the forward pass moves the running statistics");
        bad.loss = f64::NAN;
        assert!(!training.learner.update(&bad).unwrap());
        assert!(state(&training) == before);
        assert_eq!((training.learner.step, next_key(&training)), (1, Some(0)));

        let good = gradients(&mut training, &mut batches);
        assert!(training.learner.update(&good).unwrap());
        let after = state(&training);
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
        assert_eq!((training.learner.step, next_key(&training)), (2, Some(16)));
    }
}
