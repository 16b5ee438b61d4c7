//! Counts the files in the folder of a data set that are not part of it.
//!
//! A folder of shards, parquet files or idx files, or one that a list describes, holds more than these:
//! a preview, a README, photos of a kind that is not read, a shard that is still packed, a download that
//! was not finished. None of it is read and none of it refuses the set, so it is counted by its reason,
//! as in folders of images.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::entry::compressed_tar;
use crate::list::part_of_list;
use crate::scan::{Found, What, closed_folder};
use crate::split_files::FileKind;
use crate::{DataError, Skipped};

/// Which files belong to a data set, and what to call the others.
pub(crate) struct Beside<'a> {
    /// Whether a file is part of the set, or is counted elsewhere.
    pub(crate) is_own: &'a dyn Fn(&Path) -> bool,
    /// The reason to give for an image, by its path relative to the root.
    pub(crate) image_reason: &'a dyn Fn(&Path) -> String,
    /// Which kind of files holds the set, if it is one kind.
    pub(crate) kind: Option<FileKind>,
}

impl Beside<'_> {
    /// Counts everything at any depth below `root` that is no part of the set.
    pub(crate) fn count(&self, root: &Path) -> Skipped {
        let mut skipped = Skipped::new();
        let mut waiting = vec![PathBuf::new()];
        let mut seen = HashSet::new();
        while let Some(folder) = waiting.pop() {
            let full = root.join(&folder);
            let is_new = fs::metadata(&full)
                .is_ok_and(|metadata| seen.insert((metadata.dev(), metadata.ino())));
            if !is_new {
                continue;
            }
            match sorted(&full) {
                Ok(entries) => {
                    let folders = self.count_entries(root, &folder, entries, &mut skipped);
                    waiting.extend(folders.into_iter().rev());
                }
                // What lies beside a set never refuses it.
                Err(error) => {
                    let reason = closed_folder(&error).unwrap_or("folder(s) that cannot be read");
                    skipped.add(reason, full.display().to_string());
                }
            }
        }
        skipped
    }

    /// Counts what is directly in a folder, and returns the folders in it.
    fn count_entries(
        &self,
        root: &Path,
        folder: &Path,
        entries: Vec<Found>,
        skipped: &mut Skipped,
    ) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for Found { name, what, .. } in entries {
            let relative = folder.join(name);
            let path = root.join(&relative);
            let reason: Cow<'static, str> = match what {
                What::Folder => {
                    folders.push(relative);
                    continue;
                }
                _ if (self.is_own)(&path) => continue,
                What::Image => (self.image_reason)(&relative).into(),
                What::Skipped(reason) => self.reason(&path, reason),
            };
            skipped.add(reason, path.display().to_string());
        }
        folders
    }

    /// The reason for a file that is no image: what could have been one of the set is told as such.
    fn reason(&self, path: &Path, otherwise: Cow<'static, str>) -> Cow<'static, str> {
        let Some(kind) = self.kind else { return otherwise };
        let noun = kind.noun;
        let name = path.file_name().unwrap_or_default();
        if part_of_list(path).is_some() {
            return format!("list(s) of splits, which are not read beside {noun}s").into();
        }
        if kind.extension == "tar"
            && let Some(ending) = compressed_tar(name)
        {
            return format!("compressed {noun}(s) ({ending}), which must be unpacked to .tar")
                .into();
        }
        if kind.is(path) && path.is_file() && !name.to_string_lossy().starts_with('.') {
            return format!("{noun}(s) in other folders").into();
        }
        otherwise
    }
}

/// What is in a folder, by name.
fn sorted(folder: &Path) -> Result<Vec<Found>, DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::read(folder))?;
    let found = entries.map(|entry| Found::read(folder, entry));
    let mut found = found.collect::<Result<Vec<Found>, DataError>>()?;
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_files::empty_files;

    const SHARDS: FileKind = FileKind { extension: "tar", noun: "shard" };

    /// What is counted beside `set.tar`, with paths relative to the folder.
    fn counted(files: &[&str]) -> Vec<String> {
        let root = empty_files(files);
        let own = root.path().join("set.tar");
        let beside = Beside {
            is_own: &|path| path == own,
            image_reason: &|path| format!("image(s) in {:?}", path.parent().unwrap()),
            kind: Some(SHARDS),
        };
        let skipped = beside.count(root.path());
        let shown = format!("{}/", root.path().display());
        skipped.reasons().iter().map(|reason| reason.to_string().replace(&shown, "")).collect()
    }

    #[test]
    fn everything_beside_a_set_is_counted_by_reason() {
        let found = counted(&[
            "set.tar",
            "0.png",
            "1.png",
            "2.tar.gz",
            "3.tar.part",
            "4.crdownload",
            "5.zip",
            "README.md",
            "labels.csv",
            "test.csv",
            "x.heic",
            ".git/config",
            "@eaDir/0.png",
            "old/a/set.tar",
            "old/a/6.png",
        ]);
        assert_eq!(
            found,
            [
                "skipped 1 hidden folder(s): .git",
                "skipped 2 image(s) in \"\"; the first: 0.png",
                "skipped 1 compressed shard(s) (.tar.gz), which must be unpacked to .tar: 2.tar.gz",
                "skipped 1 unfinished download(s) (.part): 3.tar.part",
                "skipped 1 unfinished download(s) (.crdownload): 4.crdownload",
                "skipped 1 file(s) that are not images (.zip): 5.zip",
                "skipped 1 folder(s) of the operating system: @eaDir",
                "skipped 2 other file(s); the first: README.md",
                "skipped 1 list(s) of splits, which are not read beside shards: test.csv",
                "skipped 1 image(s) of a kind that is not read (.heic): x.heic",
                "skipped 1 image(s) in \"old/a\": old/a/6.png",
                "skipped 1 shard(s) in other folders: old/a/set.tar",
            ]
        );
        assert_eq!(counted(&["set.tar"]), [""; 0]);
    }
}
