//! Weights of a backbone from a file of named tensors.
//!
//! Pretraining, evaluation and export all begin with "these weights, that network", and the mistake
//! is always the same: a file of another network, or of the right one under other names. So a file
//! is compared with the network as a whole before anything is copied, and an error names all tensors
//! that do not fit, not the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, TchError, Tensor};

use crate::Encoder;
use crate::vit::resample_positions;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no safetensors file, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tensors are not those of the network.
    #[error("{}: these are not the weights of this backbone: {problems}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensors that are missing, unexpected or of another shape.
        problems: String,
    },
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TchError),
}

/// What a file of weights was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors that were copied into the network.
    pub loaded: usize,
    /// What stood before the names of the backbone's tensors: `backbone.` in files of nearkin,
    /// nothing in those of torchvision and timm.
    pub prefix: String,
    /// Tensors of the file that belong to no backbone and were left out, in the order of their
    /// names.
    pub left_out: Vec<String>,
    /// Patches along a side for which the file has position embeddings and for which the network
    /// has, where the two differ.
    pub resampled: Option<[i64; 2]>,
}

/// The prefix of a backbone's tensors in an encoder and its files.
pub const BACKBONE: &str = "backbone.";

/// How the names of tensors of backbones begin, up to the first dot; all others are of heads. The last
/// three are of vision transformers that are built otherwise than those here.
const TRUNK: [&str; 14] = [
    "conv1",
    "bn1",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "cls_token",
    "pos_embed",
    "patch_embed",
    "blocks",
    "norm",
    "norm_pre",
    "reg_token",
    "dist_token",
];

/// How many batches a batch norm has seen, which torch counts and nothing uses.
const COUNTER: &str = "num_batches_tracked";

/// More tensors than these are not named in a message; their number is.
const NAMED: usize = 8;

/// A file of named tensors.
#[derive(Debug)]
pub struct Weights {
    /// Tensors on the CPU by name, of the kind in which they were saved.
    pub tensors: BTreeMap<String, Tensor>,
    /// What the file says about itself.
    pub metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Reads a safetensors file with numbers of any kind that libtorch knows.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = std::fs::read(path)
            .map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes, path)
    }

    /// Reads the bytes of a safetensors file; errors name `path`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, WeightsError> {
        let damaged = |reason| WeightsError::Damaged { path: path.to_owned(), reason };
        let unreadable = |error| damaged(format!("not a safetensors file, or cut short: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let kind = kind(view.dtype()).ok_or_else(|| {
                damaged(format!("{name} is of type {:?}, which is not read", view.dtype()))
            })?;
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Self { tensors, metadata })
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

/// Copies the backbone of a safetensors file into an encoder; projector and predictor stay. The
/// names are nearkin's (`backbone.conv1.weight`, as in checkpoints and imported files) or those of
/// torchvision and timm (`conv1.weight`); heads beside them are left out.
///
/// Nothing is copied unless every tensor of the backbone is there with its shape and none is left
/// over; the error lists those that are missing, unexpected or of another shape. Position embeddings
/// for images of another size are resampled.
pub fn load_backbone(path: &Path, encoder: &Encoder) -> Result<Report, WeightsError> {
    let Weights { tensors, .. } = Weights::read(path)?;
    let prefix = match tensors.keys().any(|name| name.starts_with(BACKBONE)) {
        true => BACKBONE,
        false => "",
    };
    fill_backbone(path, tensors, prefix, encoder)
}

/// The same for tensors that were read already, from a file at `path`: those below `prefix`.
pub fn fill_backbone(
    path: &Path,
    tensors: BTreeMap<String, Tensor>,
    prefix: &str,
    encoder: &Encoder,
) -> Result<Report, WeightsError> {
    let mut report = Report { prefix: prefix.to_owned(), ..Report::default() };
    let mut found = BTreeMap::new();
    for (name, tensor) in tensors {
        if name.ends_with(COUNTER) {
            continue;
        }
        match name.strip_prefix(prefix).filter(|bare| is_of_a_backbone(bare)) {
            Some(bare) => drop(found.insert(bare.to_owned(), tensor)),
            None => report.left_out.push(name),
        }
    }
    let mut comparison = Comparison::default();
    let mut copies = Vec::new();
    for entry in encoder.parameters() {
        let Some(name) = entry.name.strip_prefix(BACKBONE) else { continue };
        let Some(value) = found.remove(name) else {
            comparison.missing.push(name.to_owned());
            continue;
        };
        let (given, expected) = (value.size(), entry.tensor.size());
        if given == expected {
            copies.push((entry.tensor.shallow_clone(), value));
        } else if let Some(grids) = grids(name, &given, &expected) {
            report.resampled = Some(grids);
            let value = resample_positions(&value, [grids[1]; 2])?;
            copies.push((entry.tensor.shallow_clone(), value));
        } else {
            let shapes = format!("{name} is {given:?} where the backbone has {expected:?}");
            comparison.shapes.push(shapes);
        }
    }
    comparison.unexpected.extend(found.into_keys());
    if let Some(problems) = comparison.problems() {
        return Err(WeightsError::Mismatch { path: path.to_owned(), problems });
    }
    report.loaded = copies.len();
    tch::no_grad(|| copies.into_iter().try_for_each(|(mut target, value)| target.f_copy_(&value)))?;
    Ok(report)
}

fn is_of_a_backbone(name: &str) -> bool {
    name.split('.').next().is_some_and(|first| TRUNK.contains(&first))
}

/// Patches along a side of position embeddings `[1, 1 + n^2, width]` of two shapes, if that is all
/// in which they differ.
fn grids(name: &str, given: &[i64], expected: &[i64]) -> Option<[i64; 2]> {
    let ([1, given, width], [1, expected, same]) = (given, expected) else { return None };
    let side =
        |tokens: i64| Some((tokens - 1).checked_isqrt()?).filter(|side| side * side + 1 == tokens);
    let (before, after) = (side(*given)?, side(*expected)?);
    (name == "pos_embed" && width == same && before > 0).then_some([before, after])
}

/// Where a file and a network differ.
#[derive(Debug, Default)]
struct Comparison {
    missing: Vec<String>,
    unexpected: Vec<String>,
    shapes: Vec<String>,
}

impl Comparison {
    /// What differs, in words; `None` if nothing does.
    fn problems(&self) -> Option<String> {
        let kinds = [
            ("missing", &self.missing, ", "),
            ("unexpected", &self.unexpected, ", "),
            ("of another shape", &self.shapes, "; "),
        ];
        let differing = kinds.iter().filter(|(_, names, _)| !names.is_empty());
        let texts: Vec<String> = differing
            .map(|(what, names, separator)| {
                let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
                let more = match names.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("{} {what}: {}{more}", names.len(), named.join(separator))
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;
    use tch::Device;

    use super::*;

    fn encoder(backbone: &str, width: u64, seed: u64) -> Encoder {
        let text = format!(
            "backbone = \"{backbone}\"\nstem = \"cifar\"\nbase_width = {width}
             projector = [{{ width = 3 }}]"
        );
        Encoder::new(&toml::from_str(&text).unwrap(), seed, Device::Cpu, Kind::Float).unwrap()
    }

    /// The file of an encoder, its names changed or left out by `rename`.
    fn save(encoder: &Encoder, rename: impl Fn(&str) -> Option<String>) -> tempfile::NamedTempFile {
        let contents: Vec<(String, Vec<usize>, Vec<u8>)> = encoder
            .parameters()
            .iter()
            .filter_map(|entry| {
                let flat = entry.tensor.detach().contiguous().reshape([-1]);
                let values = Vec::<f32>::try_from(flat).unwrap();
                let shape = entry.tensor.size().iter().map(|&side| side as usize).collect();
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Some((rename(&entry.name)?, shape, bytes))
            })
            .collect();
        let views = contents.iter().map(|(name, shape, bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
        file
    }

    fn values(encoder: &Encoder, prefix: &str) -> Vec<Tensor> {
        let entries = encoder.parameters().iter().filter(|entry| entry.name.starts_with(prefix));
        entries.map(|entry| entry.tensor.detach().copy()).collect()
    }

    #[test]
    fn names_of_nearkin_and_of_torchvision_load_and_heads_stay_out() {
        let saved = encoder("resnet18", 4, 1);
        let torchvision = |name: &str| match name.strip_prefix(BACKBONE) {
            Some(bare) => Some(bare.to_owned()),
            None => Some(name.replace("projector.0", "fc")),
        };
        for (file, prefix, head) in [
            (save(&saved, |name| Some(name.to_owned())), BACKBONE, "projector.0.weight"),
            (save(&saved, torchvision), "", "fc.weight"),
        ] {
            let target = encoder("resnet18", 4, 2);
            let head_before = values(&target, "projector.");
            let report = load_backbone(file.path(), &target).unwrap();
            assert_eq!(values(&target, BACKBONE), values(&saved, BACKBONE));
            assert_eq!(values(&target, "projector."), head_before);
            assert_eq!((report.prefix.as_str(), report.left_out), (prefix, vec![head.to_owned()]));
            assert_eq!(report.loaded, values(&saved, BACKBONE).len());
        }
    }

    #[test]
    fn a_file_of_another_backbone_changes_nothing_and_every_tensor_is_named() {
        let target = encoder("resnet18", 4, 2);
        let before = values(&target, "");
        let file = save(&encoder("resnet18", 4, 1), |name| match name {
            "backbone.bn1.weight" => None,
            "backbone.bn1.bias" => Some("backbone.bn1.shift".to_owned()),
            name => Some(name.to_owned()),
        });
        let message = load_backbone(file.path(), &target).unwrap_err().to_string();
        let path = file.path().display().to_string();
        assert!(message.starts_with(&path), "{message}");
        for part in ["2 missing: bn1.weight, bn1.bias", "1 unexpected: bn1.shift"] {
            assert!(message.contains(part), "{message}");
        }
        let file = save(&encoder("resnet18", 5, 1), |name| Some(name.to_owned()));
        let message = load_backbone(file.path(), &target).unwrap_err().to_string();
        let shape = "conv1.weight is [5, 3, 3, 3] where the backbone has [4, 3, 3, 3]";
        assert!(message.contains(shape) && message.contains("more"), "{message}");
        let file = save(&encoder("resnet34", 4, 1), |name| Some(name.to_owned()));
        let message = load_backbone(file.path(), &target).unwrap_err().to_string();
        assert!(message.contains("unexpected: layer1.2.bn1.bias"), "{message}");
        assert_eq!(values(&target, ""), before);
    }

    fn transformer(image_size: u64, seed: u64) -> Encoder {
        let text = format!(
            "backbone = \"vit-tiny\"\nprojector = [{{ width = 3 }}]
             vision_transformer = {{ image_size = {image_size}, patch_size = 4, depth = 1, \
             width = 8, heads = 2 }}"
        );
        Encoder::new(&toml::from_str(&text).unwrap(), seed, Device::Cpu, Kind::Float).unwrap()
    }

    /// A checkpoint for larger images computes for smaller ones what it would have computed itself.
    #[test]
    fn position_embeddings_of_another_image_size_are_resampled() {
        let saved = transformer(20, 1);
        let file = save(&saved, |name| Some(name.to_owned()));
        let target = transformer(12, 2);
        let report = load_backbone(file.path(), &target).unwrap();
        assert_eq!(report.resampled, Some([5, 3]));
        let images = Tensor::randn([2, 3, 12, 12], tch::kind::FLOAT_CPU);
        let (got, expected) = (target.extract(&images).unwrap(), saved.extract(&images).unwrap());
        assert!(got.allclose(&expected, 1e-6, 1e-6, false));
        assert_eq!(load_backbone(file.path(), &transformer(20, 2)).unwrap().resampled, None);
        let file = save(&saved, |name| match name {
            "backbone.norm.weight" => Some("backbone.reg_token".to_owned()),
            name => Some(name.to_owned()),
        });
        let message = load_backbone(file.path(), &target).unwrap_err().to_string();
        assert!(message.contains("1 missing: norm.weight"), "{message}");
        assert!(message.contains("1 unexpected: reg_token"), "{message}");
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let target = encoder("resnet18", 4, 2);
        let file = save(&target, |name| Some(name.to_owned()));
        let bytes = std::fs::read(file.path()).unwrap();
        for cut in [0, 7, 100, bytes.len() - 1] {
            std::fs::write(file.path(), &bytes[..cut]).unwrap();
            let message = load_backbone(file.path(), &target).unwrap_err().to_string();
            assert!(message.contains("cut short"), "{message}");
        }
        let gone = Path::new("no-such.safetensors");
        let message = load_backbone(gone, &target).unwrap_err().to_string();
        assert!(message.starts_with("no-such.safetensors: "), "{message}");
    }
}
