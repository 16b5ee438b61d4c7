//! One module per command.

pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod launch;
pub(crate) mod methods;
pub(crate) mod pretrain;
pub(crate) mod recipe;

use std::path::{Path, PathBuf};

use anyhow::Context;
use nearkin_objective::MethodError;
use nearkin_recipe::{Override, Source, clarify};
use nearkin_train::{Setup, SetupError};

use crate::failure::BadInput;

/// Reads a recipe, applies overrides and the place of the images, and checks it with its method.
fn read_setup(path: &Path, changes: &[Override], data: Option<&Path>) -> anyhow::Result<Setup> {
    let mut source = Source::read(path)?;
    for change in changes {
        source.set(change)?;
    }
    let mut recipe = source.recipe()?;
    // A run can be continued from anywhere, so it keeps the whole path.
    if let Some(data) = data.or(recipe.data.path()).map(Path::to_owned) {
        let data =
            std::path::absolute(&data).with_context(|| format!("--data {}", data.display()))?;
        if data.to_str().is_none() {
            let data = data.display();
            return Err(bad_input(format!("{data}: a recipe can only keep a path in UTF-8")));
        }
        recipe.data.set_path(data)?;
    }
    Setup::new(recipe).map_err(|error| {
        let path = path.display();
        bad_input(match error {
            SetupError::Method(MethodError::Read(message)) => {
                format!("{path}: [method]: {}", clarify(&message))
            }
            error => format!("{path}: {error}"),
        })
    })
}

/// `path`, or the same with a number behind it: the first that does not exist.
fn unused(path: PathBuf) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = (2..).map(|number: u32| path.with_file_name(format!("{name}-{number}")));
    std::iter::once(path.clone()).chain(numbered).find(|path| !path.exists()).unwrap_or(path)
}

fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}
