//! Weights of other code bases as a file of nearkin. The backbone is found by its tensors, whatever is
//! before their names; a table only gives known prefixes a name.

use std::collections::BTreeMap;
use std::path::Path;

use nearkin_model::{
    BACKBONE, BackboneChoice, Encoder, Report, Weights, WeightsError, fill_backbone, find_backbone,
    name_modules,
};
use nearkin_recipe::{Backbone, Model};
use nearkin_report::write_atomically;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::tensors::NamedTensors;
use crate::{ExportError, ImportError, torch_file};

/// What is imported, where the file does not say it.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The backbone's name in a recipe, for example `resnet50`.
    pub backbone: String,
    /// The prefix of its tensors, where a file has several backbones.
    pub prefix: Option<String>,
    /// Take the momentum encoder (key encoder, teacher) rather than the trained one.
    pub momentum_encoder: bool,
    /// Heads of an attention, which weights do not tell; the default is that of the backbone, and
    /// that of MoCo v3 for its files.
    pub heads: Option<u64>,
}

/// What was imported.
#[derive(Debug)]
pub struct Imported {
    /// What was loaded and what was left out.
    pub report: Report,
    /// Whose names these are.
    pub origin: &'static str,
    /// The key of the checkpoint below which the tensors were.
    pub key: Option<&'static str>,
    /// What the checkpoint would have called, had it been run.
    pub calls: Vec<String>,
    /// `[model]` of a recipe with this backbone, without projector.
    pub model: String,
}

/// Prefixes that are known, with whose they are.
const ORIGINS: [(&str, &str); 17] = [
    ("", "torchvision or timm"),
    (BACKBONE, "nearkin, solo-learn, lightly or DINO"),
    ("momentum_backbone.", "the momentum encoder of solo-learn"),
    ("backbone_momentum.", "the momentum encoder of lightly"),
    ("module.encoder_q.", "the query encoder of MoCo"),
    ("module.encoder_k.", "the key encoder of MoCo"),
    ("module.base_encoder.", "MoCo v3"),
    ("module.momentum_encoder.", "the momentum encoder of MoCo v3"),
    ("module.encoder.", "SimSiam"),
    ("module.backbone.", "DINO or VICReg"),
    ("module.", "SwAV, or a model in DistributedDataParallel"),
    ("trunk.", "SCE (eztorch)"),
    ("online_branch.trunk.", "SCE (eztorch)"),
    ("momentum_trunk.", "the momentum encoder of SCE (eztorch)"),
    ("momentum_branch.trunk.", "the momentum encoder of SCE (eztorch)"),
    ("encoder.", "a module with an encoder"),
    ("model.", "a module with a model"),
];

/// Wider first layers than this belong to no network of today, and a network is built of that width
/// before the rest of the file is compared with it.
const WIDEST: i64 = 4096;

/// Reads a backbone from a safetensors file or a checkpoint of PyTorch and writes it to `out`, with
/// nearkin's names and what is known about it.
pub fn import(path: &Path, options: &ImportOptions, out: &Path) -> Result<Imported, ImportError> {
    let bytes = std::fs::read(path)
        .map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    let (mut weights, key, calls) = if torch_file::is_torch_file(&bytes) {
        let file = torch_file::parse(&bytes, path)?;
        (Weights { tensors: file.tensors, ..Weights::default() }, file.key, file.calls)
    } else {
        (Weights::parse(&bytes, path)?, None, Vec::new())
    };
    let choice = BackboneChoice {
        prefix: options.prefix.clone(),
        momentum_encoder: options.momentum_encoder,
    };
    let prefix = find_backbone(&weights.tensors, &choice)
        .map_err(|reason| ImportError::Unrecognised { path: path.to_owned(), reason })?;
    let origin = ORIGINS.iter().find(|(known, _)| *known == prefix);
    let origin = origin.map_or("a prefix that is not known", |(_, origin)| *origin);
    name_modules(&mut weights.tensors, &prefix);
    let model = model(&weights.tensors, &prefix, options)?;
    let encoder = Encoder::new(&model, 0, Device::Cpu, Kind::Float)?;
    let report = fill_backbone(path, weights, &prefix, &encoder).map_err(as_option)?;

    let digest =
        Sha256::digest(&bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let text = toml::to_string(&model).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let metadata = [
        ("nearkin.source", name),
        ("nearkin.source_sha256", digest),
        ("nearkin.source_prefix", prefix),
        ("nearkin.model", text.clone()),
    ];
    let contents = NamedTensors::of_backbone(&encoder)?.to_safetensors(BACKBONE, &metadata)?;
    write_atomically(out, |file| std::io::Write::write_all(file, &contents))
        .map_err(ExportError::from)?;
    Ok(Imported { report, origin, key, calls, model: text })
}

/// The error with a hint at `--backbone`, from which the recipe's model is made here.
fn as_option(mut error: WeightsError) -> WeightsError {
    if let WeightsError::Mismatch { differing, hint, .. } = &mut error
        && let Some((_, name)) = differing.iter().find(|(key, _)| *key == "backbone")
        && name.starts_with('"')
    {
        *hint = Some(format!("give --backbone {}", name.trim_matches('"')));
    }
    error
}

/// The backbone of that name with the sizes that the tensors have.
fn model(
    tensors: &BTreeMap<String, Tensor>,
    prefix: &str,
    options: &ImportOptions,
) -> Result<Model, ImportError> {
    let name = options.backbone.as_str();
    let size = |tensor: &str| tensors.get(&format!("{prefix}{tensor}")).map(Tensor::size);
    let keys = if name.starts_with("vit-") {
        let (patch, width) = match size("patch_embed.proj.weight").as_deref() {
            Some(&[width, _, patch, _]) => (patch, width),
            _ => (16, 192),
        };
        let tokens = size("pos_embed").and_then(|size| size.get(1).copied()).unwrap_or(197);
        let grid = (tokens - 1).max(1).isqrt();
        let depth = (0..tensors.len())
            .take_while(|index| size(&format!("blocks.{index}.norm1.weight")).is_some());
        let depth = depth.count().max(1);
        let is_moco = prefix.contains("base_encoder") || prefix.contains("momentum_encoder");
        let of_moco = (is_moco && name == "vit-small").then_some(12);
        let heads = options.heads.or(of_moco);
        let heads = heads.map_or_else(String::new, |heads| format!(", heads = {heads}"));
        let image = grid * patch;
        format!(
            "vision_transformer = {{ image_size = {image}, patch_size = {patch}, depth = {depth}, \
             width = {width}{heads} }}"
        )
    } else {
        let (width, stem) = match size("conv1.weight").as_deref() {
            Some(&[width, _, kernel, _]) => (width, if kernel == 3 { "cifar" } else { "imagenet" }),
            _ => (64, "imagenet"),
        };
        format!("stem = \"{stem}\"\nbase_width = {width}")
    };
    let first =
        ["conv1.weight", "patch_embed.proj.weight"].map(|first| size(first)?.first().copied());
    if let Some(width) = first.into_iter().flatten().find(|&width| width > WIDEST) {
        return Err(ImportError::Options(format!(
            "its first layer has {width} channels; at most {WIDEST} are read"
        )));
    }
    let text = format!("backbone = {name:?}\nprojector = []\n{keys}\n");
    let model: Model = toml::from_str(&text).map_err(|error| {
        ImportError::Options(format!(
            "--backbone {name}: {}",
            nearkin_recipe::clarify(error.message())
        ))
    })?;
    match (options.heads, &model.backbone) {
        (Some(_), Backbone::ResNet(_)) => {
            Err(ImportError::Options("--heads is for vision transformers".to_owned()))
        }
        _ => Ok(model),
    }
}
