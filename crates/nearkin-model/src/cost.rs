//! How many multiply-adds an image costs, from the recipe's `[model]` alone.
//!
//! Images per second cannot be compared across models, views and methods; multiply-adds per second can.
//! They are counted from the layers that the recipe describes and not from what libtorch runs, so that a
//! faster way to compute the same network shows as a higher rate. Convolutions, linear maps and the two
//! products of attention count; what is done to each value by itself (norms, activations, sums) does
//! not, as is the custom of the field.

use nearkin_recipe::{Backbone, Layer, Model, ResNet, ResNetLayers, Stem, VisionTransformer};

/// Multiply-adds of one image's forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdds {
    /// From pixels to features.
    pub backbone: u64,
    /// From features to projections.
    pub projector: u64,
    /// Behind the projector; 0 without a predictor.
    pub predictor: u64,
}

impl MultiplyAdds {
    /// Of a square image with sides of so many pixels.
    pub fn of(model: &Model, size_pixels: usize) -> Self {
        let Work { maps, attention } = backbone(&model.backbone, size_pixels as u64);
        let features = maps.last().map_or(0, |map| map.outputs);
        let (projector, projections) = perceptron(features, &model.projector);
        let (predictor, _) = perceptron(projections, &model.predictor);
        let backbone = attention + maps.iter().map(Map::multiply_adds).sum::<u64>();
        Self { backbone, projector, predictor }
    }

    /// Of the online encoder.
    pub fn online(&self) -> u64 {
        self.backbone + self.projector + self.predictor
    }

    /// Of the momentum encoder, which has no predictor.
    pub fn momentum(&self) -> u64 {
        self.backbone + self.projector
    }
}

/// What a backbone computes for one image.
struct Work {
    /// In the order in which the network makes their weights.
    maps: Vec<Map>,
    /// Multiply-adds without weights.
    attention: u64,
}

/// A convolution, or a linear map as one with a kernel of one pixel.
#[derive(Debug, PartialEq, Eq)]
struct Map {
    outputs: u64,
    inputs: u64,
    kernel: u64,
    /// At how many places of an image it is applied.
    places: u64,
}

impl Map {
    fn multiply_adds(&self) -> u64 {
        self.outputs * self.inputs * self.kernel * self.kernel * self.places
    }
}

fn backbone(options: &Backbone, side: u64) -> Work {
    match options {
        Backbone::ResNet(options) => Work { maps: resnet(options, side), attention: 0 },
        Backbone::VisionTransformer(options) => transformer(options, side),
    }
}

/// Pixels along a side behind a window that moves by `stride`.
fn moved(side: u64, kernel: u64, stride: u64, padding: u64) -> u64 {
    (side + 2 * padding).saturating_sub(kernel) / stride + 1
}

fn resnet(options: &ResNet, side: u64) -> Vec<Map> {
    let width = options.base_width.get();
    let (kernel, stride, padding) = match options.stem {
        Stem::Cifar => (3, 1, 1),
        Stem::ImageNet => (7, 2, 3),
    };
    let mut side = moved(side, kernel, stride, padding);
    let mut maps = vec![Map { outputs: width, inputs: 3, kernel, places: side * side }];
    if options.stem == Stem::ImageNet {
        side = moved(side, 3, 2, 1);
    }
    let (depths, bottleneck) = match options.layers {
        ResNetLayers::Eighteen => ([2, 2, 2, 2], false),
        ResNetLayers::ThirtyFour => ([3, 4, 6, 3], false),
        ResNetLayers::Fifty => ([3, 4, 6, 3], true),
    };
    let mut inputs = width;
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = width << stage;
        let outputs = if bottleneck { 4 * width } else { width };
        for index in 0..depth {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let (before, after) = (side * side, moved(side, 3, stride, 1).pow(2));
            let map = |outputs, inputs, kernel, places| Map { outputs, inputs, kernel, places };
            if bottleneck {
                maps.extend([
                    map(width, inputs, 1, before),
                    map(width, width, 3, after),
                    map(outputs, width, 1, after),
                ]);
            } else {
                maps.extend([map(width, inputs, 3, after), map(width, width, 3, after)]);
            }
            if stride != 1 || inputs != outputs {
                maps.push(map(outputs, inputs, 1, after));
            }
            side = moved(side, 3, stride, 1);
            inputs = outputs;
        }
    }
    maps
}

fn transformer(options: &VisionTransformer, side: u64) -> Work {
    let (width, patch) = (options.width.get(), options.patch_size.get());
    let patches = (side / patch).pow(2);
    let tokens = patches + 1;
    let map = |outputs, inputs| Map { outputs, inputs, kernel: 1, places: tokens };
    let mut maps = vec![Map { outputs: width, inputs: 3, kernel: patch, places: patches }];
    for _ in 0..options.depth.get() {
        maps.extend([
            map(3 * width, width),
            map(width, width),
            map(4 * width, width),
            map(width, 4 * width),
        ]);
    }
    // Queries with keys, and weights with values; heads share the width among them.
    Work { maps, attention: options.depth.get() * 2 * tokens * tokens * width }
}

/// Multiply-adds and the width of the last layer.
fn perceptron(inputs: u64, layers: &[Layer]) -> (u64, u64) {
    layers.iter().fold((0, inputs), |(sum, inputs), layer| {
        (sum + inputs * layer.width.get(), layer.width.get())
    })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::Encoder;

    fn model(backbone: &str) -> Model {
        toml::from_str(&format!(
            "{backbone}\nprojector = [{{ width = 6 }}, {{ width = 5 }}]\npredictor = [{{ width = 4 }}, \
             {{ width = 5 }}]"
        ))
        .unwrap()
    }

    const RESNET_18_CIFAR: &str = "backbone = \"resnet18\"\nstem = \"cifar\"";
    const VIT_SMALL: &str = "backbone = \"vit-small\"\nvision_transformer = { patch_size = 16 }";

    /// Without the classifier, as torch 2.11 counts torchvision's and timm's networks
    /// (`FlopCounterMode`, which does not see attention on the CPU: it is taken off here too).
    #[test]
    fn networks_have_the_multiply_adds_that_torch_counts() {
        let imagenet = |name: &str| format!("backbone = \"{name}\"\nstem = \"imagenet\"");
        for (backbone, counted) in [
            (imagenet("resnet18"), 1_813_561_344),
            (imagenet("resnet50"), 4_087_136_256),
            (VIT_SMALL.to_owned(), 4_240_834_560),
            ("backbone = \"vit-base\"".to_owned(), 16_847_732_736),
        ] {
            let model = model(&backbone);
            let attention = super::backbone(&model.backbone, 224).attention;
            assert_eq!(MultiplyAdds::of(&model, 224).backbone - attention, counted, "{backbone}");
        }
        let cifar = MultiplyAdds::of(&model(RESNET_18_CIFAR), 32).backbone;
        assert!((cifar as f64 / 1e9 - 0.5555).abs() < 2e-4, "{cifar}, not the published figure");
    }

    /// 196 patches of 16 x 16 x 3 to 384; 12 blocks of 197 tokens with 12 x 384^2 weights each, and
    /// 2 x 197^2 x 384 in attention.
    #[test]
    fn a_vision_transformer_is_what_a_hand_counts() {
        let by_hand = 196 * 768 * 384 + 12 * (197 * 12 * 384 * 384 + 2 * 197 * 197 * 384);
        assert_eq!(MultiplyAdds::of(&model(VIT_SMALL), 224).backbone, by_hand);
    }

    #[test]
    fn heads_are_counted_and_the_predictor_is_the_online_encoders() {
        let cost = MultiplyAdds::of(&model(RESNET_18_CIFAR), 32);
        assert_eq!((cost.projector, cost.predictor), (512 * 6 + 6 * 5, 5 * 4 + 4 * 5));
        assert_eq!(cost.online() - cost.momentum(), 40);
        let vit = MultiplyAdds::of(&model(VIT_SMALL), 224);
        assert_eq!(vit.projector, 384 * 6 + 6 * 5);
    }

    /// The count knows the networks by the recipe only; this ties it to those that are trained.
    #[test]
    fn the_weights_that_are_counted_are_those_of_the_network() {
        let narrow = |name: &str, stem: &str| {
            format!("backbone = \"{name}\"\nstem = \"{stem}\"\nbase_width = 4")
        };
        let vit = "backbone = \"vit-tiny\"\nvision_transformer = { image_size = 32, patch_size = 8, \
                   depth = 3, width = 12, heads = 2 }";
        for backbone in [
            narrow("resnet18", "cifar"),
            narrow("resnet34", "imagenet"),
            narrow("resnet50", "cifar"),
            vit.to_owned(),
        ] {
            let model = model(&backbone);
            let encoder = Encoder::new(&model, 0, Device::Cpu, Kind::Float).unwrap();
            let weights = encoder.parameters().iter().filter(|entry| {
                entry.name.starts_with("backbone.") && [2, 4].contains(&entry.tensor.dim())
            });
            let shapes: Vec<Vec<i64>> = weights.map(|entry| entry.tensor.size()).collect();
            let counted: Vec<Vec<i64>> = super::backbone(&model.backbone, 32)
                .maps
                .iter()
                .zip(&shapes)
                .map(|(map, shape)| {
                    let whole = [map.outputs, map.inputs, map.kernel, map.kernel];
                    whole[..shape.len()].iter().map(|&length| length as i64).collect()
                })
                .collect();
            assert_eq!(counted, shapes, "{backbone}");
            assert_eq!(super::backbone(&model.backbone, 32).maps.len(), shapes.len());
        }
    }
}
