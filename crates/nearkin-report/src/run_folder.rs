//! The folder of one run: where each of its files is, and that two runs never share one.

use std::fs;
use std::io::Write;
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
    /// Makes the folder for a new run, with its parents, `checkpoints/` and `events/`.
    ///
    /// Other files in an existing folder are left alone.
    ///
    /// # Errors
    ///
    /// [`ReportError::RunExists`] if the folder has a recipe, metrics or checkpoints already;
    /// [`ReportError::Write`] if a folder cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let run = Self { path: path.into() };
        let has_checkpoints =
            fs::read_dir(run.checkpoints()).is_ok_and(|mut entries| entries.next().is_some());
        if run.recipe().exists() || run.metrics().exists() || has_checkpoints {
            return Err(ReportError::RunExists { path: run.path });
        }
        for folder in [run.checkpoints(), run.events()] {
            fs::create_dir_all(&folder).map_err(ReportError::writing(&folder))?;
        }
        Ok(run)
    }

    /// Opens the folder of an existing run, and removes what killed writers left half-written.
    ///
    /// # Errors
    ///
    /// [`ReportError::NoRun`] if there is no `recipe.toml`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let run = Self { path: path.into() };
        if !run.recipe().is_file() {
            return Err(ReportError::NoRun { path: run.path });
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
        let run = RunFolder::create(folder.path().join("deep/er/run")).unwrap();
        assert!(run.checkpoints().is_dir() && run.events().is_dir());
        assert_eq!(run.name(), "run");
        // A run that died before it wrote anything does not block the next.
        RunFolder::create(run.path()).unwrap();
    }

    #[test]
    fn a_second_run_is_refused_with_a_way_out() {
        type Accessor = fn(&RunFolder) -> PathBuf;
        let leftovers: [Accessor; 3] =
            [RunFolder::recipe, RunFolder::metrics, |run| run.checkpoints().join("a.safetensors")];
        for leftover in leftovers {
            let folder = tempfile::tempdir().unwrap();
            let run = RunFolder::create(folder.path()).unwrap();
            fs::write(leftover(&run), "").unwrap();
            let error = RunFolder::create(folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
            assert!(error.contains("--out") && error.contains("--resume"), "{error}");
        }
    }

    #[test]
    fn only_a_run_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("recipe.toml"), "{error}");
        fs::write(run.recipe(), "").unwrap();
        assert_eq!(RunFolder::open(folder.path()).unwrap(), run);
    }

    #[test]
    fn opening_removes_half_written_files() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
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
        let run = RunFolder::create(folder.path()).unwrap();
        let environment = serde_json::json!({"nearkin": "0.1.0", "device": {"name": "GPU"}});
        run.write_environment(&environment).unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&fs::read(run.environment()).unwrap()).unwrap();
        assert_eq!(read, environment);
    }
}
