//! Networks with weights that every machine makes alike, for the tests and for what Python checks.

use nearkin_export::Format;
use nearkin_model::{BACKBONE, Encoder};
use nearkin_recipe::{Recipe, RecipeError, Source};
use tch::{Device, Kind, TchError, Tensor};

/// A network and what it is exported to.
pub(crate) struct Case {
    /// Its folder.
    pub(crate) name: &'static str,
    /// `[model]` but for the projector.
    model: &'static str,
    /// Side of its images in pixels.
    size: u32,
    /// The exports, each with its folder.
    pub(crate) formats: &'static [(&'static str, Format)],
}

const EVERY: &[(&str, Format)] =
    &[("torchvision", Format::Torchvision), ("timm", Format::Timm), ("onnx", Format::Onnx)];
const NOT_TIMM: &[(&str, Format)] = &[("torchvision", Format::Torchvision), ("onnx", Format::Onnx)];
const NOT_TORCHVISION: &[(&str, Format)] = &[("timm", Format::Timm), ("onnx", Format::Onnx)];

/// Small enough to be made in every test; between them they have all that an export has to state.
#[allow(dead_code, reason = "the tests and the example use one list each")]
pub(crate) const SMALL: &[Case] = &[
    Case {
        name: "resnet18-cifar-8",
        model: "backbone = \"resnet18\"\nstem = \"cifar\"\nbase_width = 8",
        size: 32,
        formats: NOT_TIMM,
    },
    Case {
        name: "resnet50-imagenet-4",
        model: "backbone = \"resnet50\"\nstem = \"imagenet\"\nbase_width = 4",
        size: 64,
        formats: NOT_TIMM,
    },
    Case {
        name: "vit-tiny-small",
        model: "backbone = \"vit-tiny\"\nvision_transformer = { image_size = 32, patch_size = 8, \
                depth = 2, width = 24, heads = 2 }",
        size: 32,
        formats: NOT_TORCHVISION,
    },
];

/// Those that people use.
#[allow(dead_code, reason = "the tests and the example use one list each")]
pub(crate) const FULL: &[Case] = &[
    Case {
        name: "resnet18",
        model: "backbone = \"resnet18\"\nstem = \"imagenet\"",
        size: 224,
        formats: EVERY,
    },
    Case {
        name: "resnet18-cifar",
        model: "backbone = \"resnet18\"\nstem = \"cifar\"",
        size: 32,
        formats: NOT_TIMM,
    },
    Case {
        name: "resnet50",
        model: "backbone = \"resnet50\"\nstem = \"imagenet\"",
        size: 224,
        formats: EVERY,
    },
    Case {
        name: "vit-small",
        model: "backbone = \"vit-small\"",
        size: 224,
        formats: NOT_TORCHVISION,
    },
    Case {
        name: "vit-small-moco-v3",
        model: "backbone = \"vit-small\"\nvision_transformer = { image_size = 32, patch_size = 4, \
                heads = 12, position_embedding = \"sine_cosine\", frozen_patch_projection = true }",
        size: 32,
        formats: NOT_TORCHVISION,
    },
];

impl Case {
    /// A recipe with the network.
    pub(crate) fn recipe(&self) -> Result<Recipe, RecipeError> {
        let (model, size) = (self.model, self.size);
        let (model, transformer) = match model.split_once("\nvision_transformer = ") {
            Some((model, table)) => (model, format!("vision_transformer = {table}")),
            None => (model, String::new()),
        };
        let text = format!(
            "[data]\ndataset = \"shapes\"\ntrain_images = 16\nsize_pixels = 32
             [method]\nname = \"simclr\"
             [model]\n{model}\nprojector = [{{ width = 4 }}]\n{transformer}
             [training]\nepochs = 1\nbatch_size = 8
             [optimizer]\nname = \"sgd\"\nlearning_rate = 0.1
             [[views]]\nname = \"first\"\ntransforms = [
                 {{ random_resized_crop = {{ size = {size} }} }},
                 {{ normalize = {{ mean_rgb = [0.49, 0.48, 0.45], std_rgb = [0.2, 0.21, 0.22] }} }},
             ]"
        );
        Source::parse(self.name, text)?.recipe()
    }
}

/// The network of a recipe with its weights.
pub(crate) fn encoder(recipe: &Recipe) -> Result<Encoder, TchError> {
    let encoder = Encoder::new(&recipe.model, 0, Device::Cpu, Kind::Float)?;
    fill(&encoder)?;
    Ok(encoder)
}

/// Noise in the backbone of an encoder, near 1 where a tensor scales.
fn fill(encoder: &Encoder) -> Result<(), TchError> {
    tch::no_grad(|| {
        for (index, entry) in encoder.parameters().iter().enumerate() {
            let Some(name) = entry.name.strip_prefix(BACKBONE) else { continue };
            let shape = entry.tensor.size();
            let value = noise(&shape, index as i64)?;
            let is_norm =
                name.contains("norm") || name.contains("bn") || name.contains("downsample");
            let scales = is_norm && (name.ends_with("weight") || name.ends_with("running_var"));
            let value = match shape.as_slice() {
                [_, inputs @ ..] if shape.len() % 2 == 0 => {
                    value.f_mul_scalar((6.0 / inputs.iter().product::<i64>() as f64).sqrt())?
                }
                [_] => value.f_mul_scalar(0.1)?.f_add_scalar(f64::from(u8::from(scales)))?,
                _ => value.f_mul_scalar(0.1)?,
            };
            entry.tensor.shallow_clone().f_copy_(&value)?;
        }
        Ok(())
    })
}

/// Uniform within -1 and 1, by integer arithmetic.
fn noise(shape: &[i64], seed: i64) -> Result<Tensor, TchError> {
    const PRIME: i64 = 2147483647;
    let index = Tensor::f_arange(shape.iter().product::<i64>(), (Kind::Int64, Device::Cpu))?;
    let x = index.f_mul_scalar(48271)?.f_add_scalar(seed * 69621 + 12345)?.f_remainder(PRIME)?;
    let x = x.f_square()?.f_add(&index)?.f_remainder(PRIME)?;
    let x = x.f_square()?.f_add_scalar(seed)?.f_remainder(PRIME)?;
    x.f_to_kind(Kind::Double)?
        .f_div_scalar(PRIME as f64)?
        .f_mul_scalar(2.0)?
        .f_sub_scalar(1.0)?
        .f_reshape(shape)
}
