//! The one error type of the crate, so that every message names the file it is about.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while a run's files are written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Another process trains the run.
    #[error("{} is being trained by another process; wait for it or stop it", path.display())]
    Busy {
        /// The run folder.
        path: PathBuf,
    },
    /// A file or folder could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file or folder could not be created or written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A line of a metrics file, or a whole JSON file, is not what its format asks for.
    #[error("{}, line {line}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A new run would overwrite another.
    #[error(
        "{} already holds a run: choose another folder with `--out`, or continue that run with `--resume`",
        path.display()
    )]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of a run has lost its recipe.
    #[error(
        "{0} has checkpoints but no recipe.toml: `nearkin pretrain --resume {0}` restores it",
        path.display()
    )]
    NoRecipe {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was not made by a run.
    #[error(
        "{} holds no run (it has no recipe.toml): give the folder that a run was told to write with `--out`",
        path.display()
    )]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
}

impl ReportError {
    /// For `map_err` on reading `path`.
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// For `map_err` on writing `path`.
    pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}
