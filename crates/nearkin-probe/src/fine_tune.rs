//! Training of the whole network from pretrained weights, shared by semi-supervised and transfer
//! evaluation.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_data::{ImageSet, labelled};
use nearkin_eval::{EvaluationError, extract};
use nearkin_model::{Encoder, Mlp, Mode, Parameters};
use nearkin_recipe::{
    Fraction, LearningRateScaling, MomentumForm, Optimizer as OptimizerOptions, Positive,
    UpdateRule,
};
use nearkin_train::Optimizer;
use tch::{Kind, TchError, Tensor};

use crate::classifier::{Classifier, Fall, Passes, Start, cross_entropy, test};
use crate::linear::{describe, fixed_batch, optimizer, sgd, stated};
use crate::views::{Augmentation, TestView};
use crate::{Accuracies, Machine, ProbeError, Subject};

/// Everything that is set.
pub(crate) struct FineTune {
    pub(crate) optimizer: OptimizerOptions,
    /// Through the projector's first layer; else the classifier sits on the backbone.
    pub(crate) through_projector: bool,
    pub(crate) augmentation: Augmentation,
    pub(crate) test: TestView,
    pub(crate) epochs: u64,
    pub(crate) published_epochs: u64,
    pub(crate) batch_size: NonZeroUsize,
    pub(crate) published_batch_size: NonZeroUsize,
    pub(crate) seed: u64,
}

impl FineTune {
    /// LARS in SimCLR's form, rate 0.005 x sqrt(batch), no weight decay.
    pub(crate) fn lars() -> Result<OptimizerOptions, ProbeError> {
        let rule = UpdateRule::Lars {
            momentum: Fraction::try_from(0.9).map_err(ProbeError::Request)?,
            trust_coefficient: Positive::try_from(0.001).map_err(ProbeError::Request)?,
            momentum_form: MomentumForm::LearningRateInside,
        };
        optimizer(rule, 0.005, LearningRateScaling::SquareRoot, 0.0)
    }

    /// SGD with Nesterov's momentum, rate 0.05 x batch / 256, no weight decay.
    pub(crate) fn sgd() -> Result<OptimizerOptions, ProbeError> {
        optimizer(sgd(true)?, 0.05, LearningRateScaling::Linear, 0.0)
    }

    /// Trains on all of `train` and tests once, after the last epoch; and what was done, in words.
    pub(crate) fn run(
        &self,
        subject: &Subject,
        [train, test_set]: [&Arc<dyn ImageSet>; 2],
        machine: Machine,
    ) -> Result<(Accuracies, String), ProbeError> {
        let (encoder, layer) = if self.through_projector {
            let encoder = subject.encoder_with_projector(machine.device)?;
            let layer = FirstLayer::of(&encoder, subject, machine)?;
            (encoder, Some(layer))
        } else {
            (subject.encoder(machine.device)?, None)
        };
        // Batch statistics may hide that the encoder has diverged.
        let _ = extract(&encoder, &fixed_batch(subject, train, machine)?)?;
        let inputs = layer.as_ref().map_or(encoder.features(), |layer| layer.layer.outputs());
        let sizes = [inputs, train.classes().len() as i64];
        let classifier = Classifier::new(sizes, Start::Zeros, self.seed, machine.device)?;

        // A short batch has poor batch statistics, so the last one is left out.
        let batch_size =
            NonZeroUsize::new(train.len()).map_or(self.batch_size, |all| all.min(self.batch_size));
        let passes = Passes { epochs: self.epochs, batch_size, seed: self.seed, drop_last: true };
        let per_epoch = passes.steps_per_epoch(train.len());
        let rate = self.optimizer.scaled_learning_rate(batch_size.get());
        let networks = [Some(encoder.parameters()), layer.as_ref().map(|layer| &layer.parameters)];
        let networks = networks.into_iter().flatten().chain([&classifier.parameters]);
        // What the loss does not reach, the rest of the projector, stays as it is.
        let mut optimizers = networks
            .map(|parameters| Optimizer::new(parameters, &self.optimizer))
            .collect::<Result<Vec<_>, TchError>>()?;
        let through = |rows: Tensor, mode| match &layer {
            Some(layer) => layer.layer.forward(&rows, mode),
            None => Ok(rows),
        };
        let view = self.augmentation.view(&subject.recipe)?;
        passes.over_images(train, &view, machine, |step, images, labels| {
            optimizers.iter_mut().for_each(Optimizer::zero_gradients);
            let rows = through(encoder.train_features(&images)?, Mode::Train { groups: 1 })?;
            let logits = classifier.forward(&rows)?;
            let loss = cross_entropy(&logits, &labels)?;
            if !loss.f_double_value(&[])?.is_finite() {
                return Err(ProbeError::Diverged { step });
            }
            loss.f_backward()?;
            let rate = rate * Fall::Cosine.factor(step, per_epoch, self.epochs);
            Ok(optimizers.iter_mut().try_for_each(|optimizer| optimizer.step(rate))?)
        })?;

        let view = self.test.view(&subject.recipe)?;
        let accuracies = test(&encoder, test_set, &view, machine, |rows| {
            classifier.forward(&through(rows.shallow_clone(), Mode::Evaluate)?)
        })
        .map_err(|error| match error {
            ProbeError::Evaluation(EvaluationError::NotFinite) => {
                ProbeError::FineTuningDiverged { steps: self.epochs * per_epoch }
            }
            error => error,
        })?;
        let from = if self.through_projector {
            "from the first projector layer"
        } else {
            "from the backbone"
        };
        let how = format!(
            "whole network fine-tuned {from}, {}, {}, {} epochs, batch {}, trained on {}, tested on \
             {}, seed {}, {} training and {} test images, last epoch",
            describe(&self.optimizer, rate),
            Fall::Cosine.text(),
            stated(self.epochs, self.published_epochs),
            stated(batch_size, self.published_batch_size),
            self.augmentation.text(),
            self.test.text(&view),
            self.seed,
            labelled(train).len(),
            accuracies.images
        );
        Ok((accuracies, how))
    }
}

/// A copy of the projector's first layer, with its batch norm and ReLU.
struct FirstLayer {
    parameters: Parameters,
    layer: Mlp,
}

impl FirstLayer {
    fn of(encoder: &Encoder, subject: &Subject, machine: Machine) -> Result<Self, ProbeError> {
        let layers = &subject.recipe.model.projector;
        let mut parameters = Parameters::default();
        let layer = {
            let mut root = parameters.root(machine.device, Kind::Float);
            Mlp::new(root.enter("projector"), encoder.features(), &layers[..layers.len().min(1)])?
        };
        for own in &parameters {
            let trained = encoder.parameters().iter().find(|entry| entry.name == own.name);
            if let Some(trained) = trained {
                let mut target = own.tensor.shallow_clone();
                tch::no_grad(|| target.f_copy_(&trained.tensor))?;
            }
        }
        Ok(Self { parameters, layer })
    }
}
