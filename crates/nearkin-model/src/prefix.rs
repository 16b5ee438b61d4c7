//! Where in a file of tensors a backbone is.
//!
//! Everybody has the same backbones under the same names, and puts something else before them:
//! `module.encoder_q.`, `backbone.`, `trunk.`. So the backbone itself is looked for, a prefix below which
//! there are its first and its typical tensors.

use std::collections::BTreeMap;

use tch::Tensor;

/// Parts of prefixes of momentum encoders.
const MOMENTUM: [&str; 4] = ["momentum", "encoder_k", "teacher", "target"];

/// Which backbone of a file is wanted.
#[derive(Clone, Debug, Default)]
pub struct BackboneChoice {
    /// The prefix of its tensors, for files with several backbones.
    pub prefix: Option<String>,
    /// The momentum encoder (key encoder, teacher) rather than the trained one.
    pub momentum_encoder: bool,
}

/// The prefixes below which there are backbones, in the order of their names.
pub(crate) fn backbone_prefixes(tensors: &BTreeMap<String, Tensor>) -> Vec<&str> {
    tensors.keys().filter_map(|name| backbone_prefix(tensors, name)).collect()
}

/// The one prefix below which there is a backbone of the kind that is wanted, or why there is none.
pub fn find_backbone(
    tensors: &BTreeMap<String, Tensor>,
    choice: &BackboneChoice,
) -> Result<String, String> {
    let found = backbone_prefixes(tensors);
    let listed = |prefixes: &[&str]| {
        let quoted: Vec<String> = prefixes.iter().map(|prefix| format!("`{prefix}`")).collect();
        quoted.join(", ")
    };
    if let Some(prefix) = &choice.prefix {
        return match found.contains(&prefix.as_str()) {
            true => Ok(prefix.clone()),
            false if found.is_empty() => Err("no backbone was found in it".to_owned()),
            false => Err(format!("no backbone below `{prefix}`, but below {}", listed(&found))),
        };
    }
    let is_momentum = |prefix: &&str| MOMENTUM.iter().any(|part| prefix.contains(part));
    let wanted: Vec<&str> = found
        .iter()
        .copied()
        .filter(|prefix| is_momentum(prefix) == choice.momentum_encoder)
        .collect();
    match (wanted.as_slice(), found.as_slice()) {
        ([prefix], _) => Ok((*prefix).to_owned()),
        ([], [prefix]) if !choice.momentum_encoder => Ok((*prefix).to_owned()),
        ([], []) => {
            let names: Vec<&str> = tensors.keys().map(String::as_str).take(6).collect();
            Err(format!(
                "no ResNet or vision transformer was found among its {} tensors ({}, ...)",
                tensors.len(),
                names.join(", ")
            ))
        }
        ([], found) => {
            let which =
                if choice.momentum_encoder { "momentum encoder" } else { "trained encoder" };
            Err(format!("no {which}, but backbones below {}", listed(found)))
        }
        (several, _) => {
            Err(format!("several backbones; give --prefix, one of {}", listed(several)))
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

/// Gives the modules of a ResNet in a `Sequential` (lightly), which have numbers for names, their names.
pub fn name_modules(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) {
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
