//! Finds the files of a list.
//!
//! Lists are often incomplete: competitions give an id without an extension, with the images in a folder
//! next to the list; lists written on Windows have backslashes. The rule that completes the paths is
//! chosen on a sample and then used for all, so that images never come from several places by chance.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::Entry;
use crate::DataError;
use crate::decode::{EXTENSIONS, is_image};
use crate::splits::{Naming, Part, naming};

/// Paths on which the rule is chosen.
const SAMPLE: usize = 64;
/// More folders beside a list are classes or something else.
const MAX_FOLDERS: usize = 32;

/// How the path of an image comes from what a list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What paths are relative to: one folder, or the pieces that the images of a set come in, of which
    /// the first that has a file counts.
    folders: Vec<PathBuf>,
    /// What follows them.
    suffix: Box<str>,
    /// Whether backslashes separate folders.
    has_backslashes: bool,
}

impl Place {
    /// Paths as they are written, relative to `root`.
    pub(super) fn written(root: &Path) -> Self {
        Self { folders: vec![root.to_owned()], suffix: Box::default(), has_backslashes: false }
    }

    /// The file that a list means.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let slashed;
        let mut written = written;
        if self.has_backslashes {
            slashed = written.replace('\\', "/");
            written = &slashed;
        }
        let with_suffix;
        if !self.suffix.is_empty() {
            with_suffix = format!("{written}{}", self.suffix);
            written = &with_suffix;
        }
        let mut paths = self.folders.iter().map(|folder| folder.join(written));
        let first = paths.next().unwrap_or_default();
        match paths.next() {
            None => first,
            Some(second) => {
                let all = [first.clone(), second].into_iter().chain(paths);
                all.into_iter().find(|path| path.is_file()).unwrap_or(first)
            }
        }
    }

    fn has(&self, written: &str) -> bool {
        // A path that ends like an image gets no second extension.
        let is_meant = self.suffix.is_empty() || !is_image(Path::new(written));
        is_meant && self.path(written).is_file()
    }
}

/// Every way in which the paths of a list may be meant.
pub(super) struct Places {
    written: Place,
    part: Part,
    /// The others, the likeliest first. The folder may hold a million files, so it is only listed when
    /// paths do not lead to files as they are written.
    others: OnceCell<Vec<Place>>,
}

impl Places {
    /// The ways for a list of `part` whose paths are relative to `root`.
    pub(super) fn new(root: &Path, part: Part) -> Self {
        Self { written: Place::written(root), part, others: OnceCell::new() }
    }

    fn others(&self) -> &[Place] {
        self.others.get_or_init(|| {
            let root = self.written.folders.first().map_or(Path::new(""), PathBuf::as_path);
            let (own, foreign) = folders(root, self.part);
            let mut places = Vec::new();
            for folders in own.iter().chain(&foreign).map(std::slice::from_ref) {
                places.extend(completed(folders));
            }
            // The images of a set may come in pieces: images_001, images_002.
            if own.len() > 1 {
                places.extend(completed(&own));
            }
            places
        })
    }

    /// Whether a path leads to a file in one of the ways.
    pub(super) fn have(&self, written: &str) -> bool {
        self.written.has(written) || self.others().iter().any(|place| place.has(written))
    }

    /// The way that leads to most files of a sample. `None` if none leads to a file, and none of all
    /// paths does as it is written.
    pub(super) fn choose(&self, paths: &[&str]) -> Option<&Place> {
        let step = paths.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<&str> = paths.iter().step_by(step).copied().collect();
        let found = |place: &Place| sample.iter().filter(|written| place.has(written)).count();
        let mut best = (found(&self.written), &self.written);
        if best.0 < sample.len() {
            for place in self.others() {
                let found = found(place);
                if found > best.0 {
                    best = (found, place);
                }
            }
        }
        let is_found = best.0 > 0 || paths.iter().any(|written| self.written.has(written));
        is_found.then_some(best.1)
    }
}

/// Every way to complete paths in some folders.
fn completed(folders: &[PathBuf]) -> impl Iterator<Item = Place> {
    let lower = EXTENSIONS.iter().map(|extension| format!(".{extension}"));
    let upper = EXTENSIONS.iter().map(|extension| format!(".{}", extension.to_uppercase()));
    let suffixes = std::iter::once(String::new()).chain(lower).chain(upper);
    suffixes.flat_map(|suffix| {
        [false, true].map(|has_backslashes| Place {
            folders: folders.to_vec(),
            suffix: suffix.as_str().into(),
            has_backslashes,
        })
    })
}

/// The folders in which a list of `part` may have its images: the root and those in it that are called
/// like the part or like images, and apart from these those of other parts. Archives are often unpacked
/// into a folder of their name that holds one of that name, or `images`.
fn folders(root: &Path, part: Part) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut ranked = Vec::new();
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rank = match naming(&name) {
            Naming::Names(other) | Naming::Mentions(other) if other == part => 0,
            Naming::Nothing if holds_images(&name) => 1,
            Naming::Nothing => continue,
            _ => 2,
        };
        let kind = entry.file_type();
        let is_folder =
            kind.is_ok_and(|kind| kind.is_dir() || kind.is_symlink() && entry.path().is_dir());
        if is_folder {
            ranked.push((rank, name));
        }
    }
    ranked.sort();
    ranked.truncate(MAX_FOLDERS);
    let (mut own, mut foreign) = (vec![root.to_owned()], Vec::new());
    for (rank, name) in ranked {
        let folder = root.join(&name);
        let inner = [name.as_str(), "images"].map(|inner| folder.join(inner));
        let found = if rank == 2 { &mut foreign } else { &mut own };
        found.push(folder);
        found.extend(inner.into_iter().filter(|inner| inner.is_dir()));
    }
    (own, foreign)
}

/// Whether a folder is called like images.
fn holds_images(name: &str) -> bool {
    let name = name.to_lowercase();
    ["image", "img", "photo", "picture", "jpeg", "jpg", "png", "data"]
        .iter()
        .any(|word| name.contains(word))
}

/// The error for a list of which no file is there.
pub(super) fn nothing_found(list: &Path, entries: &[Entry], root: &Path) -> DataError {
    let (line, written) = entries.first().map_or((0, ""), |entry| (entry.line, &*entry.path));
    let hint = if written.contains("://") {
        "download the images, and list their files"
    } else if Path::new(written).is_absolute() || written.get(1..3) == Some(":\\") {
        "absolute paths of another machine: make them relative, and set root to their folder"
    } else {
        "set root to the folder that the paths are relative to"
    };
    let reason = format!(
        "none of its {} images exists; line {line} names {}: {hint}",
        entries.len(),
        Place::written(root).path(written).display()
    );
    DataError::malformed(list, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    /// Where the first of these paths is found.
    fn found(files: &[&str], part: Part, paths: &[&str]) -> Option<String> {
        let folder = folder(files);
        let places = Places::new(folder.path(), part);
        let path = places.choose(paths)?.path(paths[0]);
        Some(path.strip_prefix(folder.path()).unwrap().display().to_string())
    }

    #[test]
    fn one_way_is_found_for_all_paths() {
        let train = Part::Train;
        for (files, part, paths, expected) in [
            (&["a.png", "images/a.png"][..], train, &["a.png"][..], Some("a.png")),
            (&["train_images/7f.png"], train, &["7f"], Some("train_images/7f.png")),
            (&["train/7f.tif", "test/7f.tif"], train, &["7f"], Some("train/7f.tif")),
            (&["train/7f.tif", "test/7f.tif"], Part::Test, &["7f"], Some("test/7f.tif")),
            (&["train/1.jpg"], Part::Validation, &["1.jpg"], Some("train/1.jpg")),
            (&["train/train/1.JPG"], train, &["1"], Some("train/train/1.JPG")),
            (&["JPEGImages/1.jpg"], train, &["1"], Some("JPEGImages/1.jpg")),
            (&["img/cat/1.png"], train, &["img\\cat\\1.png"], Some("img/cat/1.png")),
            (&["images/cat/1.png"], train, &["cat\\1.png"], Some("images/cat/1.png")),
            (&["a\\b.png"], train, &["a\\b.png"], Some("a\\b.png")),
            // A set in pieces.
            (
                &["images_001/images/1.png", "images_002/images/2.png"],
                train,
                &["2.png", "1.png"],
                Some("images_002/images/2.png"),
            ),
            (
                &["ham_images_part_1/i1.jpg", "ham_images_part_2/i2.jpg"],
                train,
                &["i2", "i1"],
                Some("ham_images_part_2/i2.jpg"),
            ),
            (&["train/1.jpg", "test/2.jpg"], train, &["2", "1"], Some("train/2.jpg")),
            // The place where more of them are.
            (&["1.jpg", "images/1.jpg", "images/2.jpg"], train, &["1", "2"], Some("images/1.jpg")),
            (&["a.b.jpg"], train, &["a.b"], Some("a.b.jpg")),
            // Nothing is made up.
            (&["cats/1.png"], train, &["1.png"], None),
            (&["images/1.png.jpg"], train, &["1.png"], None),
            (&[], train, &["1.png"], None),
        ] {
            assert_eq!(found(files, part, paths).as_deref(), expected, "{files:?} {paths:?}");
        }
        // A sample misses the only file that is there.
        let many: Vec<String> = (0..500).map(|number| format!("{number}.png")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(found(&["7.png"], train, &many).as_deref(), Some("0.png"));
    }
}
