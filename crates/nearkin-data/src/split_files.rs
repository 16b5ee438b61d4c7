//! Finds the files of each split in a folder, for sets that consist of files of one kind: tar shards and
//! parquet files.
//!
//! A file belongs to the part that its name mentions (`valid-000.tar`, `cc3m-train-0.tar`; see
//! [`splits`](crate::splits)) or that a folder above it names. If no name mentions a part, all files are
//! the train split. Otherwise:
//!
//! - Files that mention no part, or several (`trainval-0.tar`), are skipped and counted if there are
//!   training files, and refused if there are none.
//! - A file whose name and folder disagree about training is refused.
//! - The validation part is the test split. Files of a test part next to it are counted and not read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::splits::{Naming, Part, naming};
use crate::{DataError, Skipped, Split};

/// Files of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileKind {
    /// Without the dot, in lower case.
    pub(crate) extension: &'static str,
    /// What to call one, `shard`; some are that with an `s`.
    pub(crate) noun: &'static str,
}

impl FileKind {
    /// Whether a file is of the kind, told by its name.
    pub(crate) fn is(&self, path: &Path) -> bool {
        path.extension().is_some_and(|found| found.eq_ignore_ascii_case(self.extension))
    }
}

/// The files of both splits, each sorted by path.
#[derive(Debug, Default)]
pub(crate) struct SplitFiles {
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: Vec<PathBuf>,
    /// Files of no split.
    unclear: Skipped,
    /// Files of a test part beside a validation part.
    unused: Skipped,
}

impl SplitFiles {
    /// The files of a split.
    pub(crate) fn of(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    /// What was left out, to be told once: with the train split what belongs to none, with the test
    /// split what else could have been that.
    pub(crate) fn skipped(&self, split: Split) -> &Skipped {
        match split {
            Split::Train => &self.unclear,
            Split::Test => &self.unused,
        }
    }

    /// One file, which is the train split whatever it is called.
    pub(crate) fn alone(path: &Path) -> Self {
        Self { train: vec![path.to_owned()], ..Self::default() }
    }

    /// Sorts files that were named one by one. Those of one part only are the train split: a user who
    /// names them wants them.
    pub(crate) fn named(files: Vec<PathBuf>, kind: FileKind) -> Result<Self, DataError> {
        let files: Vec<(PathBuf, Naming)> =
            files.into_iter().map(|file| (file.clone(), naming_of_file(&file))).collect();
        if files.iter().all(|(_, naming)| part(*naming) == part(files[0].1)) {
            let train = files.into_iter().map(|(file, _)| file).collect();
            return Ok(Self { train, ..Self::default() });
        }
        sort(files, kind)
    }
}

/// Where the hub puts the files of a set that has one configuration.
const INNER_FOLDER: &str = "data";

/// The files of a set in a folder, in `data` within it, or in the only folder within it that has some.
pub(crate) fn find(folder: &Path, kind: FileKind) -> Result<SplitFiles, DataError> {
    if let Some(files) = in_folder(folder, kind)? {
        return Ok(files);
    }
    let mut found: Vec<(PathBuf, SplitFiles)> = Vec::new();
    for entry in entries(folder)?.into_iter().filter(|entry| entry.is_folder) {
        let is_inner = entry.name() == INNER_FOLDER;
        if let Some(files) = in_folder(&entry.path, kind)? {
            if is_inner {
                return Ok(files);
            }
            found.push((entry.path, files));
        }
    }
    match (found.pop(), found.pop()) {
        (Some((_, files)), None) => Ok(files),
        (Some((second, _)), Some((first, _))) => Err(DataError::malformed(
            folder,
            format!(
                "holds {}s in {} and in {}; give one of these folders",
                kind.noun,
                first.display(),
                second.display()
            ),
        )),
        (None, _) => {
            let FileKind { noun, extension } = kind;
            let reason = format!("looked for {noun}s, files that end in .{extension}");
            Err(DataError::empty(folder, reason))
        }
    }
}

/// The files of a kind in a folder and in those of its folders that are called like a part; `None`
/// without any.
pub(crate) fn in_folder(folder: &Path, kind: FileKind) -> Result<Option<SplitFiles>, DataError> {
    let (mut files, mut others, mut hidden) = (Vec::new(), Vec::new(), Skipped::new());
    for entry in entries(folder)? {
        let (name, path) = (entry.name(), entry.path);
        if name.starts_with('.') {
            if kind.is(&path) {
                hidden.add(format!("hidden {}(s)", kind.noun), path.display().to_string());
            }
        } else if entry.is_folder {
            match naming(&name) {
                Naming::Nothing => others.push(path),
                of_folder => {
                    for file in below(&path, kind)? {
                        let naming = joined(&file, of_folder)?;
                        files.push((file, naming));
                    }
                }
            }
        } else if kind.is(&path) {
            let naming = naming_of_file(&path);
            files.push((path, naming));
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut sorted = sort(files, kind)?;
    for folder in others {
        let files = entries(&folder)?.into_iter().filter(|entry| !entry.is_folder);
        for file in files.map(|entry| entry.path).filter(|file| kind.is(file)) {
            let reason = format!("{}(s) in folders that name no split", kind.noun);
            sorted.unclear.add(reason, file.display().to_string());
        }
    }
    sorted.unclear.merge(&hidden);
    Ok(Some(sorted))
}

/// A file or a folder in a folder.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// Whether it is a folder or a link to one.
    pub(crate) is_folder: bool,
    is_link: bool,
}

impl Entry {
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What is in a folder, sorted by path. Only links cost a look at what they lead to.
pub(crate) fn entries(folder: &Path) -> Result<Vec<Entry>, DataError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        let entry = entry.map_err(DataError::read(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(DataError::read(&path))?;
        let is_link = kind.is_symlink();
        let is_folder = kind.is_dir() || is_link && path.is_dir();
        found.push(Entry { path, is_folder, is_link });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The files of a kind at any depth, sorted. Links to folders are not followed, so it ends.
fn below(folder: &Path, kind: FileKind) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in entries(&folder)? {
            match entry.is_folder {
                _ if entry.name().starts_with('.') => {}
                true if !entry.is_link => waiting.push(entry.path),
                false if kind.is(&entry.path) => files.push(entry.path),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn naming_of_file(path: &Path) -> Naming {
    naming(&path.file_stem().unwrap_or_default().to_string_lossy())
}

/// The part that a name speaks of, whatever else is in it: these files are no classes.
fn part(naming: Naming) -> Option<Part> {
    match naming {
        Naming::Names(part) | Naming::Mentions(part) => Some(part),
        Naming::Several | Naming::Nothing => None,
    }
}

/// What a file is by its folder and its name, which may be clearer than that of the folder.
fn joined(file: &Path, of_folder: Naming) -> Result<Naming, DataError> {
    let of_file = naming_of_file(file);
    let (Some(outer), Some(inner)) = (part(of_folder), part(of_file)) else {
        return Ok(if part(of_file).is_some() { of_file } else { of_folder });
    };
    if (outer == Part::Train) == (inner == Part::Train) {
        return Ok(of_folder);
    }
    let reason =
        format!("its name says {inner}, and its folder {outer}: move it, or rename one of the two");
    Err(DataError::malformed(file, reason))
}

fn sort(files: Vec<(PathBuf, Naming)>, kind: FileKind) -> Result<SplitFiles, DataError> {
    let FileKind { noun, .. } = kind;
    let mut present: Vec<Part> = files.iter().filter_map(|(_, naming)| part(*naming)).collect();
    present.sort_unstable();
    present.dedup();
    let mut sorted = SplitFiles::default();
    let mut unclear = Vec::new();
    for (file, naming) in files {
        let shown = file.display().to_string();
        match part(naming) {
            Some(part) => match part.split(&present) {
                Some(Split::Train) => sorted.train.push(file),
                Some(Split::Test) => sorted.test.push(file),
                None => sorted.unused.add(
                    format!(
                        "{noun}(s) of the test part (the validation part is the test split)"
                    ),
                    shown,
                ),
            },
            None if naming == Naming::Nothing && present.is_empty() => sorted.train.push(file),
            None => unclear.push((file, naming)),
        }
    }
    // Nothing names a part, but some name several: what is theirs may be in the others too.
    if present.is_empty() && !unclear.is_empty() {
        unclear.extend(sorted.train.drain(..).map(|file| (file, Naming::Nothing)));
    }
    let has_train = !sorted.train.is_empty();
    for (file, naming) in unclear {
        let what = match naming {
            Naming::Several => "several splits",
            _ => "no split",
        };
        if !has_train {
            return Err(DataError::malformed(
                &file,
                format!(
                    "its name names {what}: put train, val or test into the names of all {noun}s, or pass only the {noun}s to train on"
                ),
            ));
        }
        let reason = format!("{noun}(s) that name {what}, unlike the others");
        sorted.unclear.add(reason, file.display().to_string());
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARDS: FileKind = FileKind { extension: "tar", noun: "shard" };

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    /// `train | test | what was left out` or the error, with paths relative to the folder.
    fn sorted(names: &[&str]) -> String {
        let folder = folder(names);
        let relative = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        let files = match in_folder(folder.path(), SHARDS) {
            Ok(Some(files)) => files,
            Ok(None) => return "none".to_owned(),
            Err(error) => return relative(error.to_string()),
        };
        let paths = |split| -> Vec<String> {
            files.of(split).iter().map(|path| path.display().to_string()).collect()
        };
        let skipped = [Split::Train, Split::Test].map(|split| files.skipped(split).clone());
        let skipped: Vec<String> =
            skipped.iter().flat_map(Skipped::reasons).map(ToString::to_string).collect();
        let all = [paths(Split::Train), paths(Split::Test), skipped].map(|all| all.join(" "));
        relative(all.join(" | ")).trim_end_matches(" | ").to_owned()
    }

    #[test]
    fn every_word_of_a_part_is_known_in_names_of_files_and_folders() {
        for (train, test) in [
            ("train-000.tar", "valid-000.tar"),
            ("Training_0.tar", "Testing_0.tar"),
            ("cc3m-train-0.tar", "cc3m-dev-0.tar"),
            ("train0.TAR", "eval0.TAR"),
            ("train/0.tar", "validation/0.tar"),
            ("TRAIN/0.tar", "Evaluation/0.tar"),
            ("my_train/a/b/0.tar", "my_test/a/0.tar"),
            ("train/shard.tar", "val-0.tar"),
            ("train/set-train-0.tar", "val/set-test-0.tar"),
            ("trainval/train-0.tar", "trainval/val-0.tar"),
        ] {
            assert_eq!(sorted(&[train, test]), format!("{train} | {test}"));
        }
        assert_eq!(
            sorted(&["0.tar", "1.tar", "x.txt", "contest-2.tar"]),
            "0.tar 1.tar contest-2.tar"
        );
        assert_eq!(sorted(&["val-0.tar"]), " | val-0.tar");
        assert_eq!(sorted(&["a/0.tar", "x.png"]), "none");
    }

    #[test]
    fn what_is_unclear_is_counted_or_refused() {
        let beside = "skipped 1 shard(s) that name";
        for (names, expected) in [
            (
                &["train-0.tar", "extra-0.tar"][..],
                format!("train-0.tar |  | {beside} no split, unlike the others: extra-0.tar"),
            ),
            (
                &["train-0.tar", "trainval-0.tar", "val-0.tar"],
                format!(
                    "train-0.tar | val-0.tar | {beside} several splits, unlike the others: \
                     trainval-0.tar"
                ),
            ),
            (
                &["train/0.tar", "val/0.tar", "extra/0.tar", "other.tar"],
                format!(
                    "train/0.tar | val/0.tar | {beside} no split, unlike the others: \
                     other.tar skipped 1 shard(s) in folders that name no split: extra/0.tar"
                ),
            ),
            (
                &["train.tar", "test.tar", "dev.tar", "._train.tar"],
                "train.tar | dev.tar | skipped 1 hidden shard(s): ._train.tar skipped 1 shard(s) of the test part (the validation part is the test split): test.tar"
                    .to_owned(),
            ),
        ] {
            assert_eq!(sorted(names), expected);
        }
        for (names, expected) in [
            (&["images-0.tar", "val-0.tar"][..], "images-0.tar: its name names no split"),
            (&["trainval-0.tar", "test-0.tar"], "trainval-0.tar: its name names several splits"),
            (&["trainval-0.tar"], "trainval-0.tar: its name names several splits"),
            (&["trainval/0.tar", "1.tar"], "trainval/0.tar: its name names several splits"),
            (&["train/val-0.tar"], "train/val-0.tar: its name says val, and its folder train"),
            (&["test/train.tar", "train/0.tar"], "its name says train, and its folder test"),
        ] {
            let message = sorted(names);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn files_that_are_named_are_the_train_split_unless_they_name_several_parts() {
        let named = |names: &[&str]| {
            SplitFiles::named(names.iter().map(PathBuf::from).collect(), SHARDS)
                .map(|files| [files.train.len(), files.test.len()])
                .map_err(|error| error.to_string())
        };
        assert_eq!(named(&["val-0.tar", "val-1.tar"]), Ok([2, 0]));
        assert_eq!(named(&["0.tar", "1.tar"]), Ok([2, 0]));
        assert_eq!(named(&["train-0.tar", "train-1.tar", "val-0.tar"]), Ok([2, 1]));
        assert!(named(&["val-0.tar", "0.tar"]).unwrap_err().contains("its name names no split"));
        assert_eq!(SplitFiles::alone(Path::new("val.tar")).train.len(), 1);
    }

    proptest! {
        #[test]
        fn no_file_of_another_part_is_ever_trained_on(
            names in prop::collection::btree_set(
                "((set-)?(train|val|valid|dev|test|extra|trainval)(-0|/[a-z]|)|[a-z]{1,4})\\.tar", 1..6,
            ),
        ) {
            let files: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            let count = files.len();
            let files = files.into_iter().map(|file| (file.clone(), naming_of_file(&file))).collect();
            if let Ok(sorted) = sort(files, SHARDS) {
                let left_out = [&sorted.unclear, &sorted.unused].into_iter().flat_map(Skipped::reasons);
                let left_out: usize = left_out.map(|reason| reason.count).sum();
                prop_assert_eq!(sorted.train.len() + sorted.test.len() + left_out, count);
                for file in &sorted.train {
                    let naming = naming_of_file(file);
                    prop_assert!(matches!(part(naming), None | Some(Part::Train)), "{:?}", file);
                    prop_assert!(naming != Naming::Several);
                }
            }
        }
    }
}
