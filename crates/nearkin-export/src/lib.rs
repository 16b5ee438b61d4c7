//! Weights to other tools, and weights from them.
//!
//! An encoder is pretrained in order to be used elsewhere, and elsewhere is torchvision, timm or an
//! ONNX runtime; what is to be compared or continued comes from there as well. Names of tensors are
//! torchvision's and timm's already (see `nearkin-model`), so an export is a matter of containers and
//! of the facts that must travel along: the sizes of the network and how images are prepared for it.
//! An import reads what a dozen code bases wrote. Checkpoints of PyTorch are Python programs; they are
//! read here without running anything.

mod error;
mod import;
mod onnx;
mod pickle;
mod preprocessing;
mod tensors;
mod timm;
mod torch_file;
mod torchvision;
mod zip;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use nearkin_model::Encoder;
use nearkin_recipe::Recipe;
use nearkin_report::write_atomically;

pub use error::{ExportError, ImportError};
pub use import::{ImportOptions, Imported, import};
pub use preprocessing::Preprocessing;

use crate::tensors::NamedTensors;

/// A form in which others read a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `model.safetensors` with torchvision's names, and `model.py`, which builds the network.
    Torchvision,
    /// The folder that `timm.create_model("local-dir:...")` reads.
    Timm,
    /// `model.onnx`, from images to features, for batches of any size.
    Onnx,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "torchvision" => Ok(Self::Torchvision),
            "timm" => Ok(Self::Timm),
            "onnx" => Ok(Self::Onnx),
            _ => Err("give torchvision, timm or onnx".to_owned()),
        }
    }
}

/// What an export wrote.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Lines of Python that use them.
    pub usage: String,
}

/// Writes the backbone of an encoder, which was built from `recipe`, into `folder`. Files of the same
/// names are replaced, each in one step.
pub fn export(
    encoder: &Encoder,
    recipe: &Recipe,
    format: Format,
    folder: &Path,
) -> Result<Exported, ExportError> {
    let preprocessing = Preprocessing::of(recipe)?;
    let weights = NamedTensors::of_backbone(encoder)?;
    let model = &recipe.model;
    let (contents, usage) = match format {
        Format::Torchvision => torchvision::files(&weights, model, &preprocessing, folder)?,
        Format::Timm => timm::files(&weights, model, &preprocessing, folder)?,
        Format::Onnx => onnx::files(&weights, model, &preprocessing, folder),
    };
    std::fs::create_dir_all(folder)
        .map_err(|source| ExportError::Folder { path: folder.to_owned(), source })?;
    let mut files = Vec::with_capacity(contents.len());
    for (name, bytes) in contents {
        let path = folder.join(name);
        write_atomically(&path, |file| std::io::Write::write_all(file, &bytes))?;
        files.push(path);
    }
    Ok(Exported { files, usage })
}

/// Names and contents of files, and how they are used.
type Files = (Vec<(&'static str, Vec<u8>)>, String);
