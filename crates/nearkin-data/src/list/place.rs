//! Where the files of a list are.
//!
//! A list rarely says it all: competitions give an id without an extension, whose image lies in a folder
//! beside the list; a list written on Windows has backslashes. What completes the paths is found on some
//! of them and then holds for all, so that no image is taken from one folder and its neighbor from
//! another.

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
    /// What paths are relative to.
    pub(super) folder: PathBuf,
    /// What follows them.
    suffix: Box<str>,
    /// Whether backslashes separate folders.
    has_backslashes: bool,
}

impl Place {
    /// Paths as they are written, relative to `root`.
    pub(super) fn written(root: &Path) -> Self {
        Self { folder: root.to_owned(), suffix: Box::default(), has_backslashes: false }
    }

    /// The file that a list means.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let slashed;
        let written = if self.has_backslashes {
            slashed = written.replace('\\', "/");
            &slashed
        } else {
            written
        };
        match self.suffix.is_empty() {
            true => self.folder.join(written),
            false => self.folder.join(format!("{written}{}", self.suffix)),
        }
    }

    fn has(&self, written: &str) -> bool {
        // A path that ends like an image gets no second extension.
        let is_meant = self.suffix.is_empty() || !is_image(Path::new(written));
        is_meant && fs::metadata(self.path(written)).is_ok_and(|metadata| metadata.is_file())
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
            let lower = EXTENSIONS.iter().map(|extension| format!(".{extension}"));
            let upper = EXTENSIONS.iter().map(|extension| format!(".{}", extension.to_uppercase()));
            let suffixes: Vec<String> =
                std::iter::once(String::new()).chain(lower).chain(upper).collect();
            let mut places = Vec::new();
            for folder in folders(&self.written.folder, self.part) {
                for suffix in &suffixes {
                    for has_backslashes in [false, true] {
                        let (folder, suffix) = (folder.clone(), suffix.as_str().into());
                        places.push(Place { folder, suffix, has_backslashes });
                    }
                }
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

/// The root, and the folders in it that may hold the images of a list: those called like its part,
/// like images or like another part, and the folder of the same name in such a folder (archives are
/// often unpacked into one).
fn folders(root: &Path, part: Part) -> Vec<PathBuf> {
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
    let mut folders = vec![root.to_owned()];
    for (_, name) in ranked {
        let folder = root.join(&name);
        let inner = folder.join(&name);
        folders.push(folder);
        if inner.is_dir() {
            folders.push(inner);
        }
    }
    folders
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
        "the list has paths of another machine: make them relative, and set root to their folder"
    } else {
        "set root to the folder that the paths are relative to"
    };
    let reason = format!(
        "none of its {} images is there; line {line} names {}: {hint}",
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
