//! The proof that a frozen backbone stayed frozen.
//!
//! A backbone that learns along with its probe, or whose batch norms gather new statistics, gives
//! accuracies that look like a better encoder. More than one published number was wrong by points
//! for this reason, so it is checked in every run and not left to care.

use nearkin_eval::extract;
use nearkin_model::Encoder;
use tch::{Kind, TchError, Tensor};

use crate::ProbeError;

/// Parameters, running statistics and the features of some images, as they were.
#[derive(Debug)]
pub struct Frozen {
    tensors: Vec<(String, Tensor)>,
    images: Tensor,
    features: Tensor,
}

impl Frozen {
    /// Remembers the encoder; `images`, `[batch, 3, height, width]`, are the fixed batch.
    pub fn new(encoder: &Encoder, images: Tensor) -> Result<Self, ProbeError> {
        let named = encoder.parameters().named().into_iter();
        let copies = named.map(|(name, tensor)| Ok((name, tensor.f_detach_copy()?)));
        Ok(Self {
            tensors: copies.collect::<Result<_, ProbeError>>()?,
            features: extract(encoder, &images)?,
            images,
        })
    }

    /// Fails where a tensor or a feature is not, bit by bit, what it was.
    pub fn check(&self, encoder: &Encoder) -> Result<(), ProbeError> {
        let mut changed = Vec::new();
        for ((name, before), now) in self.tensors.iter().zip(encoder.parameters()) {
            if !same_bits(before, &now.tensor)? {
                changed.push(name.as_str());
            }
        }
        if !changed.is_empty() {
            let more = changed.len().saturating_sub(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let names = changed[..changed.len().min(5)].join(", ");
            return Err(ProbeError::NotFrozen(format!("{names}{more}")));
        }
        if !same_bits(&encoder.extract(&self.images)?, &self.features)? {
            return Err(ProbeError::NotFrozen("the features of a fixed batch differ".to_owned()));
        }
        Ok(())
    }
}

/// Whether two tensors of one shape and kind hold the same bits. A NaN is not equal to itself, but
/// has the same bits.
fn same_bits(one: &Tensor, other: &Tensor) -> Result<bool, TchError> {
    let bits = |of: &Tensor| match of.kind() {
        Kind::Double => of.f_view_dtype(Kind::Int64),
        Kind::Float => of.f_view_dtype(Kind::Int),
        _ => Ok(of.shallow_clone()),
    };
    bits(one)?.f_equal(&bits(other)?)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn encoder() -> Encoder {
        let model = toml::from_str(
            "backbone = \"resnet18\"\nstem = \"cifar\"\nbase_width = 4\nprojector = [{ width = 4 }]",
        );
        let model: nearkin_recipe::Model = model.unwrap();
        Encoder::new(&model, 0, Device::Cpu, Kind::Float).unwrap()
    }

    fn images(seed: i64) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn([4, 3, 16, 16], tch::kind::FLOAT_CPU)
    }

    #[test]
    fn an_encoder_that_was_only_looked_at_is_frozen() {
        let encoder = encoder();
        let frozen = Frozen::new(&encoder, images(0)).unwrap();
        let _ = encoder.extract(&images(1)).unwrap();
        frozen.check(&encoder).unwrap();
    }

    /// Weights that no feature depends on may be NaN.
    #[test]
    fn a_weight_that_is_not_a_number_stays_what_it_is() {
        let encoder = encoder();
        let projector = encoder.parameters().named();
        let (_, weight) =
            projector.iter().find(|(name, _)| name.starts_with("projector.")).unwrap();
        let fill = |value: f64| {
            let _ = tch::no_grad(|| weight.shallow_clone().fill_(value));
        };
        fill(f64::NAN);
        let frozen = Frozen::new(&encoder, images(0)).unwrap();
        frozen.check(&encoder).unwrap();
        fill(1.0);
        let message = frozen.check(&encoder).unwrap_err().to_string();
        assert!(message.contains("(projector."), "{message}");
    }

    #[test]
    fn running_statistics_that_moved_are_named() {
        let encoder = encoder();
        let frozen = Frozen::new(&encoder, images(0)).unwrap();
        let _ = tch::no_grad(|| encoder.train_features(&images(1))).unwrap();
        let message = frozen.check(&encoder).unwrap_err().to_string();
        assert!(message.contains("backbone.bn1.running_mean"), "{message}");
        assert!(!message.contains("conv1.weight"), "{message}");
    }

    #[test]
    fn a_backbone_that_learned_is_caught() {
        let encoder = encoder();
        let frozen = Frozen::new(&encoder, images(0)).unwrap();
        let loss = encoder.train_features(&images(1)).unwrap().square().mean(Kind::Float);
        loss.backward();
        tch::no_grad(|| {
            for entry in encoder.parameters().trainable().take(1) {
                let gradient = entry.tensor.grad();
                let _ = entry.tensor.shallow_clone().g_sub_(&(gradient * 0.1));
            }
        });
        let message = frozen.check(&encoder).unwrap_err().to_string();
        assert!(message.contains("backbone.conv1.weight"), "{message}");
    }
}
