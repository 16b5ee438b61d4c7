//! A step as its caller sees it: made from batches, and read now or later.

use nearkin_objective::Measures;
use tch::{TchError, Tensor};

use super::late::Started;
use super::{Learner, Requests};
use crate::TrainError;
use crate::batches::TrainingBatch;
use crate::phases::{Phase, Phases};

/// A step that was made, or that the device is still making.
pub struct Step {
    outcome: Outcome,
    /// But for what the outcome says.
    report: StepReport,
    /// What should happen after it.
    pub(crate) requests: Requests,
    /// What to say of how it was started.
    pub(crate) warning: Option<String>,
    phases: Phases,
}

enum Outcome {
    Known { loss: f64, finite: bool },
    Started(Started),
}

/// What became of a step.
#[derive(Debug)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// The mean over its batches and all processes.
    pub loss: f64,
    /// Whether the loss and all gradients were; if not, the step changed nothing.
    pub finite: bool,
    /// With which it was made.
    pub learning_rate: f64,
    /// Of the momentum encoder.
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
        let (loss, finite) = match self.outcome {
            Outcome::Known { loss, finite } => (loss, finite),
            Outcome::Started(started) => {
                let read = started.read()?;
                self.phases.end(Phase::Late);
                read
            }
        };
        Ok(StepReport { loss, finite, ..self.report })
    }

    /// Whether the device may still be making it.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.outcome, Outcome::Started(_))
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

    /// The same with batches from `next`, and a stop point before every pass. `requests` is asked at its end.
    pub(crate) fn step_unless<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Step, E> {
        let (learning_rate, momentum) = (self.next_learning_rate(), self.next_momentum());
        let measured = self.measures_next();
        let made = match self.late.take_if(|_| !measured) {
            Some(mut late) => {
                let started = self.step_late(&mut late, next, requests, stop_point);
                self.late = Some(late);
                started?
            }
            None => self.step_waited_for(next, requests, stop_point)?,
        };
        let StepParts { outcome, measures, images, views, requests: agreed, warning } = made;
        let report = StepReport {
            step: self.step,
            loss: f64::NAN,
            finite: false,
            learning_rate,
            momentum,
            measures,
            images,
            views,
        };
        // Several processes have agreed; a single one may have been interrupted since.
        let requests = if self.world.size() == 1 { requests() } else { agreed };
        Ok(Step { outcome, report, requests, warning, phases: self.phases.clone() })
    }

    /// A step whose loss the host reads before anything changes.
    fn step_waited_for<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<StepParts, E> {
        self.settle_cursor()?;
        let gradients = self.gradients(next, requests, stop_point)?;
        let finite = self.update(&gradients)?;
        Ok(StepParts {
            outcome: Outcome::Known { loss: gradients.loss, finite },
            measures: gradients.measures,
            images: gradients.images,
            views: gradients.views,
            requests: gradients.requests,
            warning: None,
        })
    }

    /// A step of which the device decides.
    fn step_late<E: From<TchError> + From<TrainError>>(
        &mut self,
        late: &mut super::Late,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<StepParts, E> {
        let mut images = Vec::new();
        let prepared = self.prepare_next(next, 0, &mut images)?;
        let (started, warning) = self.start(late, &prepared, stop_point)?;
        self.phases.end(Phase::Other);
        Ok(StepParts {
            outcome: Outcome::Started(started),
            measures: None,
            images,
            views: prepared.views,
            requests: requests(),
            warning,
        })
    }
}

/// What the two forms of a step give.
struct StepParts {
    outcome: Outcome,
    measures: Option<Measures>,
    images: Vec<usize>,
    views: Vec<Tensor>,
    requests: Requests,
    warning: Option<String>,
}
