//! Parquet files as on the Hugging Face hub: rows of an image file's bytes and a label.
//!
//! # Files and splits
//!
//! A path is one file, which is the train split, or a folder of files. Files belong to a split by how
//! they are called (`train-00000-of-00002.parquet`, `test-...`, `validation-...`) or by a folder of such a
//! name; where there is both a validation and a test part, the validation part is the test split,
//! because labels of the other are often withheld. Files beside these whose names tell no split are counted
//! and left out. The files may be in the folder itself, or in a folder within it at any depth: the one
//! closest to it, and `data` rather than its neighbors. A set of files of which some are missing or there
//! twice, as `-of-00002` tells, is refused. Everything beside the files is counted.
//!
//! # Columns
//!
//! Images are in a column that the `datasets` library describes as images, in one of a usual name
//! (`image`, `img`, `jpg`, `image_bytes`, ...), or in one whose first cell is an image; it is binary, or a
//! struct with `bytes` in it. A cell without bytes is an image that cannot be read.
//!
//! Labels are in a column that is described as classes, or has a usual name (`label`, `labels`, `class`,
//! `category`, `target`, `y`, ...). They are integers, floats, decimals, text or booleans, dictionary-encoded
//! or not, and are read as [everywhere](crate); the names of described classes are used, in their order.
//! Lists of them say that an image shows several classes; lists of a 0 or 1 for each class are refused.
//! Other columns are named in a note.
//!
//! Files that name the classes in another order, the test split above all, are renumbered by name. A
//! column that tells splits, by the names and the words that [lists](crate::list) know, must agree with
//! the split of the file: one that speaks of several splits, of another or of none that is known is refused.
//!
//! # Reading
//!
//! Rows are not meant to be read one by one. They lie in row groups, of some 100 to 1000 images, and
//! in pages, often as large as the group; what is unpacked is at least a page. Groups that are asked
//! for again shortly after stay in memory, up to 256 MiB in all, so reading in order unpacks each group
//! once, and so does training on a set that fits. Shuffled training on a larger one unpacks a page for
//! every image: with the usual 10 MB that costs as much again as decoding the image, with 100 MB ten
//! times as much. `nearkin data pack` writes a file that has no such cost.
//!
//! The reader is compiled with the feature `parquet`. Columns may be plain or compressed with Snappy,
//! zstd, gzip, LZ4 or Brotli.

#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "parquet")]
mod labels;
#[cfg(feature = "parquet")]
mod pages;
#[cfg(feature = "parquet")]
mod read;

use std::fs;
use std::path::Path;

use crate::split_files::{self, FileKind, SplitFiles};
use crate::{DataError, Split};

#[cfg(feature = "parquet")]
pub use read::Parquet;
#[cfg(all(feature = "parquet", feature = "fuzzing"))]
pub(crate) use read::fuzz;

const FILES: FileKind = FileKind { extension: "parquet", noun: "parquet file" };

/// Whether a file is one, or a folder holds some, told by names.
pub(crate) fn is_at(path: &Path) -> bool {
    if path.is_dir() {
        // Opening a set that is not whole says what is missing.
        return matches!(files(path), Ok(_) | Err(DataError::Malformed { .. }));
    }
    FILES.is(path)
}

/// Whether there are files of the split.
pub(crate) fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
    Ok(!files(path)?.of(split).is_empty())
}

/// The files of both splits.
fn files(path: &Path) -> Result<SplitFiles, DataError> {
    if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
        return Ok(SplitFiles::alone(path));
    }
    let found = split_files::find(path, FILES)?;
    for files in [&found.train, &found.test] {
        split_files::refuse_incomplete(files)?;
    }
    Ok(found)
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
    use std::path::PathBuf;

    use super::*;
    use crate::test_files::empty_files;

    fn names(names: &[&str]) -> Result<[Vec<String>; 2], String> {
        let folder = empty_files(names);
        let relative = |path: PathBuf| {
            path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned()
        };
        let of = |files: Vec<PathBuf>| files.into_iter().map(relative).collect();
        let found = files(folder.path()).map_err(|error| error.to_string())?;
        Ok([of(found.train), of(found.test)])
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
        assert!(message.contains("is one of 3 files, and 1 of them are there"), "{message}");
        let message = names(&["a/train.parquet", "b/train.parquet"]).unwrap_err();
        assert!(message.contains("give one of these folders"), "{message}");
        let message = names(&["a/train.csv"]).unwrap_err();
        assert!(
            message.contains("looked for parquet files, files that end in .parquet"),
            "{message}"
        );
    }

    #[test]
    fn what_lies_beside_the_files_is_counted_once() {
        let folder = empty_files(&[
            "x/data/train-00000-of-00001.parquet",
            "x/data/test-00000-of-00001.parquet",
            "x/data/train-00001.parquet.part",
            "a.png",
            "x/README.md",
            "x/x.heic",
        ]);
        let found = files(folder.path()).unwrap();
        let reasons = |split| {
            let skipped = found.skipped_in(folder.path(), split, FILES);
            skipped.reasons().iter().map(|reason| reason.reason.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            reasons(Split::Train),
            [
                "image(s) beside the parquet files",
                "other file(s)",
                "image(s) of a kind that is not read (.heic)",
                "unfinished download(s) (.part)",
            ]
        );
        assert_eq!(reasons(Split::Test), [""; 0]);
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn a_program_without_the_reader_says_how_to_build_it() {
        let folder = empty_files(&["train.parquet"]);
        let source = crate::Source::Parquet { path: Some(folder.path().to_owned()) };
        let message = crate::open(&source, Split::Train).err().unwrap().to_string();
        assert!(message.contains("--features parquet"), "{message}");
    }
}
