//! One module per command.

pub(crate) mod bench;
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

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nearkin_dist::{Alone, Launch, Processes, World};
use nearkin_model::DeviceChoice;
use nearkin_objective::MethodError;
use nearkin_recipe::{Fraction, Override, Recipe, Source, clarify};
use nearkin_report::RunFolder;
use nearkin_train::{MOST_THREADS, Setup, SetupError};

use crate::failure::{BadInput, is_bad_input, message};
use crate::output::say;
use crate::panics::caught;

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
        return work(device.open()?, NonZeroUsize::MIN, &(Arc::new(Alone) as Arc<dyn World>));
    };
    let (rank, size) = (launch.rank, launch.size);
    let device = device.open_for(launch.local_rank)?;
    let here = launch.local_size.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let processes = Processes::join(launch, device);
    let result = processes.map_err(Into::into).and_then(|processes| {
        let world: Arc<dyn World> = Arc::new(processes);
        let result = caught(|| work(device, here, &world));
        if let Err(error) = &result {
            // Of what the trainer met, the others know already.
            world.fail(&message(error));
            // The end of a world waits for the others, and may wait for one that is lost.
            std::mem::forget(world);
        }
        result
    });
    if let Err(error) = &result {
        say(&format!("error in process {rank} of {size}: {}", message(error)));
        // Threads may still be inside of exchanges with processes that are no more.
        std::process::exit(if is_bad_input(error) { 2 } else { 1 });
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
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")).into(),
        false => text.into(),
    }
}

fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}
