//! The momentum encoder: a moving average of the online encoder that makes keys and targets.

use nearkin_recipe::{Model, MomentumEncoder as Options};
use tch::{Device, Kind, TchError, Tensor};

use crate::layers::{from_blocks, to_blocks};
use crate::{Encoder, Mode, Parameters};

/// A copy of the online encoder, without predictor, that follows it slowly.
#[derive(Debug)]
pub struct MomentumEncoder {
    encoder: Encoder,
    options: Options,
}

impl MomentumEncoder {
    /// Starts as a copy of the online encoder. (Official SCE code starts from weights of its own;
    /// the papers, and every other implementation, copy.)
    pub fn copy_of(
        online: &Encoder,
        model: &Model,
        options: Options,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TchError> {
        let encoder = Encoder::build(model, false, device, kind)?;
        tch::no_grad(|| {
            for (mine, theirs) in encoder.parameters().iter().zip(online.parameters()) {
                mine.tensor.shallow_clone().f_copy_(&theirs.tensor)?;
                let _ = mine.tensor.shallow_clone().f_set_requires_grad(false)?;
            }
            Ok(Self { encoder, options })
        })
    }

    /// Every named tensor; running statistics are its own.
    pub fn parameters(&self) -> &Parameters {
        self.encoder.parameters()
    }

    /// The settings it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// `weights = momentum * weights + (1 - momentum) * online weights`. Running statistics are not
    /// averaged: each encoder keeps those of the batches it saw.
    pub fn follow(&mut self, online: &Encoder, momentum: f64) -> Result<(), TchError> {
        tch::no_grad(|| {
            for (mine, theirs) in self.parameters().iter().zip(online.parameters()) {
                if theirs.trainable {
                    let _ = mine.tensor.shallow_clone().f_lerp_(&theirs.tensor, 1.0 - momentum)?;
                }
            }
            Ok(())
        })
    }

    /// Embeddings of images in training mode, not normalised, without gradient:
    /// `[batch, dimensions]`. With `shuffle` in the options, `permutation` is a random order of the
    /// batch in which it meets the batch norms; rows come back in the order of the images.
    pub fn embed(&self, images: &Tensor, permutation: &[usize]) -> Result<Tensor, TchError> {
        tch::no_grad(|| {
            let groups = self.options.batch_norm_splits.get() as i64;
            if !self.options.shuffle {
                return self.embed_in_groups(images, groups);
            }
            let order: Vec<i64> = permutation.iter().map(|&index| index as i64).collect();
            let order = Tensor::f_from_slice(&order)?.f_to_device(images.device())?;
            let shuffled = self.embed_in_groups(&images.f_index_select(0, &order)?, groups)?;
            shuffled.f_index_select(0, &order.f_argsort(0, false)?)
        })
    }

    fn embed_in_groups(&self, images: &Tensor, groups: i64) -> Result<Tensor, TchError> {
        let (backbone, projector) = (self.encoder.backbone(), self.encoder.projector());
        let whole = Mode::Train { groups: 1 };
        if groups == 1 {
            return projector.forward(&backbone.forward(images, whole)?, whole);
        }
        let split = Mode::Train { groups };
        let features = backbone.forward(&to_blocks(images, groups)?, split)?;
        let projector_mode = if self.options.split_projector { split } else { whole };
        from_blocks(&projector.forward(&features, projector_mode)?, groups)
    }
}
