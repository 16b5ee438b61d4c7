//! One module per command.

pub(crate) mod data;
pub(crate) mod dedupe;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod launch;
pub(crate) mod methods;
pub(crate) mod pretrain;
pub(crate) mod recipe;
pub(crate) mod search;
pub(crate) mod select;

use std::io::{ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nearkin_objective::MethodError;
use nearkin_recipe::{Fraction, Override, Recipe, Source, clarify};
use nearkin_report::RunFolder;
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

/// What a path to something trained leads to.
enum Trained {
    /// A run, and its recipe.
    Run(RunFolder, Recipe),
    /// A file of weights, and the recipe that says what it is.
    Weights(Recipe),
}

/// The encoder in a run's folder, or in a safetensors file with a recipe.
fn trained(path: &Path, recipe: Option<&Path>, data: Option<&Path>) -> anyhow::Result<Trained> {
    let is_file = path.is_file() || path.extension().is_some_and(|end| end == "safetensors");
    if !is_file {
        if recipe.is_some() {
            return Err(bad_input("a run has its own recipe: leave out --recipe"));
        }
        let run = RunFolder::open(path)?;
        let recipe = read_setup(&run.recipe(), &[], data)?.recipe;
        return Ok(Trained::Run(run, recipe));
    }
    let recipe = recipe.ok_or_else(|| {
        let path = path.display();
        bad_input(format!("{path} is a file of weights: say with --recipe FILE what model it is"))
    })?;
    Ok(Trained::Weights(read_setup(recipe, &[], data)?.recipe))
}

/// A number within 0 and 1.
fn share(text: &str) -> Result<Fraction, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    Fraction::try_from(number)
}

/// As many threads as asked for; without a wish, one for each core.
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// Tables are piped into programs that may stop reading.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A cell of a CSV file: names of files can have anything in them.
fn cell(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")).into(),
        false => text.into(),
    }
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
