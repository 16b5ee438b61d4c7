//! The choice of a backbone: what an encoder needs of a network, whichever it is.

use nearkin_recipe::{Backbone as Options, Model};
use tch::{TchError, Tensor};

use crate::{Mode, ResNet, Scope, VisionTransformer};

/// A network from images to features.
#[derive(Debug)]
pub(crate) enum Backbone {
    ResNet(ResNet),
    VisionTransformer(VisionTransformer),
}

impl Backbone {
    /// The backbone of a recipe's `[model]`, with random weights from torch's generator.
    pub(crate) fn new(scope: Scope<'_>, model: &Model) -> Result<Self, TchError> {
        Ok(match &model.backbone {
            Options::ResNet(options) => Self::ResNet(ResNet::new(scope, options)?),
            Options::VisionTransformer(options) => {
                Self::VisionTransformer(VisionTransformer::new(scope, options)?)
            }
        })
    }

    /// Length of a feature vector.
    pub(crate) fn features(&self) -> i64 {
        match self {
            Self::ResNet(network) => network.features(),
            Self::VisionTransformer(network) => network.features(),
        }
    }

    /// Images `[batch, 3, height, width]` to features `[batch, features]`. A vision transformer has
    /// no batch norm, so it is the same in every mode.
    pub(crate) fn forward(&self, images: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        match self {
            Self::ResNet(network) => network.forward(images, mode),
            Self::VisionTransformer(network) => network.forward(images),
        }
    }
}
