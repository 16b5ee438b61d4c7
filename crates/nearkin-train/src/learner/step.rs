//! A step as its caller sees it: made from batches, and read now or later.

use std::sync::Arc;

use nearkin_objective::Measures;
use tch::{TchError, Tensor};

use super::late::{Late, Started};
use super::{Gradients, Learner, Requests};
use crate::batches::{Batches, TrainingBatch};
use crate::interrupt::Unfinished;
use crate::phases::{Phase, Phases};
use crate::{Interrupt, TrainError};

/// A step that was made, or that the device is still making.
pub struct Step {
    /// What the device has not told yet.
    started: Option<Started>,
    /// Without what `started` will tell.
    report: StepReport,
    /// What should happen after it.
    pub(crate) requests: Requests,
    /// What to say if it could not be started as the recipe asks.
    pub(crate) warning: Option<String>,
    phases: Phases,
}

/// What became of a step.
#[derive(Debug)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// The mean over its batches and all processes.
    pub loss: f64,
    /// Whether the loss and all gradients were finite; if not, the step changed nothing.
    pub finite: bool,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The momentum encoder's momentum in this step.
    pub momentum: Option<f64>,
    /// What the targets were like, in every step that `training.record_every_steps` names.
    pub measures: Option<Measures>,
    /// Places of this process's images in their set.
    pub images: Vec<usize>,
    /// Views of the first batch with a non-finite loss, else of the last.
    pub(crate) views: Vec<Tensor>,
}

impl Step {
    /// Waits for the step if it is not done.
    pub fn read(self) -> Result<StepReport, TchError> {
        let mut report = self.report;
        if let Some(started) = self.started {
            (report.loss, report.finite) = started.read()?;
            self.phases.end(Phase::Late);
        }
        Ok(report)
    }

    /// Whether the device may still be making it.
    pub(crate) fn is_under_way(&self) -> bool {
        self.started.is_some()
    }
}

impl Learner {
    /// One step of training with the next `training.accumulate_batches` of these batches: encode, loss,
    /// backward for each, then optimizer, momentum encoder and queue, unless something is not finite.
    ///
    /// What became of the step is read with [`Step::read`]; where the recipe lets the device work on its
    /// own (`training.step`), that is best done after the next step was started.
    ///
    /// Fails if there are not enough batches, and with the error of a batch. Networks, optimizer and queue
    /// are then as they were.
    pub fn step(
        &mut self,
        batches: impl IntoIterator<Item = Result<TrainingBatch, TrainError>>,
    ) -> Result<Step, TrainError> {
        let mut batches = batches.into_iter();
        let nothing = || Requests { interrupted: false, by_time: false };
        self.step_unless(&mut || batches.next().transpose(), &nothing, &|| Ok(()))
    }

    /// The same in a run: `interrupt` is looked at before every pass. `None` if the step was abandoned.
    pub(crate) fn step_until(
        &mut self,
        batches: &mut Batches,
        interrupt: &Interrupt,
        by_time: bool,
    ) -> Result<Option<Step>, TrainError> {
        let world = Arc::clone(&self.world);
        let requests = || Requests { interrupted: interrupt.signal().is_some(), by_time };
        let stop_point = || interrupt.stop_point(world.as_ref());
        let mut next = || batches.next_unless(interrupt);
        match self.step_unless(&mut next, &requests, &stop_point) {
            Ok(step) => Ok(Some(step)),
            Err(Unfinished::Stopped) => Ok(None),
            Err(Unfinished::Failed(error)) => Err(error),
        }
    }

    /// A step with batches from `next`, and a stop point before every pass. `requests` is asked at its end.
    fn step_unless<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Step, E> {
        if self.reads_next_late()
            && let Some(mut late) = self.late.take()
        {
            let started = self.step_late(&mut late, next, requests, stop_point);
            self.late = Some(late);
            started
        } else {
            self.step_waited_for(next, requests, stop_point)
        }
    }

    /// What is known of the next step beforehand.
    fn next_report(&self) -> StepReport {
        StepReport {
            step: self.step + 1,
            loss: f64::NAN,
            finite: false,
            learning_rate: self.next_learning_rate(),
            momentum: self.next_momentum(),
            measures: None,
            images: Vec::new(),
            views: Vec::new(),
        }
    }

    /// A step whose loss the host reads before anything changes.
    fn step_waited_for<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Step, E> {
        let report = self.next_report();
        self.settle_cursor()?;
        let gradients = self.gradients(next, requests, stop_point)?;
        let finite = self.update(&gradients)?;
        let Gradients { loss, measures, images, views, requests: agreed, .. } = gradients;
        // Several processes have agreed; a single one may have been interrupted since.
        let requests = if self.world.size() == 1 { requests() } else { agreed };
        let report = StepReport { loss, finite, measures, images, views, ..report };
        let phases = self.phases.clone();
        Ok(Step { started: None, report, requests, warning: None, phases })
    }

    /// A step whose update the device decides on.
    fn step_late<E: From<TchError> + From<TrainError>>(
        &mut self,
        late: &mut Late,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Step, E> {
        let mut report = self.next_report();
        let prepared = self.prepare_next(next, 0, &mut report.images)?;
        let (started, warning) = self.start(late, &prepared, stop_point)?;
        self.phases.end(Phase::Other);
        report.views = prepared.views;
        let phases = self.phases.clone();
        Ok(Step { started: Some(started), report, requests: requests(), warning, phases })
    }
}
