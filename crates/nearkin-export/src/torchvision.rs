//! Weights under torchvision's names, with the Python that builds the network they belong to.
//!
//! torchvision has neither the stem for small images nor other widths than 64, so the file of weights
//! alone would leave its reader to guess. `model.py` builds every ResNet of nearkin from torchvision's
//! own blocks and loads the weights strictly: a network that was built wrongly does not load.

use std::path::Path;

use nearkin_recipe::{Backbone, Model, Stem};

use crate::tensors::NamedTensors;
use crate::{ExportError, Files, Preprocessing};

pub(crate) fn files(
    weights: &NamedTensors,
    model: &Model,
    preprocessing: &Preprocessing,
    folder: &Path,
) -> Result<Files, ExportError> {
    let Backbone::ResNet(options) = &model.backbone else {
        return Err(ExportError::Unsupported {
            reason: "the vision transformers of torchvision have other names and parts: take \
                     --format timm, or onnx"
                .to_owned(),
        });
    };
    let width = options.base_width.get();
    let depths: Vec<String> = (1..=4)
        .map(|stage| weights.count(&format!("layer{stage}"), "conv1.weight").to_string())
        .collect();
    let block = if weights.has("layer1.0.conv3.weight") { "Bottleneck" } else { "BasicBlock" };
    let mut build = format!(
        "    network = resnet.ResNet(resnet.{block}, [{}])\n    network.fc = nn.Identity()\n",
        depths.join(", ")
    );
    if width != 64 {
        let lines = format!(
            "    network.inplanes = {width}\n    \
             network.conv1 = nn.Conv2d(3, {width}, 7, 2, 3, bias=False)\n    \
             network.bn1 = nn.BatchNorm2d({width})\n"
        );
        build.push_str(&lines);
        for (stage, depth) in depths.iter().enumerate() {
            let (planes, stride) = (width << stage, if stage == 0 { 1 } else { 2 });
            let line = format!(
                "    network.layer{} = network._make_layer(resnet.{block}, {planes}, {depth}, \
                 stride={stride})\n",
                stage + 1
            );
            build.push_str(&line);
        }
    }
    if options.stem == Stem::Cifar {
        let lines = format!(
            "    network.conv1 = nn.Conv2d(3, {width}, 3, 1, 1, bias=False)\n    \
             network.maxpool = nn.Identity()\n"
        );
        build.push_str(&lines);
    }
    let python = format!(
        "\"\"\"The backbone of model.safetensors on torchvision: images [batch, 3, height, width] to\n\
         features [batch, {features}].\n\n\
         Images are scaled to [0, 1], resized ({interpolation}) and cropped to {size} pixels, then\n\
         normalised with mean {mean:?} and std {std:?}.\n\
         \"\"\"\n\n\
         import pathlib\n\n\
         from safetensors.torch import load_file\n\
         from torch import nn\n\
         from torchvision.models import resnet\n\n\n\
         def build():\n{build}    return network\n\n\n\
         def load(path=pathlib.Path(__file__).with_name(\"model.safetensors\")):\n    \
         network = build()\n    \
         network.load_state_dict(load_file(path), strict=True)\n    \
         return network.eval()\n",
        features = (width << 3) * if block == "Bottleneck" { 4 } else { 1 },
        interpolation = preprocessing.interpolation_name(),
        size = preprocessing.size_pixels,
        mean = preprocessing.mean_rgb,
        std = preprocessing.std_rgb,
    );
    let tensors = weights.to_safetensors("", &[])?;
    let file = folder.join("model.py");
    let usage = format!("# {}\ndef build():\n{build}    return network\n", file.display());
    Ok((vec![("model.safetensors", tensors), ("model.py", python.into_bytes())], usage))
}
