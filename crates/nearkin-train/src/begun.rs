//! What the folder of a run says of how it was begun, and what is kept there for those who continue it.

use std::fs::File;
use std::path::Path;

use nearkin_recipe::{Recipe, Source};
use nearkin_report::{MetricsWriter, RunFolder, write_atomically};

use crate::ranges::MOST_THREADS;
use crate::{Setup, TrainError};

pub(crate) const THREADS: &str = "threads";
pub(crate) const WORKERS: &str = "workers";

/// The number of that name that a run was begun with.
pub(crate) fn recorded(run: &RunFolder, name: &str) -> Option<usize> {
    let environment = std::fs::read(run.environment()).ok()?;
    let environment: serde_json::Value = serde_json::from_slice(&environment).ok()?;
    let number = environment[name].as_u64().map(|number| number as usize);
    number.filter(|number| *number <= MOST_THREADS)
}

/// Removes what is no record from `metrics.jsonl`, before anything reads it; returns what was wrong.
pub(crate) fn mend_records(run: &RunFolder, step: u64) -> Result<Option<String>, TrainError> {
    let path = run.metrics();
    let shown = path.display();
    if !path.exists() {
        return Ok(Some(format!("{shown} was missing: it has no earlier steps")));
    }
    let (_, damaged) = MetricsWriter::resume(&path, step)?;
    Ok((damaged > 0)
        .then(|| format!("{shown} had {damaged} line(s) that are not records; they were removed")))
}

/// Keeps the place of the images in the recipe of a continued run: they may have moved, and every
/// later command looks for them there.
pub(crate) fn remember_place(run: &RunFolder, recipe: &Recipe) -> Result<(), TrainError> {
    let path = run.recipe();
    // Whoever continues a run has read its recipe.
    let Ok(mut stored) = Source::read(&path) else { return Ok(()) };
    if recipe.data.path() == stored.data_path().map(Path::new) {
        return Ok(());
    }
    stored.set_data(&recipe.data);
    let text = stored.to_text();
    write_atomically(&path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(())
}

/// Puts the recipe into the locked folder of a new run.
pub(crate) fn begin_run(
    (run, lock): (RunFolder, File),
    setup: &Setup,
) -> Result<(RunFolder, Option<File>), TrainError> {
    let text = setup.recipe.to_text();
    write_atomically(&run.recipe(), |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok((run, Some(lock)))
}
