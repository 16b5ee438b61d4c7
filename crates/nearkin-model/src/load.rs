//! Weights of an encoder from a file of named tensors: the one way in which every command reads them.
//!
//! Pretraining, evaluation and export all begin with "these weights, that network", and the mistake
//! is always the same: a file of another network, or of the right one under other names. So a file
//! is compared with the network as a whole before anything is copied, and an error names all tensors
//! that do not fit, not the first.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::prefix::{BackboneChoice, backbone_prefixes, find_backbone, name_modules};
use crate::sizes::Sizes;
use crate::vit::resample_positions;
use crate::{Encoder, Weights, WeightsError};

/// What a file of weights was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors of the backbone, which were copied into the network.
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
    /// The types, other than float32, of tensors that were converted, with how many.
    pub converted: BTreeMap<&'static str, usize>,
    /// The projector, if it was asked for.
    pub projector: ProjectorFound,
}

/// Whether a file has the projector of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProjectorFound {
    /// It was not asked for.
    #[default]
    Ignored,
    /// It was copied into the network.
    Loaded,
    /// It is missing or another one: what does not fit.
    Other(String),
}

impl Report {
    /// What was changed about the weights on the way into the network, one line each.
    pub fn changes(&self) -> Vec<String> {
        let resampled = self.resampled.map(|[before, after]| {
            format!(
                "position embeddings resampled from {before} x {before} to {after} x {after} patches"
            )
        });
        let converted = self
            .converted
            .iter()
            .map(|(kind, count)| format!("{count} tensors converted from {kind} to float32"));
        resampled.into_iter().chain(converted).collect()
    }
}

/// The prefix of a backbone's tensors in an encoder and its files.
pub const BACKBONE: &str = "backbone.";
const PROJECTOR: &str = "projector.";

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

/// Copies the backbone of a safetensors file into an encoder; projector and predictor stay. The
/// names are nearkin's (`backbone.conv1.weight`, as in checkpoints and imported files), those of
/// torchvision and timm (`conv1.weight`), or these below any other prefix. Heads beside them are left
/// out. Numbers of any precision are read.
///
/// Nothing is copied unless every tensor of the backbone is there with its shape and none is left
/// over; the error lists those that are missing, unexpected or of another shape, and names the keys of
/// `[model]` that differ. Position embeddings for images of another size are resampled.
pub fn load_backbone(path: &Path, encoder: &Encoder) -> Result<Report, WeightsError> {
    load(path, encoder, Parts::Backbone)
}

/// The same, and the projector if the file has that of the network; the report says whether.
pub fn load_encoder(path: &Path, encoder: &Encoder) -> Result<Report, WeightsError> {
    load(path, encoder, Parts::WithProjector)
}

/// What is wanted of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    Backbone,
    WithProjector,
}

fn load(path: &Path, encoder: &Encoder, parts: Parts) -> Result<Report, WeightsError> {
    let mut weights = Weights::read(path)?;
    let prefix = match find_backbone(&weights.tensors, &BackboneChoice::default()) {
        Ok(prefix) => prefix,
        Err(reason) if backbone_prefixes(&weights.tensors).len() > 1 => {
            let reason =
                format!("{reason}\nhint: nearkin import FILE --prefix PREFIX takes one of them");
            return Err(WeightsError::Damaged { path: path.to_owned(), reason });
        }
        // The comparison below says what is missing.
        Err(_) if weights.tensors.keys().any(|name| name.starts_with(BACKBONE)) => {
            BACKBONE.to_owned()
        }
        Err(_) => String::new(),
    };
    name_modules(&mut weights.tensors, &prefix);
    fill(path, weights, &prefix, encoder, parts)
}

/// Copies the backbone of weights that were read already, from a file at `path`: the tensors below
/// `prefix`. See [`load_backbone`].
pub fn fill_backbone(
    path: &Path,
    weights: Weights,
    prefix: &str,
    encoder: &Encoder,
) -> Result<Report, WeightsError> {
    fill(path, weights, prefix, encoder, Parts::Backbone)
}

fn fill(
    path: &Path,
    weights: Weights,
    prefix: &str,
    encoder: &Encoder,
    parts: Parts,
) -> Result<Report, WeightsError> {
    let mut report = Report { prefix: prefix.to_owned(), ..Report::default() };
    let (mut found, mut others) = (BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in weights.tensors {
        if name.ends_with(COUNTER) {
            continue;
        }
        match name.strip_prefix(prefix).filter(|bare| is_of_a_backbone(bare)) {
            Some(bare) => drop(found.insert(bare.to_owned(), tensor)),
            None => drop(others.insert(name, tensor)),
        }
    }
    let file = Sizes::new(|name| found.get(name).map(Tensor::size));
    let mut comparison = Comparison::default();
    for (name, kind) in &weights.unread {
        if let Some(bare) = name.strip_prefix(prefix).filter(|bare| is_of_a_backbone(bare)) {
            comparison.shapes.push(format!("{bare} is of type {kind}, which is not read"));
        }
    }
    let mut copies = Copies::default();
    for entry in encoder.parameters() {
        let Some(name) = entry.name.strip_prefix(BACKBONE) else { continue };
        let Some(value) = found.remove(name) else {
            comparison.missing.push(name.to_owned());
            continue;
        };
        match fit(name, &value, &entry.tensor.size())? {
            Fit::Same => copies.add(name, &entry.tensor, value),
            Fit::Resampled(value, grids) => {
                report.resampled = Some(grids);
                copies.add(name, &entry.tensor, value);
            }
            Fit::Not(problem) => comparison.shapes.push(problem),
        }
    }
    comparison.unexpected.extend(found.into_keys());
    if let Some(problems) = comparison.problems() {
        let network = Sizes::new(|name| {
            let full = format!("{BACKBONE}{name}");
            let entry = encoder.parameters().iter().find(|entry| entry.name == full)?;
            Some(entry.tensor.size())
        });
        let (differing, hint) = match (&file, &network) {
            (Some(file), Some(network)) => {
                let differing = file.differing(network);
                let hint = file.hint(&differing);
                (differing, hint)
            }
            _ => (Vec::new(), None),
        };
        let hint = shard_hint(path).or(hint);
        return Err(WeightsError::Mismatch { path: path.to_owned(), problems, differing, hint });
    }
    report.loaded = copies.0.len();
    if parts == Parts::WithProjector {
        report.projector = match projector(&mut others, encoder)? {
            Ok(more) => {
                copies.0.extend(more.0);
                ProjectorFound::Loaded
            }
            Err(problem) => ProjectorFound::Other(problem),
        };
    }
    report.left_out = others.into_keys().collect();
    report.converted = copies.converted();
    copies.check(path)?;
    copies.make()?;
    Ok(report)
}

/// The copies that load the projector, which take their tensors out of `others`; or what does not fit.
fn projector(
    others: &mut BTreeMap<String, Tensor>,
    encoder: &Encoder,
) -> Result<Result<Copies, String>, WeightsError> {
    let mut copies = Copies::default();
    for entry in encoder.parameters().iter().filter(|entry| entry.name.starts_with(PROJECTOR)) {
        let name = &entry.name;
        let Some(value) = others.get(name) else {
            return Ok(Err(format!("{name} is missing")));
        };
        match fit(name, value, &entry.tensor.size())? {
            Fit::Same => copies.add(name, &entry.tensor, value.shallow_clone()),
            Fit::Not(problem) => return Ok(Err(problem)),
            Fit::Resampled(..) => return Ok(Err(format!("{name} has another shape"))),
        }
    }
    copies.0.iter().for_each(|copy| drop(others.remove(&copy.name)));
    // A longer projector that begins as the network's does is another one.
    if let Some(name) = others.keys().find(|name| name.starts_with(PROJECTOR)) {
        return Ok(Err(format!("{name} is not expected")));
    }
    Ok(Ok(copies))
}

/// How a tensor of a file goes into one of the network.
enum Fit {
    Same,
    /// Position embeddings, with the patches along a side before and after.
    Resampled(Tensor, [i64; 2]),
    /// Not at all, for this reason.
    Not(String),
}

fn fit(name: &str, value: &Tensor, expected: &[i64]) -> Result<Fit, WeightsError> {
    let given = value.size();
    if !value.is_floating_point() {
        return Ok(Fit::Not(format!(
            "{name} holds integers ({:?}), and quantized weights are not read",
            value.kind()
        )));
    }
    if given == expected {
        return Ok(Fit::Same);
    }
    let other = format!("{name} is {given:?} where the network has {expected:?}");
    let (&[1, tokens, width], &[1, wanted, same]) = (&given[..], expected) else {
        return Ok(Fit::Not(other));
    };
    if name != "pos_embed" || width != same {
        return Ok(Fit::Not(other));
    }
    let side = |patches: i64| patches.checked_isqrt().filter(|side| side * side == patches);
    match (side(tokens - 1), side(wanted - 1)) {
        (Some(before), Some(after)) if before > 0 => {
            // Half precision has too few digits to add up weights of an interpolation.
            let value = value.f_to_kind(Kind::Float)?;
            Ok(Fit::Resampled(resample_positions(&value, [after; 2])?, [before, after]))
        }
        _ if side(tokens).is_some() => Ok(Fit::Not(format!(
            "{name} has {tokens} tokens and none of them for the class token, which the backbone needs"
        ))),
        _ => Ok(Fit::Not(format!(
            "{name} has 1 + {} tokens, which are not the patches of a square image; others are not \
             supported",
            tokens - 1
        ))),
    }
}

/// What is copied where, once all of it is known to fit.
#[derive(Default)]
struct Copies(Vec<Copy>);

struct Copy {
    name: String,
    target: Tensor,
    value: Tensor,
}

impl Copies {
    fn add(&mut self, name: &str, target: &Tensor, value: Tensor) {
        self.0.push(Copy { name: name.to_owned(), target: target.shallow_clone(), value });
    }

    /// Tensors by their type, other than that of a network.
    fn converted(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for copy in &self.0 {
            let kind = match copy.value.kind() {
                Kind::Half => "float16",
                Kind::BFloat16 => "bfloat16",
                Kind::Double => "float64",
                _ => continue,
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    /// Refuses values that are not finite.
    fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let mut names = Vec::new();
        for Copy { name, target, value } in &self.0 {
            // As the network has them: a large float64 is infinite in float32.
            let is_finite = value.f_to_kind(target.kind())?.f_isfinite()?.f_all()?;
            if !bool::try_from(is_finite)? {
                names.push(name.as_str());
            }
        }
        let verb = if names.len() == 1 { "has values that are" } else { "have values that are" };
        if names.is_empty() {
            Ok(())
        } else {
            Err(WeightsError::NotFinite {
                path: path.to_owned(),
                names: format!("{} {verb}", listed(&names, ", ")),
            })
        }
    }

    fn make(self) -> Result<(), WeightsError> {
        tch::no_grad(|| {
            self.0.into_iter().try_for_each(|mut copy| copy.target.f_copy_(&copy.value))
        })?;
        Ok(())
    }
}

fn is_of_a_backbone(name: &str) -> bool {
    name.split('.').next().is_some_and(|first| TRUNK.contains(&first))
}

/// What to do if a file is by its name one of several with the parts of a model.
fn shard_hint(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = rest.rsplit_once('-')?.1;
    (is_number(count) && is_number(number)).then(|| {
        "by its name the file is one of several parts; in Python, load them with \
         safetensors.torch.load_file and save all their tensors in one file with save_file"
            .to_owned()
    })
}

/// The first names, and how many more there are.
fn listed(names: &[impl AsRef<str>], separator: &str) -> String {
    let named: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(separator))
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
            ("of another shape or type", &self.shapes, "; "),
        ];
        let differing = kinds.iter().filter(|(_, names, _)| !names.is_empty());
        let texts: Vec<String> = differing
            .map(|(what, names, separator)| {
                format!("{} {what}: {}", names.len(), listed(names, separator))
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
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
        let tensors = encoder
            .parameters()
            .iter()
            .filter_map(|entry| Some((rename(&entry.name)?, entry.tensor.detach())));
        save_tensors(&tensors.collect::<Vec<_>>())
    }

    /// A file of tensors in their own types.
    fn save_tensors(tensors: &[(String, Tensor)]) -> tempfile::NamedTempFile {
        let contents: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(name, tensor)| {
                let (dtype, width) = match tensor.kind() {
                    Kind::Half => (Dtype::F16, 2),
                    Kind::BFloat16 => (Dtype::BF16, 2),
                    Kind::Float => (Dtype::F32, 4),
                    Kind::Double => (Dtype::F64, 8),
                    // Nearkin does not know the numbers of this type.
                    Kind::Uint8 => (Dtype::F8_E4M3, 1),
                    Kind::Int8 => (Dtype::I8, 1),
                    other => panic!("{other:?}"),
                };
                let mut bytes = vec![0; tensor.numel() * width];
                tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
                let shape = tensor.size().iter().map(|&side| side as usize).collect();
                (name.as_str(), dtype, shape, bytes)
            })
            .collect();
        let views = contents.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
        file
    }

    /// The named tensors of an encoder, to be changed before they are saved.
    fn tensors(encoder: &Encoder) -> Vec<(String, Tensor)> {
        let named = encoder.parameters().named().into_iter();
        named.map(|(name, tensor)| (name, tensor.detach().copy())).collect()
    }

    fn refusal(file: &tempfile::NamedTempFile, target: &Encoder) -> String {
        let before = values(target, "");
        let message = load_encoder(file.path(), target).unwrap_err().to_string();
        assert!(message.starts_with(&file.path().display().to_string()), "{message}");
        assert_eq!(values(target, ""), before, "a refused file changes nothing");
        message
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
        let shape = "conv1.weight is [5, 3, 3, 3] where the network has [4, 3, 3, 3]";
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
    fn numbers_of_any_precision_are_read_and_counted() {
        let saved = encoder("resnet18", 4, 1);
        for (kind, name) in
            [(Kind::Half, "float16"), (Kind::BFloat16, "bfloat16"), (Kind::Double, "float64")]
        {
            let converted = tensors(&saved).into_iter();
            let converted: Vec<_> =
                converted.map(|(name, tensor)| (name, tensor.to_kind(kind))).collect();
            let file = save_tensors(&converted);
            let target = encoder("resnet18", 4, 2);
            let report = load_encoder(file.path(), &target).unwrap();
            for ((_, expected), got) in converted.iter().zip(values(&target, "")) {
                assert_eq!(got, expected.to_kind(Kind::Float));
            }
            assert_eq!(report.projector, ProjectorFound::Loaded);
            let said = format!("{} tensors converted from {name} to float32", converted.len());
            assert_eq!(report.changes(), [said]);
        }
        let file = save(&saved, |name| Some(name.to_owned()));
        assert!(
            load_encoder(file.path(), &encoder("resnet18", 4, 2)).unwrap().changes().is_empty()
        );
    }

    /// Half precision would round the sums of an interpolation.
    #[test]
    fn positions_in_half_precision_are_resampled_in_single_precision() {
        let saved = transformer(20, 1);
        let halved = |(name, tensor): (String, Tensor)| (name, tensor.to_kind(Kind::Half));
        let file = save_tensors(&tensors(&saved).into_iter().map(halved).collect::<Vec<_>>());
        let target = transformer(12, 2);
        let report = load_encoder(file.path(), &target).unwrap();
        assert_eq!(report.resampled, Some([5, 3]));
        assert_eq!(report.changes().len(), 2);
        let positions = &values(&saved, "backbone.pos_embed")[0];
        let halved = positions.to_kind(Kind::Half).to_kind(Kind::Float);
        let expected = resample_positions(&halved, [3, 3]).unwrap();
        assert!(values(&target, "backbone.pos_embed")[0].allclose(&expected, 0.0, 1e-7, false));
    }

    #[test]
    fn values_that_are_not_finite_are_refused_by_name() {
        let target = encoder("resnet18", 4, 2);
        let spoil = |spoiled: &str, value: f64, kind: Kind| {
            let mut tensors = tensors(&encoder("resnet18", 4, 1));
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == spoiled).unwrap();
            *tensor = tensor.to_kind(kind).contiguous();
            let _ = tensor.view([-1]).get(1).fill_(value);
            save_tensors(&tensors)
        };
        for (name, value, kind) in [
            ("backbone.layer2.0.bn1.running_var", f64::NAN, Kind::Float),
            ("backbone.conv1.weight", f64::INFINITY, Kind::Half),
            // Infinite in single precision.
            ("backbone.layer1.0.conv1.weight", 1e300, Kind::Double),
        ] {
            let message = refusal(&spoil(name, value, kind), &target);
            let bare = name.strip_prefix(BACKBONE).unwrap();
            let said = format!("{bare} has values that are not finite (NaN or infinite)");
            assert!(message.contains(&said), "{message}");
        }
        // The projector is not looked at where it is not wanted.
        let file = spoil("projector.0.weight", f64::NAN, Kind::Float);
        assert!(refusal(&file, &target).contains("projector.0.weight has values"));
        load_backbone(file.path(), &target).unwrap();
    }

    #[test]
    fn a_backbone_is_found_below_any_prefix_unless_there_are_several() {
        let saved = encoder("resnet18", 4, 1);
        for prefix in ["module.", "module.encoder_q.", "model.backbone.", "student.backbone."] {
            let file =
                save(&saved, |name| Some(format!("{prefix}{}", name.strip_prefix(BACKBONE)?)));
            let target = encoder("resnet18", 4, 2);
            let report = load_encoder(file.path(), &target).unwrap();
            assert_eq!(report.prefix, prefix);
            assert!(matches!(report.projector, ProjectorFound::Other(_)), "{report:?}");
            assert_eq!(values(&target, BACKBONE), values(&saved, BACKBONE));
        }
        let both = |prefixes: [&str; 2]| {
            let below = |prefix: &str| {
                let bare = |(name, tensor): (String, Tensor)| {
                    Some((format!("{prefix}{}", name.strip_prefix(BACKBONE)?), tensor))
                };
                tensors(&saved).into_iter().filter_map(bare).collect::<Vec<_>>()
            };
            save_tensors(&prefixes.into_iter().flat_map(below).collect::<Vec<_>>())
        };
        let target = encoder("resnet18", 4, 2);
        let file = both(["encoder_k.", "encoder_q."]);
        assert_eq!(load_encoder(file.path(), &target).unwrap().prefix, "encoder_q.");
        let message = refusal(&both(["one.", "two."]), &target);
        assert!(message.contains("several backbones; give --prefix, one of `one.`, `two.`"));
        assert!(message.ends_with("hint: nearkin import FILE --prefix PREFIX takes one of them"));
    }

    type Change<'a> = &'a dyn Fn(&mut Vec<(String, Tensor)>);

    #[test]
    fn a_projector_is_loaded_if_it_is_that_of_the_network() {
        let saved = encoder("resnet18", 4, 1);
        let target = encoder("resnet18", 4, 2);
        let found = |change: Change<'_>| {
            let mut tensors = tensors(&saved);
            change(&mut tensors);
            load_encoder(save_tensors(&tensors).path(), &target).unwrap()
        };
        let report = found(&|_| {});
        assert_eq!((report.projector, report.left_out.len()), (ProjectorFound::Loaded, 0));
        assert_eq!(values(&target, ""), values(&saved, ""));
        let other = |change: Change<'_>, said: &str| {
            let report = found(change);
            assert_eq!(report.projector, ProjectorFound::Other(said.to_owned()));
            assert!(!report.left_out.is_empty() || said.contains("missing"));
        };
        let zeros = |shape: &[i64]| Tensor::zeros(shape, tch::kind::FLOAT_CPU);
        other(
            &|tensors| tensors.retain(|(name, _)| !name.starts_with(PROJECTOR)),
            "projector.0.weight is missing",
        );
        other(
            &|tensors| tensors.last_mut().unwrap().1 = zeros(&[7, 32]),
            "projector.0.weight is [7, 32] where the network has [3, 32]",
        );
        other(
            &|tensors| tensors.push(("projector.2.weight".to_owned(), zeros(&[1]))),
            "projector.2.weight is not expected",
        );
    }

    fn hint(message: &str) -> &str {
        message.split_once("\nhint: ").map_or("", |(_, hint)| hint)
    }

    #[test]
    fn the_keys_of_the_model_that_differ_are_named() {
        let file = |encoder: &Encoder| save(encoder, |name| Some(name.to_owned()));
        let resnet = |keys: &str| {
            let text = format!("projector = []\n{keys}");
            Encoder::new(&toml::from_str(&text).unwrap(), 1, Device::Cpu, Kind::Float).unwrap()
        };
        let imagenet = resnet("backbone = \"resnet34\"\nstem = \"imagenet\"\nbase_width = 8");
        let cifar = encoder("resnet18", 8, 2);
        assert_eq!(
            hint(&refusal(&file(&imagenet), &cifar)),
            "in the recipe's [model], set backbone = \"resnet34\", stem = \"imagenet\""
        );
        assert_eq!(
            hint(&refusal(&file(&cifar), &encoder("resnet18", 4, 2))),
            "in the recipe's [model], set base_width = 8"
        );
        assert_eq!(
            hint(&refusal(&file(&transformer(12, 1)), &cifar)),
            "in the recipe's [model], set backbone = \"vit-tiny\", vision_transformer.width = 8, \
             vision_transformer.patch_size = 4, vision_transformer.depth = 1, and \
             vision_transformer.heads as the network was trained"
        );
        let deeper = resnet(
            "backbone = \"vit-tiny\"\nvision_transformer = { image_size = 16, patch_size = 8, \
             depth = 2, width = 8, heads = 2 }",
        );
        assert_eq!(
            hint(&refusal(&file(&deeper), &transformer(12, 1))),
            "in the recipe's [model], set vision_transformer.patch_size = 8, \
             vision_transformer.depth = 2"
        );
        // A network that no recipe has, and names that say nothing about one.
        let mut longer = tensors(&cifar);
        let block = |(name, tensor): &(String, Tensor)| {
            let rest = name.strip_prefix("backbone.layer3.1.")?;
            Some((format!("backbone.layer3.2.{rest}"), tensor.shallow_clone()))
        };
        let more: Vec<_> = longer.iter().filter_map(block).collect();
        longer.extend(more);
        let message = refusal(&save_tensors(&longer), &cifar);
        let said = "the file holds a ResNet of 2-2-3-2 basic blocks with 8 inner channels in the first, \
                    which nearkin does not have";
        assert_eq!(hint(&message), said);
        let message = refusal(&save(&cifar, |name| Some(name.replace("conv1", "first"))), &cifar);
        assert!(
            message.contains("missing: conv1.weight") && hint(&message).is_empty(),
            "{message}"
        );
    }

    #[test]
    fn positions_of_other_than_square_images_are_refused_with_the_reason() {
        let target = transformer(12, 2);
        let with_tokens = |tokens: i64| {
            let mut tensors = tensors(&transformer(12, 1));
            let (_, tensor) =
                tensors.iter_mut().find(|(name, _)| name.ends_with("pos_embed")).unwrap();
            *tensor = Tensor::zeros([1, tokens, 8], tch::kind::FLOAT_CPU);
            save_tensors(&tensors)
        };
        for (tokens, said) in [
            (
                1 + 14 * 7,
                "pos_embed has 1 + 98 tokens, which are not the patches of a square image",
            ),
            (16, "pos_embed has 16 tokens and none of them for the class token"),
            (1, "pos_embed has 1 tokens and none of them for the class token"),
        ] {
            let message = refusal(&with_tokens(tokens), &target);
            assert!(message.contains(said), "{message}");
        }
        load_encoder(with_tokens(1 + 49).path(), &target).unwrap();
    }

    #[test]
    fn other_types_are_refused_in_the_backbone_and_left_out_beside_it() {
        let saved = encoder("resnet18", 4, 1);
        let target = encoder("resnet18", 4, 2);
        let with = |name: &str, kind: Kind| {
            let mut tensors = tensors(&saved);
            tensors.retain(|(other, _)| other != name);
            tensors.push((name.to_owned(), Tensor::zeros([4, 3, 3, 3], (kind, Device::Cpu))));
            save_tensors(&tensors)
        };
        let message = refusal(&with("backbone.conv1.weight", Kind::Int8), &target);
        assert!(message.contains("conv1.weight holds integers (Int8), and quantized"), "{message}");
        let message = refusal(&with("backbone.conv1.weight", Kind::Uint8), &target);
        assert!(
            message.contains("conv1.weight is of type F8_E4M3, which is not read"),
            "{message}"
        );
        for kind in [Kind::Int8, Kind::Uint8] {
            load_encoder(with("queue", kind).path(), &target).unwrap();
        }
    }

    #[test]
    fn files_of_other_formats_are_refused_with_what_to_do() {
        let target = encoder("resnet18", 4, 2);
        let folder = tempfile::tempdir().unwrap();
        let index = b"{\n  \"metadata\": {\"total_size\": 4},\n  \"weight_map\": {\"a\": \"b\"}\n}";
        for (content, said) in [
            (&b"PK\x03\x04rest"[..], "nearkin import FILE --backbone NAME"),
            (b"\x80\x02\x8a\x0a", "nearkin import FILE --backbone NAME"),
            (index, "is the index of weights in several files"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"other", "not a safetensors file, or cut short"),
        ] {
            let path = folder.path().join("weights.safetensors");
            std::fs::write(&path, content).unwrap();
            let message = load_encoder(&path, &target).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        let part = folder.path().join("model-00001-of-00002.safetensors");
        let half = save(&target, |name| (!name.contains("layer4")).then(|| name.to_owned()));
        std::fs::copy(half.path(), &part).unwrap();
        let message = load_encoder(&part, &target).unwrap_err().to_string();
        assert!(
            hint(&message).starts_with("by its name the file is one of several parts"),
            "{message}"
        );
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
