//! The training loop with a clock at every border: what `nearkin bench` shows.

use std::sync::Arc;
use std::time::Instant;

use nearkin_data::{BadImages, Split};
use nearkin_dist::World;

use crate::batches::Batches;
use crate::images::Images;
use crate::job::{Start, attribute_error, same_job};
use crate::learner::{Learner, Step};
use crate::meter::{Meter, peak_memory};
use crate::phases::{Phase, Phases};
use crate::threads::measure;
use crate::{Interrupt, Machine, Setup, Threads, TrainError};

/// What some steps of training took; of several processes, what the first one saw.
#[derive(Clone, Debug)]
pub struct Benchmark {
    /// Steps that were measured.
    pub steps: u64,
    /// Images (not views) of a step, of all processes.
    pub images_per_step: usize,
    /// Processes that trained together.
    pub processes: usize,
    /// Threads of each process.
    pub threads: Threads,
    /// Seconds of wall time of all steps together, by part of a step.
    pub phases: Vec<(Phase, f64)>,
    /// Seconds of wall time of each step, in order.
    pub step_seconds: Vec<f64>,
    /// CPU time of this process's loader that went into batches, in seconds: beside the steps, if it
    /// has threads.
    pub augment_cpu_seconds: f64,
    /// Floating-point operations of the model for an image, forward and backward.
    pub flop_per_image: u64,
    /// What a product of matrices reaches on the devices of all processes together, in operations per
    /// second.
    pub matmul_flop_per_second: f64,
    /// The precision of the measured products, which is the run's.
    pub matmul_precision: &'static str,
    /// The most memory that this process had resident, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

impl Benchmark {
    /// Seconds of all measured steps.
    pub fn seconds(&self) -> f64 {
        self.step_seconds.iter().sum()
    }

    /// Images (not views) that all processes trained on in a second.
    pub fn images_per_second(&self) -> f64 {
        self.steps as f64 * self.images_per_step as f64 / self.seconds()
    }

    /// Floating-point operations of the model in a second.
    pub fn flop_per_second(&self) -> f64 {
        self.images_per_second() * self.flop_per_image as f64
    }
}

/// How [`bench`] measures.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// What it uses.
    pub machine: Machine,
    /// Steps that come before and are not counted.
    pub warm_up_steps: u64,
    /// Steps that are measured, at least one.
    pub steps: u64,
}

/// Trains as `setup` says for some steps that are measured, without a run folder, evaluation and
/// checkpoints; what it trained is of no use. `None` if a process was interrupted.
pub fn bench(
    setup: Setup,
    options: &BenchOptions,
    world: &Arc<dyn World>,
    interrupt: &Interrupt,
) -> Result<Option<Benchmark>, TrainError> {
    Bench::prepare(setup, options, world)
        .and_then(|bench| bench.measure(options, interrupt))
        .map_err(|error| attribute_error(world.as_ref(), error))
}

/// Training that is about to be measured.
struct Bench {
    learner: Learner,
    batches: Batches,
    threads: Threads,
    meter: Meter,
    /// A step that the device may still be making.
    under_way: Option<Step>,
    bad_in_a_row: u64,
}

impl Bench {
    fn prepare(
        setup: Setup,
        options: &BenchOptions,
        world: &Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let (machine, world) = (&options.machine, Arc::clone(world));
        let images = Images::open(&setup)?;
        same_job(world.as_ref(), &setup.recipe, images.train.len(), &images.digest)?;
        let own = match machine.threads {
            Some(threads) => Threads { workers: machine.workers.unwrap_or(1), threads },
            None => measure(&setup, &images.train, machine, world.size()),
        };
        let start = Start { threads: own.threads, folder: String::new(), progress: None };
        let agreed = Start::of_first(world.as_ref(), &start)?.threads;
        let threads = Threads { threads: machine.threads.unwrap_or(agreed), ..own };
        tch::set_num_threads(threads.threads as i32);
        let damaged = Arc::new(BadImages::unwritten());
        let train = setup.recipe.tolerate(images.train, Split::Train, &damaged);
        let mut learner = Learner::new(setup, train.len(), machine.device, Arc::clone(&world))?;
        learner.total_steps = options.warm_up_steps + options.steps;
        let meter = Meter::measure(&learner.setup, machine.device, world.size())?;
        let batches = Batches::new(&learner, train, threads.workers)?;
        Ok(Self { learner, batches, threads, meter, under_way: None, bad_in_a_row: 0 })
    }

    /// Makes a step and reads the one before; whether training goes on.
    fn step(&mut self, interrupt: &Interrupt) -> Result<bool, TrainError> {
        if !self.learner.reads_next_late() {
            self.settle()?;
        }
        let Some(step) = self.learner.step_until(&mut self.batches, interrupt, false)? else {
            return Ok(false);
        };
        let goes_on = !step.requests.interrupted;
        let readable = if step.is_under_way() { self.under_way.replace(step) } else { Some(step) };
        readable.map_or(Ok(()), |step| self.read(step))?;
        Ok(goes_on)
    }

    /// Reads the last step that was started, if it was not read yet.
    fn settle(&mut self) -> Result<(), TrainError> {
        self.under_way.take().map_or(Ok(()), |step| self.read(step))
    }

    /// Steps that change nothing are not what is to be measured.
    fn read(&mut self, step: Step) -> Result<(), TrainError> {
        let report = step.read()?;
        self.bad_in_a_row = if report.finite { 0 } else { self.bad_in_a_row + 1 };
        let most = self.learner.setup.recipe.training.maximum_skipped_steps.get();
        if self.bad_in_a_row >= most {
            return Err(TrainError::Diverged { step: report.step, last_good: None });
        }
        Ok(())
    }

    fn measure(
        mut self,
        options: &BenchOptions,
        interrupt: &Interrupt,
    ) -> Result<Option<Benchmark>, TrainError> {
        for _ in 0..options.warm_up_steps {
            if !self.step(interrupt)? {
                return Ok(None);
            }
        }
        self.settle()?;
        let phases = Phases::started(options.machine.device, self.learner.late.is_some());
        (self.learner.phases, self.batches.phases) = (phases.clone(), phases);
        let (worked, mut ended) = (self.batches.worked(), Instant::now());
        let mut step_seconds = Vec::new();
        for number in 1..=options.steps {
            if !self.step(interrupt)? {
                return Ok(None);
            }
            if number == options.steps {
                self.settle()?;
            }
            self.learner.phases.end(Phase::Other);
            let now = Instant::now();
            step_seconds.push(now.duration_since(ended).as_secs_f64());
            ended = now;
        }
        let Meter { flop_per_image, matmul_flop_per_second, matmul_precision } = self.meter;
        Ok(Some(Benchmark {
            steps: options.steps,
            images_per_step: self.learner.setup.recipe.images_per_step(),
            processes: self.learner.world.size(),
            threads: self.threads,
            phases: self.learner.phases.seconds(),
            step_seconds,
            augment_cpu_seconds: self.batches.worked().saturating_sub(worked).as_secs_f64(),
            flop_per_image,
            matmul_flop_per_second,
            matmul_precision,
            peak_memory_bytes: peak_memory(),
        }))
    }
}
