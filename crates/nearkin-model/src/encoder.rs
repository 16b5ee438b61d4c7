//! Backbone, projector and predictor as one network.

use std::sync::Arc;

use nearkin_dist::World;
use nearkin_recipe::Model;
use tch::{Device, Kind, TchError, Tensor};

use crate::backbone::Backbone;
use crate::{Mlp, Mode, Parameters};

/// A network from images to embeddings.
#[derive(Debug)]
pub struct Encoder {
    parameters: Parameters,
    backbone: Backbone,
    projector: Mlp,
    predictor: Option<Mlp>,
    device: Device,
    /// The processes whose batches share their statistics.
    together: Option<Arc<dyn World>>,
}

impl Encoder {
    /// The encoder of a recipe's `[model]` with weights that depend on the seed only. Names begin
    /// with `backbone.`, `projector.` and `predictor.`.
    pub fn new(model: &Model, seed: u64, device: Device, kind: Kind) -> Result<Self, TchError> {
        tch::manual_seed(seed as i64);
        Self::build(model, true, device, kind)
    }

    pub(crate) fn build(
        model: &Model,
        with_predictor: bool,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TchError> {
        let mut parameters = Parameters::default();
        let mut root = parameters.root(device, kind);
        let backbone = Backbone::new(root.enter("backbone"), model)?;
        let projector = Mlp::new(root.enter("projector"), backbone.features(), &model.projector)?;
        let predictor = if with_predictor && !model.predictor.is_empty() {
            Some(Mlp::new(root.enter("predictor"), projector.outputs(), &model.predictor)?)
        } else {
            None
        };
        Ok(Self { parameters, backbone, projector, predictor, device, together: None })
    }

    /// Every named tensor.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// From now on batch norms take their statistics from the batches of all processes in training.
    pub fn synchronize(&mut self, world: Arc<dyn World>) {
        self.together = (world.size() > 1).then_some(world);
    }

    /// How batch norms treat a whole batch in training.
    pub(crate) fn whole_batch(&self) -> Mode<'_> {
        match &self.together {
            Some(world) => Mode::Together(world.as_ref()),
            None => Mode::Train { groups: 1 },
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Length of a backbone feature.
    pub fn features(&self) -> i64 {
        self.backbone.features()
    }

    /// Length of a projection.
    pub fn projections(&self) -> i64 {
        self.projector.outputs()
    }

    /// Length of an embedding.
    pub fn dimensions(&self) -> i64 {
        self.predictor.as_ref().unwrap_or(&self.projector).outputs()
    }

    /// Backbone features of images `[batch, 3, height, width]` in evaluation mode:
    /// `[batch, features]`, without gradient.
    pub fn extract(&self, images: &Tensor) -> Result<Tensor, TchError> {
        tch::no_grad(|| self.backbone.forward(images, Mode::Evaluate))
    }

    /// Projections of backbone features in evaluation mode: `[batch, features]` to
    /// `[batch, outputs]`, without gradient.
    pub fn project(&self, features: &Tensor) -> Result<Tensor, TchError> {
        tch::no_grad(|| self.projector.forward(features, Mode::Evaluate))
    }

    /// Backbone features of images in training mode, with gradient: `[batch, features]`.
    pub fn train_features(&self, images: &Tensor) -> Result<Tensor, TchError> {
        self.backbone.forward(images, self.whole_batch())
    }

    /// Embeddings of images in training mode, not normalised: `[batch, dimensions]`.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor, TchError> {
        Ok(self.project_and_embed(images)?.1)
    }

    /// The same, with what the predictor made it of, if there is one: projections and embeddings,
    /// each `[batch, dimensions]`.
    pub fn project_and_embed(&self, images: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let mode = self.whole_batch();
        let projections = self.projector.forward(&self.train_features(images)?, mode)?;
        let embeddings = match &self.predictor {
            Some(predictor) => predictor.forward(&projections, mode)?,
            None => projections.shallow_clone(),
        };
        Ok((projections, embeddings))
    }

    pub(crate) fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    pub(crate) fn projector(&self) -> &Mlp {
        &self.projector
    }
}
