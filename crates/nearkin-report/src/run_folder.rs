//! The folder of one run: where each of its files is, and that two runs never share one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::ReportError;
use crate::files::{remove_abandoned_temporaries, write_atomically};

/// The folder that a run writes, new or continued.
///
/// | path | content |
/// |---|---|
/// | `recipe.toml` | the resolved recipe; its presence makes the folder a run |
/// | `environment.json` | versions, device and command of the run |
/// | `metrics.jsonl` | one JSON object per line, see [`Record`](crate::Record) |
/// | `initial.safetensors` | the backbone it began with, where that was not drawn |
/// | `checkpoints/` | what a run continues from, and the exported encoder |
/// | `events/` | TensorBoard event files |
/// | `report.html` | the page that [`write_report`](crate::write_report) makes |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder for a new run, with its parents, `checkpoints/` and `events/`, and
    /// [locks](Self::lock) it. The lock comes first: of two runs that begin in one folder at the same
    /// moment, one is refused and changes nothing.
    ///
    /// Other files in an existing folder are left alone.
    ///
    /// # Errors
    ///
    /// [`ReportError::RunExists`] if the folder has a recipe, metrics or checkpoints already,
    /// [`ReportError::Busy`] if another run begins there; [`ReportError::Write`] if a folder cannot be
    /// made.
    pub fn create(path: impl Into<PathBuf>) -> Result<(Self, fs::File), ReportError> {
        let run = Self { path: path.into() };
        run.refuse_if_begun()?;
        fs::create_dir_all(&run.path).map_err(ReportError::writing(&run.path))?;
        let lock = run.lock()?;
        // Another run may have begun, and even ended, before the lock was taken.
        run.refuse_if_begun()?;
        for folder in [run.checkpoints(), run.events()] {
            fs::create_dir_all(&folder).map_err(ReportError::writing(&folder))?;
        }
        Ok((run, lock))
    }

    /// Makes the folder for a new run, as [`create`](Self::create) does, at `path` if nothing is there,
    /// else beside it under the same name with a number: `sce-demo-2`. A folder belongs to whoever made
    /// it, so runs that begin at the same moment get different ones.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub fn create_numbered(path: &Path) -> Result<(Self, fs::File), ReportError> {
        let name = path.file_name().unwrap_or_default();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ReportError::writing(parent))?;
        }
        let mut number = 1_u64;
        loop {
            let mut numbered = name.to_owned();
            if number > 1 {
                numbered.push(format!("-{number}"));
            }
            let folder = path.with_file_name(numbered);
            match fs::create_dir(&folder) {
                Ok(()) => return Self::create(folder),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(ReportError::writing(&folder)(error)),
            }
        }
    }

    /// Makes folders that the run has lost, removes a damaged `environment.json`, and returns what was done. The
    /// process must hold the lock.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`] if a folder cannot be made, or the file not removed.
    pub fn mend(&self) -> Result<Vec<String>, ReportError> {
        let mut notes = Vec::new();
        let parts = [
            (self.checkpoints(), "the run begins again"),
            (self.events(), "TensorBoard shows what comes from here on"),
        ];
        for (folder, consequence) in parts {
            if !folder.is_dir() {
                fs::create_dir_all(&folder).map_err(ReportError::writing(&folder))?;
                notes.push(format!("{} was missing: {consequence}", folder.display()));
            }
        }
        let environment = self.environment();
        let is_damaged = fs::read(&environment)
            .is_ok_and(|content| serde_json::from_slice::<serde_json::Value>(&content).is_err());
        if is_damaged {
            fs::remove_file(&environment).map_err(ReportError::writing(&environment))?;
            notes.push(format!("{} was damaged: it is written again", environment.display()));
        }
        Ok(notes)
    }

    fn has_checkpoints(&self) -> bool {
        fs::read_dir(self.checkpoints()).is_ok_and(|mut entries| entries.next().is_some())
    }

    fn refuse_if_begun(&self) -> Result<(), ReportError> {
        if self.recipe().exists() || self.metrics().exists() || self.has_checkpoints() {
            Err(ReportError::RunExists { path: self.path.clone() })
        } else {
            Ok(())
        }
    }

    /// Opens the folder of an existing run, and removes what killed writers left half-written.
    ///
    /// # Errors
    ///
    /// [`ReportError::NoRun`] if there is no `recipe.toml`, or [`ReportError::NoRecipe`] if there are
    /// checkpoints nevertheless.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let run = Self { path: path.into() };
        if !run.recipe().is_file() {
            return Err(if run.has_checkpoints() {
                ReportError::NoRecipe { path: run.path }
            } else {
                ReportError::NoRun { path: run.path }
            });
        }
        remove_abandoned_temporaries(&run.path, false);
        remove_abandoned_temporaries(&run.checkpoints(), true);
        Ok(run)
    }

    /// The folder of a run that another process writes; nothing is looked at.
    pub fn of_others(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of the folder's path, or the path as given where it has none (`.`).
    pub fn name(&self) -> String {
        let absolute = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The resolved recipe, `recipe.toml`.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// The metrics, `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The folder of checkpoints, `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of TensorBoard event files, `events/`.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// The report, `report.html`.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// What the run ran on, `environment.json`.
    pub fn environment(&self) -> PathBuf {
        self.path.join("environment.json")
    }

    /// Removes metrics and TensorBoard files, for a run that begins again.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`] for a file that cannot be removed.
    pub fn clear_records(&self) -> Result<(), ReportError> {
        let events = fs::read_dir(self.events()).into_iter().flatten().flatten();
        let files = events.map(|entry| entry.path()).chain([self.metrics()]);
        for path in files.filter(|path| path.is_file()) {
            fs::remove_file(&path).map_err(ReportError::writing(&path))?;
        }
        Ok(())
    }

    /// Takes the run for this process as long as the returned file lives; a run that another
    /// process trains is [`ReportError::Busy`]. The lock goes with the process, however it ends.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`] if there can be no lock file.
    pub fn lock(&self) -> Result<fs::File, ReportError> {
        let path = self.path.join(".lock");
        let file = fs::File::create(&path).map_err(ReportError::writing(&path))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(ReportError::Busy { path: self.path.clone() }),
            // Some file systems have no locks; the run is then the user's to guard.
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Writes `environment.json`, indented for people.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn write_environment(&self, environment: &serde_json::Value) -> Result<(), ReportError> {
        write_atomically(&self.environment(), |out| writeln!(out, "{environment:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_gets_its_folders_and_parents() {
        let folder = tempfile::tempdir().unwrap();
        let (run, lock) = RunFolder::create(folder.path().join("deep/er/run")).unwrap();
        assert!(run.checkpoints().is_dir() && run.events().is_dir());
        assert_eq!(run.name(), "run");
        drop(lock);
        // A run that died before it wrote anything does not block the next.
        RunFolder::create(run.path()).unwrap();
    }

    #[test]
    fn of_runs_that_begin_at_once_in_one_folder_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        for _ in 0..20 {
            // Every winner writes its recipe while it holds the lock, as the trainer does.
            let begin = |number: usize| {
                let begun = RunFolder::create(&path);
                if let Ok((run, _)) = &begun {
                    fs::write(run.recipe(), number.to_string()).unwrap();
                }
                begun.is_ok()
            };
            let won: Vec<usize> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|number| (number, scope.spawn(move || begin(number)))).collect();
                let joined = threads.into_iter();
                joined.filter_map(|(number, won)| won.join().unwrap().then_some(number)).collect()
            });
            assert_eq!(won.len(), 1);
            let recipe = fs::read_to_string(path.join("recipe.toml")).unwrap();
            assert_eq!(recipe, won[0].to_string());
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn runs_that_begin_at_once_under_one_name_get_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/sce-demo");
        let mut made: Vec<String> = std::thread::scope(|scope| {
            let begin = || RunFolder::create_numbered(&path).unwrap().0.name();
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        made.sort();
        let expected = ["", "-2", "-3", "-4", "-5", "-6"].map(|end| format!("sce-demo{end}"));
        assert_eq!(made, expected);
        // A file is in the way as well.
        fs::write(folder.path().join("runs/sce-demo-7"), "").unwrap();
        assert_eq!(RunFolder::create_numbered(&path).unwrap().0.name(), "sce-demo-8");
    }

    #[test]
    fn a_second_run_is_refused_with_a_way_out() {
        type Accessor = fn(&RunFolder) -> PathBuf;
        let leftovers: [Accessor; 3] =
            [RunFolder::recipe, RunFolder::metrics, |run| run.checkpoints().join("a.safetensors")];
        for leftover in leftovers {
            let folder = tempfile::tempdir().unwrap();
            let (run, _) = RunFolder::create(folder.path()).unwrap();
            fs::write(leftover(&run), "").unwrap();
            let error = RunFolder::create(folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
            assert!(error.contains("--out") && error.contains("--resume"), "{error}");
        }
    }

    #[test]
    fn only_a_run_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path()).unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("recipe.toml"), "{error}");
        fs::write(run.recipe(), "").unwrap();
        assert_eq!(RunFolder::open(folder.path()).unwrap(), run);
    }

    #[test]
    fn what_a_run_lost_is_made_again_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path()).unwrap();
        fs::write(run.checkpoints().join("step-000000001"), "").unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("recipe.toml") && error.contains("--resume"), "{error}");
        assert!(run.mend().unwrap().is_empty());
        fs::remove_dir_all(run.events()).unwrap();
        fs::remove_dir_all(run.checkpoints()).unwrap();
        let notes = run.mend().unwrap();
        assert!(notes[0].contains("checkpoints was missing: the run begins again"), "{notes:?}");
        assert!(notes[1].contains("events was missing"), "{notes:?}");
        assert!(run.events().is_dir() && run.checkpoints().is_dir());
    }

    #[test]
    fn opening_removes_half_written_files() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path()).unwrap();
        fs::write(run.recipe(), "").unwrap();
        let deep = run.checkpoints().join("step-10");
        fs::create_dir(&deep).unwrap();
        let half =
            [run.path(), &run.checkpoints(), &deep].map(|place| place.join(".x.1-0.nearkin-tmp"));
        for path in &half {
            fs::write(path, "half").unwrap();
        }
        RunFolder::open(folder.path()).unwrap();
        assert!(half.iter().all(|path| !path.exists()));
    }

    #[test]
    fn the_environment_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path()).unwrap();
        let environment = serde_json::json!({"nearkin": "0.1.0", "device": {"name": "GPU"}});
        run.write_environment(&environment).unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&fs::read(run.environment()).unwrap()).unwrap();
        assert_eq!(read, environment);
        assert!(run.mend().unwrap().is_empty());
        fs::write(run.environment(), [0; 100]).unwrap();
        let notes = run.mend().unwrap();
        assert!(notes.len() == 1 && notes[0].contains("environment.json was damaged"), "{notes:?}");
        assert!(!run.environment().exists());
    }
}
