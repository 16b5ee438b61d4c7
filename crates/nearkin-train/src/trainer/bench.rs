//! The training loop with a clock at every border: what `nearkin bench` shows.

use std::time::{Duration, Instant};

use super::{Trainer, Wishes};
use crate::job::blame;
use crate::meter::{Meter, peak_memory};
use crate::phases::{Phase, Phases};
use crate::{Interrupt, Threads, TrainError};

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
    /// The precision of these products, that of the run.
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

impl Trainer {
    /// Trains for `warm_up` steps and then for `steps` (at least one) that are measured, without
    /// evaluation and checkpoints; what it trained is of no use. `None` if a process was interrupted.
    pub fn bench(
        &mut self,
        warm_up: u64,
        steps: u64,
        interrupt: &Interrupt,
    ) -> Result<Option<Benchmark>, TrainError> {
        self.interrupt = interrupt.clone();
        let result = self.measure_steps(warm_up, steps);
        result.map_err(|error| blame(self.learner.world.as_ref(), error))
    }

    fn measure_steps(&mut self, warm_up: u64, steps: u64) -> Result<Option<Benchmark>, TrainError> {
        self.learner.total_steps = self.learner.step + warm_up + steps;
        let mut monitor = self.monitor()?;
        let mut loader = self.loader()?;
        let (mut worked, mut ended) = (Duration::ZERO, Instant::now());
        let mut step_seconds = Vec::new();
        for number in 0..warm_up + steps {
            if number == warm_up {
                self.learner.phases = Phases::of(self.options.device, self.learner.late.is_some());
                (worked, ended) = (loader.worked(), Instant::now());
            }
            let wishes = self.one_step(&mut loader, &mut monitor, false)?;
            if number + 1 == warm_up || number + 1 == warm_up + steps {
                self.settle(&mut monitor)?;
            }
            if wishes.is_none_or(|Wishes { interrupted, .. }| interrupted) {
                monitor.finish();
                return Ok(None);
            }
            if number >= warm_up {
                self.learner.phases.end(Phase::Other);
                let now = Instant::now();
                step_seconds.push(now.duration_since(ended).as_secs_f64());
                ended = now;
            }
        }
        let Meter { flop_per_image, matmul_flop_per_second, matmul_precision } = monitor.meter();
        monitor.finish();
        Ok(Some(Benchmark {
            steps,
            images_per_step: self.learner.setup.recipe.images_per_step(),
            processes: self.learner.world.size(),
            threads: self.threads,
            phases: self.learner.phases.seconds(),
            step_seconds,
            augment_cpu_seconds: loader.worked().saturating_sub(worked).as_secs_f64(),
            flop_per_image,
            matmul_flop_per_second,
            matmul_precision,
            peak_memory_bytes: peak_memory(),
        }))
    }
}
