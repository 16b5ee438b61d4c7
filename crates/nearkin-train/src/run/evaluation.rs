//! Evaluations during a run.

use nearkin_augment::View;
use nearkin_eval::{EvaluationError, FeatureOptions, FeatureSource};

use super::Run;
use crate::TrainError;
use crate::monitor::{BACKBONE, Monitor, PIXELS, evaluate_knn_until, has_knn};

impl Run {
    /// Whether an evaluation follows this step.
    pub(super) fn evaluation_is_due(&self) -> bool {
        let every = self.learner.setup.recipe.evaluation.every_epochs;
        let last = self.learner.step == self.learner.total_steps;
        self.test.is_some()
            && every > 0
            && self.learner.step > 0
            && self.learner.step.is_multiple_of(self.learner.steps_per_epoch)
            && (last || (self.learner.step / self.learner.steps_per_epoch).is_multiple_of(every))
    }

    /// Whether the evaluation after this step, which follows its checkpoint, did not come to its end.
    pub(super) fn evaluation_is_missing(&self) -> Result<bool, TrainError> {
        if !self.evaluation_is_due() {
            return Ok(false);
        }
        let missing = self.learner.world.rank() == 0 && !has_knn(&self.folder, self.learner.step)?;
        Ok(self.learner.world.maximum(i64::from(missing))? > 0)
    }

    /// k-NN accuracy where the data allows it; at step 0 of the pixels too. False if it was interrupted.
    pub(super) fn evaluate(&self, monitor: &mut Monitor) -> Result<bool, TrainError> {
        self.learner.settle_statistics()?;
        let Some(test) = &self.test else { return Ok(true) };
        self.learner.world.report("the k-NN evaluation");
        let options = FeatureOptions { workers: self.threads.workers, ..FeatureOptions::default() };
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
                    run: self.folder.path().to_owned(),
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
}
