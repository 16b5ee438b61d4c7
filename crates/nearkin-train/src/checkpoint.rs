//! Checkpoints: everything from which a run continues bit by bit.
//!
//! A checkpoint is a folder `checkpoints/step-N` that appears in one rename once all of it is on
//! disk, so that a kill at any moment leaves either the whole of it or nothing. Random numbers need
//! no state: they are functions of seed, epoch, image and step (see `nearkin_data::random`).
//!
//! Disks and cables flip bits, and power losses leave blocks of zeros. So `state.json` has a SHA-256 of
//! every other file, and `state.sha256` has its own. A run continues from the newest checkpoint that is
//! whole, and says what is wrong with newer ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nearkin_data::ImageSet;
use nearkin_model::Encoder;
use nearkin_recipe::Recipe;
use nearkin_report::{ReportError, RunFolder, write_atomically};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::images::ImagesDigest;
use crate::monitor::EpochSums;
use crate::tensors::{damaged, restore_tensors, save_with_digest, sha256};
use crate::{Setup, TrainError};

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
    /// Digests of the images; older versions kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImagesDigest>,
    /// SHA-256 of the other files of the checkpoint, by name; older versions kept none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
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

/// From what a run continues.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// None if the run has no checkpoint yet.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// What is wrong with newer ones, which were set aside.
    pub(crate) notes: Vec<String>,
}

impl Checkpoint {
    /// Writes `files` and `progress` as the checkpoint of `progress.step`, then removes all but the
    /// newest `keep`.
    pub(crate) fn write(
        run: &RunFolder,
        mut progress: Progress,
        files: Files,
        keep: usize,
    ) -> Result<(), TrainError> {
        let folder = run.checkpoints();
        let path = folder.join(name(progress.step));
        let partial = folder.join(format!(".{}.partial", name(progress.step)));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Report(ReportError::Write { path, source })
        };
        if path.exists() {
            // The run was continued from an older checkpoint and came by here again, bit by bit.
            return Ok(());
        }
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        remove_partial(&folder)?;
        let fill = || {
            fs::create_dir(&partial).map_err(io(&partial))?;
            for (name, tensors) in files {
                let digest = save_with_digest(&partial.join(name), tensors)?;
                progress.files.insert(name.to_owned(), digest);
            }
            let mut state = serde_json::to_vec_pretty(&progress).unwrap_or_default();
            state.push(b'\n');
            let sum = format!("{}  {STATE}\n", sha256(&state));
            write_atomically(&partial.join(STATE), |file| file.write_all(&state))?;
            write_atomically(&partial.join(STATE_DIGEST), |file| file.write_all(sum.as_bytes()))?;
            fs::rename(&partial, &path).map_err(io(&path))
        };
        if let Err(error) = fill() {
            // What is left takes space that may be what is missing.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(&folder))?;
        for old in list(&folder)?.into_iter().rev().skip(keep) {
            remove_folder(&old)?;
        }
        Ok(())
    }

    /// Where the newest checkpoint of a run is, if it has one.
    pub(crate) fn newest_path(run: &RunFolder) -> Option<PathBuf> {
        list(&run.checkpoints()).ok()?.pop()
    }

    /// The newest checkpoint of a run, if it has one; an error if that one is damaged.
    pub fn latest(run: &RunFolder) -> Result<Option<Self>, TrainError> {
        let Some(newest) = list(&run.checkpoints())?.pop() else { return Ok(None) };
        Self::read(newest.clone()).map(Some).map_err(|error| with_remedy(error, &remedy(&newest)))
    }

    /// The newest checkpoint that is whole, with these files. Newer ones, which are damaged, are renamed;
    /// the process must hold the lock of the run. An error if none is whole.
    pub(crate) fn newest_whole(run: &RunFolder, files: &[&str]) -> Result<Newest, TrainError> {
        let (mut flaws, mut whole) = (Vec::new(), None);
        for path in list(&run.checkpoints())?.into_iter().rev() {
            match Self::read(path.clone()).and_then(|found| found.verified(files)) {
                Ok(checkpoint) => {
                    whole = Some(checkpoint);
                    break;
                }
                Err(error @ TrainError::Checkpoint { .. }) => flaws.push((path, error)),
                Err(error) => return Err(error),
            }
        }
        if whole.is_none() && !flaws.is_empty() {
            let (_, newest) = flaws.swap_remove(0);
            let remedy = format!(
                "no whole checkpoint is left; to begin the run again, delete {}",
                run.checkpoints().display()
            );
            return Err(with_remedy(newest, &remedy));
        }
        let mut notes = Vec::new();
        for (path, error) in flaws {
            let aside = path.with_file_name(format!("damaged-{}", name_of(&path)));
            remove_folder(&aside)?;
            fs::rename(&path, &aside)
                .map_err(|source| ReportError::Write { path: path.clone(), source })?;
            notes.push(format!("{error}; the checkpoint was renamed to {}", name_of(&aside)));
        }
        Ok(Newest { checkpoint: whole, notes })
    }

    fn read(path: PathBuf) -> Result<Self, TrainError> {
        let (state, sum) = (path.join(STATE), path.join(STATE_DIGEST));
        let text = read_file(&state)?;
        let expected = match read_file(&sum) {
            Ok(expected) => Some(expected),
            Err(TrainError::Checkpoint { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(expected) = &expected
            && !expected.starts_with(sha256(&text).as_bytes())
        {
            return Err(damaged(&state, format!("its SHA-256 is not the one in {STATE_DIGEST}")));
        }
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|error| damaged(&state, format!("not the state of a run: {error}")))?;
        if progress.format != FORMAT {
            return Err(TrainError::Format { path: state, format: progress.format });
        }
        if expected.is_none() && !progress.files.is_empty() {
            return Err(damaged(&sum, "it is missing".to_owned()));
        }
        let has_own_name = name_of(&path) == name(progress.step);
        let flaw = progress.flaw().or_else(|| {
            (!has_own_name).then(|| format!("step = {} is not that of its folder", progress.step))
        });
        match flaw {
            Some(reason) => Err(damaged(&state, reason)),
            None => Ok(Self { path, progress }),
        }
    }

    /// Compares these files with their digests. Of files of older versions, which have none, only the
    /// layout is checked.
    fn verified(self, files: &[&str]) -> Result<Self, TrainError> {
        for name in files {
            self.verify(name)?;
        }
        Ok(self)
    }

    fn verify(&self, name: &str) -> Result<(), TrainError> {
        let path = self.path.join(name);
        let bytes = read_file(&path)?;
        match self.progress.files.get(name) {
            Some(digest) if *digest == sha256(&bytes) => Ok(()),
            Some(_) => Err(damaged(&path, format!("its SHA-256 is not the one in {STATE}"))),
            None if !self.progress.files.is_empty() => {
                Err(damaged(&self.path.join(STATE), format!("it has no SHA-256 of {name}")))
            }
            None => SafeTensors::deserialize(&bytes).map(|_| ()).map_err(|error| {
                damaged(&path, format!("not a safetensors file, or cut short: {error}"))
            }),
        }
    }

    /// The file with the weights of the online encoder, which is verified.
    pub fn model(&self) -> Result<PathBuf, TrainError> {
        self.verify(MODEL).map_err(|error| with_remedy(error, &remedy(&self.path)))?;
        Ok(self.path.join(MODEL))
    }

    /// The file with the weights of the momentum encoder, which is verified; none if the method has no
    /// such encoder.
    pub fn momentum_encoder(&self) -> Result<Option<PathBuf>, TrainError> {
        let path = self.path.join(MOMENTUM_ENCODER);
        if !self.progress.files.contains_key(MOMENTUM_ENCODER) && !path.exists() {
            return Ok(None);
        }
        let verified = self.verify(MOMENTUM_ENCODER);
        verified.map_err(|error| with_remedy(error, &remedy(&self.path)))?;
        Ok(Some(path))
    }

    /// Loads the weights of the online encoder.
    pub fn restore_encoder(&self, encoder: &Encoder) -> Result<(), TrainError> {
        self.verify(MODEL)?;
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
        // Keys of the method that are newer than the checkpoint are filled in, as they are in `recipe`.
        refuse_changes(run, &Setup::new(begun)?.recipe, recipe)
    }
}

impl Checkpoint {
    /// Refuses images that are not those the run was begun with; returns what the user should know
    /// otherwise.
    pub(crate) fn check_images(
        &self,
        run: &RunFolder,
        images: &ImagesDigest,
        train: &dyn ImageSet,
    ) -> Result<Option<String>, TrainError> {
        let Progress { training_images, seed, images: before, .. } = &self.progress;
        if *training_images != train.len() {
            return Err(TrainError::ChangedData { before: *training_images, now: train.len() });
        }
        let Some(before) = before else {
            return Ok(Some(
                "an older version wrote the checkpoint: only the number of the images was compared"
                    .to_owned(),
            ));
        };
        let differences = images.differences(before, train, *seed);
        if !differences.is_empty() {
            return Err(TrainError::OtherImages {
                run: run.path().to_owned(),
                differences: differences.join("; "),
            });
        }
        Ok(images.has_other_test_images(before).then(|| {
            "the test images are not those the run was begun with: do not compare the k-NN accuracies \
             from here on with those before"
                .to_owned()
        }))
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
/// In the form that `sha256sum --check` reads.
const STATE_DIGEST: &str = "state.sha256";

/// The file of the online encoder.
pub(crate) const MODEL: &str = "model.safetensors";
/// The file of what the optimizer remembers.
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
/// The file of the momentum encoder, where there is one.
pub(crate) const MOMENTUM_ENCODER: &str = "momentum_encoder.safetensors";
/// The file of the queue, where there is one.
pub(crate) const QUEUE: &str = "queue.safetensors";

/// Puts `recipe.toml` back into the folder of a run that lost it, from the newest checkpoint whose state
/// can be read; returns what was done. Does nothing where it is there, or nothing is known of it.
pub fn restore_recipe(run: &RunFolder) -> Result<Option<String>, TrainError> {
    if run.recipe().exists() {
        return Ok(None);
    }
    let mut checkpoints = list(&run.checkpoints())?.into_iter().rev();
    let Some(known) = checkpoints.find_map(|path| Checkpoint::read(path).ok()) else {
        return Ok(None);
    };
    let text = &known.progress.recipe;
    write_atomically(&run.recipe(), |file| file.write_all(text.as_bytes()))?;
    let (recipe, from) = (run.recipe(), known.path.join(STATE));
    Ok(Some(format!("{} was missing and is restored from {}", recipe.display(), from.display())))
}

/// The folder of the checkpoint after that many steps.
fn name(step: u64) -> String {
    format!("step-{step:09}")
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads a file of a checkpoint: one that is missing is damage, one that cannot be read for another
/// reason is not.
fn read_file(path: &Path) -> Result<Vec<u8>, TrainError> {
    fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => damaged(path, "it is missing".to_owned()),
        ErrorKind::IsADirectory => damaged(path, "it is a folder".to_owned()),
        _ => TrainError::Report(ReportError::Read { path: path.to_owned(), source }),
    })
}

/// What to do about a damaged checkpoint that is read and not continued from.
fn remedy(checkpoint: &Path) -> String {
    let others = checkpoint.parent().and_then(|folder| list(folder).ok()).unwrap_or_default();
    match others.iter().rfind(|other| other.as_path() < checkpoint) {
        Some(before) => format!(
            "delete {} to use the checkpoint before it, {}",
            checkpoint.display(),
            name_of(before)
        ),
        None => "the run has no other checkpoint".to_owned(),
    }
}

fn with_remedy(error: TrainError, remedy: &str) -> TrainError {
    match error {
        TrainError::Checkpoint { path, reason } => {
            TrainError::Damaged { path, reason, remedy: remedy.to_owned() }
        }
        other => other,
    }
}

/// Complete checkpoints, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let failed = |source| ReportError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Removes what killed processes left unfinished.
fn remove_partial(folder: &Path) -> Result<(), TrainError> {
    let failed = |source| ReportError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(".partial")) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(ReportError::Write { path: path.to_owned(), source }.into())
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
            training_images: 20,
            threads: 1,
            world_size: 1,
            next_learning_rate: 0.1,
            recipe_digest: sha256(RECIPE.as_bytes()),
            recipe: RECIPE.to_owned(),
            images: None,
            files: BTreeMap::new(),
        }
    }

    /// 10 steps of 2 images.
    const RECIPE: &str = "
        [data]
        dataset = \"shapes\"
        train_images = 20
        [method]
        name = \"sce\"
        [model]
        backbone = \"resnet18\"
        stem = \"cifar\"
        projector = [{ width = 8 }]
        [training]
        epochs = 1
        batch_size = 2
        [optimizer]
        name = \"sgd\"
        learning_rate = 0.1
        [[views]]
        name = \"first\"
        transforms = [{ random_resized_crop = { size = 16 } }]
        [[views]]
        name = \"second\"
        transforms = [{ random_resized_crop = { size = 16 } }]";

    fn files(value: f32) -> Files {
        let tensor = || Tensor::from_slice(&[value; 100]);
        vec![
            (MODEL, vec![("w".to_owned(), tensor())]),
            (OPTIMIZER, vec![("w".to_owned(), tensor())]),
        ]
    }

    /// A run with checkpoints after these steps.
    fn run_with(steps: &[u64]) -> (tempfile::TempDir, RunFolder) {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path().join("run")).unwrap();
        for &step in steps {
            Checkpoint::write(&run, progress(step), files(step as f32), 9).unwrap();
        }
        (folder, run)
    }

    fn newest(run: &RunFolder) -> Result<(u64, Vec<String>), TrainError> {
        let Newest { checkpoint, notes } = Checkpoint::newest_whole(run, &[MODEL, OPTIMIZER])?;
        Ok((checkpoint.unwrap().progress.step, notes))
    }

    /// Takes the digests out, as an older version would not have written them.
    fn make_old(checkpoint: &Path, change: impl Fn(&mut serde_json::Value)) {
        let state = checkpoint.join(STATE);
        let text = fs::read(&state).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json.as_object_mut().unwrap().remove("files").unwrap();
        change(&mut json);
        fs::write(&state, json.to_string()).unwrap();
        fs::remove_file(checkpoint.join(STATE_DIGEST)).unwrap();
    }

    #[test]
    fn any_damage_to_any_file_is_named_and_the_checkpoint_before_it_is_taken() {
        type Damage = fn(&mut Vec<u8>);
        let ways: [(&str, Damage); 5] = [
            ("a bit", |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            }),
            ("zeros", |bytes| bytes.iter_mut().skip(30).take(200).for_each(|byte| *byte = 0)),
            ("a cut", |bytes| bytes.truncate(bytes.len() - 1)),
            ("more", |bytes| bytes.push(b' ')),
            ("nothing", Vec::clear),
        ];
        for name in [MODEL, OPTIMIZER, STATE, STATE_DIGEST] {
            for (what, damage) in ways.iter().filter(|(what, _)| {
                // What stands behind the digest is not read.
                name != STATE_DIGEST || !matches!(*what, "a cut" | "more")
            }) {
                let (_folder, run) = run_with(&[1, 2]);
                let path = run.checkpoints().join("step-000000002").join(name);
                let mut bytes = fs::read(&path).unwrap();
                damage(&mut bytes);
                fs::write(&path, bytes).unwrap();
                let (step, notes) = newest(&run).unwrap();
                assert_eq!((step, notes.len()), (1, 1), "{name}: {what}: {notes:?}");
                let named = if name == STATE_DIGEST { STATE } else { name };
                assert!(notes[0].contains(&format!("step-000000002/{named}")), "{notes:?}");
                assert!(notes[0].ends_with("renamed to damaged-step-000000002"), "{notes:?}");
                // The run comes by that step again.
                Checkpoint::write(&run, progress(2), files(2.0), 9).unwrap();
                assert_eq!(newest(&run).unwrap(), (2, Vec::new()));
            }
            let (_folder, run) = run_with(&[1, 2]);
            fs::remove_file(run.checkpoints().join("step-000000002").join(name)).unwrap();
            let (step, notes) = newest(&run).unwrap();
            assert!(step == 1 && notes[0].contains(name), "{name}: {notes:?}");
            assert!(notes[0].contains("it is missing"), "{notes:?}");
        }
    }

    #[test]
    fn without_a_whole_checkpoint_the_newest_is_named_with_what_to_do() {
        let (_folder, run) = run_with(&[1, 2]);
        for step in [1, 2] {
            let path = run.checkpoints().join(name(step)).join(MODEL);
            fs::write(path, "").unwrap();
        }
        let message = newest(&run).unwrap_err().to_string();
        assert!(message.contains("step-000000002/model.safetensors: its SHA-256"), "{message}");
        let remedy = format!("delete {}", run.checkpoints().display());
        assert!(message.contains("no whole checkpoint is left") && message.ends_with(&remedy));
        // Nothing was touched, and one that is only read is named with the one before it.
        let latest = Checkpoint::latest(&run).unwrap().unwrap();
        let message = latest.model().unwrap_err().to_string();
        assert!(message.ends_with("to use the checkpoint before it, step-000000001"), "{message}");
    }

    #[test]
    fn checkpoints_without_digests_are_read_and_their_layout_and_numbers_checked() {
        let (_folder, run) = run_with(&[1, 2]);
        let path = run.checkpoints().join(name(2));
        make_old(&path, |_| {});
        assert_eq!(newest(&run).unwrap(), (2, Vec::new()));
        let bytes = fs::read(path.join(MODEL)).unwrap();
        fs::write(path.join(MODEL), &bytes[..bytes.len() - 1]).unwrap();
        let (step, notes) = newest(&run).unwrap();
        assert!(step == 1 && notes[0].contains("model.safetensors: not a safetensors file"));
    }

    #[test]
    fn numbers_that_no_run_can_have_are_refused_by_name() {
        for (key, value, expected) in [
            ("step", 1_000_000_000_000_u64.into(), "step = 1000000000000 must be between 0 and 10"),
            ("step", 3.into(), "step_in_epoch = 2 must be 3"),
            ("threads", 0.into(), "threads = 0 must be between 1 and 65535"),
            ("threads", 1_000_000_000.into(), "threads = 1000000000 must be"),
            ("threads", (-1).into(), "not the state of a run"),
            ("world_size", 0.into(), "world_size = 0 must be"),
            ("queue_next", (-5).into(), "queue_next = -5, but the recipe has no queue"),
            ("seconds", (-1.5).into(), "seconds = -1.5 must be"),
            ("seconds", serde_json::Value::Null, "not the state of a run"),
            ("skipped_in_a_row", 3.into(), "skipped_in_a_row = 3 must be between 0 and 2"),
            ("steps_per_epoch", 0.into(), "steps_per_epoch = 0 must be 10"),
            ("training_images", 0.into(), "training_images = 0 must be"),
            ("seed", 1.into(), "seed = 1 must be 0"),
            ("epoch", 7.into(), "epoch = 7 must be 0"),
            ("recipe", "".into(), "missing field"),
            ("recipe_digest", "".into(), "recipe_digest is not that of recipe"),
        ] {
            let value: serde_json::Value = value;
            let (_folder, run) = run_with(&[1, 2]);
            make_old(&run.checkpoints().join(name(2)), |json| json[key] = value.clone());
            let message = Checkpoint::latest(&run).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(STATE), "{message}");
            assert_eq!(newest(&run).unwrap().0, 1);
        }
        let (_folder, run) = run_with(&[1]);
        let moved = run.checkpoints().join(name(3));
        fs::rename(run.checkpoints().join(name(1)), moved).unwrap();
        let message = Checkpoint::latest(&run).unwrap_err().to_string();
        assert!(message.contains("step = 1 is not that of its folder"), "{message}");
    }

    #[test]
    fn a_recipe_that_was_lost_is_restored_from_a_checkpoint() {
        let (_folder, run) = run_with(&[1, 2]);
        fs::write(run.checkpoints().join(name(2)).join(STATE), "").unwrap();
        let note = restore_recipe(&run).unwrap().unwrap();
        assert!(note.contains("recipe.toml was missing and is restored from"), "{note}");
        assert!(note.ends_with("step-000000001/state.json"), "{note}");
        assert_eq!(fs::read_to_string(run.recipe()).unwrap(), RECIPE);
        assert_eq!(restore_recipe(&run).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_nothing() {
        let (_folder, run) = run_with(&[1]);
        let mut files = files(2.0);
        files.push((QUEUE, vec![("q".to_owned(), Tensor::from_slice(&[true]))]));
        let error = Checkpoint::write(&run, progress(2), files, 9).unwrap_err().to_string();
        assert!(error.contains("queue.safetensors"), "{error}");
        assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 1);
        // One that a kill left does not hinder the next.
        fs::create_dir(run.checkpoints().join(".step-000000002.partial")).unwrap();
        Checkpoint::write(&run, progress(2), self::files(2.0), 9).unwrap();
        // A folder that was lost is made again.
        fs::remove_dir_all(run.checkpoints()).unwrap();
        Checkpoint::write(&run, progress(3), self::files(3.0), 9).unwrap();
        assert_eq!(newest(&run).unwrap().0, 3);
    }

    #[test]
    fn the_newest_are_kept_and_unfinished_ones_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path().join("run")).unwrap();
        assert!(Checkpoint::latest(&run).unwrap().is_none());
        let unfinished = run.checkpoints().join(".step-000000009.partial");
        fs::create_dir_all(&unfinished).unwrap();
        for step in [1, 2, 3] {
            Checkpoint::write(&run, progress(step), files(step as f32), 2).unwrap();
        }
        let steps: Vec<_> = list(&run.checkpoints()).unwrap();
        assert_eq!(steps.len(), 2);
        assert!(!unfinished.exists());
        fs::create_dir_all(&unfinished).unwrap();
        let latest = Checkpoint::latest(&run).unwrap().unwrap();
        assert_eq!(latest.progress.step, 3);
        let live = Tensor::from_slice(&[0.0_f32; 100]);
        latest.restore(vec![(MODEL, vec![("w".to_owned(), live.shallow_clone())])]).unwrap();
        assert_eq!(live, Tensor::from_slice(&[3.0_f32; 100]));
    }

    #[test]
    fn another_layout_is_no_damage() {
        let (_folder, run) = run_with(&[1, 2]);
        make_old(&run.checkpoints().join(name(2)), |json| json["format"] = 3.into());
        let message = newest(&run).unwrap_err().to_string();
        assert!(message.contains("state.json has format 3"), "{message}");
        assert_eq!(list(&run.checkpoints()).unwrap().len(), 2);
    }
}
