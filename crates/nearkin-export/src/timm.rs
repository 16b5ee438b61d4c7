//! The folder that timm reads: `config.json` says which network, its sizes and how images are
//! prepared; `model.safetensors` has the weights.

use std::path::Path;

use nearkin_recipe::{Backbone, Model, Stem};
use serde_json::{Value, json};

use crate::tensors::NamedTensors;
use crate::{ExportError, Files, Preprocessing};

pub(crate) fn files(
    weights: &NamedTensors,
    model: &Model,
    preprocessing: &Preprocessing,
    folder: &Path,
) -> Result<Files, ExportError> {
    let config = config(model, preprocessing)?;
    let tensors = weights.to_safetensors("", &[])?;
    let usage = format!(
        "import timm\n\
         model = timm.create_model({:?}, pretrained=True)\n\
         transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n",
        format!("local-dir:{}", folder.display())
    );
    let config = format!("{config:#}\n").into_bytes();
    Ok((vec![("config.json", config), ("model.safetensors", tensors)], usage))
}

fn config(model: &Model, preprocessing: &Preprocessing) -> Result<Value, ExportError> {
    let (architecture, features, first, classifier, pooling, arguments) = match &model.backbone {
        Backbone::ResNet(options) => {
            if options.stem == Stem::Cifar || options.base_width.get() != 64 {
                return Err(ExportError::Unsupported {
                    reason: "timm has no ResNet for small images (stem = \"cifar\") or of another \
                             base_width than 64: take --format torchvision, which writes the Python \
                             that builds it, or onnx"
                        .to_owned(),
                });
            }
            let name = model.backbone.name();
            let features = if name == "resnet50" { 2048 } else { 512 };
            let pooled = preprocessing.size_pixels.div_ceil(32);
            (name.to_owned(), features, "conv1", "fc", Some([pooled; 2]), None)
        }
        Backbone::VisionTransformer(options) => {
            let name = format!("{}_patch16_224", model.backbone.name().replace('-', "_"));
            let arguments = json!({
                "img_size": options.image_size,
                "patch_size": options.patch_size,
                "embed_dim": options.width,
                "depth": options.depth,
                "num_heads": options.heads,
            });
            let first = "patch_embed.proj";
            (name, options.width.get(), first, "head", None, Some(arguments))
        }
    };
    let size = preprocessing.size_pixels;
    let mut config = json!({
        "architecture": architecture,
        "num_classes": 0,
        "num_features": features,
        "global_pool": if arguments.is_some() { "token" } else { "avg" },
        "pretrained_cfg": {
            "tag": "nearkin",
            "custom_load": false,
            "input_size": [3, size, size],
            "fixed_input_size": arguments.is_some(),
            "interpolation": preprocessing.interpolation_name(),
            "crop_pct": preprocessing.crop_share,
            "crop_mode": "center",
            "mean": preprocessing.mean_rgb,
            "std": preprocessing.std_rgb,
            "num_classes": 0,
            "pool_size": pooling,
            "first_conv": first,
            "classifier": classifier,
        },
    });
    if let Some(arguments) = arguments {
        config["model_args"] = arguments;
    }
    Ok(config)
}
