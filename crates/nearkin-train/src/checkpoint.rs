//! Checkpoints: everything from which a run continues bit by bit.
//!
//! A checkpoint is a folder `checkpoints/step-N` that appears in one rename once all of it is on
//! disk, so that a kill at any moment leaves either the whole of it or nothing. Random numbers need
//! no state: they are functions of seed, epoch, image and step (see `nearkin_data::random`).

use std::fs;
use std::path::{Path, PathBuf};

use nearkin_model::Encoder;
use nearkin_recipe::Recipe;
use nearkin_report::{RunFolder, write_atomically};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::TrainError;
use crate::monitor::EpochSums;
use crate::tensors::{damaged, restore_tensors, save_tensors};

/// What the JSON file of a checkpoint holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Version of this layout.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Steps done of the epoch under way.
    pub step_in_epoch: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Steps skipped in a row, at the end.
    pub skipped_in_a_row: u64,
    /// Losses of the epoch under way.
    pub(crate) epoch_sums: EpochSums,
    /// Where the queue's next key goes.
    pub queue_next: Option<i64>,
    /// The seed of all random numbers; they have no other state.
    pub seed: u64,
    /// Images of the training set.
    pub training_images: usize,
    /// Threads of libtorch; sums depend on it in the last bit.
    pub threads: usize,
    /// Processes.
    pub world_size: usize,
    /// Learning rate of the next step.
    pub next_learning_rate: f64,
    /// SHA-256 of the resolved recipe.
    pub recipe_digest: String,
    /// The resolved recipe, as TOML.
    pub recipe: String,
}

/// The layout that this version writes.
pub(crate) const FORMAT: u32 = 2;

/// The tensors of a checkpoint, by file.
pub(crate) type Files = Vec<(&'static str, Vec<(String, Tensor)>)>;

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// Its JSON.
    pub progress: Progress,
}

impl Checkpoint {
    /// Writes `files` and `progress` as the checkpoint of `progress.step`, then removes all but the
    /// newest `keep`.
    pub(crate) fn write(
        run: &RunFolder,
        progress: &Progress,
        files: Files,
        keep: usize,
    ) -> Result<(), TrainError> {
        let folder = run.checkpoints();
        let path = folder.join(format!("step-{:09}", progress.step));
        let partial = folder.join(format!(".step-{:09}.partial", progress.step));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| damaged(&path, error.to_string())
        };
        if path.exists() {
            // The run was continued from an older checkpoint and came by here again, bit by bit.
            return Ok(());
        }
        remove_partial(&folder)?;
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        for (name, tensors) in files {
            save_tensors(&partial.join(name), tensors)?;
        }
        write_atomically(&partial.join(STATE), |file| {
            serde_json::to_writer_pretty(file, progress).map_err(Into::into)
        })?;
        fs::rename(&partial, &path).map_err(io(&path))?;
        fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(&folder))?;
        for old in list(&folder)?.into_iter().rev().skip(keep) {
            remove_folder(&old)?;
        }
        Ok(())
    }

    /// The newest checkpoint of a run, if it has one.
    pub fn latest(run: &RunFolder) -> Result<Option<Self>, TrainError> {
        list(&run.checkpoints())?.pop().map(Self::read).transpose()
    }

    fn read(path: PathBuf) -> Result<Self, TrainError> {
        let state = path.join(STATE);
        let text = fs::read(&state).map_err(|error| damaged(&state, error.to_string()))?;
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|error| damaged(&state, format!("not the state of a run: {error}")))?;
        if progress.format != FORMAT {
            let reason =
                format!("written in format {}, this version reads {FORMAT}", progress.format);
            return Err(damaged(&state, reason));
        }
        Ok(Self { path, progress })
    }

    /// The file with the weights of the online encoder.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// Loads the weights of the online encoder.
    pub fn restore_encoder(&self, encoder: &Encoder) -> Result<(), TrainError> {
        self.restore(vec![(MODEL, encoder.parameters().named())])
    }

    /// Copies the saved tensors into the live ones.
    pub(crate) fn restore(&self, files: Files) -> Result<(), TrainError> {
        files
            .into_iter()
            .try_for_each(|(name, tensors)| restore_tensors(&self.path.join(name), tensors))
    }

    /// Refuses a recipe that is not the one the run was begun with, showing the difference.
    pub(crate) fn check_recipe(&self, run: &RunFolder, recipe: &Recipe) -> Result<(), TrainError> {
        let origin = self.path.join(STATE).display().to_string();
        let begun = nearkin_recipe::Source::parse(&origin, self.progress.recipe.clone())
            .and_then(|source| source.recipe())
            .map_err(|error| damaged(&self.path, error.to_string()))?;
        refuse_changes(run, &begun, recipe)
    }
}

/// Refuses to continue a run that was `begun` with one recipe under another, naming every key that
/// differs. Where the images lie and how many of them may be damaged may change.
pub fn refuse_changes(run: &RunFolder, begun: &Recipe, asked: &Recipe) -> Result<(), TrainError> {
    match differences_that_matter(begun, asked) {
        None => Ok(()),
        Some(differences) => {
            Err(TrainError::ChangedRecipe { run: run.path().to_owned(), differences })
        }
    }
}

/// Keys that say where images are, and how a run goes on, not what it trains.
const DO_NOT_MATTER: [&str; 3] = ["data.path", "bad_image_limit", "training.step"];

/// The keys in which recipes describe other runs, one in a line; none if they describe the same.
pub(crate) fn differences_that_matter(one: &Recipe, other: &Recipe) -> Option<String> {
    let differences: Vec<String> = one
        .differences(other)
        .iter()
        .filter(|difference| !DO_NOT_MATTER.contains(&difference.key.as_str()))
        .map(|difference| format!("  {difference}"))
        .collect();
    (!differences.is_empty()).then(|| differences.join("\n"))
}

const STATE: &str = "state.json";

/// The file of the online encoder.
pub(crate) const MODEL: &str = "model.safetensors";

/// Complete checkpoints, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(damaged(folder, error.to_string())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| damaged(folder, error.to_string()))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Removes what killed processes left unfinished.
fn remove_partial(folder: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(folder).map_err(|error| damaged(folder, error.to_string()))? {
        let entry = entry.map_err(|error| damaged(folder, error.to_string()))?;
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(".partial")) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(damaged(path, error.to_string()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u64) -> Progress {
        Progress {
            format: FORMAT,
            step,
            epoch: 0,
            step_in_epoch: step,
            steps_per_epoch: 10,
            seconds: 1.5,
            skipped_in_a_row: 0,
            epoch_sums: EpochSums::default(),
            queue_next: None,
            seed: 0,
            training_images: 10,
            threads: 1,
            world_size: 1,
            next_learning_rate: 0.1,
            recipe_digest: String::new(),
            recipe: String::new(),
        }
    }

    fn files(value: f32) -> Files {
        vec![("model.safetensors", vec![("w".to_owned(), Tensor::from_slice(&[value]))])]
    }

    #[test]
    fn the_newest_are_kept_and_unfinished_ones_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path().join("run")).unwrap();
        assert!(Checkpoint::latest(&run).unwrap().is_none());
        let unfinished = run.checkpoints().join(".step-000000009.partial");
        fs::create_dir_all(&unfinished).unwrap();
        for step in [1, 2, 3] {
            Checkpoint::write(&run, &progress(step), files(step as f32), 2).unwrap();
        }
        let steps: Vec<_> = list(&run.checkpoints()).unwrap();
        assert_eq!(steps.len(), 2);
        assert!(!unfinished.exists());
        fs::create_dir_all(&unfinished).unwrap();
        let latest = Checkpoint::latest(&run).unwrap().unwrap();
        assert_eq!(latest.progress.step, 3);
        let live = Tensor::from_slice(&[0.0_f32]);
        latest
            .restore(vec![("model.safetensors", vec![("w".to_owned(), live.shallow_clone())])])
            .unwrap();
        assert_eq!(live, Tensor::from_slice(&[3.0_f32]));
    }

    #[test]
    fn damaged_state_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path().join("run")).unwrap();
        Checkpoint::write(&run, &progress(1), files(1.0), 2).unwrap();
        let state = run.checkpoints().join("step-000000001").join(STATE);
        let newer = fs::read_to_string(&state).unwrap().replace("\"format\": 2", "\"format\": 3");
        fs::write(&state, newer).unwrap();
        let message = Checkpoint::latest(&run).unwrap_err().to_string();
        assert!(message.contains("state.json") && message.contains("format 3"), "{message}");
        fs::write(&state, "{").unwrap();
        let message = Checkpoint::latest(&run).unwrap_err().to_string();
        assert!(message.contains("not the state of a run"), "{message}");
    }
}
