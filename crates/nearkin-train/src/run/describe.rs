//! What a run says of itself before it trains.

use nearkin_data::{ImageSet, skipped_lines};
use nearkin_recipe::StepForm;
use nearkin_torch::Graph;

use super::Run;
use crate::TrainError;
use crate::learner::late::obstacle;
use crate::monitor::Monitor;

impl Run {
    /// Says how the run begins or goes on, and what was found on the way here.
    pub(super) fn introduce(&mut self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let step = self.learner.step;
        if step == 0 {
            self.describe_setting(monitor)?;
            self.describe_doubts(monitor)?;
        } else {
            let (device, threads) = (self.options.machine.device, self.threads.threads);
            let message =
                format!("continued after step {step} on {device:?} with {threads} thread(s)");
            monitor.event(self.position(), &message)?;
            self.describe_processes(monitor)?;
        }
        for note in std::mem::take(&mut self.notes) {
            monitor.warn(self.position(), &note)?;
        }
        Ok(())
    }

    /// Says what is trained on what.
    fn describe_setting(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
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
                self.options.machine.device,
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
            let message =
                format!("the training images are held by {:?}", self.options.machine.device);
            monitor.event(at, &message)?;
        }
        Ok(())
    }

    /// Says what looks wrong about it.
    fn describe_doubts(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let recipe = &self.learner.setup.recipe;
        let (images, at) = (self.feed.train.len(), self.position());
        if self.learner.setup.requirements.labels {
            let method = self.learner.setup.method_name();
            let message = format!(
                "warning: method {method} is supervised: class labels enter the loss; compare with \
                 it, do not report it as learned without labels"
            );
            monitor.event(at, &message)?;
        }
        if let Some(queue) = self.learner.setup.queue.filter(|queue| queue.size.get() >= images) {
            let (size, less) = (queue.size, (images / 8).max(1));
            let message = format!(
                "warning: queue.size = {size} is not smaller than the {images} training images, so an \
                 image meets its own old keys as negatives; a queue of {less} or less avoids that"
            );
            monitor.event(at, &message)?;
        }
        if let Some(limit) = recipe.limit_images.filter(|limit| limit.get() > images) {
            let message = format!(
                "limit_images = {limit}, but there are {images} training images: all are used"
            );
            monitor.event(at, &message)?;
        }
        if self.test.is_none() && recipe.evaluation.every_epochs > 0 {
            let why =
                if self.feed.train.has_labels() { "no labelled test split" } else { "no labels" };
            monitor.event(at, &format!("no k-NN evaluation: the data has {why}"))?;
        }
        Ok(())
    }

    /// Says where steps are waited for, or not recorded, although the recipe asks for it.
    pub(super) fn describe_waiting(&self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let (recipe, device) = (&self.learner.setup.recipe, self.options.machine.device);
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
}
