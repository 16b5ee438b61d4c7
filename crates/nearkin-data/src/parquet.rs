//! Parquet files as the Hugging Face hub has them.
//!
//! A column that is a struct with `bytes` holds image files (JPEG, PNG and the other formats that
//! [`decode`](crate::decode) reads); an integer column holds classes, whose names stand in the
//! metadata that the `datasets` library writes. `image` and `label` are their usual names; others
//! are found by what that metadata says of them. A class of -1 means none, as in published test
//! splits.
//!
//! A path is one file, which is the train split, or a folder of files. Files belong to a split by how
//! their names begin (`train-00000-of-00002.parquet`, `test-...`, `validation-...`) or by a folder of
//! that name; where there is both a validation and a test part, the validation part counts as the
//! test split, because labels of the other are often withheld. The files may lie in the folder
//! itself, in `data`, or in the only folder in it that has any.
//!
//! Rows are not meant to be read one by one. They lie in row groups, of some 100 to 1000 images, and
//! in pages, often as large as the group; what is unpacked is at least a page. Groups that are asked
//! for again shortly after stay in memory, up to 256 MiB in all, so reading in order unpacks each group
//! once, and so does training on a set that fits. Shuffled training on a larger one unpacks a page for
//! every image: with the usual 10 MB that costs as much again as decoding the image, with 100 MB ten
//! times as much. `nearkin data pack` writes a file that has no such cost.
//!
//! The reader is compiled with the feature `parquet`. Columns may be plain or compressed with Snappy,
//! which is what the hub has.

#[cfg(feature = "parquet")]
mod read;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{DataError, Split};

#[cfg(feature = "parquet")]
pub use read::Parquet;
#[cfg(all(feature = "parquet", feature = "fuzzing"))]
pub(crate) use read::fuzz;

const EXTENSION: &str = "parquet";
/// Where the hub puts the files of a set that has one configuration.
const INNER_FOLDER: &str = "data";

/// The files of the train and of the test split.
type Files = [Vec<PathBuf>; 2];

/// The parts that names speak of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    /// By the letters that a name begins with.
    fn of(name: &str) -> Option<Self> {
        let word: String =
            name.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_lowercase();
        match word.as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }
}

/// Whether a file is one, or a folder holds some, told by names.
pub(crate) fn is_at(path: &Path) -> bool {
    if path.is_dir() {
        // Opening a set that is not whole says what is missing.
        return matches!(files(path), Ok(_) | Err(DataError::Malformed { .. }));
    }
    is_parquet(path)
}

/// Whether there are files of the split.
pub(crate) fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
    let [train, test] = files(path)?;
    Ok(match split {
        Split::Train => !train.is_empty(),
        Split::Test => !test.is_empty(),
    })
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
}

/// The files of both splits.
fn files(path: &Path) -> Result<Files, DataError> {
    if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
        return Ok([vec![path.to_owned()], Vec::new()]);
    }
    let inner = path.join(INNER_FOLDER);
    if let Some(files) = in_folder(path)? {
        return Ok(files);
    }
    if inner.is_dir()
        && let Some(files) = in_folder(&inner)?
    {
        return Ok(files);
    }
    let mut found = Vec::new();
    for folder in entries(path)?.into_iter().filter(|path| path.is_dir()) {
        found.extend(in_folder(&folder)?.map(|files| (folder, files)));
    }
    match (found.pop(), found.pop()) {
        (Some((_, files)), None) => Ok(files),
        (Some((second, _)), Some((first, _))) => Err(DataError::malformed(
            path,
            format!(
                "holds parquet files in {} and in {}; give one of these folders",
                first.display(),
                second.display()
            ),
        )),
        (None, _) => Err(DataError::empty(path, "looked for files that end in .parquet")),
    }
}

/// What lies in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        paths.push(entry.map_err(DataError::read(folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The files in a folder and in those of its folders that are called like a split.
fn in_folder(folder: &Path) -> Result<Option<Files>, DataError> {
    let (mut train, mut validation, mut test) = (Vec::new(), Vec::new(), Vec::new());
    let part = |path: &Path| Part::of(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut add = |path: PathBuf, part: Option<Part>| match part {
        None | Some(Part::Train) => train.push(path),
        Some(Part::Validation) => validation.push(path),
        Some(Part::Test) => test.push(path),
    };
    for path in entries(folder)? {
        if path.is_dir() {
            let Some(part) = part(&path) else { continue };
            let files = entries(&path)?.into_iter().filter(|path| is_parquet(path));
            files.for_each(|file| add(file, Some(part)));
        } else if is_parquet(&path) {
            let part = part(&path);
            add(path, part);
        }
    }
    let test = if validation.is_empty() { test } else { validation };
    for files in [&train, &test] {
        refuse_missing(files)?;
    }
    Ok((!train.is_empty() || !test.is_empty()).then_some([train, test]))
}

/// Names that end in `-of-N` tell how many files belong together.
fn refuse_missing(files: &[PathBuf]) -> Result<(), DataError> {
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let Some((start, count)) = stem.rsplit_once("-of-") else { continue };
        let Ok(count) = count.get(..5).unwrap_or(count).parse::<usize>() else { continue };
        let name = start.rsplit_once('-').map_or(start, |(name, _)| name);
        let belongs = |other: &&PathBuf| {
            let other = other.file_name().unwrap_or_default().to_string_lossy();
            other.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
        };
        let found = files.iter().filter(belongs).count();
        if found != count {
            let reason =
                format!("is one of {count} files, of which {found} are there; download them all");
            return Err(DataError::malformed(file, reason));
        }
    }
    Ok(())
}

/// The error of a program that was compiled without the reader.
#[cfg(not(feature = "parquet"))]
pub(crate) fn refuse(path: &Path) -> DataError {
    DataError::Request(format!(
        "{} is in parquet files, which this program was built without: build it with cargo build \
         --release -p nearkin --features parquet",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(names: &[&str]) -> Result<[Vec<String>; 2], String> {
        let folder = folder(names);
        let relative = |path: PathBuf| {
            path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned()
        };
        let of = |files: Vec<PathBuf>| files.into_iter().map(relative).collect();
        files(folder.path()).map(|files| files.map(of)).map_err(|error| error.to_string())
    }

    fn split(train: &[&str], test: &[&str]) -> [Vec<String>; 2] {
        [train, test].map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn files_belong_to_the_split_that_their_names_tell() {
        for (files, expected) in [
            (
                &["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"][..],
                split(
                    &["data/train-00000-of-00001.parquet"],
                    &["data/test-00000-of-00001.parquet"],
                ),
            ),
            (
                &["train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "README.md"],
                split(&["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], &[]),
            ),
            (
                &["train.parquet", "test.parquet", "validation.parquet"],
                split(&["train.parquet"], &["validation.parquet"]),
            ),
            (
                &["cifar10/train/0000.parquet", "cifar10/test/0000.parquet"],
                split(&["cifar10/train/0000.parquet"], &["cifar10/test/0000.parquet"]),
            ),
            (&["0000.parquet", "other.PARQUET"], split(&["0000.parquet", "other.PARQUET"], &[])),
            (
                &["train-00000-of-00001-b43aecc5b8d0.parquet"],
                split(&["train-00000-of-00001-b43aecc5b8d0.parquet"], &[]),
            ),
        ] {
            assert_eq!(names(files), Ok(expected));
        }
    }

    #[test]
    fn missing_files_and_several_sets_are_refused() {
        let message = names(&["data/train-00001-of-00003.parquet"]).unwrap_err();
        assert!(message.contains("is one of 3 files, of which 1 are there"), "{message}");
        let message = names(&["a/train.parquet", "b/train.parquet"]).unwrap_err();
        assert!(message.contains("give one of these folders"), "{message}");
        let message = names(&["a/train.csv"]).unwrap_err();
        assert!(message.contains("looked for files that end in .parquet"), "{message}");
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn a_program_without_the_reader_says_how_to_build_it() {
        let folder = folder(&["train.parquet"]);
        let source = crate::Source::Parquet { path: Some(folder.path().to_owned()) };
        let message = crate::open(&source, Split::Train).err().unwrap().to_string();
        assert!(message.contains("--features parquet"), "{message}");
    }
}
