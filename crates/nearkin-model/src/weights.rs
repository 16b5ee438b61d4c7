//! Files of named tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, TchError, Tensor};

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a safetensors file, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tensors are not those of the network.
    #[error(
        "{}: these are not the weights of this backbone: {problems}{}",
        path.display(),
        hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"))
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensors that are missing, unexpected or of another shape.
        problems: String,
        /// Keys of `[model]` that differ, with what the file holds.
        differing: Vec<(&'static str, String)>,
        /// What to do, if that is known.
        hint: Option<String>,
    },
    /// Some values are NaN or infinite.
    #[error(
        "{}: {names} not finite (NaN or infinite), so the encoder's features are not finite: it has \
         diverged, or the file is damaged",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensors.
        names: String,
    },
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TchError),
}

/// A file of named tensors.
#[derive(Debug, Default)]
pub struct Weights {
    /// Tensors on the CPU by name, of the kind in which they were saved.
    pub tensors: BTreeMap<String, Tensor>,
    /// The types of tensors whose numbers libtorch does not know.
    pub unread: BTreeMap<String, String>,
    /// What the file says about itself.
    pub metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Reads a safetensors file.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = std::fs::read(path)
            .map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes, path)
    }

    /// Reads the bytes of a safetensors file; errors name `path`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, WeightsError> {
        let damaged = |reason| WeightsError::Damaged { path: path.to_owned(), reason };
        let unreadable = |error| damaged(not_safetensors(bytes, &error));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let (mut tensors, mut unread) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.iter() {
            let Some(kind) = kind(view.dtype()) else {
                unread.insert(name.to_owned(), format!("{:?}", view.dtype()));
                continue;
            };
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Self { tensors, unread, metadata })
    }
}

/// What a file is that is not a safetensors file, and what to do about it.
fn not_safetensors(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    // A zip archive, or a pickle of protocol 2 or later.
    let has_header = bytes.get(8) == Some(&b'{');
    if bytes.starts_with(b"PK\x03\x04") || (bytes.starts_with(&[0x80]) && !has_header) {
        return "is a checkpoint of PyTorch, not a safetensors file\nhint: convert it with nearkin \
                import FILE --backbone NAME --out FILE.safetensors"
            .to_owned();
    }
    let begin = &bytes[..bytes.len().min(1 << 16)];
    if bytes.starts_with(b"{") && begin.windows(12).any(|window| window == b"\"weight_map\"") {
        return "is the index of weights in several files, which are not read\nhint: in Python, load \
                these files with safetensors.torch.load_file and save all their tensors in one file \
                with save_file"
            .to_owned();
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return "is a Git LFS pointer, not the file itself\nhint: fetch it with git lfs pull"
            .to_owned();
    }
    format!("not a safetensors file, or cut short: {error}")
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
