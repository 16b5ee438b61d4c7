//! One module per command.

pub(crate) mod bench;
mod centering;
pub(crate) mod data;
pub(crate) mod dedupe;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod export;
mod image_list;
pub(crate) mod import;
pub(crate) mod launch;
pub(crate) mod methods;
pub(crate) mod pretrain;
pub(crate) mod recipe;
pub(crate) mod search;
pub(crate) mod select;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nearkin_data::inspect::{detect, other_kind};
use nearkin_dist::{Launch, Processes, SingleProcess, World};
use nearkin_model::DeviceChoice;
use nearkin_objective::MethodError;
use nearkin_probe::Subject;
use nearkin_recipe::{Fraction, Override, Recipe, Source, clarify};
use nearkin_report::RunFolder;
use nearkin_train::{MOST_THREADS, Setup, SetupError};

use crate::failure::{BadInput, exit_code, message};
use crate::output::say;
use crate::panics::caught;
use crate::signals;

/// Reads a recipe, applies overrides and the place of the images, and checks it with its method.
fn read_setup(path: &Path, changes: &[Override], data: Option<&Path>) -> anyhow::Result<Setup> {
    let mut source = Source::read(path)?;
    for change in changes {
        source.set(change)?;
    }
    if source.dataset().is_none() {
        detect_data(path, &mut source, data)?;
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
    refuse_other_kind(path, &recipe)?;
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

/// Completes a recipe that leaves the kind of data to what is at its path.
fn detect_data(recipe: &Path, source: &mut Source, data: Option<&Path>) -> anyhow::Result<()> {
    let stated = source.data_path().map(PathBuf::from);
    let Some(place) = data.map(Path::to_owned).or(stated) else {
        let recipe = recipe.display();
        return Err(bad_input(format!(
            "{recipe}: no data set is named: give --data PATH, or dataset in [data]"
        )));
    };
    source.set_data(&detect(&place)?);
    Ok(())
}

/// Refuses a recipe that names another kind of data than what clearly is at its path: the reader of
/// that kind would say what it misses, not what is there.
fn refuse_other_kind(path: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    let Some(kind) = other_kind(&recipe.data) else { return Ok(()) };
    let place = recipe.data.path().unwrap_or(Path::new("")).display();
    let (path, stated) = (path.display(), recipe.data.kind());
    Err(bad_input(format!(
        "{path}: data.dataset is {stated:?}, but {place} holds data of the kind {kind:?}\n\
         hint: write dataset = {kind:?} in [data], give --set data.dataset={kind}, or leave dataset out \
         to have it detected"
    )))
}

/// Adds a hint to the error of a run whose images are not where it found them.
fn hint_at_moved_data(error: impl Into<anyhow::Error>, recipe: &Recipe) -> anyhow::Error {
    let error = error.into();
    let Some(path) = recipe.data.path() else { return error };
    // A place to mount a disk at stays when the disk is gone.
    let is_gone = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !path.exists(),
    };
    if is_gone {
        bad_input(format!(
            "{}\nhint: if the images have moved, give their new place with --data PATH",
            message(&error)
        ))
    } else {
        error
    }
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

/// Says what was changed about weights when they were read.
fn note_changes(subject: &Subject) {
    for change in subject.changes() {
        say(&format!("note: {}: {change}", subject.name()));
    }
}

/// A number of threads, or `auto`.
#[derive(Clone, Copy, Debug)]
struct Count<const LEAST: usize>(Option<usize>);

impl<const LEAST: usize> FromStr for Count<LEAST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let count = text.parse().ok().filter(|count| (LEAST..=MOST_THREADS).contains(count));
        match count {
            Some(count) => Ok(Self(Some(count))),
            None => Err(format!("write auto or a number from {LEAST} to {MOST_THREADS}")),
        }
    }
}

/// Does `work` on the device, alone or as one of the processes that a launcher started: it gets the
/// number of those on this host, and the world of all.
fn as_launched(
    device: DeviceChoice,
    timeout_seconds: u64,
    work: impl FnOnce(tch::Device, NonZeroUsize, &Arc<dyn World>) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let launch = Launch::from_environment(Duration::from_secs(timeout_seconds))?;
    let Some(launch) = launch else {
        return work(device.open()?, NonZeroUsize::MIN, &SingleProcess::shared());
    };
    let (rank, size) = (launch.rank, launch.size);
    let device = device.open_for(launch.local_rank)?;
    let here = launch.local_size.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let processes = Processes::join(launch, device);
    let result = processes.map_err(Into::into).and_then(|processes| {
        let world: Arc<dyn World> = Arc::new(processes);
        let result = caught(|| work(device, here, &world));
        if let Err(error) = &result {
            // Of what the run met, the others know already.
            world.fail(&message(error));
            // The end of a world waits for the others, and may wait for one that is lost.
            std::mem::forget(world);
        }
        result
    });
    if let Err(error) = &result {
        say(&format!("error in process {rank} of {size}: {}", message(error)));
        // Threads may still be inside exchanges with processes that are gone.
        signals::leave(exit_code(error));
    }
    result
}

/// A number within 0 and 1.
fn share(text: &str) -> Result<Fraction, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    Fraction::try_from(number)
}

/// The same, as a plain number.
fn limit(text: &str) -> Result<f64, String> {
    share(text).map(Fraction::get)
}

/// As many threads as asked for; without a wish, one for each core.
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// A cell of a CSV file: names of files can have anything in them.
fn cell(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}
