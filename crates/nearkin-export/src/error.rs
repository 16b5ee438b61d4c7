//! Why weights cannot go out or come in.

use std::path::PathBuf;

use nearkin_augment::ViewError;
use nearkin_model::WeightsError;
use nearkin_report::ReportError;
use tch::TchError;

/// Why an encoder cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The other tool has no such network.
    #[error("{reason}")]
    Unsupported {
        /// What is missing there, and which format has it.
        reason: String,
    },
    /// The recipe's view of evaluation is not valid.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The folder cannot be made.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] ReportError),
    /// Tensors cannot be put into a safetensors file.
    #[error("cannot write safetensors: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Tensor(#[from] TchError),
}

/// Why weights cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is damaged, or not what it seems to be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        reason: String,
    },
    /// The way to the tensors leads through a call of code, which is never made.
    #[error(
        "{}: {at} is made by calling `{global}`, and code in a checkpoint is never run; open it where \
         you trust it and save the plain tensors: torch.save(model.state_dict(), \"weights.pth\")",
        path.display()
    )]
    Code {
        /// The file.
        path: PathBuf,
        /// What would have to be made.
        at: String,
        /// Module and name of what would be called.
        global: String,
    },
    /// No backbone, or more than one, was recognised.
    #[error("{}: {reason}", path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The options do not describe a backbone.
    #[error("{0}")]
    Options(String),
    /// The tensors do not fit the backbone, or the file is a damaged safetensors file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] ExportError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Tensor(#[from] TchError),
}
