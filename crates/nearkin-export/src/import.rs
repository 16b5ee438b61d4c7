//! Weights of other code bases as a file of nearkin.
//!
//! Everybody has the same backbones under the same names, and puts something else before them:
//! `module.encoder_q.`, `backbone.`, `trunk.`. What is looked for is therefore the backbone itself, a
//! prefix below which there are its first and its typical tensors; a table only gives the prefix a name.

use std::collections::BTreeMap;
use std::path::Path;

use nearkin_model::{BACKBONE, Encoder, Report, Weights, fill_backbone};
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

/// Parts of prefixes of momentum encoders.
const MOMENTUM: [&str; 4] = ["momentum", "encoder_k", "teacher", "target"];

/// Wider first layers than this belong to no network of today, and a network is built of that width
/// before the rest of the file is compared with it.
const WIDEST: i64 = 4096;

/// Reads a backbone from a safetensors file or a checkpoint of PyTorch and writes it to `out`, with
/// nearkin's names and what is known about it.
pub fn import(path: &Path, options: &ImportOptions, out: &Path) -> Result<Imported, ImportError> {
    let bytes = std::fs::read(path)
        .map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    let (mut tensors, key, calls) = match torch_file::is_torch_file(&bytes) {
        true => {
            let file = torch_file::parse(&bytes, path)?;
            (file.tensors, file.key, file.calls)
        }
        false => (Weights::parse(&bytes, path)?.tensors, None, Vec::new()),
    };
    let prefix = find_prefix(&tensors, options, path)?;
    let origin = ORIGINS.iter().find(|(known, _)| *known == prefix);
    let origin = origin.map_or("a prefix that is not known", |(_, origin)| *origin);
    name_modules(&mut tensors, &prefix);
    let model = model(&tensors, &prefix, options)?;
    let encoder = Encoder::new(&model, 0, Device::Cpu, Kind::Float)?;
    let report = fill_backbone(path, tensors, &prefix, &encoder)?;

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

/// The one prefix below which there is a backbone, of the kind that is wanted.
fn find_prefix(
    tensors: &BTreeMap<String, Tensor>,
    options: &ImportOptions,
    path: &Path,
) -> Result<String, ImportError> {
    let unrecognised = |reason| Err(ImportError::Unrecognised { path: path.to_owned(), reason });
    let found: Vec<&str> =
        tensors.keys().filter_map(|name| backbone_prefix(tensors, name)).collect();
    let listed = |prefixes: &[&str]| {
        let quoted: Vec<String> = prefixes.iter().map(|prefix| format!("`{prefix}`")).collect();
        quoted.join(", ")
    };
    if let Some(prefix) = &options.prefix {
        return match found.contains(&prefix.as_str()) {
            true => Ok(prefix.clone()),
            false if found.is_empty() => unrecognised("no backbone was found in it".to_owned()),
            false => {
                unrecognised(format!("no backbone below `{prefix}`, but below {}", listed(&found)))
            }
        };
    }
    let is_momentum = |prefix: &&str| MOMENTUM.iter().any(|part| prefix.contains(part));
    let wanted: Vec<&str> = found
        .iter()
        .copied()
        .filter(|prefix| is_momentum(prefix) == options.momentum_encoder)
        .collect();
    match (wanted.as_slice(), found.as_slice()) {
        ([prefix], _) => Ok((*prefix).to_owned()),
        ([], [prefix]) if !options.momentum_encoder => Ok((*prefix).to_owned()),
        ([], []) => {
            let names: Vec<&str> = tensors.keys().map(String::as_str).take(6).collect();
            unrecognised(format!(
                "no ResNet or vision transformer was found among its {} tensors ({}, ...)",
                tensors.len(),
                names.join(", ")
            ))
        }
        ([], found) => {
            let which =
                if options.momentum_encoder { "momentum encoder" } else { "trained encoder" };
            unrecognised(format!("no {which}, but backbones below {}", listed(found)))
        }
        (several, _) => {
            unrecognised(format!("several backbones; give --prefix, one of {}", listed(several)))
        }
    }
}

/// What stands before `name` if a backbone begins there: a ResNet, one in a `Sequential`, or a vision
/// transformer.
fn backbone_prefix<'n>(tensors: &BTreeMap<String, Tensor>, name: &'n str) -> Option<&'n str> {
    const SIGNS: [(&str, [&str; 2]); 3] = [
        ("conv1.weight", ["bn1.weight", "layer1.0.conv1.weight"]),
        ("0.weight", ["1.running_mean", "4.0.conv1.weight"]),
        ("cls_token", ["pos_embed", "patch_embed.proj.weight"]),
    ];
    SIGNS.iter().find_map(|(first, others)| {
        let prefix = name.strip_suffix(first)?;
        let starts_a_part = prefix.is_empty() || prefix.ends_with('.');
        let has = |other: &&str| tensors.contains_key(&format!("{prefix}{other}"));
        (starts_a_part && others.iter().all(has)).then_some(prefix)
    })
}

/// A ResNet in a `Sequential` (lightly) has numbers for names.
fn name_modules(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) {
    const MODULES: [(&str, &str); 6] = [
        ("0", "conv1"),
        ("1", "bn1"),
        ("4", "layer1"),
        ("5", "layer2"),
        ("6", "layer3"),
        ("7", "layer4"),
    ];
    if !tensors.contains_key(&format!("{prefix}4.0.conv1.weight")) {
        return;
    }
    let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
        let new = name.strip_prefix(prefix).and_then(|rest| {
            let (first, rest) = rest.split_once('.')?;
            let (_, module) = MODULES.iter().find(|(number, _)| *number == first)?;
            Some(format!("{prefix}{module}.{rest}"))
        });
        (new.unwrap_or(name), tensor)
    });
    *tensors = renamed.collect();
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
