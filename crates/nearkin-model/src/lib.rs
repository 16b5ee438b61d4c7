//! Encoders: backbone, projector, predictor, and what contrastive training keeps beside them, a
//! momentum encoder and a queue of past keys.
//!
//! Parameters carry torchvision's names (`backbone.layer1.0.conv1.weight`), those of vision
//! transformers timm's, so that weights move between tools without a table of renamings. Images travel channels-last; logically they are
//! `[batch, 3, height, width]` everywhere.

mod backbone;
mod cost;
mod device;
mod encoder;
mod finish;
mod held;
mod images;
mod layers;
mod load;
mod momentum;
mod parameters;
mod prefix;
mod queue;
mod resample;
mod resnet;
mod sizes;
mod vit;
mod weights;

pub use cost::MultiplyAdds;
pub use device::{DeviceChoice, DeviceError};
pub use encoder::Encoder;
pub use finish::finish_views;
pub use held::{HeldImages, HoldError, bytes_of};
pub use images::{bytes_to_tensor, images_to_tensor};
pub use layers::{BatchNorm, Mlp, Mode, from_blocks, to_blocks};
pub use load::{BACKBONE, ProjectorFound, Report, fill_backbone, load_backbone, load_encoder};
pub use momentum::{MomentumEncoder, Shuffle};
pub use parameters::{Parameter, Parameters, Scope};
pub use prefix::{BackboneChoice, find_backbone, name_modules};
pub use queue::{NO_LABEL, Queue};
pub use resnet::ResNet;
pub use vit::VisionTransformer;
pub use weights::{Weights, WeightsError};
